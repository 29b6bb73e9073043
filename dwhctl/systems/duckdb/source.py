"""Read a shard that is a DuckDB file."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    QueryError,
    SourceBusyError,
    SourceError,
)
from dwhctl.core.sql import replace_binds, split_statements
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
from dwhctl.systems.duckdb import client as engine
from dwhctl.systems.duckdb.spill import SpillFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from dwhctl.core.columns import Column
    from dwhctl.project.templates import Query
    from dwhctl.systems.duckdb.system import DuckdbConnection


class DuckdbSource(Source):
    """One DuckDB file, opened read-only: `<path>/<database>.duckdb`, or the connection's path when that is a file.

    Its content is not trusted: a view in it reaches no other file, server or extension.
    """

    #: A query's columns have no NOT NULL in DuckDB.
    declares_null = False

    def __init__(
        self, connection: DuckdbConnection, database: str, zone: str, state_dir: Path | None = None
    ) -> None:
        self._path = connection.database_file(database)
        self._connection = connection
        self._reader: pa.RecordBatchReader | None = None
        self._look(connection)
        # DuckDB's default is beside the file: a source's folder is not ours to write.
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
            # Where naive values of an extract meet a TIMESTAMPTZ column they are read in the session's zone.
            self._db.execute(f"SET TimeZone = '{zone}'")
        except BaseException as error:
            self._spill.close()
            if isinstance(error, duckdb.Error):
                raise self._translate_error(error) from error
            raise

    def _look(self, connection: DuckdbConnection) -> None:
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
        """Describe the query's columns from DuckDB's binder."""
        relation = self._relation(query)
        return engine.declared_columns(relation.columns, relation.types)

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Stream the answer; a read-only file is one state."""
        try:
            relation = self._relation(query)
            columns = engine.declared_columns(relation.columns, relation.types)
            schema = pa.schema([pa.field(column.name, column.type) for column in columns])
            limit = engine.memory_limit(self._connection.memory_limit, len(columns))
            self._db.execute(f"SET memory_limit = '{limit}'")
            self._reader = relation.to_arrow_reader(rows)
            del relation
            for batch in self._reader:
                # An ENUM comes as a dictionary, a TIMESTAMPTZ in the session's zone.
                yield batch if batch.schema == schema else batch.cast(schema)
        except (duckdb.Error, OSError) as error:
            raise engine.explain(error, self._translate_error(error)) from error

    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        """Measure the answer in DuckDB."""
        key, _ = self._parts(query, measure)
        (row,) = self.measured(query, measure, Dialect.fingerprint)
        return read_fingerprint(row, key)

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Ask DuckDB."""
        key, values = self._parts(query, measure)
        return self._rows(write(Dialect("duckdb"), f"({self._sql(query)}\n) AS slice", key, values), query)

    def _parts(self, query: Query, measure: Measure) -> tuple[list[Part], list[Part]]:
        columns = self.columns(query)
        key, values = (
            source_parts(wanted, columns, lambda one, _: (engine.quote_column(one.name), {}))
            for wanted in (measure.key, measure.values)
        )
        return key, values

    def count_nulls(self, query: Query, column: str) -> int:
        """Count in DuckDB."""
        where = f"{engine.quote_column(column)} IS NULL"
        ((rows,),) = self._rows(f"SELECT count(*) FROM ({self._sql(query)}\n) AS slice WHERE {where}", query)
        return int(rows)

    def _rows(self, sql: str, query: Query) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, self._binds(query)).fetchall()
        except duckdb.Error as error:
            raise self._translate_error(error) from error

    def _binds(self, query: Query) -> dict[str, datetime] | None:
        """Give the bounds as the column that they are for holds them: as its clock shows them, or as instants."""
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
            raise engine.explain(
                self._with_line(query, sql, error), self._translate_error(error), sql
            ) from error
        if relation is None:
            raise QueryError("the extract gives no rows: it must be a SELECT")
        return relation

    def _with_line(self, query: Query, sql: str, error: duckdb.Error) -> duckdb.Error:
        """Return the error as DuckDB gives it to a plain statement: a relation's has no line."""
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
        """Ask DuckDB for its version."""
        row = self._db.execute("SELECT version()").fetchone()
        return f"DuckDB {row[0] if row else ''}"

    def interrupt(self) -> None:
        """End the query that runs."""
        # It may be closed by its own thread at this moment.
        with suppress(duckdb.ConnectionException):
            self._db.interrupt()

    def close(self) -> None:
        """Close the file, and first a stream that was left half-read: it would keep the file open."""
        if self._reader is not None:
            self._reader.close()
        self._db.close()
        self._spill.close()

    def _translate_error(self, error: Exception) -> AttemptError:
        if engine.is_lock_conflict(error):
            return SourceBusyError(f"{self._path} is open for writing in {engine.lock_holder(error)}")
        if engine.is_out_of_memory(error):
            return QueryError(engine.more_memory(self._connection.name))
        # Before the damage, whose words may stand in it: a column `checksum`, a value 'corrupt'.
        if engine.is_refusal(error):
            return QueryError(engine.words(error))
        if engine.is_damage(error):
            return DatabaseMissingError(f"{self._path} is damaged: {engine.words(error)}")
        return SourceError(engine.words(error))


def _holds_instants(relation: duckdb.DuckDBPyRelation, column: str | None) -> bool:
    types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
    return types.get((column or "").lower()) == "TIMESTAMP WITH TIME ZONE"
