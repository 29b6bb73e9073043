"""One publishing transaction in PostgreSQL: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, StagingError
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.project.query import at_statement
from dwhctl.systems.base.server import ServerInspection, ServerRefresh, known_types
from dwhctl.systems.base.staging import (
    TOKEN,
    ServerPublication,
    delete_sql,
    gone,
    insert_sql,
    slice_conditions,
    staged_sql,
)
from dwhctl.systems.base.target import RefreshColumn, RefreshColumns, carried, refresh_source
from dwhctl.systems.postgres import catalog, types
from dwhctl.systems.postgres.errors import MISSING, is_sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import Narrowing, StagingGroup
    from dwhctl.systems.postgres.copy_client import CopyClient


def publication_lock_sql(table: str) -> str:
    """Return the statement that lets one publication at a time work on the (quoted) table; readers and writers go on.

    A writer is a slice that another run writes directly: its rows are of another shard or day.
    """
    return f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"


def refresh_lock_sql(table: str) -> str:
    """Return the statement that lets one transaction at a time write to the (quoted) table; readers go on."""
    return f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"


class PostgresPublication(ServerPublication["CopyClient"]):
    """The publication. It refuses a slice of whose rows a trigger, a rule or a crash of the server has taken some."""

    def __init__(
        self,
        client: CopyClient,
        table: str,
        slice_by: Column | None,
        schema: str | None,
        doubt: Callable[[str], None],
    ) -> None:
        super().__init__(client, quote_path(table), slice_by, doubt)
        self._schema = schema
        self._held: Mapping[str, int] = {}
        self._staged: dict[str, int] = {}

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        self._held = super().held_rows(slices)
        return self._held

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
        if deleted < held and any(self.held_rows(slices).values()):
            raise catalog.kept_rows(self._table)

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
        return inserted

    def _staging(self, group: StagingGroup) -> str:
        return catalog.staging_table(self._client, group, self._schema)


def _staged_value(staged: catalog.Declared, own: catalog.Declared | None) -> str:
    name = quote_name(staged.name)
    return name if own is None or own.base == staged.base else f"CAST({name} AS {own.base})"


def _numbers(tokens: Sequence[str]) -> str:
    return ", ".join(str(catalog.token_number(token)) for token in tokens)


class PostgresRefresh(ServerRefresh["CopyClient"]):
    """One transaction in one session. DELETE and INSERT, not TRUNCATE: it would lock readers out."""

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
        _, may_keep = catalog.write_ways(self._client, self._sql_name)
        if may_keep and self._client.query(f"SELECT 1 FROM {self._sql_name} LIMIT 1"):
            raise catalog.kept_rows(self._table)

    def _inserted(self, sql: str) -> int:
        return self._client.run(sql)

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
