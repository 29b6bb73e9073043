"""Write to ClickHouse: stage by INSERT into a table of the publish group, publish by REPLACE PARTITION.

A report is refreshed in a new table like it, by EXCHANGE TABLES.

ClickHouse has no transactions. A run makes tables with its id in their names, and its queries have it in theirs, so
that a later run can end and drop all that a dead run left.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dwhctl.core.errors import AttemptError, TargetBusyError, TargetRefusedError, ValueRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.sql import quote_name
from dwhctl.project.query import at_statement
from dwhctl.systems.base.server import ServerTarget, known_types
from dwhctl.systems.base.staging import TOKEN, described_each, run_label, stage_label, staging_prefix
from dwhctl.systems.base.target import (
    SHOWN_CHARACTERS,
    ColumnWarning,
    Narrowing,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    StagingGroup,
    Statement,
    TableColumns,
    refresh_source,
)
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
    from dwhctl.systems.clickhouse.system import ClickHouseConnection

_NOT_IMPLEMENTED = 48


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
        table = self._name(columns.table)
        copy, raw = (
            ClickHouseTable(table.database, "<new table>"),
            ClickHouseTable(table.database, "<source's rows>"),
        )
        names, rows = list(columns.names) or [f"<columns of {columns.table}>"], refresh_source(source)
        checks = [
            Statement(f"SELECT {quote_name(pair.table.name)} FROM {raw.sql} WHERE {_changed(pair)} LIMIT 1")
            for pair in columns.narrowed
            if pair.source.known is not None and pair.table.known is not None
        ]
        return [
            Statement(f"CREATE TABLE {copy.sql} AS {table.sql}"),
            *([Statement(_raw_sql(raw, names, rows)), *checks] if checks else []),
            Statement(_insert_sql(copy, names, raw.sql if checks else rows)),
            Statement(
                f"EXCHANGE TABLES {table.sql} AND {copy.sql}", about="readers see the new rows from here on"
            ),
            Statement(f"DROP TABLE {copy.sql} SYNC", about="the old rows"),
        ]

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


class ClickHouseRefresh(Refresh):
    """A table like the report, filled and then exchanged for it. `raw` takes rows whose values may not fit."""

    def __init__(
        self, client: ClickHouseClient, table: ClickHouseTable, copy: ClickHouseTable, source: RowSource
    ) -> None:
        self._client = client
        self._table = table
        self._copy = copy
        self._raw = ClickHouseTable(copy.database, f"{copy.table}_raw")
        self._source = source
        self._made = False

    def columns(self) -> RefreshColumns:
        table = catalog.existing_columns(self._client, self._table)
        with at_statement(self._source.text) if self._source.is_query else nullcontext():
            source = self._client.query(f"DESCRIBE TABLE (SELECT * FROM {refresh_source(self._source)})")
        return RefreshColumns(
            tuple(_column(str(name), str(declared)) for name, declared, *_ in source),
            tuple(_column(column.name, column.type) for column in table),
            frozenset(column.name for column in table if column.default),
        )

    def delete(self) -> None:
        """Make the empty table that replaces the report."""
        if not self._made:
            self._client.run(f"CREATE TABLE {self._copy.sql} AS {self._table.sql}")
            self._made = True

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        known = self.columns()
        self.delete()
        source = refresh_source(self._source)
        if narrowed:
            self._check(columns, narrowed)
            source = self._raw.sql
        self._client.run(_insert_sql(self._copy, columns, source, _values(columns, known)))
        ((rows,),) = self._client.query(f"SELECT count() FROM {self._copy.sql}")
        return int(rows)

    def _check(self, columns: Sequence[str], narrowed: Sequence[Narrowing]) -> None:
        """Keep the source's rows, and refuse a value that the table's type would change."""
        self._client.run(_raw_sql(self._raw, columns, refresh_source(self._source)))
        for pair in narrowed:
            where = _changed(pair)
            found = self._client.query(
                f"SELECT leftUTF8(toString({quote_name(pair.table.name)}), {SHOWN_CHARACTERS}) FROM {self._raw.sql}"
                f" WHERE {where} LIMIT 1",
                {"date_time_overflow_behavior": "ignore"},  # the conversion there and back shows it
            )
            if found:
                raise ValueRefusedError(
                    f"{self._table}.{pair.table.name}: the value {found[0][0]} does not fit {pair.table.declared} (the"
                    f" source gives {pair.source.declared}); nothing was changed. Write the CAST or ROUND that is"
                    " wanted into the source, or change the table's column"
                )

    def commit(self) -> None:
        reach("clickhouse.exchange")
        try:
            self._client.run(f"EXCHANGE TABLES {self._table.sql} AND {self._copy.sql}")
        except AttemptError as error:
            if is_code(error, (_NOT_IMPLEMENTED,)):
                raise TargetRefusedError(
                    f"the database {self._table.database} cannot exchange tables: a report's table must be in a"
                    f" database with ENGINE = Atomic ({error})"
                ) from error
            raise
        reach("clickhouse.exchanged")

    @property
    def leftovers(self) -> tuple[ClickHouseTable, ...]:
        """The tables to drop at the end."""
        return (self._copy, self._raw)


def _changed(pair: Narrowing) -> str:
    """Return the condition of the source's values that the table's type would change."""
    source, table = known_types(pair)
    named = replace(source, declared=pair.source.declared)
    return types.would_change(quote_name(pair.table.name), named, table)


def _raw_sql(raw: ClickHouseTable, columns: Sequence[str], source: str) -> str:
    return f"CREATE TABLE {raw.sql} ENGINE = MergeTree ORDER BY tuple() AS SELECT {_listed(columns)} FROM {source}"


def _insert_sql(copy: ClickHouseTable, columns: Sequence[str], source: str, values: str = "") -> str:
    return f"INSERT INTO {copy.sql} ({_listed(columns)}) SELECT {values or _listed(columns)} FROM {source}"


def _values(columns: Sequence[str], known: RefreshColumns) -> str:
    """Return the source's values for the columns: ClickHouse turns a text that is no number into NULL."""
    source = {column.name.lower(): column.declared for column in known.source}
    table = {column.name.lower(): column.declared for column in known.table}
    values = []
    for name in columns:
        given, wanted = types.bare(source.get(name.lower(), "")), types.bare(table.get(name.lower(), ""))
        cast = f"accurateCast(assumeNotNull({quote_name(name)}), {types.literal(wanted)})"
        strict = f"if(isNull({quote_name(name)}), NULL, {cast})"
        values.append(strict if given != wanted else quote_name(name))
    return ", ".join(values)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(name if name.startswith("<") else quote_name(name) for name in columns)


def _column(name: str, declared: str) -> RefreshColumn:
    return RefreshColumn(name, declared, types.column(name, declared), declared == "Nullable(Nothing)")
