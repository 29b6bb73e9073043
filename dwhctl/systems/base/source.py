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
  `dwhctl/systems/base/fingerprint.py`, and only the sums travel. It is the fingerprint of the rows that `batches`
  gives, as they stand in the target after a load.
- `measured` asks something else of the same forms, such as the checksums of parts of the rows.
- `count_nulls` counts likewise the rows of the answer in which a column is NULL.
- A query that the system refuses (syntax, permission, missing table) is a QueryError; what may go away by
  itself is a SourceError. No error text holds a secret.
"""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dwhctl.core.errors import UsageError
from dwhctl.core.sql import first_word, split_statements

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.connections import NetworkConnection
    from dwhctl.project.templates import Query
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure, Write


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


Row = Sequence[Any]

#: First words with which a person begins or ends a transaction by himself.
_OWN_TRANSACTION = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "SAVE", "RELEASE"}
)
_UNCLEAR_LINE = re.compile(r"\r(?!\n)|[\v\f\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class StatementResult:
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
    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
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


#: The words of libpq and of vertica-python for a server without TLS.
_NO_TLS = re.compile("does not support SSL|SSL requested but disabled")
#: Of libpq and of OpenSSL for a certificate of another server, and for one that is not trusted.
_WRONG_NAME = re.compile("does not match host name|(?:Hostname|IP address) mismatch|is not valid for")
_NOT_TRUSTED = re.compile("certificate verify failed|root certificate file")
#: Of OpenSSL for two sides without a version or cipher in common. A lost connection is not meant.
_NO_HANDSHAKE = re.compile(
    "handshake failure|protocol version|unsupported protocol|wrong version number", re.IGNORECASE
)


def authorities(connection: NetworkConnection) -> Path | None:
    """Give the file of authorities that the connection is to check certificates by; None when it checks none."""
    words = connection.tls_words
    if connection.tls not in words.checked:
        return None
    written: Path | None = getattr(connection, words.ca_key) if words.ca_key else None
    systems = ssl.get_default_verify_paths().cafile
    return written or (Path(systems) if systems else None)


def remedy(said: str, connection: NetworkConnection) -> str | None:
    """Say what to do about a failed connection; None when the driver's words are about something other than TLS."""
    if _NO_TLS.search(said):
        return no_tls(connection)
    key = f"connections.{connection.name}"
    if _WRONG_NAME.search(said):
        return (
            f"the server's certificate is for another name, so nothing was sent: write in {key} a host that the"
            " certificate lists, or have a certificate made that lists this one"
        )
    if _NOT_TRUSTED.search(said):
        return (
            "the server's certificate is not trusted, so nothing was sent: put the certificate of the authority that"
            f" made it into a file, and the file's path into {key}.{connection.tls_words.ca_key}"
        )
    return "the TLS handshake failed: the server must speak TLS 1.2" if _NO_HANDSHAKE.search(said) else None


def no_tls(connection: NetworkConnection) -> str:
    """Say what a server without TLS means and what to do."""
    words, key = connection.tls_words, f"connections.{connection.name}"
    return (
        f'the server offers no TLS, and {key} asks for it ({words.key} = "{connection.tls}"), so nothing was sent: turn'
        f' TLS on at the server, or write {words.key} = "{words.off}" in {key}; then password and rows travel in clear'
    )
