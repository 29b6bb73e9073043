"""Write to Vertica: stage by COPY into a table of the publish group, publish in one transaction.

The transaction: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, TargetRefusedError
from dwhctl.core.sql import literal, quote_name
from dwhctl.systems.base.inspection import Inspection, held_values_sql, read_held_values
from dwhctl.systems.base.server import ServerTarget, publication_sql
from dwhctl.systems.base.staging import (
    TOKEN,
    Publication,
    delete_sql,
    gone,
    held_sql,
    insert_sql,
    literals,
    of_shards,
    run_label,
    slice_conditions,
    stage_label,
    staged_sql,
    staging_prefix,
)
from dwhctl.systems.base.target import ColumnWarning, Refresh, Stage, StagingGroup, Statement, TableColumns
from dwhctl.systems.vertica import catalog, types
from dwhctl.systems.vertica.catalog import (
    COLUMN_EXISTS,
    EXISTS_ALREADY,
    MISSING,
    TableName,
    declared_columns,
    described_column,
    is_sqlstate,
)
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.refresh import VerticaInspection, VerticaRefresh, refresh_statements

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.vertica.system import VerticaConnection

_TOKEN_TYPE = "VARCHAR(64)"  # noqa: S105


class VerticaTarget(ServerTarget["VerticaConnection", VerticaClient]):
    """A Vertica database. Any thread may use it; `timeout` bounds every wait for an answer."""

    def __init__(
        self, connection: VerticaConnection, timeout: timedelta, label: str, *, keep: bool = False
    ) -> None:
        super().__init__(connection, timeout, label)
        self._keep = keep

    def _client(self, label: str, timeout: timedelta) -> VerticaClient:
        return VerticaClient(self._connection, label, timeout)

    def _end(self, client: VerticaClient, label: str) -> None:
        catalog.end_sessions(client, label)

    def _sql_name(self, table: str) -> str:
        return TableName.of(table).sql

    def _is_missing(self, error: TargetRefusedError) -> bool:
        return is_sqlstate(error, MISSING)

    def _exists_already(self, error: TargetRefusedError) -> bool:
        return is_sqlstate(error, (EXISTS_ALREADY,))

    def _create(self, client: VerticaClient, statement: str) -> None:
        super()._create(client, statement)
        client.query("COMMIT")

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, TableName.of(table))

    def warnings(self, table: str) -> Sequence[ColumnWarning]:
        with self._connected("warnings") as client:
            return list(catalog.table_warnings(client, TableName.of(table)))

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def create_table(self, table: NewTable) -> Sequence[str]:
        return types.create_table(table)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        name = TableName.of(table)
        with self._connected("alter") as client:
            # Vertica compares names without case.
            known = {column.lower() for column, _, _ in catalog.existing_columns(client, name)}
            for new in columns:
                if new.name.lower() in known:
                    continue
                try:
                    client.query(
                        f"ALTER TABLE {name.sql} ADD COLUMN {quote_name(new.name)} {types.declaration(new)}"
                    )
                except TargetRefusedError as error:
                    # Another run added it at the same moment.
                    if not is_sqlstate(error, (COLUMN_EXISTS, EXISTS_ALREADY)):
                        raise
            client.query("COMMIT")

    def open_group(self, group: StagingGroup) -> None:
        with self._connected("open") as client:
            declared = catalog.existing_columns(client, TableName.of(group.table))
            # Names and types only: staging has no constraints and defaults.
            columns = ", ".join(f"{quote_name(name)} {type_}" for name, type_, _ in declared)
            client.query(
                f"CREATE TABLE IF NOT EXISTS {self._staging(group).sql} ({columns}, {TOKEN} {_TOKEN_TYPE})"
            )

    def drop_group(self, group: StagingGroup) -> None:
        with self._connected("drop") as client:
            # All its slices have ended: a session that still works there has lost its connection.
            catalog.end_sessions(client, stage_label(group), and_longer=True)
            try:
                client.query(f"DROP TABLE IF EXISTS {self._staging(group).sql} CASCADE")
            except TargetRefusedError as error:
                # Its schema does not exist either.
                if not is_sqlstate(error, MISSING):
                    raise

    def _drop_run(self, client: VerticaClient, run_id: str) -> None:
        catalog.end_sessions(client, run_label(run_id), and_longer=True)
        prefix = staging_prefix(run_id)
        left = self._rows_if_there(
            client,
            "SELECT table_schema, table_name FROM v_catalog.tables"
            f" WHERE LEFT(LOWER(table_name), {len(prefix)}) = {literal(prefix)}",
        )
        for schema, table in left:
            client.query(f"DROP TABLE IF EXISTS {TableName(schema, table).sql} CASCADE")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        # The parent never stages: it needs no kernels of Arrow.
        from dwhctl.systems.vertica.staging import VerticaStage

        label = stage_label(group)
        client = VerticaClient(self._connection, f"{label}:{token}", self._timeout, label, keep=self._keep)
        return VerticaStage(client, self._staging(group), token, columns)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        name = TableName.of(table)
        with self._writing("publish", timeout) as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            yield VerticaPublication(client, name, bounds, self._staging, self._doubt)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._writing("refresh", timeout) as client:
            yield VerticaRefresh(client, TableName.of(table), source)

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        name = TableName.of(table)
        with self._connected("inspect") as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            yield VerticaInspection(client, name, bounds)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        table = TableName.of(columns.table)
        staging = TableName(self._connection.staging_schema or table.schema, "<staging table>")
        return [*publication_sql(table.sql, staging.sql, slice, columns, "'<token>'"), Statement("COMMIT")]

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        return refresh_statements(source, columns)

    def version(self) -> str:
        with self._connected("version") as client:
            return str(client.query("SELECT version()")[0][0])

    def _staging(self, group: StagingGroup) -> TableName:
        return catalog.staging_table(group, self._connection.staging_schema)


class VerticaPublication(Publication):
    """One transaction in one session. `slice_by` is the target's column by which it is sliced.

    `doubt` is called with the session's label when a COMMIT was sent and no answer came.
    """

    def __init__(
        self,
        session: VerticaClient,
        table: TableName,
        slice_by: Column | None,
        staging: Callable[[StagingGroup], TableName],
        doubt: Callable[[str], None],
    ) -> None:
        self._session = session
        self._table = table
        self._slice_by = slice_by
        self._staging = staging
        self._doubt = doubt

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        held: dict[str, int] = {}
        for where in slice_conditions(slices, self._slice_by):
            rows = self._session.query(held_sql(self._table.sql, where))
            held.update((str(shard), int(count)) for shard, count in rows)
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        sql = held_values_sql(self._table.sql, of_shards(shards), list(map(quote_name, columns)))
        return read_held_values(self._session.query(sql), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        table = self._staging(group)
        try:
            rows = self._session.query(staged_sql(table.sql, literals(tokens)))
        except AttemptError as error:
            if is_sqlstate(error, MISSING):
                raise gone(table) from error
            raise
        return {str(token): int(count) for token, count in rows}

    def delete(self, slices: Sequence[Slice]) -> None:
        for where in slice_conditions(slices, self._slice_by):
            self._session.query(delete_sql(self._table.sql, where))

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        # A group that was opened before the target got a new column still inserts rightly: by its own columns.
        table = self._staging(group)
        columns = declared_columns(self._session, table)
        if not columns:
            raise gone(table)
        names = ", ".join(quote_name(name) for name, _, _ in columns if name != TOKEN)
        answer = self._session.query(insert_sql(self._table.sql, table.sql, names, literals(tokens)))
        if answer:
            return int(answer[0][0])
        ((inserted,),) = self._session.query(
            f"SELECT COUNT(*) FROM {self._table.sql} WHERE etl_id IN"
            f" (SELECT etl_id FROM {table.sql} WHERE {TOKEN} IN ({literals(tokens)}))"
        )
        return int(inserted)

    def commit(self) -> None:
        try:
            self._session.query("COMMIT")
        except AttemptError:
            self._doubt(self._session.label)
            raise
