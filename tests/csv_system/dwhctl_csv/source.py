"""Read a shard that is a folder of CSV files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from dwhctl_csv.engine import Engine, described, locked, query_problem

from dwhctl.core.columns import Column
from dwhctl.core.errors import ConnectError, DatabaseMissingError, QueryError, SourceBusyError, SourceError
from dwhctl.core.files import inside
from dwhctl.core.sql import replace_binds, split_statements
from dwhctl.systems.base.source import SqlSource

if TYPE_CHECKING:
    from dwhctl_csv.system import CsvConnection

    from dwhctl.project.query import Query


class CsvSource(SqlSource):
    """One folder of CSV files. A writer that locks the folder (flock) is waited for, and waits for the source."""

    dialect = "duckdb"
    #: A query's columns have no NOT NULL in DuckDB.
    declares_null = False

    def __init__(self, connection: CsvConnection, database: str, zone: str) -> None:
        folder = inside(connection.path, database)
        if not connection.path.is_dir():
            raise ConnectError(
                f"connection {connection.name}: there is no folder {connection.path}", connection.name
            )
        if not folder.is_dir():
            raise DatabaseMissingError(f"there is no folder {folder}")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise DatabaseMissingError(f"{folder} cannot be read: permission denied")
        self._reader: pa.RecordBatchReader | None = None
        with ExitStack() as stack:
            wait = connection.lock_wait.total_seconds()
            stack.enter_context(locked(folder, fcntl.LOCK_SH, wait, SourceBusyError))
            self._engine = stack.enter_context(Engine(folder, (QueryError, SourceError), zone))
            self._stack = stack.pop_all()

    def columns(self, query: Query) -> Sequence[Column]:
        relation = self._relation(query)
        return described(relation.columns, relation.types)

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        relation = self._relation(query)
        columns = described(relation.columns, relation.types)
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        with self._engine.translated():
            self._reader = relation.to_arrow_reader(rows)
            del relation
            for batch in self._reader:
                # DuckDB returns a TIMESTAMP WITH TIME ZONE in the session's time zone.
                yield batch if batch.schema == schema else batch.cast(schema)

    def _rows_over(self, query: Query, write: Callable[[str], str]) -> list[tuple[Any, ...]]:
        sql = write(f"({self._sql(query)}\n) AS slice")
        with self._engine.translated():
            return self._engine.execute(sql, self._binds(query)).fetchall()

    def _binds(self, query: Query) -> dict[str, datetime] | None:
        """Return the bounds as the sliced column holds them: naive, or as instants."""
        if query.instants:
            relation = self._engine.db.sql(self._sql(query), params=dict(query.binds))
            types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
            if types.get((query.slice_by or "").lower()) == "TIMESTAMP WITH TIME ZONE":
                return dict(query.instants)
        return dict(query.binds) or None

    def _relation(self, query: Query) -> duckdb.DuckDBPyRelation:
        sql = self._sql(query)
        with self._engine.translated(sql):
            self._engine.attach(sql)
            return self._engine.db.sql(sql, params=self._binds(query))

    def _sql(self, query: Query) -> str:
        sql = replace_binds(query.sql, lambda name: f"${name}")
        if problem := query_problem(sql):
            raise QueryError(problem)
        return replace_binds(split_statements(query.sql)[0], lambda name: f"${name}")

    def version(self) -> str:
        return f"CSV files, DuckDB {duckdb.__version__}"

    def interrupt(self) -> None:
        self._engine.interrupt()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._stack.close()
