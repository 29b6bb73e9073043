"""What a cursor must do, and the splitting of what a person wrote into statements."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dwhctl.errors import UsageError
from dwhctl.project.sql import first_word, split_statements

Row = Sequence[Any]

#: First words with which a person begins or ends a transaction by himself.
_OWN_TRANSACTION = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "SAVE", "RELEASE"}
)
_UNCLEAR_LINE = re.compile(r"\r(?!\n)|[\v\f\x1c-\x1e\x85\u2028\u2029]")


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

    Without `write` a query is one statement that begins with a word of `reading`, the database itself is asked to
    refuse what writes, and nothing is committed. Every method raises AttemptError in the words of the system.
    """

    reading: ClassVar[frozenset[str]]

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
    """Give the statements to run. Raise UsageError when there is none, or without `write` more than one that reads."""
    statements = cursor.statements(sql)
    if not statements:
        raise UsageError("there is no statement in the SQL; write a SELECT")
    if not cursor.write and len(statements) > 1:
        raise UsageError(
            f"without --write a query is one statement, and this one has {len(statements)};"
            " give them one by one, or with --write"
        )
    if not cursor.write and (word := first_word(statements[0])) not in cursor.reading:
        raise UsageError(
            f"{word or 'this'} does more than read; --write lets a statement write"
            f" (without it a statement begins with {', '.join(sorted(cursor.reading))})"
        )
    return statements


def refuse_unclear_lines(sql: str) -> None:
    """Raise UsageError where a line may end for the server, and with it a comment, that goes on for dwhctl."""
    if _UNCLEAR_LINE.search(sql):
        raise UsageError(
            "a line ends with another character than a newline, which can be read in several ways;"
            " end it with a newline, or use --write"
        )


def wants_transaction(statements: Sequence[str]) -> bool:
    """Tell whether several statements should be one transaction: unless one of them begins or ends its own."""
    return len(statements) > 1 and _OWN_TRANSACTION.isdisjoint(map(first_word, statements))
