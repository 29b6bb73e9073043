"""Write to ClickHouse: stage by INSERT into a table of the publish group, publish by REPLACE PARTITION.

ClickHouse has no transactions. A run makes tables with its id in their names, and its queries have it in theirs, so
that a later run can end and drop all that a dead run left.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, TargetBusyError, TargetRefusedError
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.server import ServerTarget
from dwhctl.systems.base.staging import TOKEN, described_each, run_label, stage_label, staging_prefix
from dwhctl.systems.base.target import ColumnWarning, Stage, StagingGroup
from dwhctl.systems.clickhouse import catalog, types
from dwhctl.systems.clickhouse.catalog import ClickHouseTable, described_column
from dwhctl.systems.clickhouse.client import ClickHouseClient, end_queries, has_queries, kill_queries
from dwhctl.systems.clickhouse.errors import MISSING, is_code
from dwhctl.systems.clickhouse.publication import (
    ANY_SIZE,
    ClickHouseInspection,
    ClickHousePublication,
    publish_statements,
)
from dwhctl.systems.clickhouse.refresh import ClickHouseRefresh, refresh_statements
from dwhctl.systems.clickhouse.staging import ClickHouseStage
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.inspection import Inspection
    from dwhctl.systems.base.staging import Described, Publication
    from dwhctl.systems.base.target import Refresh, Statement, TableColumns
    from dwhctl.systems.clickhouse.system import ClickHouseConnection


class ClickHouseTarget(ServerTarget["ClickHouseConnection", ClickHouseClient]):
    """A ClickHouse server. Any thread may use it; `timeout` bounds every wait for an answer."""

    holds_locks = False

    def __init__(self, connection: ClickHouseConnection, timeout: timedelta, label: str) -> None:
        super().__init__(connection, timeout, label)
        self._publishing: dict[ClickHouseTable, threading.Lock] = {}

    def _client(self, label: str, timeout: timedelta) -> ClickHouseClient:
        return ClickHouseClient(self._connection, label, timeout)

    def _end(self, client: ClickHouseClient, label: str) -> None:
        end_queries(client, label)

    def _sql_name(self, table: str) -> str:
        return self._name(table).sql

    def _is_missing(self, error: TargetRefusedError) -> bool:
        return is_code(error, MISSING)

    def _create(self, client: ClickHouseClient, statement: str) -> None:
        client.run(statement)

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            # The server goes on with a query whose client is gone.
            self._in_doubt.update(client.label for client in self._clients)
        super().interrupt()

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, self._name(table))

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        with self._connected("columns") as client:
            return described_each(tables, lambda table: catalog.described(client, self._name(table)))

    def warnings(self, table: str) -> Sequence[ColumnWarning]:
        with self._connected("warnings") as client:
            return list(catalog.table_warnings(client, self._name(table)))

    def layout_problem(self, table: str, slice_by: str | None, slices: Sequence[Slice]) -> str | None:
        with self._connected("layout") as client:
            return catalog.layout_problem(client, self._name(table), slice_by, slices)

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def create_table(self, table: NewTable) -> Sequence[str]:
        return types.create_table(table)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        name = self._name(table)
        with self._connected("alter") as client:
            known = {column.name.lower() for column in catalog.existing_columns(client, name)}
            for new in columns:
                if new.name.lower() not in known:
                    client.run(
                        f"ALTER TABLE {name.sql} ADD COLUMN IF NOT EXISTS {types.new_name(new.name)}"
                        f" {types.declaration(new, nullable=True)}"
                    )

    def open_group(self, group: StagingGroup) -> None:
        with self._connected("open") as client:
            # Names and types only: staging has no defaults and constraints.
            declared = catalog.existing_columns(client, self._name(group.table))
            columns = ", ".join(f"{quote_name(column.name)} {column.type}" for column in declared)
            client.run(
                f"CREATE TABLE IF NOT EXISTS {self._staging(group).sql} ({columns}, {TOKEN} String)"
                f" ENGINE = MergeTree PARTITION BY {TOKEN} ORDER BY tuple()",
                {"data_type_default_nullable": 0},
            )

    def drop_group(self, group: StagingGroup) -> None:
        with self._connected("drop") as client:
            # All its slices have ended: a query that still works there has lost its connection.
            kill_queries(client, label := stage_label(group))
            _drop(client, [self._staging(group)], at_once=not has_queries(client, label))

    def _drop_run(self, client: ClickHouseClient, run_id: str) -> None:
        """Drop what the run staged and copied, and end its queries, so that none stages or publishes any more."""
        label, prefix = run_label(run_id), staging_prefix(run_id)
        kill_queries(client, label)
        left = client.query(
            f"SELECT database, name FROM system.tables WHERE startsWith(name, {literal(prefix)})"
        )
        # An INSERT that waits for its client keeps the table of a DROP ... SYNC.
        tables = [ClickHouseTable(str(database), str(table)) for database, table in left]
        _drop(client, tables, at_once=not has_queries(client, label))
        # What begins now finds no table; what began before has ended then.
        end_queries(client, label)

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        # Parts of a slice have one token, and each query an id of its own.
        client = self._client(f"{stage_label(group)}:{token}:{uuid.uuid4().hex[:12]}", self._timeout)
        return ClickHouseStage(client, self._staging(group), token, columns)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        name = self._name(table)
        with self._one_at_a_time(name, timeout), self._writing("publish", timeout) as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            copy = self._copy(name)
            try:
                yield ClickHousePublication(client, name, copy, bounds, self._staging)
            finally:
                self._drop_last(copy)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        name = self._name(table)
        with self._writing("refresh", timeout) as client:
            refresh = ClickHouseRefresh(client, name, self._copy(name), source)
            try:
                yield refresh
            finally:
                self._drop_last(*refresh.leftovers)

    @contextmanager
    def _one_at_a_time(self, table: ClickHouseTable, timeout: timedelta) -> Iterator[None]:
        """Hold the table: of two copies of one partition the first would be lost. Runs have locks of their own."""
        with self._lock:
            lock = self._publishing.setdefault(table, threading.Lock())
        if not lock.acquire(timeout=timeout.total_seconds()):
            raise TargetBusyError(f"{table} is being published by another thread")
        try:
            yield
        finally:
            lock.release()

    def _drop_last(self, *tables: ClickHouseTable) -> None:
        """Drop what a publication or refresh leaves. What cannot be dropped now goes with the run."""
        with suppress(AttemptError), self._connected("drop", last=True) as client:
            _drop(client, tables)

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        name = self._name(table)
        with self._connected("inspect") as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            yield ClickHouseInspection(client, name, bounds)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        table = self._name(columns.table)
        return publish_statements(table, ClickHouseTable(table.database, "<staging table>"), slice, columns)

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        return refresh_statements(self._name(columns.table), source, columns)

    def version(self) -> str:
        with self._connected("version") as client:
            return f"ClickHouse {client.query('SELECT version()')[0][0]}"

    def _name(self, table: str) -> ClickHouseTable:
        return ClickHouseTable.of(table, self._connection.database)

    def _staging(self, group: StagingGroup) -> ClickHouseTable:
        return catalog.staging_table(group, self._connection.database)

    def _copy(self, table: ClickHouseTable) -> ClickHouseTable:
        return catalog.copy_table(self._label, table, uuid.uuid4().hex[:12])


def _drop(client: ClickHouseClient, tables: Sequence[ClickHouseTable], *, at_once: bool = True) -> None:
    """Drop tables. Their files go at once, or, with a query that still uses them, minutes later."""
    for table in tables:
        try:
            client.run(f"DROP TABLE IF EXISTS {table.sql} {'SYNC ' if at_once else ''}{ANY_SIZE}")
        except TargetRefusedError as error:
            # Its database does not exist either.
            if not is_code(error, MISSING):
                raise
