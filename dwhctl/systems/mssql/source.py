"""Read a shard that is a SQL Server database, through pymssql.

Where the database allows snapshot isolation, a query reads the state of one moment. Otherwise it reads what is
committed as it goes (READ COMMITTED): set ALLOW_SNAPSHOT_ISOLATION or READ_COMMITTED_SNAPSHOT on to avoid that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn
from zoneinfo import ZoneInfo

import pyarrow as pa
import pymssql
from pymssql import _mssql

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SourceError, ValueRefusedError
from dwhctl.project.query import Query, at_statement
from dwhctl.systems.base.source import SqlSource
from dwhctl.systems.mssql.client import SETTINGS, check_server_database, close, connect, translated
from dwhctl.systems.mssql.errors import one_line, read, translate_error
from dwhctl.systems.mssql.sql import (
    UTF8,
    ResultColumn,
    can_read,
    collation_for,
    declared_columns,
    literal,
    one_select,
    read_part,
    with_bounds,
    wrapped,
)

if TYPE_CHECKING:
    from dwhctl.systems.base.fingerprint import Measure, Read, Write
    from dwhctl.systems.mssql.system import MssqlConnection


#: DB-Library could not convert a character: it replaces it with a question mark or drops it.
_NO_CHARACTER = frozenset({2400, 2401, 2403, 2404})
#: About how many octets are fetched at a time, and the first estimate of a text without a declared length.
_FETCH_OCTETS = 8 * 2**20
UNKNOWN_OCTETS = 2**20
_MOMENTS = (Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def first_size(columns: Sequence[Column], rows: int) -> int:
    """Return how many rows to fetch first: few when their width is not known."""
    return max(1, min(rows, _FETCH_OCTETS // widest(columns)))


def widest(columns: Sequence[Column]) -> int:
    """Return about how many octets the texts of a row take at most."""
    texts = [column.octets for column in columns if column.kind in (Kind.TEXT, Kind.BINARY)]
    return max(1, sum(UNKNOWN_OCTETS if octets is None else octets for octets in texts))


def next_size(size: int, octets: int, rows: int) -> int:
    """Return how many rows to fetch after `size` rows of so many octets: at most eight times as many."""
    return max(1, min(rows, 8 * size, _FETCH_OCTETS * size // max(1, octets)))


def fetched(iterator: Iterator[tuple[Any, ...]], rows: int) -> tuple[list[tuple[Any, ...]], Exception | None]:
    """Fetch rows; return also the error that ended them, so that the rows before it are not lost."""
    values: list[tuple[Any, ...]] = []
    try:
        # Not fetchmany, which loses its rows when the next one fails.
        values.extend(islice(iterator, rows))
    except _mssql.MSSQLException as error:
        return values, _of_cursor(error)
    except Exception as error:
        return values, error
    return values, None


def _of_cursor(error: _mssql.MSSQLException) -> pymssql.Error:
    """Return the error that the driver's cursor raises for one of its connection."""
    kind = (
        pymssql.OperationalError
        if isinstance(error, _mssql.MSSQLDatabaseException)
        else pymssql.InterfaceError
    )
    found = kind(error.args[0] if error.args else str(error))
    found.__context__ = error
    return found


class Reader:
    """Builds record batches of the declared types from the driver's tuples."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        self._rows = 0

    def batches(self, values: list[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows as a batch; as several when a column's texts exceed what one holds."""
        if not values:
            return
        arrays = [
            self._array(column, cells)
            for column, cells in zip(self._columns, zip(*values, strict=True), strict=True)
        ]
        if len(values) > 1 and any(isinstance(array, pa.ChunkedArray) for array in arrays):
            half = len(values) // 2
            for part in (values[:half], values[half:]):
                yield from self.batches(part)
            return
        self._rows += len(values)
        yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, column: Column, values: tuple[Any, ...]) -> pa.Array:
        if column.kind is Kind.UUID:
            values = tuple(None if value is None else str(value) for value in values)
        try:
            return pa.array(values, column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            misfits = (row for row, value in enumerate(values) if not _fits(value, column.type))
            row = next(misfits, 0)
            raise ValueRefusedError(
                f"column {column.name}, row {self._rows + row + 1} of the answer: the driver gave"
                f" {type(values[row]).__name__} where {column.declared} was declared, and it does not fit"
            ) from error

    def refuse(self, error: Exception) -> NoReturn:
        """Raise the error that one of the driver's in the next row means."""
        why = f"the driver cannot read it: {error}"
        if isinstance(error, pymssql.Error):
            if _NO_CHARACTER.isdisjoint(read(error).db_lib):
                raise translate_error(error) from error
            why = "half of a surrogate pair, or a byte outside the column's code page, would not arrive as it is"
        elif not isinstance(error, ValueError | OverflowError):
            raise error
        is_text = isinstance(error, pymssql.Error | UnicodeError)
        kinds = (Kind.TEXT,) if is_text else _MOMENTS
        names = [column.name for column in self._columns if column.kind in kinds]
        # The driver does not say which column it is.
        where = f"column {names[0]}" if len(names) == 1 else f"one of the columns {', '.join(names)}"
        text = f"{where}, row {self._rows + 1} of the answer: {why}"
        raise ValueRefusedError(one_line(text)) from error


def _fits(value: object, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


#: In a deadlock the load is the victim, not the shop's own work; and it does not wait for a lock without end.
_LOW_PRIORITY = "SET DEADLOCK_PRIORITY LOW; SET LOCK_TIMEOUT 30000;"
_DATABASE = "SELECT name, snapshot_isolation_state FROM sys.databases WHERE name = DB_NAME()"
#: Sent on the first line of the next query, so that the server's line numbers stay those of the query.
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; "
_SNAPSHOT_ON = 1
#: Numbers of what a snapshot does not read: READPAST, a database that does not allow snapshots or was just recovered or
#: altered, a linked server, a memory-optimized table.
_NO_SNAPSHOT = frozenset({650, 3952, 3953, 3954, 3955, 3956, 7420, 41332})
_NO_SUCH_COLLATION = 448

#: The code page of each collation seen, the same on every server; None where the server does not say.
CODE_PAGES: dict[str, int | None] = {}


class MssqlSource(SqlSource):
    """One database of a SQL Server, over a connection of its own.

    A slice costs two batches after the login: settings, the database's name and state, and the description of the
    query; then the query. Where the server refuses a part of the first, each part is sent alone.

    `timeout` is the seconds without an answer after which the driver gives up, for all connections of the process. With
    None the caller limits the time.
    """

    dialect = "mssql"

    def __init__(
        self,
        connection: MssqlConnection,
        database: str,
        zone: str,
        timeout: float | None = None,
        *,
        login_known: bool | None = None,
    ) -> None:
        self._zone = zone
        self._name = connection.name
        self._database = database
        self._described: dict[str, list[Column]] = {}
        self._is_set = False
        self._level = ""
        self._connection: pymssql.Connection | None = connect(
            connection, database, timeout, login_known, settings=""
        )

    def columns(self, query: Query) -> Sequence[Column]:
        """Let SQL Server describe the query, which does not run it."""
        sql = one_select(query.sql)
        if sql not in self._described:
            text = literal(with_bounds(query, sql))
            with at_statement(sql):
                described = self._describe(f"EXEC sp_describe_first_result_set {text}")
            if not described:
                raise QueryError("the extract returns no rows: it must be a SELECT")
            columns = declared_columns(described)
            self._check_code_pages(described)
            self._described[sql] = columns
        return self._described[sql]

    def _describe(self, sql: str) -> list[ResultColumn]:
        rows: list[dict[str, Any]] | None = None
        if not self._is_set:
            with suppress(QueryError):
                rows = self._set_and_describe(sql)
        if rows is None:
            with translated():
                rows = _dicts(self._cursor(sql))
        return [
            ResultColumn(
                row["name"],
                row["system_type_name"],
                nullable=bool(row["is_nullable"]),
                own_type=row.get("user_type_name") or row.get("assembly_qualified_type_name"),
                collation=row.get("collation_name"),
            )
            for row in rows
            if not row.get("is_hidden")
        ]

    def _set_and_describe(self, sql: str) -> list[dict[str, Any]] | None:
        """Send the session's settings and the description of a query in one batch; None without a description."""
        with translated():
            cursor = self._sent(f"{SETTINGS} {_LOW_PRIORITY} {_DATABASE}; {sql}")
            self._check_database(cursor.fetchall())
            rows = _dicts(cursor) if cursor.nextset() else None
            while cursor.nextset():
                pass  # raises an error that follows
        self._is_set = True
        return rows

    def _set(self) -> None:
        """Send the session's settings. A server that refuses some of them can still be read."""
        with translated():
            self._sent(SETTINGS)
        for sql in (_LOW_PRIORITY, _DATABASE):
            with suppress(QueryError), translated():
                cursor = self._sent(sql)
                self._check_database(cursor.fetchall() if cursor.description else [])
        self._is_set = True

    def _check_database(self, rows: Sequence[Any]) -> None:
        for here, snapshot in rows:
            check_server_database(self._name, here, self._database)
            self._level = _SNAPSHOT if snapshot == _SNAPSHOT_ON else ""

    def _check_code_pages(self, described: Sequence[ResultColumn]) -> None:
        for column in described:
            if column.collation is None or not (column.declared or "").startswith(
                ("char", "varchar", "text")
            ):
                continue
            page = self._code_page(column.collation)
            if page is not None and not can_read(page):
                raise QueryError(
                    f"column {column.name}: this machine cannot read code page {page} ({column.collation}); install the"
                    " C library's conversions (Debian: libc-gconv-modules-extra, Red Hat: glibc-gconv-extra), or CAST"
                    " the column AS nvarchar in the extract"
                )

    def _code_page(self, collation: str) -> int | None:
        if collation not in CODE_PAGES:
            property_ = f"COLLATIONPROPERTY({literal(collation)}, 'CodePage')"
            CODE_PAGES[collation] = None
            with suppress(QueryError):
                ((CODE_PAGES[collation],),) = self._rows(f"SELECT CAST({property_} AS int)")
        return CODE_PAGES[collation]

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        columns = self.columns(query)
        with at_statement(one_select(query.sql)):
            cursor = self._executed(self._bound(query, columns))
        with translated():
            if len(cursor.description or ()) != len(columns):
                raise QueryError(
                    "the extract's answer does not have the columns that SQL Server declared for it"
                )
            yield from self._stream(cursor, columns, rows)
            # Raises an error that follows the first result; another result is an error too.
            if cursor.nextset():
                raise QueryError("an extract is one SELECT; this one gives a second answer")

    def _stream(self, cursor: Any, columns: Sequence[Column], rows: int) -> Iterator[pa.RecordBatch]:
        reader = Reader(columns)
        # The cursor makes an iterator for each row: a twelfth of the time.
        iterator = cursor.connection._conn.get_iterator(_mssql.ROW_FORMAT_TUPLE)
        size = first_size(columns, rows)
        while True:
            values, error = fetched(iterator, size)
            count, octets = len(values), 0
            batches = reader.batches(values)
            # The memory of these rows is that of the next ones: it is in the processor's cache.
            del values
            for batch in batches:
                octets += batch.nbytes
                yield batch
            if error is not None:
                reader.refuse(error)
            if count < size:
                return
            size = next_size(size, octets, rows)

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        try:
            return super().measured(query, measure, write)
        except QueryError as error:
            number = read(error.__cause__).number if error.__cause__ else None
            if number == _NO_SUCH_COLLATION and collation_for(measure, self.columns(query)) == UTF8:
                raise QueryError(
                    "this SQL Server cannot write a text in UTF-8 (2019 and newer can): slices whose key or"
                    " verify_columns hold a text cannot be compared here"
                ) from error
            raise

    def first_value(self, query: Query) -> object:
        """Return the first value; unlike those of an extract, the columns need no names."""
        sql = one_select(query.sql, "a ready query")
        with at_statement(sql), translated():
            row = self._executed(with_bounds(query, sql)).fetchone()
        return row[0] if row else None

    def _read(self, measure: Measure, columns: Sequence[Column]) -> Read:
        return partial(read_part, collation=collation_for(measure, columns))

    def _rows_over(self, query: Query, write: Callable[[str], str]) -> list[tuple[Any, ...]]:
        sql = wrapped(self._bound(query, self.columns(query)), lambda source: write(f"{source} AS slice"))
        with translated():
            return [tuple(row) for row in self._executed(sql).fetchall()]

    def _over(self, sql: str, write: Callable[[str], str]) -> str:
        return wrapped(one_select(sql), write)

    def _executed(self, sql: str) -> pymssql.Cursor:
        """Run a query under snapshot isolation, where the database allows it."""
        with translated():
            try:
                self._ready()
                cursor = self._sent(self._level + sql)
            except pymssql.Error as error:
                if read(error).number not in _NO_SNAPSHOT:
                    raise
                self._sent("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor = self._sent(sql)
        self._level = ""
        return cursor

    def _bound(self, query: Query, columns: Sequence[Column]) -> str:
        by = (query.slice_by or "").lower()
        kind = next((column.kind for column in columns if column.name.lower() == by), None)
        return with_bounds(query, one_select(query.sql), kind, ZoneInfo(self._zone))

    def version(self) -> str:
        rows = self._rows("SELECT @@VERSION")
        return str(rows[0][0]).partition("\n")[0].strip() if rows else "SQL Server"

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close(connection)

    def _ready(self) -> None:
        if not self._is_set:
            self._set()

    def _cursor(self, sql: str) -> pymssql.Cursor:
        self._ready()
        return self._sent(sql)

    def _sent(self, sql: str) -> pymssql.Cursor:
        if self._connection is None:
            raise SourceError("the connection is closed")
        cursor = self._connection.cursor()
        cursor.execute(sql)
        return cursor

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with translated():
            cursor = self._cursor(sql)
            return list(cursor.fetchall()) if cursor.description else []


def _dicts(cursor: pymssql.Cursor) -> list[dict[str, Any]]:
    names = [str(column[0]) for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else [])]
