"""Read a shard that is a DuckDB file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from dwhctl.core.errors import AttemptError, ConnectError, DatabaseMissingError, QueryError
from dwhctl.core.files import SpillFolder
from dwhctl.core.sql import replace_binds, split_statements
from dwhctl.systems.base.source import SqlSource
from dwhctl.systems.duckdb import client as engine

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.project.query import Query
    from dwhctl.systems.duckdb.system import DuckdbConnection


#: How much of the file DuckDB may keep in memory during a query, and after how many octets of rows that is checked.
_MOST_KEPT = 8 * 2**20


class DuckdbSource(SqlSource):
    """One DuckDB file, open read-only: `<path>/<database>.duckdb`, or the connection's path when that is a file.

    Its content is not trusted: a view in it reaches no other file, server or extension.
    """

    dialect = "duckdb"
    #: A query's columns have no NOT NULL in DuckDB.
    declares_null = False

    def __init__(
        self, connection: DuckdbConnection, database: str, zone: str, state_dir: Path | None = None
    ) -> None:
        self._path = connection.database_file(database)
        self._connection = connection
        self._reader: pa.RecordBatchReader | None = None
        self._check_path(connection)
        # DuckDB would spill beside the file: dwhctl writes nothing into a source's folder.
        self._spill = SpillFolder(state_dir)
        try:
            self._db = engine.open_file(
                self._path,
                read_only=True,
                wait=connection.lock_wait.total_seconds(),
                config={
                    "memory_limit": engine.memory_limit(connection.memory_limit),
                    "threads": 1,
                    "temp_directory": self._spill.path,
                },
                settings=["memory_limit", "TimeZone"],
            )
            # DuckDB compares naive values with a TIMESTAMPTZ column in the session's time zone.
            self._db.execute(f"SET TimeZone = '{zone}'")
        except BaseException as error:
            self._spill.close()
            if isinstance(error, duckdb.Error):
                raise self._translate_error(error) from error
            raise

    def _check_path(self, connection: DuckdbConnection) -> None:
        if not self._path.parent.is_dir():
            raise ConnectError(
                f"connection {connection.name}: there is no folder {self._path.parent}", connection.name
            )
        if not os.access(self._path.parent, os.X_OK):
            raise DatabaseMissingError(f"{self._path} cannot be read: permission denied")
        if not self._path.is_file():
            raise DatabaseMissingError(f"there is no file {self._path}")
        if not os.access(self._path, os.R_OK):
            raise DatabaseMissingError(f"{self._path} cannot be read: permission denied")

    def columns(self, query: Query) -> Sequence[Column]:
        relation = self._relation(query)
        return engine.declared_columns(relation.columns, relation.types)

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the answer; a file that is open read-only is one state."""
        try:
            relation = self._relation(query)
            columns = engine.declared_columns(relation.columns, relation.types)
            schema = pa.schema([pa.field(column.name, column.type) for column in columns])
            limit = engine.memory_limit(self._connection.memory_limit, len(columns))
            self._db.execute(f"SET memory_limit = '{limit}'")
            self._reader = relation.to_arrow_reader(rows)
            del relation
            unchecked = 0
            for batch in self._reader:
                unchecked += batch.nbytes
                if unchecked >= _MOST_KEPT and self._connection.memory_limit is None:
                    unchecked = 0
                    self._release_blocks(limit)
                # DuckDB returns an ENUM as a dictionary and a TIMESTAMPTZ in the session's time zone.
                yield batch if batch.schema == schema else batch.cast(schema)
        except (duckdb.Error, OSError) as error:
            raise self._translate_error(error) from error

    def _release_blocks(self, limit: str) -> None:
        """Release the blocks of the file that the query has read: DuckDB keeps them up to its memory limit."""
        with closing(self._db.cursor()) as beside:
            found = beside.execute("SELECT tag, memory_usage_bytes FROM duckdb_memory()").fetchall()
            used = {str(tag): int(size) for tag, size in found}
            if used["BASE_TABLE"] <= _MOST_KEPT:
                return
            # A lower limit releases the file's blocks before all else. Where some are in use DuckDB refuses the limit
            # after it has released the others.
            with suppress(duckdb.OutOfMemoryException):
                beside.execute(f"SET memory_limit = '{max(1, sum(used.values()) - used['BASE_TABLE'])}B'")
            beside.execute(f"SET memory_limit = '{limit}'")

    def _rows_over(self, query: Query, write: Callable[[str], str]) -> list[tuple[Any, ...]]:
        sql = write(f"({self._sql(query)}\n) AS slice")
        try:
            return self._db.execute(sql, self._binds(query)).fetchall()
        except duckdb.Error as error:
            raise self._translate_error(error) from error

    def _binds(self, query: Query) -> dict[str, datetime] | None:
        """Return the bounds as the sliced column holds them: naive, or as instants."""
        if query.instants:
            relation = self._db.sql(self._sql(query), params=dict(query.binds))
            if relation is not None and _holds_instants(relation, query.slice_by):
                return dict(query.instants)
        return dict(query.binds) or None

    def _relation(self, query: Query) -> duckdb.DuckDBPyRelation:
        sql = self._sql(query)
        try:
            relation = self._db.sql(sql, params=self._binds(query))
        except duckdb.Error as error:
            raise self._translate_error(self._with_line(query, sql, error), sql) from error
        if relation is None:
            raise QueryError("the extract gives no rows: it must be a SELECT")
        return relation

    def _with_line(self, query: Query, sql: str, error: duckdb.Error) -> duckdb.Error:
        """Return the error of the same SQL as a plain statement: a relation's has no line."""
        try:
            self._db.execute(f"EXPLAIN {sql}", dict(query.binds) or None)
        except duckdb.Error as again:
            return again if type(again) is type(error) else error
        return error

    @staticmethod
    def _sql(query: Query) -> str:
        statements = split_statements(query.sql)
        if len(statements) != 1:
            raise QueryError(f"an extract is one SELECT; this one has {len(statements)} statements")
        return replace_binds(statements[0], lambda name: f"${name}")

    def version(self) -> str:
        row = self._db.execute("SELECT version()").fetchone()
        return f"DuckDB {row[0] if row else ''}"

    def interrupt(self) -> None:
        # Its own thread may be closing it.
        with suppress(duckdb.ConnectionException):
            self._db.interrupt()

    def close(self) -> None:
        # A stream that was not read to its end would keep the file open.
        if self._reader is not None:
            self._reader.close()
        self._db.close()
        self._spill.close()

    def _translate_error(self, error: Exception, statement: str | None = None) -> AttemptError:
        return engine.translate_error(error, self._connection, self._path, statement=statement)


def _holds_instants(relation: duckdb.DuckDBPyRelation, column: str | None) -> bool:
    types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
    return types.get((column or "").lower()) == "TIMESTAMP WITH TIME ZONE"
