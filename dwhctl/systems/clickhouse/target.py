"""Write to ClickHouse: stage by INSERT into a table of the publish group, publish by REPLACE PARTITION.

ClickHouse has no transactions. A run makes tables with its id in their names, and its queries have it in theirs, so
that a later run can end and drop all that a dead run left.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import AttemptError, TargetBusyError, TargetError, TargetRefusedError
from dwhctl.project.templates import at_statement
from dwhctl.systems.base.fingerprint import quote_name
from dwhctl.systems.base.target import ColumnWarning, Stage, StagingGroup, Target
from dwhctl.systems.clickhouse import catalog, types
from dwhctl.systems.clickhouse.catalog import TOKEN, ClickHouseTable, described_column
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
    from dwhctl.systems.base.publication import Publication
    from dwhctl.systems.base.target import Refresh, Statement, TableColumns
    from dwhctl.systems.clickhouse.system import ClickHouseConnection

#: The timeout once the run is being stopped, when it still counts what was published.
_LAST_TIMEOUT = timedelta(seconds=5)
#: How many etl_ids one query counts.
_IDS_AT_ONCE = 5_000


class ClickHouseTarget(Target):
    """A ClickHouse server. Any thread may use it; `timeout` bounds every wait for an answer."""

    def __init__(self, connection: ClickHouseConnection, timeout: timedelta, label: str) -> None:
        self._connection = connection
        self._timeout = timeout
        self._label = label
        self._lock = threading.Lock()
        self._clients: set[ClickHouseClient] = set()
        self._in_doubt: set[str] = set()
        self._interrupted = False
        self._publishing: dict[ClickHouseTable, threading.Lock] = {}

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._working("create") as client:
            for statement in statements:
                with at_statement(statement):
                    client.run(statement)

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, self._name(table))

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
                        f"ALTER TABLE {name.sql} ADD COLUMN IF NOT EXISTS {quote_name(new.name)}"
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
            kill_queries(client, label := catalog.stage_label(group))
            _drop(client, [self._staging(group)], at_once=not has_queries(client, label))

    def drop_run(self, run_id: str) -> None:
        """Drop what the run staged and copied, and end its queries, so that none stages or publishes any more."""
        if not catalog.is_plain_id(run_id):
            return  # no run has such queries and tables, and another run's could match
        with self._connected("drop", last=True) as client:
            label, prefix = catalog.run_label(run_id), catalog.run_prefix(run_id)
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
        label = f"{catalog.stage_label(group)}:{token}"
        return ClickHouseStage(
            ClickHouseClient(self._connection, label, self._timeout), self._staging(group), token, columns
        )

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        name = self._name(table)
        with self._one_at_a_time(name, timeout), self._working("publish", timeout) as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            copy = self._copy(name)
            try:
                yield ClickHousePublication(client, name, copy, bounds, self._staging)
            finally:
                self._drop_last(copy)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        name = self._name(table)
        with self._working("refresh", timeout) as client:
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
    def _working(self, what: str, timeout: timedelta | None = None) -> Iterator[ClickHouseClient]:
        """Connect for statements that write."""
        with self._connected(what, timeout) as client:
            self._settle(client)
            try:
                yield client
            except AttemptError as error:
                # The server goes on with a statement whose answer did not come.
                if not error.permanent:
                    self._doubt(client.label)
                raise

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

    def settle(self) -> None:
        if self._in_doubt:
            with self._connected("settle", last=True) as client:
                self._settle(client)

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        found: dict[int, int] = {}
        with self._connected("count", last=True) as client:
            self._settle(client)
            for start in range(0, len(etl_ids), _IDS_AT_ONCE):
                ids = ", ".join(str(int(etl_id)) for etl_id in etl_ids[start : start + _IDS_AT_ONCE])
                rows = _rows_if_there(
                    client,
                    f"SELECT etl_id, count() FROM {self._name(table).sql} WHERE etl_id IN ({ids}) GROUP BY etl_id",
                )
                found.update((int(etl_id), int(count)) for etl_id, count in rows)
        return found

    def highest_etl_id(self, table: str) -> int:
        with self._connected("count") as client:
            rows = _rows_if_there(client, f"SELECT max(etl_id) FROM {self._name(table).sql}")
        return int(rows[0][0] or 0) if rows else 0

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            running = list(self._clients)
            self._in_doubt.update(client.label for client in running)
        for client in running:
            client.interrupt()

    def version(self) -> str:
        with self._connected("version") as client:
            return f"ClickHouse {client.query('SELECT version()')[0][0]}"

    def _name(self, table: str) -> ClickHouseTable:
        return ClickHouseTable.of(table, self._connection.database)

    def _staging(self, group: StagingGroup) -> ClickHouseTable:
        return catalog.staging_table(group, self._connection.database)

    def _copy(self, table: ClickHouseTable) -> ClickHouseTable:
        return catalog.copy_table(self._label, table, uuid.uuid4().hex[:12])

    def _doubt(self, label: str) -> None:
        with self._lock:
            self._in_doubt.add(label)

    def _settle(self, client: ClickHouseClient) -> None:
        """End the queries that may still write, so that the warehouse changes no more."""
        with self._lock:
            labels = sorted(self._in_doubt)
        for label in labels:
            end_queries(client, label)
            with self._lock:
                self._in_doubt.discard(label)

    @contextmanager
    def _connected(
        self, what: str, timeout: timedelta | None = None, *, last: bool = False
    ) -> Iterator[ClickHouseClient]:
        """Connect for one piece of work. With `last` it is done, with a short timeout, after an interrupt too."""
        timeout = timeout or self._timeout
        label = f"{self._label}:{what}:{uuid.uuid4().hex[:12]}"
        with self._lock:
            if self._interrupted and not last:
                raise TargetError("interrupted")
            timeout = min(timeout, _LAST_TIMEOUT) if self._interrupted else timeout
            client = ClickHouseClient(self._connection, label, timeout)
            if not self._interrupted:
                self._clients.add(client)
        try:
            client.open()
            yield client
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)


def _drop(client: ClickHouseClient, tables: Sequence[ClickHouseTable], *, at_once: bool = True) -> None:
    """Drop tables. Their files go at once, or, with a query that still uses them, minutes later."""
    for table in tables:
        try:
            client.run(f"DROP TABLE IF EXISTS {table.sql} {'SYNC ' if at_once else ''}{ANY_SIZE}")
        except TargetRefusedError as error:
            # Its database does not exist either.
            if not is_code(error, MISSING):
                raise


def _rows_if_there(client: ClickHouseClient, sql: str) -> list[Sequence[Any]]:
    """Query a table that may not exist yet."""
    try:
        return client.query(sql)
    except TargetRefusedError as error:
        if is_code(error, MISSING):
            return []
        raise
