"""Read a shard that is a SQL Server database, through pymssql.

A database that allows snapshot isolation is read as of one moment. Elsewhere a query reads what is committed as it
goes (READ COMMITTED): switch ALLOW_SNAPSHOT_ISOLATION or READ_COMMITTED_SNAPSHOT on to have it as of one moment.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pymssql

from dwhctl.engines import mssql as engine
from dwhctl.engines.fingerprint import Dialect, Fingerprint, Measure, Part, Write, read_fingerprint
from dwhctl.engines.mssql_charsets import can_read
from dwhctl.engines.mssql_errors import query_error, read
from dwhctl.engines.mssql_link import open_link
from dwhctl.engines.parts import source_parts
from dwhctl.errors import DatabaseMissingError, QueryError, SourceError
from dwhctl.project.sql_lines import at_statement
from dwhctl.sources.contract import Source
from dwhctl.sources.mssql_parts import UTF8, collation_for, read_part
from dwhctl.sources.mssql_reader import Reader, fetched, first_size, next_size
from dwhctl.sources.mssql_sql import one_select, with_bounds, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from dwhctl.columns import Column
    from dwhctl.project.model import MssqlConnection
    from dwhctl.project.templates import Query

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

    `patience` is the seconds of silence after which the driver gives up; it holds for the whole process, as the
    driver's time-outs do. None leaves the end to a deadline from outside.
    """

    def __init__(
        self,
        connection: MssqlConnection,
        database: str,
        zone: str,
        patience: float | None = None,
        *,
        login_known: bool | None = None,
    ) -> None:
        self._database = database
        self._zone = zone
        self._described: dict[str, list[Column]] = {}
        self._link: pymssql.Connection | None = open_link(connection, database, patience, login_known)
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

    def _check_code_pages(self, described: Sequence[engine.Described]) -> None:
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


def _described(row: dict[str, Any]) -> engine.Described:
    return engine.Described(
        row["name"],
        row["system_type_name"],
        nullable=bool(row["is_nullable"]),
        own_type=row.get("user_type_name") or row.get("assembly_qualified_type_name"),
        collation=row.get("collation_name"),
    )
