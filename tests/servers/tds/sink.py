"""Where a batch's answers go: to the wire, or into memory for the back door."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from .convert import Typed
from .errors import TdsError
from .scope import Output

if TYPE_CHECKING:
    from .session import Session

#: A parameter that a procedure gives back: its name, its value, and the session that evaluates it.
Returned: TypeAlias = "tuple[str, Typed, Session]"


class Sink(ABC):
    """Takes what a batch answers."""

    @abstractmethod
    def columns(self, columns: Sequence[Output]) -> None:
        """An answer with rows begins."""

    @abstractmethod
    def rows(self, batch: pa.RecordBatch, columns: Sequence[Output]) -> bool:
        """Rows; False when nobody wants more."""

    @abstractmethod
    def done(self, count: int | None = None, *, command: int = 0) -> None:
        """A statement is done; `count` rows were sent or changed."""

    def failed(self, *, called: bool = False) -> None:  # noqa: B027 - a sink may not care
        """A statement, or a remote procedure call, ended in the error that was sent before."""

    def message(self, message: TdsError) -> None:  # noqa: B027 - a sink may not care
        """An error or a notice."""

    def database(self, new: str, old: str) -> None:  # noqa: B027 - a sink may not care
        """The session's database is another."""

    def transaction(self, kind: int) -> None:  # noqa: B027 - a sink may not care
        """A transaction began (8), was committed (9) or rolled back (10)."""

    @contextmanager
    def procedure(self) -> Iterator[None]:
        """What is answered meanwhile is a procedure's."""
        yield

    def status(self, value: int, returned: Sequence[Returned] = ()) -> None:  # noqa: B027 - a sink may not care
        """A procedure's end: its return status, and the parameters that it gives back."""


class Silent(Sink):
    """Takes no notice."""

    def columns(self, columns: Sequence[Output]) -> None:
        """Nothing to do."""

    def rows(self, batch: pa.RecordBatch, columns: Sequence[Output]) -> bool:
        """Nothing to do."""
        return True

    def done(self, count: int | None = None, *, command: int = 0) -> None:
        """Nothing to do."""


class Memory(Sink):
    """Keeps the last answer; an error is raised."""

    def __init__(self) -> None:
        self.answer: list[tuple[object, ...]] = []

    def columns(self, columns: Sequence[Output]) -> None:
        """Forget the answer before."""
        self.answer = []

    def rows(self, batch: pa.RecordBatch, columns: Sequence[Output]) -> bool:
        """Keep the rows."""
        self.answer.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return True

    def done(self, count: int | None = None, *, command: int = 0) -> None:
        """Nothing to do."""

    def message(self, message: TdsError) -> None:
        """Raise an error."""
        if message.severity > 10:
            raise message
