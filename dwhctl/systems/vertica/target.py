"""Write to Vertica: stage by COPY into a table of the publish group, publish in one transaction; refresh, inspect.

The transaction: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, TargetRefusedError
from dwhctl.core.sql import literal, quote_name
from dwhctl.project.query import at_statement
from dwhctl.systems.base.server import (
    ServerInspection,
    ServerRefresh,
    ServerTarget,
    known_types,
    publication_sql,
)
from dwhctl.systems.base.staging import (
    TOKEN,
    Publication,
    ServerPublication,
    gone,
    insert_sql,
    literals,
    run_label,
    stage_label,
    staged_sql,
    staging_prefix,
)
from dwhctl.systems.base.target import (
    ColumnWarning,
    Narrowing,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    StagingGroup,
    Statement,
    TableColumns,
    carried,
    refresh_source,
    refresh_sql,
)
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
from dwhctl.systems.vertica.types import VARCHAR_OCTETS

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure
    from dwhctl.systems.base.inspection import Inspection
    from dwhctl.systems.base.staging import Described
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

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        with self._connected("columns") as client:
            return catalog.described_tables(client, tables)

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
            yield VerticaPublication(client, name, bounds, self._staging)

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
        sql = refresh_sql(TableName.of(columns.table).sql, source, columns, VerticaRefresh.checked)
        return [*map(Statement, sql), Statement("COMMIT")]

    def version(self) -> str:
        with self._connected("version") as client:
            return str(client.query("SELECT version()")[0][0])

    def _staging(self, group: StagingGroup) -> TableName:
        return catalog.staging_table(group, self._connection.staging_schema)


class VerticaPublication(ServerPublication[VerticaClient]):
    """The publication, with the staging table of each group."""

    def __init__(
        self,
        client: VerticaClient,
        table: TableName,
        slice_by: Column | None,
        staging: Callable[[StagingGroup], TableName],
    ) -> None:
        super().__init__(client, table.sql, slice_by)
        self._staging = staging

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        table = self._staging(group)
        try:
            rows = self._client.query(staged_sql(table.sql, literals(tokens)))
        except AttemptError as error:
            if is_sqlstate(error, MISSING):
                raise gone(table) from error
            raise
        return {str(token): int(count) for token, count in rows}

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        # A group that was opened before the target got a new column still inserts rightly: by its own columns.
        table = self._staging(group)
        columns = declared_columns(self._client, table)
        if not columns:
            raise gone(table)
        names = ", ".join(quote_name(name) for name, _, _ in columns if name != TOKEN)
        answer = self._client.query(insert_sql(self._table, table.sql, names, literals(tokens)))
        if answer:
            return int(answer[0][0])
        ((inserted,),) = self._client.query(
            f"SELECT COUNT(*) FROM {self._table} WHERE etl_id IN"
            f" (SELECT etl_id FROM {table.sql} WHERE {TOKEN} IN ({literals(tokens)}))"
        )
        return int(inserted)


class VerticaRefresh(ServerRefresh[VerticaClient]):
    """One transaction in one session.

    DELETE and INSERT, never TRUNCATE, which commits what came before it.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/statements/truncate-table/
    """

    def __init__(self, client: VerticaClient, table: TableName, source: RowSource) -> None:
        super().__init__(client, str(table), table.sql, source)
        self._name = table

    def columns(self) -> RefreshColumns:
        table = catalog.existing_columns(self._client, self._name)
        with at_statement(self._source.text) if self._source.is_query else nullcontext():
            source = self._client.declared(f"SELECT * FROM {refresh_source(self._source)} LIMIT 0")
        return RefreshColumns(
            tuple(_column(name, declared) for name, declared in source),
            tuple(_column(name, declared) for name, declared, _ in table),
            frozenset(catalog.filled_columns(self._client, self._name)),
        )

    def _inserted(self, sql: str) -> int:
        answer = self._client.query(sql) or self._client.query(f"SELECT COUNT(*) FROM {self._sql_name}")
        return int(answer[0][0])

    @staticmethod
    def checked(number: int, pair: Narrowing) -> str:
        """Write the column's value, or an error in its place where it does not fit.

        Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/error-handling-functions/throw-error/
        """
        source, table = known_types(pair)
        name = quote_name(pair.source.name)
        text = f"TO_HEX({name})" if source.kind is Kind.BINARY else f"CAST({name} AS VARCHAR(400))"
        error = f"CAST(THROW_ERROR({carried(number, text)}) AS {pair.source.declared})"
        return f"CASE WHEN {types.would_change(name, source, table)} THEN {error} ELSE {name} END"


def _column(name: str, declared: str) -> RefreshColumn:
    if declared.lower().startswith("interval"):
        declared = "interval"
    # `unknown` is the type of a literal that nothing has given a type yet.
    return RefreshColumn(name, declared, types.column(name, declared), declared == "unknown")


#: Another locale of the database would compare texts without case.
#: Source: https://www.vertica.com/docs/10.1.x/HTML/Content/Authoring/SQLReferenceManual/Statements/SET/SETLOCALE.htm
_LOCALE = "SET LOCALE TO 'en_US@collation=binary'"
#: More than the octets of any other kind's text, with its frame.
_OTHER_OCTETS, _FRAME_OCTETS = 100, 10


class VerticaInspection(ServerInspection[VerticaClient]):
    """Looks at a table in one session. `slice_by` is the column by which it is sliced."""

    def __init__(self, session: VerticaClient, table: TableName, slice_by: Column | None) -> None:
        super().__init__("vertica", session, table.sql, slice_by)
        self._name = table
        session.query(_LOCALE)

    def columns(self) -> Sequence[Column]:
        return catalog.described(self._client, self._name)

    def beside(self, table: str, slice_by: str | None) -> VerticaInspection:
        name = TableName.of(table)
        column = described_column(self._client, name, slice_by) if slice_by else None
        return VerticaInspection(self._client, name, column)

    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        """Measure. Raise TargetRefusedError for columns whose texts are longer than Vertica hashes."""
        check_octets(measure)
        return super().fingerprints(slices, measure)


def check_octets(measure: Measure) -> None:
    """Raise TargetRefusedError for columns whose texts together are longer than Vertica hashes."""
    columns = [*measure.key, *measure.values]
    if sum(map(_octets, columns)) > VARCHAR_OCTETS:
        widest = max(columns, key=_octets)
        remedy = "make it a shorter VARCHAR" if widest in measure.key else "leave it out of verify_columns"
        raise TargetRefusedError(
            f"column {widest.name} is {widest.declared}: MD5 takes a VARCHAR of up to {VARCHAR_OCTETS:,} octets, and"
            f" what is compared together may be longer; {remedy}"
        )


def _octets(column: Column) -> int:
    octets = _OTHER_OCTETS
    if column.kind in (Kind.TEXT, Kind.BINARY):
        # A binary is hashed as hexadecimal digits.
        octets = (column.octets or VARCHAR_OCTETS) * (2 if column.kind is Kind.BINARY else 1)
    return octets + _FRAME_OCTETS
