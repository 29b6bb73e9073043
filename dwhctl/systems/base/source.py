"""The contracts of a source and of a console, and what the systems share to fulfil them.

A new source fulfils `Source` and passes `tests/contract/test_sources.py`; one that runs SQL derives from `SqlSource`:

- Opening connects. It raises ConnectError when the server cannot be reached, LoginRefusedError when it
  refuses the login, DatabaseMissingError when the shard's database is missing or cannot be read, and
  SourceBusyError when another process uses it. All waits are bounded.
- `columns` returns the query's columns as the system declares them, without running the query to its end. It raises
  QueryError for a type without a place in `Kind`, for a duplicate column name and for a column without a name.
- `batches` yields the rows once, as one state of the database, in memory that does not grow with their number.
  The types of the batches are those of `columns`, whatever the values are. `:start` and `:end` are sent as values.
- `fingerprint` measures the answer in the engine, by the forms of `dwhctl/systems/base/fingerprint.py`: it is the
  fingerprint that the rows of `batches` have in the target after a load. `measured` runs another query of the same
  forms, `count_nulls` counts the rows in which a column is NULL.
- `finish` may keep the connection for the next slice in `KEPT` (`system.py`), if it is asked to and its session then is
  as after a login: most systems close it.
- QueryError: the system refuses the query (syntax, permission, missing table). SourceError: a later attempt may
  succeed. No error text contains a secret.

A new console fulfils `Cursor`; one on a DB-API driver derives from `DriverCursor`.
"""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from msgspec import Struct, field, structs

from dwhctl.core.errors import AttemptError, QueryError, UsageError
from dwhctl.core.sql import first_word, split_statements
from dwhctl.core.words import did_you_mean
from dwhctl.systems.base.fingerprint import Dialect, read_fingerprint, source_parts

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.connections import NetworkConnection
    from dwhctl.project.parts import KeyRange
    from dwhctl.project.query import Query
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure, Part, Read, Write


class Source(ABC):
    """One shard's database, open for reading. Close it, or use it as a context manager.

    `declares_null`: whether `columns` says which columns may be NULL. Otherwise all of them may.
    `bounds_bytes`: whether each batch but the last has all the rows that it may have or some megabytes, and none more.
    """

    declares_null: ClassVar[bool] = True
    bounds_bytes: ClassVar[bool] = False

    @abstractmethod
    def columns(self, query: Query) -> Sequence[Column]:
        """Return the query's declared columns. Raise QueryError."""

    @abstractmethod
    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the answer in batches of at most `rows` rows. Raise QueryError or SourceError."""

    @abstractmethod
    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        """Measure the answer by the target's columns. Raise QueryError or SourceError."""

    @abstractmethod
    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Run the query that `write` makes of the answer's forms; it returns few rows. Raise as `fingerprint`."""

    @abstractmethod
    def count_nulls(self, query: Query, column: str) -> int:
        """Count the rows of the answer in which the column is NULL. Raise QueryError or SourceError."""

    def first_value(self, query: Query) -> object:
        """Return the first column of the answer's first row; None without a row. Raise QueryError or SourceError."""
        cells = (batch.column(0)[0] for batch in self.batches(query, 1) if batch.num_rows)
        cell = next(cells, None)
        try:
            return None if cell is None else cell.as_py()
        except (ValueError, OverflowError):
            return repr(cell)  # a date that Python does not have

    def tried(self, query: Query) -> str | None:
        """Read the first row, or all that is cheap. Return what may be wrong with the answer. Raise as `batches`."""
        next(self.batches(query, 1), None)
        return None

    def key_limits(self, query: Query, column: str) -> tuple[object, object]:  # noqa: ARG002
        """Return the least and the greatest value of a column of the answer, None without one.

        Raise QueryError or SourceError.
        """
        raise QueryError(f"a source of this type is not split by {column}; drop split_by, or split")

    def within(self, query: Query, key_range: KeyRange) -> Query:  # noqa: ARG002
        """Return the query whose answer has only the rows in the range. Raise QueryError."""
        raise QueryError(f"a source of this type is not split by {key_range.column}; drop split_by, or split")

    def finish(self) -> None:
        """Close the connection, or keep it for the next slice where that is asked for. All rows have been read."""
        self.close()

    def interrupt(self) -> None:  # noqa: B027 - most drivers cannot
        """Make the running statement fail soon, where the driver can. Called from another thread."""

    @abstractmethod
    def version(self) -> str:
        """Return the system's name and version, asked from the server."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class SqlSource(Source):
    """A source whose engine measures an answer in SQL, by the blocks of `fingerprint.<dialect>.sql`."""

    dialect: ClassVar[str]

    @abstractmethod
    def _rows_over(self, query: Query, write: Callable[[str], str]) -> Sequence[Sequence[Any]]:
        """Run the query that `write` makes; it is given the extract as a derived table for FROM."""

    def _read(self, measure: Measure, columns: Sequence[Column]) -> Read:  # noqa: ARG002
        """Return the function that writes the value of one of the answer's columns in SQL."""
        return lambda column, _: (Dialect(self.dialect).quote(column.name), {})

    def _parts(self, query: Query, measure: Measure) -> tuple[list[Part], list[Part]]:
        columns = self.columns(query)
        return source_parts(measure, columns, self._read(measure, columns))

    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        (row,) = self.measured(query, measure, Dialect.fingerprint)
        return read_fingerprint(row, self._parts(query, measure)[0])

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        key, values = self._parts(query, measure)
        return self._rows_over(query, lambda source: write(Dialect(self.dialect), source, key, values))

    def count_nulls(self, query: Query, column: str) -> int:
        dialect = Dialect(self.dialect)
        ((rows,),) = self._rows_over(
            query,
            lambda source: (
                f"SELECT {dialect.block('count')} AS n FROM {source} WHERE {dialect.quote(column)} IS NULL"
            ),
        )
        return int(rows)

    def key_limits(self, query: Query, column: str) -> tuple[object, object]:
        name = Dialect(self.dialect).quote(column)
        ((low, high),) = self._rows_over(
            query, lambda source: f"SELECT MIN({name}) AS low, MAX({name}) AS high FROM {source}"
        )
        return low, high

    def within(self, query: Query, key_range: KeyRange) -> Query:
        condition = key_range.condition(Dialect(self.dialect).quote(key_range.column))
        if not condition:
            return query
        # The query begins in the first line, so that the lines of errors are its own.
        sql = self._over(query.sql, lambda source: f"SELECT * FROM {source} AS slice WHERE {condition}")
        return structs.replace(query, sql=sql)

    def _over(self, sql: str, write: Callable[[str], str]) -> str:
        """Return the SELECT that `write` makes of a SELECT as a derived table for FROM."""
        return write(f"({sql}\n)")


Row = Sequence[Any]

#: First words of statements that begin or end a transaction.
_OWN_TRANSACTION = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "SAVE", "RELEASE"}
)
_UNCLEAR_LINE = re.compile(r"\r(?!\n)|[\v\f\x1c-\x1e\x85\u2028\u2029]")


class StatementResult(Struct, frozen=True):
    """The result of one statement: batches of rows of `columns`. Without columns there are no rows.

    `changed` is the number of rows that it wrote, None where the driver does not say.
    """

    columns: tuple[str, ...] = ()
    batches: Iterator[Sequence[Row]] = field(default_factory=lambda: iter(()))
    changed: int | None = None


class Cursor(ABC):
    """One connection for ad hoc statements; used by one thread, except for `interrupt`.

    Without `write` a query is one statement that begins with a word of `reading`, the database itself refuses what
    writes, and nothing is committed. Every method raises AttemptError.
    """

    reading: ClassVar[frozenset[str]]

    def __init__(self, *, write: bool) -> None:
        self.write = write

    def statements(self, sql: str) -> list[str]:
        """Split the text of a user into statements. Raise UsageError for one that may not run."""
        return split_statements(sql)

    @abstractmethod
    def open(self) -> None:
        """Connect."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction around the statements that follow."""

    @abstractmethod
    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        """Run one statement and yield its results, in batches of at most `rows` rows; some systems return several.

        The batches of a result must be read before the next result is.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit what was written."""

    @abstractmethod
    def interrupt(self) -> None:
        """End the running statement, here and on the server. Called from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection in whatever state it is, and roll back. Idempotent."""


class _Closable(Protocol):
    def close(self) -> None: ...


@contextmanager
def closed_on_error(connection: _Closable) -> Iterator[None]:
    """Close the connection when the block fails."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


Driver = TypeVar("Driver", bound=_Closable)


class DriverCursor(Cursor, Generic[Driver]):
    """A cursor on a connection of a DB-API driver: `open` sets `_driver`. `failures` lists what the driver raises."""

    failures: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, name: str, *, write: bool) -> None:
        super().__init__(write=write)
        self.name = name
        self._driver: Driver | None = None

    @abstractmethod
    def _translate_error(self, error: Exception) -> AttemptError:
        """Return the error that one of the driver's means."""

    @property
    def driver(self) -> Driver:
        """The driver's connection. Raise QueryError when it is closed."""
        if self._driver is None:
            raise QueryError(f"connection {self.name} is closed")
        return self._driver

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate the driver's errors."""
        try:
            yield
        except self.failures as error:
            raise self._translate_error(error) from error

    def result(self, cursor: Any, fetch: Callable[[], Sequence[Row]]) -> StatementResult:
        """Return the result of an executed cursor; `fetch` returns its next rows, none at the end."""
        if cursor.description is None:
            return StatementResult(changed=cursor.rowcount if cursor.rowcount >= 0 else None)
        return StatementResult(
            tuple(str(column[0] or "") for column in cursor.description), self._batches(fetch)
        )

    def _batches(self, fetch: Callable[[], Sequence[Row]]) -> Iterator[Sequence[Row]]:
        with self.translated():
            while batch := fetch():
                yield batch

    def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(*self.failures):
                driver.close()


def checked(cursor: Cursor, sql: str) -> list[str]:
    """Return the statements to run. Raise UsageError when there is none, or, without `write`, not one that reads."""
    statements = cursor.statements(sql)
    if not statements:
        raise UsageError("there is no statement in the SQL; write a SELECT")
    if not cursor.write and len(statements) > 1:
        raise UsageError(
            f"without --write a query is one statement, and this one has {len(statements)};"
            " run them one at a time, or with --write"
        )
    if not cursor.write and (word := first_word(statements[0])) not in cursor.reading:
        hint = did_you_mean(word, cursor.reading)
        raise UsageError(
            f"{word} begins no statement; {hint}"
            if hint
            else f"{word or 'this'} does more than read; --write lets a statement write"
            f" (without it a statement begins with {', '.join(sorted(cursor.reading))})"
        )
    return statements


def refuse_unclear_lines(sql: str) -> None:
    """Raise UsageError for a character that ends a line, and so a comment, for the server but not for dwhctl."""
    if _UNCLEAR_LINE.search(sql):
        raise UsageError(
            "a line ends with another character than a newline, which can be read in several ways;"
            " end it with a newline, or use --write"
        )


def wants_transaction(statements: Sequence[str]) -> bool:
    """Return whether the statements should be one transaction: several, none of which begins or ends one."""
    return len(statements) > 1 and _OWN_TRANSACTION.isdisjoint(map(first_word, statements))


#: Messages of libpq, vertica-python and mssql-python for a server without TLS; of libpq and OpenSSL for a certificate
#: of another server and for one that is not trusted; of OpenSSL for sides without a common version or cipher. A lost
#: connection matches none.
_NO_TLS = re.compile(
    "does not support (?:SSL|encryption)|SSL requested but disabled|Encryption not supported"
)
_WRONG_NAME = re.compile("does not match host name|(?:[Hh]ostname|IP address) mismatch|is not valid for")
_NOT_TRUSTED = re.compile("certificate verify failed|root certificate file")
_NO_HANDSHAKE = re.compile(
    "(?i:handshake failure|protocol version|unsupported protocol|wrong version number)"
)


def authorities(connection: NetworkConnection) -> Path | None:
    """Return the file of certificate authorities of the connection; None when it checks no certificate."""
    words = connection.tls_words
    if connection.tls not in words.checked:
        return None
    written: Path | None = getattr(connection, words.ca_key) if words.ca_key else None
    systems = ssl.get_default_verify_paths().cafile
    return written or (Path(systems) if systems else None)


def remedy(message: str, connection: NetworkConnection) -> str | None:
    """Return what to do about a failed connection; None when the driver's message is not about TLS."""
    if _NO_TLS.search(message):
        return no_tls(connection)
    key = f"connections.{connection.name}"
    if _WRONG_NAME.search(message):
        return (
            f"the server's certificate is for another name, so nothing was sent: write in {key} a host that the"
            " certificate lists, or have a certificate made that lists this one"
        )
    if _NOT_TRUSTED.search(message):
        return (
            "the server's certificate is not trusted, so nothing was sent: put the certificate of the authority that"
            f" made it into a file, and the file's path into {key}.{connection.tls_words.ca_key}"
        )
    return (
        "the TLS handshake failed: the server must speak TLS 1.2" if _NO_HANDSHAKE.search(message) else None
    )


def no_tls(connection: NetworkConnection) -> str:
    """Return what a server without TLS means and what to do."""
    words, key = connection.tls_words, f"connections.{connection.name}"
    return (
        f'the server offers no TLS, and {key} asks for it ({words.key} = "{connection.tls}"), so nothing was sent: turn'
        f' TLS on at the server, or write {words.key} = "{words.off}" in {key}; then password and rows travel in clear'
    )
