"""What a cursor must do, and the splitting of what a person wrote into statements."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dwhctl.errors import UsageError
from dwhctl.project.sql import split_statements

Row = Sequence[Any]

#: First words with which a person begins or ends a transaction by himself.
_OWN_TRANSACTION = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "SAVE", "RELEASE"}
)
_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*([A-Za-z]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement gave: batches of rows of `columns`; no columns where it gives no rows.

    `changed` is how many rows it wrote, None where the driver does not say.
    """

    columns: tuple[str, ...] = ()
    batches: Iterator[Sequence[Row]] = field(default_factory=lambda: iter(()))
    changed: int | None = None


class Cursor(ABC):
    """One connection for statements; used by one thread, but for `interrupt`.

    Without `write` the database itself is asked to refuse what writes, and nothing is committed. Every method raises
    AttemptError in the words of the system.
    """

    def __init__(self, *, write: bool) -> None:
        self.write = write

    def statements(self, sql: str) -> list[str]:
        """Split what a person wrote into statements. Raise UsageError where it may not be run."""
        return split_statements(sql)

    @abstractmethod
    def open(self) -> None:
        """Connect."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction around the statements that follow."""

    @abstractmethod
    def execute(self, sql: str, rows: int) -> Iterator[Answer]:
        """Run one statement and give its answers, in batches of at most so many rows each.

        The batches of an answer must be taken before the next answer is. Some systems give several.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make lasting what was written."""

    @abstractmethod
    def interrupt(self) -> None:
        """From another thread: end what runs, here and on the server."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, whatever state it is in; what was not committed is undone."""


def checked(cursor: Cursor, sql: str) -> list[str]:
    """Give the statements to run. Raise UsageError when there is none, or more than one may be."""
    statements = cursor.statements(sql)
    if not statements:
        raise UsageError("there is no statement in the SQL; write a SELECT")
    if not cursor.write and len(statements) > 1:
        raise UsageError(
            f"without --write a query is one statement, and this one has {len(statements)};"
            " give them one by one, or with --write"
        )
    return statements


def first_word(statement: str) -> str:
    """The first word of a statement in capitals, comments and brackets in front of it left out."""
    match = _FIRST_WORD.match(statement)
    return match[1].upper() if match else ""


def wants_transaction(statements: Sequence[str]) -> bool:
    """Tell whether several statements should be one transaction: unless one of them begins or ends its own."""
    return len(statements) > 1 and _OWN_TRANSACTION.isdisjoint(map(first_word, statements))
