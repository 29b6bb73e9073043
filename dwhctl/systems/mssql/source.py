"""Read a shard that is a SQL Server database, through pymssql.

A database that allows snapshot isolation is read as of one moment. Elsewhere a query reads what is committed as it
goes (READ COMMITTED): switch ALLOW_SNAPSHOT_ISOLATION or READ_COMMITTED_SNAPSHOT on to have it as of one moment.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn
from zoneinfo import ZoneInfo

import pyarrow as pa
import pymssql

from dwhctl.core.columns import Kind
from dwhctl.core.errors import DatabaseMissingError, QueryError, SourceError, ValueRefusedError
from dwhctl.project.templates import at_statement
from dwhctl.systems.base.fingerprint import (
    Dialect,
    Fingerprint,
    Measure,
    Part,
    Write,
    read_fingerprint,
    source_parts,
)
from dwhctl.systems.base.source import Source
from dwhctl.systems.mssql import types as engine
from dwhctl.systems.mssql.client import open_link
from dwhctl.systems.mssql.errors import one_line, query_error, read
from dwhctl.systems.mssql.sql import UTF8, collation_for, one_select, read_part, with_bounds, wrapped
from dwhctl.systems.mssql.types import can_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.templates import Query
    from dwhctl.systems.mssql.system import MssqlConnection


#: DB-Library could not convert a character; by itself it puts a question mark in its place or drops it.
_NO_CHARACTER = frozenset({2400, 2401, 2403, 2404})
#: About how much is fetched at a time, and what a text without a declared length is taken for at first.
_FETCH_OCTETS = 8 * 2**20
_UNSAID_OCTETS = 2**20
_MOMENTS = (Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def first_size(columns: Sequence[Column], rows: int) -> int:
    """Give how many rows to fetch at first: few where nobody says how wide they are."""
    texts = [column.octets for column in columns if column.kind in (Kind.TEXT, Kind.BINARY)]
    widest = sum(_UNSAID_OCTETS if octets is None else octets for octets in texts)
    return max(1, min(rows, _FETCH_OCTETS // max(1, widest)))


def next_size(size: int, octets: int, rows: int) -> int:
    """Give how many rows to fetch after so many rows of so many octets: no more than eight times as many."""
    return max(1, min(rows, 8 * size, _FETCH_OCTETS * size // max(1, octets)))


def fetched(cursor: pymssql.Cursor, rows: int) -> tuple[list[tuple[Any, ...]], Exception | None]:
    """Fetch rows, and the error of the driver that ended them: those before it are not lost."""
    values: list[tuple[Any, ...]] = []
    try:
        # Not fetchmany, which drops the rows that it has when the next one fails.
        values.extend(islice(cursor, rows))
    except Exception as error:
        return values, error
    return values, None


class Reader:
    """Makes record batches of the driver's tuples, of the declared types."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        self._rows = 0

    def batches(self, values: list[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
        """Give the rows as a batch; as several when a column's texts are too much for one."""
        if not values:
            return
        arrays = [
            self._array(column, one)
            for column, one in zip(self._columns, zip(*values, strict=True), strict=True)
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
            odd = ((n, one) for n, one in enumerate(values) if not _fits(one, column.type))
            row, value = next(odd, (0, values[0]))
            raise ValueRefusedError(
                f"column {column.name}, row {self._rows + row + 1} of the answer: the driver gave"
                f" {type(value).__name__} where {column.declared} was declared, and it does not fit"
            ) from error

    def refuse(self, error: Exception) -> NoReturn:
        """Raise what an error of the driver in the row after the last one means."""
        if isinstance(error, pymssql.Error):
            if _NO_CHARACTER.isdisjoint(read(error).db_lib):
                raise query_error(error) from error
            why = "half of a surrogate pair, or a byte outside the column's code page, would not arrive as it is"
            raise self._refusal((Kind.TEXT,), why) from error
        if isinstance(error, UnicodeError):
            raise self._refusal((Kind.TEXT,), f"the driver cannot read it: {error}") from error
        if isinstance(error, ValueError | OverflowError):
            raise self._refusal(_MOMENTS, f"the driver cannot read it: {error}") from error
        raise error

    def _refusal(self, kinds: Sequence[Kind], why: str) -> ValueRefusedError:
        names = [column.name for column in self._columns if column.kind in kinds]
        # The driver does not say which column it was at.
        where = f"column {names[0]}" if len(names) == 1 else f"one of the columns {', '.join(names)}"
        return ValueRefusedError(one_line(f"{where}, row {self._rows + 1} of the answer: {why}"))


def _fits(value: object, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


#: A load is the one to give way when it and the shop's own work lock each other out, and it does not wait for ever.
_MANNERS = "SET DEADLOCK_PRIORITY LOW; SET LOCK_TIMEOUT 30000"
_WHERE_WE_ARE = "SELECT name, snapshot_isolation_state FROM sys.databases WHERE name = DB_NAME()"
_SNAPSHOT_ON = 1
#: The query reads another database as well, one that does not allow snapshots.
_NO_SNAPSHOT_THERE = 3952
_NO_SUCH_COLLATION = 448

#: The code page of each collation that was met, the same on every server; None where it could not be asked.
CODE_PAGES: dict[str, int | None] = {}


class MssqlSource(Source):
    """One database of a SQL Server, over a connection of its own.

    `timeout` is the seconds of silence after which the driver gives up; it holds for the whole process, as the
    driver's time-outs do. None leaves the end to a deadline from outside.
    """

    def __init__(
        self,
        connection: MssqlConnection,
        database: str,
        zone: str,
        timeout: float | None = None,
        *,
        login_known: bool | None = None,
    ) -> None:
        self._database = database
        self._zone = zone
        self._described: dict[str, list[Column]] = {}
        self._link: pymssql.Connection | None = open_link(connection, database, timeout, login_known)
        try:
            self._settle(connection)
        except BaseException:
            self.close()
            raise

    def _settle(self, connection: MssqlConnection) -> None:
        # Who is not answered here reads all the same, only less politely.
        with suppress(QueryError):
            self._run(_MANNERS)
        with suppress(QueryError):
            for here, snapshot in self._rows(_WHERE_WE_ARE):
                if str(here).lower() != self._database.lower():
                    # The driver does not look whether the server went into the database.
                    raise DatabaseMissingError(
                        f"connection {connection.name}: the server went into the database {here},"
                        f" not {self._database}"
                    )
                if snapshot == _SNAPSHOT_ON:
                    self._run("SET TRANSACTION ISOLATION LEVEL SNAPSHOT")

    def columns(self, query: Query) -> Sequence[Column]:
        """Ask SQL Server to describe the query, which it does without running it."""
        sql = one_select(query.sql)
        if sql not in self._described:
            text = engine.literal(with_bounds(query, sql))
            with at_statement(sql):
                rows = self._dicts(f"EXEC sp_describe_first_result_set {text}")
            described = [_described(row) for row in rows if not row.get("is_hidden")]
            if not described:
                raise QueryError("the extract gives no rows: it must be a SELECT")
            columns = engine.declared_columns(described)
            self._check_code_pages(described)
            self._described[sql] = columns
        return self._described[sql]

    def _check_code_pages(self, described: Sequence[engine.ResultColumn]) -> None:
        for one in described:
            if one.collation is None or not (one.declared or "").startswith(("char", "varchar", "text")):
                continue
            page = self._code_page(one.collation)
            if page is not None and not can_read(page):
                raise QueryError(
                    f"column {one.name}: this machine cannot read code page {page} ({one.collation}); install the C"
                    " library's conversions (Debian: libc-gconv-modules-extra, Red Hat: glibc-gconv-extra), or CAST"
                    " the column AS nvarchar in the extract"
                )

    def _code_page(self, collation: str) -> int | None:
        if collation not in CODE_PAGES:
            asked = f"SELECT CAST(COLLATIONPROPERTY({engine.literal(collation)}, 'CodePage') AS int)"
            CODE_PAGES[collation] = None
            with suppress(QueryError):
                for (page,) in self._rows(asked):
                    CODE_PAGES[collation] = page
        return CODE_PAGES[collation]

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Stream the answer, typed as declared."""
        columns = self.columns(query)
        reader = Reader(columns)
        with at_statement(one_select(query.sql)):
            cursor = self._executed(self._bound(query, columns))
        try:
            if len(cursor.description or ()) != len(columns):
                raise QueryError(
                    "the extract's answer does not have the columns that SQL Server declared for it"
                )
            size = first_size(columns, rows)
            while True:
                values, error = fetched(cursor, size)
                octets = 0
                for batch in reader.batches(values):
                    octets += batch.nbytes
                    yield batch
                if error is not None:
                    reader.refuse(error)
                if len(values) < size:
                    break
                size = next_size(size, octets, rows)
            # What follows the first answer may be an error, and is one in any case.
            if cursor.nextset():
                raise QueryError("an extract is one SELECT; this one gives a second answer")
        except pymssql.Error as error:
            raise query_error(error) from error

    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        """Measure the answer in SQL Server."""
        (row,) = self.measured(query, measure, Dialect.fingerprint)
        return read_fingerprint(row, self._parts(query, measure)[0])

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Ask SQL Server; with a text among the columns it must be 2019 or newer."""
        columns = self.columns(query)
        key, values = self._parts(query, measure)
        sql = wrapped(
            self._bound(query, columns),
            lambda source: write(Dialect("mssql"), f"{source} AS slice", key, values),
        )
        try:
            return self._all_rows(sql)
        except QueryError as error:
            number = read(error.__cause__).number if error.__cause__ else None
            if collation_for(measure, columns) == UTF8 and number == _NO_SUCH_COLLATION:
                raise QueryError(
                    "this SQL Server cannot write a text in UTF-8 (2019 and newer can): slices whose key or"
                    " verify_columns hold a text cannot be compared here"
                ) from error
            raise

    def _parts(self, query: Query, measure: Measure) -> tuple[list[Part], list[Part]]:
        columns = self.columns(query)
        read_one = partial(read_part, collation=collation_for(measure, columns))
        key, values = (source_parts(wanted, columns, read_one) for wanted in (measure.key, measure.values))
        return key, values

    def count_nulls(self, query: Query, column: str) -> int:
        """Count in SQL Server."""
        where = f"{engine.quote_column(column)} IS NULL"
        sql = wrapped(
            self._bound(query, self.columns(query)),
            lambda source: f"SELECT COUNT_BIG(*) AS n FROM {source} AS slice WHERE {where}",
        )
        ((rows,),) = self._all_rows(sql)
        return int(rows)

    def _all_rows(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in self._executed(sql).fetchall()]
        except pymssql.Error as error:
            raise query_error(error) from error

    def _executed(self, sql: str) -> pymssql.Cursor:
        try:
            return self._cursor(sql)
        except pymssql.Error as error:
            if read(error).number != _NO_SNAPSHOT_THERE:
                raise query_error(error) from error
        self._run("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        try:
            return self._cursor(sql)
        except pymssql.Error as error:
            raise query_error(error) from error

    def _bound(self, query: Query, columns: Sequence[Column]) -> str:
        by = (query.slice_by or "").lower()
        kind = next((column.kind for column in columns if column.name.lower() == by), None)
        return with_bounds(query, one_select(query.sql), kind, ZoneInfo(self._zone))

    def version(self) -> str:
        """Ask SQL Server for its version."""
        rows = self._rows("SELECT @@VERSION")
        return str(rows[0][0]).partition("\n")[0].strip() if rows else "SQL Server"

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        link, self._link = self._link, None
        if link is not None:
            with suppress(pymssql.Error):
                link.close()

    def _cursor(self, sql: str) -> pymssql.Cursor:
        if self._link is None:
            raise SourceError("the connection is closed")
        cursor = self._link.cursor()
        cursor.execute(sql)
        return cursor

    def _run(self, sql: str) -> None:
        try:
            self._cursor(sql)
        except pymssql.Error as error:
            raise query_error(error) from error

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return list(self._cursor(sql).fetchall())
        except pymssql.Error as error:
            raise query_error(error) from error

    def _dicts(self, sql: str) -> list[dict[str, Any]]:
        try:
            cursor = self._cursor(sql)
            names = [str(each[0]) for each in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
        except pymssql.Error as error:
            raise query_error(error) from error


def _described(row: dict[str, Any]) -> engine.ResultColumn:
    return engine.ResultColumn(
        row["name"],
        row["system_type_name"],
        nullable=bool(row["is_nullable"]),
        own_type=row.get("user_type_name") or row.get("assembly_qualified_type_name"),
        collation=row.get("collation_name"),
    )
