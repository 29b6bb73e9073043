"""What a source must do: run one query with its bind values and stream the answer as record batches.

A new system fulfils this contract and passes `tests/contract/test_sources.py`:

- Opening connects. It raises ConnectError when the server cannot be reached, LoginRefusedError when it
  refuses the login, DatabaseMissingError when the shard's database is not there or cannot be read, and
  SourceBusyError when another has it. All waits are bounded.
- `columns` gives the query's columns as the system declares them, without running it to its end. A type that
  has no place in `Kind`, two columns of one name and a column without a name are a QueryError by name.
- `batches` yields the rows once, as one state of the database, in memory that does not grow with their number.
  The types of the batches are those of `columns`, whatever the values are. `:start` and `:end` travel as values.
- `fingerprint` measures the answer where it is: the engine itself counts, compares and adds up, by the forms of
  `dwhctl/engines/fingerprint.py`, and only the sums travel. It is the fingerprint of the rows that `batches` gives, as
  they stand in the target after a load.
- `measured` asks something else of the same forms, such as the checksums of parts of the rows.
- `count_nulls` counts likewise the rows of the answer in which a column is NULL.
- A query that the system refuses (syntax, permission, missing table) is a QueryError; what may go away by
  itself is a SourceError. No error text holds a secret.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from dwhctl.columns import Column
    from dwhctl.engines.fingerprint import Fingerprint, Measure, Write
    from dwhctl.project.templates import Query


class Source(ABC):
    """One shard's database, open for reading. Close it, or use it as a context manager.

    `declares_null`: whether `columns` says which columns may be NULL. Else all may, as far as anyone knows.
    """

    declares_null: ClassVar[bool] = True

    @abstractmethod
    def columns(self, query: Query) -> Sequence[Column]:
        """Give the query's declared columns. Raise QueryError."""

    @abstractmethod
    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the answer in batches of at most `rows` rows. Raise QueryError or SourceError."""

    @abstractmethod
    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        """Measure the answer by the target's columns. Raise QueryError or SourceError."""

    @abstractmethod
    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Ask what `write` writes of the answer's forms; it must give few rows. Raise QueryError or SourceError."""

    @abstractmethod
    def count_nulls(self, query: Query, column: str) -> int:
        """Count the rows of the answer in which the column is NULL. Raise QueryError or SourceError."""

    def interrupt(self) -> None:  # noqa: B027 - nothing is right for most
        """From another thread: make the statement that runs now fail soon, where the driver knows how.

        Else it ends with the process.
        """

    @abstractmethod
    def version(self) -> str:
        """Give the system's name and version: a real round trip."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; twice is once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
