"""Write to PostgreSQL: stage by a binary COPY into an UNLOGGED table of the publish group, publish in one transaction.

The transaction: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT. Also the refresh of a report and
the inspection of a table. The label of a session is its application_name.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, StagingError, TargetRefusedError
from dwhctl.core.sql import literal, quote_name, quote_path
from dwhctl.project.query import at_statement
from dwhctl.systems.base.server import (
    ServerRefresh,
    ServerTarget,
    known_types,
    publication_sql,
)
from dwhctl.systems.base.staging import (
    TOKEN,
    Publication,
    ServerPublication,
    delete_sql,
    gone,
    insert_sql,
    run_label,
    slice_conditions,
    staged_sql,
)
from dwhctl.systems.base.target import (
    ColumnWarning,
    DirectStage,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    StagingGroup,
    Statement,
    carried,
    refresh_source,
    refresh_sql,
)
from dwhctl.systems.postgres import catalog, types
from dwhctl.systems.postgres.copy_client import CopyClient
from dwhctl.systems.postgres.errors import EXISTS_ALREADY, MISSING, sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.inspection import Inspection
    from dwhctl.systems.base.staging import Described
    from dwhctl.systems.base.target import Narrowing, TableColumns
    from dwhctl.systems.postgres.system import PostgresConnection

BEGIN, COMMIT = "BEGIN", "COMMIT"
_SETTINGS = "SET TimeZone = 'UTC'"


class PostgresTarget(ServerTarget["PostgresConnection", CopyClient]):
    """A PostgreSQL database. Any thread may use it; `timeout` bounds every wait for an answer."""

    writes_directly = True

    def __init__(
        self, connection: PostgresConnection, timeout: timedelta, label: str, *, keep: bool = False
    ) -> None:
        super().__init__(connection, timeout, label)
        self._keep = keep
        self._schema = connection.staging_schema
        self._of_thread = threading.local()

    def _client(self, label: str, timeout: timedelta) -> CopyClient:
        seconds = timeout.total_seconds()
        return CopyClient(self._connection, catalog.label(label), seconds, _SETTINGS, target=True)

    def _ran_together(self, client: CopyClient, statements: Sequence[str]) -> bool:
        return client.run_together(statements)

    def _end(self, client: CopyClient, label: str) -> None:
        catalog.end_sessions(client, label)

    def _sql_name(self, table: str) -> str:
        return quote_path(table)

    def _is_missing(self, error: TargetRefusedError) -> bool:
        return sqlstate(error) in MISSING

    def _exists_already(self, error: TargetRefusedError) -> bool:
        return sqlstate(error) in EXISTS_ALREADY

    @contextmanager
    def session(self) -> Iterator[None]:
        with self._connected("session") as client:
            self._of_thread.client = client
            try:
                yield
            finally:
                self._of_thread.client = None

    @contextmanager
    def _connected(
        self, what: str, timeout: timedelta | None = None, *, last: bool = False
    ) -> Iterator[CopyClient]:
        """Use the connection of this thread's `session`, if there is one."""
        shared: CopyClient | None = getattr(self._of_thread, "client", None)
        own = nullcontext(shared) if shared else super()._connected(what, timeout, last=last)
        with own as client:
            yield client

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, table)

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        try:
            with self._connected("columns") as client:
                return catalog.described_tables(client, tables)
        except TargetRefusedError:
            return super().described(tables)  # one after another shows whose name or privileges are refused

    def warnings(self, table: str) -> Sequence[ColumnWarning]:
        with self._connected("warnings") as client:
            return list(catalog.table_warnings(client, table, self._schema))

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def create_table(self, table: NewTable) -> Sequence[str]:
        return types.create_table(table)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        with self._connected("alter") as client:
            # dwhctl compares names without case.
            known = {one.name.lower() for one in catalog.existing_columns(client, table)}
            for new in columns:
                if new.name.lower() not in known:
                    client.query(
                        f"ALTER TABLE {quote_path(table)} ADD COLUMN IF NOT EXISTS"
                        f" {types.small(new.name)} {types.declaration(new)}"
                    )

    def open_group(self, group: StagingGroup) -> None:
        with self._connected("open") as client:
            declared = catalog.existing_columns(client, group.table)
            # Names and types only: staging has no constraints and defaults.
            columns = "".join(
                f"{quote_name(one.name)} {one.staged}, " for one in declared if not one.is_generated
            )
            table = catalog.staging_table(client, group, self._schema)
            self._create(client, f"CREATE UNLOGGED TABLE IF NOT EXISTS {table} ({columns}{TOKEN} bigint)")

    def drop_group(self, group: StagingGroup) -> None:
        with self._connected("drop") as client:
            # All its slices have ended: a session that still works there has lost its connection.
            catalog.end_sessions(client, catalog.group_label(group), and_longer=True)
            client.query(f"DROP TABLE IF EXISTS {catalog.staging_table(client, group, self._schema)}")

    def _drop_run(self, client: CopyClient, run_id: str) -> None:
        catalog.end_sessions(client, run_label(run_id), and_longer=True)
        for table in catalog.staging_tables(client, run_id):
            client.query(f"DROP TABLE IF EXISTS {table}")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        # The parent never stages: it needs no kernels of Arrow.
        from dwhctl.systems.postgres.staging import PostgresStage

        client = self._stage_client(group, token)
        return PostgresStage(client, group, self._schema, token, columns)

    def write_slice(
        self, group: StagingGroup, token: str, columns: Sequence[Column], slice: Slice, slice_by: str | None
    ) -> DirectStage:
        from dwhctl.systems.postgres.staging import DirectPostgresStage

        client = self._stage_client(group, token)
        return DirectPostgresStage(client, group, token, columns, slice, slice_by)

    def _stage_client(self, group: StagingGroup, token: str) -> CopyClient:
        # A kept session has the run's label again: who ends those of a group, or of the slice, does not end it.
        own = f"{_SETTINGS}; SET application_name = {literal(_stage_label(group, token))}"
        run, seconds = run_label(group.run_id), self._timeout.total_seconds()
        return CopyClient(self._connection, run, seconds, own, target=True, keep=self._keep)

    def distrust(self, group: StagingGroup, token: str) -> None:
        self._doubt(_stage_label(group, token))

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        with self._transaction("publish", table, catalog.publication_lock, timeout) as client:
            bounds = catalog.described_column(client, table, slice_by) if slice_by else None
            yield PostgresPublication(client, table, bounds, self._schema)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._transaction("refresh", table, catalog.refresh_lock, timeout) as client:
            yield PostgresRefresh(client, table, quote_path(table), source)

    @contextmanager
    def _transaction(
        self, what: str, table: str, lock_sql: Callable[[str], str], timeout: timedelta
    ) -> Iterator[CopyClient]:
        """Begin a transaction that locks the table; leaving the block without a commit rolls back."""
        with self._writing(what, timeout) as client:
            catalog.existing_columns(client, table)
            client.query(f"{BEGIN}; {lock_sql(quote_path(table))}")
            yield client

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        with self._connected("inspect") as client:
            bounds = catalog.described_column(client, table, slice_by) if slice_by else None
            yield catalog.PostgresInspection(client, table, bounds)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        *before, _ = columns.table.split(".")
        schema = self._schema or (before[-1] if before else None)
        staging = f"{quote_name(schema)}.{quote_name('<staging table>')}" if schema else '"<staging table>"'
        table = quote_path(columns.table)
        sent = publication_sql(table, staging, slice, columns, "<token>")
        return [Statement(BEGIN), Statement(catalog.publication_lock(table)), *sent, Statement(COMMIT)]

    def direct_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        table = quote_path(columns.table)
        (where,) = slice_conditions([slice], columns.slice_by)
        return [
            Statement(BEGIN),
            Statement(delete_sql(table, where)),
            Statement(
                catalog.copy_sql(table, columns.listed(quote_name)),
                about="the rows; another number than was extracted is rolled back",
            ),
            Statement(COMMIT),
        ]

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        table = quote_path(columns.table)
        sql = refresh_sql(table, source, columns, PostgresRefresh.checked)
        return [
            Statement(BEGIN),
            Statement(catalog.refresh_lock(table)),
            *map(Statement, sql),
            Statement(catalog.FIRE_DEFERRED),
            Statement(COMMIT),
        ]

    def version(self) -> str:
        with self._connected("version") as client:
            return f"PostgreSQL {client.query('SHOW server_version')[0][0]}"


def _stage_label(group: StagingGroup, token: str) -> str:
    return catalog.label(f"{catalog.group_label(group)}:{token}")


class PostgresPublication(ServerPublication[CopyClient]):
    """The publication. It refuses a slice of whose rows a trigger, a rule or a crash of the server has taken some."""

    def __init__(self, client: CopyClient, table: str, slice_by: Column | None, schema: str | None) -> None:
        super().__init__(client, quote_path(table), slice_by)
        self._schema = schema
        self._held: Mapping[str, int] = {}
        self._slices: Sequence[Slice] = ()
        self._rest = 0
        self._staged: dict[str, int] = {}

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        self._slices, self._held = slices, super().held_rows(slices)
        self._rest = sum(self._held.values())
        return self._held

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        table, numbers = self._staging(group), {catalog.token_number(token): token for token in tokens}
        try:
            rows = self._client.query(staged_sql(table, _numbers(tokens)))
        except AttemptError as error:
            if sqlstate(error) in MISSING:
                raise gone(table) from error
            raise
        found = {numbers[number]: int(count) for number, count in rows}
        if lacking := [token for token in tokens if token not in found]:
            raise StagingError(
                f"{table} has lost {len(lacking)} of {len(tokens)} staged slices: PostgreSQL empties an UNLOGGED table"
                " when it starts after a crash"
            )
        self._staged = found
        return found

    def delete(self, slices: Sequence[Slice]) -> None:
        deleted = sum(
            self._client.run(delete_sql(self._table, where))
            for where in slice_conditions(slices, self._slice_by)
        )
        held = sum(self._held.get(slice_.shard, 0) for slice_ in slices)
        _, may_keep, _ = self._ways
        # A trigger may delete them in its own way, or write them again.
        if (may_keep or deleted < held) and any(super().held_rows(slices).values()):
            raise catalog.kept_rows(self._table)
        self._rest -= held

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        # A group that was opened before the target got a new column still inserts rightly: by its own columns.
        table = self._staging(group)
        columns = catalog.declared_columns(self._client, table)
        if not columns:
            raise gone(table)
        own = {one.name: one for one in catalog.declared_columns(self._client, self._table)}
        written = [one for one in columns if one.name != TOKEN]
        names = ", ".join(quote_name(one.name) for one in written)
        values = ", ".join(_staged_value(one, own.get(one.name)) for one in written)
        inserted = self._client.run(insert_sql(self._table, table, names, _numbers(tokens), values))
        if inserted < (staged := sum(self._staged.get(token, 0) for token in tokens)):
            raise catalog.lost_rows(self._table, staged, inserted)
        *_, may_move = self._ways
        if may_move:
            self._client.query(catalog.FIRE_DEFERRED)
            if (found := sum(super().held_rows(self._slices).values()) - self._rest) != inserted:
                raise catalog.moved_rows(self._table, inserted, found)
        return inserted

    @cached_property
    def _ways(self) -> tuple[bool, bool, bool]:
        return catalog.write_ways(self._client, self._table)

    def _staging(self, group: StagingGroup) -> str:
        return catalog.staging_table(self._client, group, self._schema)


def _staged_value(staged: catalog.Declared, own: catalog.Declared | None) -> str:
    name = quote_name(staged.name)
    return name if own is None or own.base == staged.base else f"CAST({name} AS {own.base})"


def _numbers(tokens: Sequence[str]) -> str:
    return ", ".join(str(catalog.token_number(token)) for token in tokens)


class PostgresRefresh(ServerRefresh[CopyClient]):
    """One transaction in one session. DELETE and INSERT, not TRUNCATE: it would lock readers out."""

    _may_move = False

    def columns(self) -> RefreshColumns:
        table = catalog.existing_columns(self._client, self._table)
        with at_statement(self._source.text) if self._source.is_query else nullcontext():
            described = self._client.described(f"SELECT * FROM {refresh_source(self._source)} LIMIT 0")
        names = catalog.type_names(self._client, {column.type_code for column in described})
        return RefreshColumns(
            tuple(_answered(types.result_column(column, names)) for column in described),
            tuple(RefreshColumn(one.name, one.base, one.column()) for one in table if not one.is_generated),
            frozenset(one.name for one in table if one.is_filled),
        )

    def delete(self) -> None:
        super().delete()
        _, may_keep, self._may_move = catalog.write_ways(self._client, self._sql_name)
        if may_keep and self._client.query(f"SELECT 1 FROM {self._sql_name} LIMIT 1"):
            raise catalog.kept_rows(self._table)

    def _inserted(self, sql: str) -> int:
        inserted = self._client.run(sql)
        self._client.query(catalog.FIRE_DEFERRED)
        if self._may_move:
            # The snapshot is that of the INSERT: catalog.refresh_lock.
            given, found = (
                self._client.query(f"SELECT count(*) FROM {rows}")[0][0]
                for rows in (refresh_source(self._source), self._sql_name)
            )
            if given != found:
                raise catalog.lost_rows(self._table, given, found)
        return inserted

    @staticmethod
    def checked(number: int, pair: Narrowing) -> str:
        """Return the SQL of the column's value, or of an error where it does not fit: a cast that cannot succeed."""
        source, table = known_types(pair)
        name = quote_name(pair.source.name)
        shown = f"encode({name}, 'hex')" if source.kind.value == "binary" else f"CAST({name} AS text)"
        error = f"CAST(CAST(CAST({carried(number, shown)} AS integer) AS text) AS {pair.source.declared})"
        return f"CASE WHEN {types.would_change(name, table)} THEN {error} ELSE {name} END"


def _answered(column: types.AnswerColumn) -> RefreshColumn:
    known = types.column(column.name, column.declared, is_enum=column.is_enum)
    return RefreshColumn(column.name, column.declared, known, column.declared == "unknown")
