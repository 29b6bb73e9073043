"""One publishing transaction in PostgreSQL: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, StagingError
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.project.query import at_statement
from dwhctl.systems.base.inspection import held_values_sql, read_held_values
from dwhctl.systems.base.server import ServerInspection, publication_sql
from dwhctl.systems.base.staging import (
    TOKEN,
    Publication,
    delete_sql,
    gone,
    held_sql,
    insert_sql,
    of_shards,
    slice_conditions,
    staged_sql,
)
from dwhctl.systems.base.target import (
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Statement,
    TableColumns,
    carried,
    refresh_source,
    refresh_sql,
    refused_value,
)
from dwhctl.systems.postgres import catalog, types
from dwhctl.systems.postgres.errors import MISSING, is_sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.target import Narrowing, StagingGroup
    from dwhctl.systems.postgres.copy_client import CopyClient

BEGIN, COMMIT = "BEGIN", "COMMIT"
#: The purpose of the COPY of a slice that its worker writes.
COPIED = "the rows; another number than was extracted is rolled back"


def publication_lock_sql(table: str) -> str:
    """Return the statement that lets one publication at a time work on the (quoted) table; readers and writers go on.

    A writer is a slice that another run writes directly: its rows are of another shard or day.
    """
    return f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"


def refresh_lock_sql(table: str) -> str:
    """Return the statement that lets one transaction at a time write to the (quoted) table; readers go on."""
    return f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"


def direct_statements(slice: Slice, columns: TableColumns) -> list[Statement]:
    """Return what a worker sends that writes the slice into the table itself."""
    table = quote_path(columns.table)
    (where,) = slice_conditions([slice], columns.slice_by)
    return [
        Statement(BEGIN),
        Statement(delete_sql(table, where)),
        Statement(catalog.copy_sql(table, columns.listed(quote_name)), about=COPIED),
        Statement(COMMIT),
    ]


class PostgresPublication(Publication):
    """One transaction in one session. `slice_by` is the target's column by which it is sliced.

    `doubt` is called with the session's label when a COMMIT was sent and no answer came.
    """

    def __init__(
        self,
        client: CopyClient,
        table: str,
        slice_by: Column | None,
        schema: str | None,
        doubt: Callable[[str], None],
    ) -> None:
        self._client = client
        self._table = quote_path(table)
        self._slice_by = slice_by
        self._schema = schema
        self._doubt = doubt
        self._held: dict[str, int] = {}
        self._slices: Sequence[Slice] = ()
        self._rest = 0
        self._staged: dict[str, int] = {}

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        self._slices, self._held = slices, self._counted(slices)
        self._rest = sum(self._held.values())
        return self._held

    def _counted(self, slices: Sequence[Slice]) -> dict[str, int]:
        held: dict[str, int] = {}
        for where in slice_conditions(slices, self._slice_by):
            rows = self._client.query(held_sql(self._table, where))
            held.update((str(shard), int(count)) for shard, count in rows)
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        sql = held_values_sql(self._table, of_shards(shards), list(map(quote_name, columns)))
        return read_held_values(self._client.query(sql), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        table, numbers = self._staging(group), {catalog.token_number(token): token for token in tokens}
        try:
            rows = self._client.query(staged_sql(table, _numbers(tokens)))
        except AttemptError as error:
            if is_sqlstate(error, MISSING):
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
        # A trigger may delete them in its own way.
        if deleted < held and any(self._counted(slices).values()):
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
        staged = sum(self._staged.get(token, 0) for token in tokens)
        if inserted < staged:
            raise catalog.lost_rows(self._table, staged, inserted)
        *_, may_move = catalog.write_ways(self._client, self._table)
        if may_move and (found := sum(self._counted(self._slices).values()) - self._rest) != inserted:
            raise catalog.moved_rows(self._table, inserted, found)
        return inserted

    def commit(self) -> None:
        try:
            self._client.query(COMMIT)
        except AttemptError:
            self._doubt(self._client.label or "")
            raise

    def _staging(self, group: StagingGroup) -> str:
        return catalog.staging_table(self._client, group, self._schema)


def _staged_value(staged: catalog.Declared, own: catalog.Declared | None) -> str:
    name = quote_name(staged.name)
    return name if own is None or own.base == staged.base else f"CAST({name} AS {own.base})"


def _numbers(tokens: Sequence[str]) -> str:
    return ", ".join(str(catalog.token_number(token)) for token in tokens)


def publish_statements(staging: str, slice: Slice, columns: TableColumns) -> list[Statement]:
    """Return what a publication of one slice sends."""
    table = quote_path(columns.table)
    sent = publication_sql(table, staging, slice, columns, "<token>")
    return [Statement(BEGIN), Statement(publication_lock_sql(table)), *sent, Statement(COMMIT)]


class PostgresRefresh(Refresh):
    """One transaction in one session. DELETE and INSERT, not TRUNCATE: it would lock readers out."""

    def __init__(self, client: CopyClient, table: str, source: RowSource) -> None:
        self._client = client
        self._table = table
        self._source = source

    def columns(self) -> RefreshColumns:
        table = catalog.existing_columns(self._client, self._table)
        sql = f"SELECT * FROM {refresh_source(self._source)} LIMIT 0"
        if self._source.is_query:
            with at_statement(self._source.text):
                described = self._client.described(sql)
        else:
            described = self._client.described(sql)
        names = catalog.type_names(self._client, {column.type_code for column in described})
        return RefreshColumns(
            tuple(_answered(types.result_column(column, names)) for column in described),
            tuple(RefreshColumn(one.name, one.base, one.column()) for one in table if not one.is_generated),
            frozenset(one.name for one in table if one.is_filled),
        )

    def delete(self) -> None:
        table = quote_path(self._table)
        self._client.query(f"DELETE FROM {table}")
        _, may_keep, _ = catalog.write_ways(self._client, table)
        if may_keep and self._client.query(f"SELECT 1 FROM {table} LIMIT 1"):
            raise catalog.kept_rows(self._table)

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = TableColumns(self._table, names=columns, narrowed=narrowed)
        _, insert = refresh_sql(quote_path(self._table), self._source, wanted, _checked)
        try:
            return self._client.run(insert)
        except AttemptError as error:
            if (refused := refused_value(str(error), self._table, narrowed)) is not None:
                raise refused from error
            raise

    def commit(self) -> None:
        self._client.query(COMMIT)


def refresh_statements(source: RowSource, columns: TableColumns) -> list[Statement]:
    """Return the statements of a refresh."""
    table = quote_path(columns.table)
    sql = refresh_sql(table, source, columns, _checked)
    return [Statement(BEGIN), Statement(refresh_lock_sql(table)), *map(Statement, sql), Statement(COMMIT)]


def _answered(column: types.AnswerColumn) -> RefreshColumn:
    known = types.column(column.name, column.declared, is_enum=column.is_enum)
    return RefreshColumn(column.name, column.declared, known, column.declared == "unknown")


def _checked(number: int, one: Narrowing) -> str:
    """Return the SQL of the column's value, or of an error where it does not fit: a cast that cannot succeed."""
    source, table = one.source.known, one.table.known
    if source is None or table is None:
        raise TypeError(f"{one.table.name}: only known types are narrowed")
    name = quote_name(one.source.name)
    shown = f"encode({name}, 'hex')" if source.kind.value == "binary" else f"CAST({name} AS text)"
    error = f"CAST(CAST(CAST({carried(number, shown)} AS integer) AS text) AS {one.source.declared})"
    return f"CASE WHEN {types.would_change(name, table)} THEN {error} ELSE {name} END"


class PostgresInspection(ServerInspection["CopyClient"]):
    """Reads a table in one session. `slice_by` is the column by which it is sliced."""

    def __init__(self, client: CopyClient, table: str, slice_by: Column | None) -> None:
        super().__init__("postgres", client, quote_path(table), slice_by)
        self._name = table

    def columns(self) -> Sequence[Column]:
        return catalog.described(self._client, self._name)

    def beside(self, table: str, slice_by: str | None) -> PostgresInspection:
        column = catalog.described_column(self._client, table, slice_by) if slice_by else None
        return PostgresInspection(self._client, table, column)
