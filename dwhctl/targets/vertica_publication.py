"""One publishing transaction in Vertica: DELETE of the old rows, INSERT ... SELECT of the staged ones, COMMIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.engines.vertica import literals, quote
from dwhctl.engines.vertica_errors import MISSING, is_sqlstate
from dwhctl.errors import AttemptError, StagingError
from dwhctl.targets.contract import DELETE, HELD, INSERT, STAGED, Publication, Statement
from dwhctl.targets.inspecting import held_values_sql, read_held_values
from dwhctl.targets.vertica_catalog import declared_columns
from dwhctl.targets.vertica_names import TOKEN, TableName
from dwhctl.targets.vertica_rows import conditions, of_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.vertica import Session
    from dwhctl.project.slices import Slice
    from dwhctl.targets.contract import Columns, StagingGroup

_COMMIT = "COMMIT"


class VerticaPublication(Publication):
    """One transaction in one session. `slice_by` is the target's column by which it is sliced.

    `doubt` is called with the session's label when a COMMIT was sent and no answer came.
    """

    def __init__(
        self,
        session: Session,
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
        for where in self._conditions(slices):
            rows = self._session.query(_held_sql(self._table, where))
            held.update((str(shard), int(count)) for shard, count in rows)
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        sql = held_values_sql(self._table.sql, of_shards(shards), list(map(quote, columns)))
        return read_held_values(self._session.query(sql), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        table = self._staging(group)
        try:
            rows = self._session.query(_staged_sql(table, tokens))
        except AttemptError as error:
            if is_sqlstate(error, MISSING):
                raise gone(table) from error
            raise
        return {str(token): int(count) for token, count in rows}

    def delete(self, slices: Sequence[Slice]) -> None:
        for where in self._conditions(slices):
            self._session.query(_delete_sql(self._table, where))

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        # A group that was opened before the target got a new column still inserts rightly: by its own columns.
        table = self._staging(group)
        columns = declared_columns(self._session, table)
        if not columns:
            raise gone(table)
        names = ", ".join(quote(name) for name, _, _ in columns if name != TOKEN)
        answer = self._session.query(_insert_sql(self._table, table, names, tokens))
        if answer:
            return int(answer[0][0])
        ((inserted,),) = self._session.query(
            f"SELECT COUNT(*) FROM {self._table.sql} WHERE etl_id IN"
            f" (SELECT etl_id FROM {table.sql} WHERE {TOKEN} IN ({literals(tokens)}))"
        )
        return int(inserted)

    def commit(self) -> None:
        try:
            self._session.query(_COMMIT)
        except AttemptError:
            self._doubt(self._session.label)
            raise

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[str]:
        yield from _conditions(slices, self._slice_by)


def publish_statements(staging: TableName, slice: Slice, columns: Columns) -> list[Statement]:
    """Return what a publication of one slice sends."""
    table, tokens = TableName.of(columns.table), ["<token>"]
    (where,) = _conditions([slice], columns.slice_by)
    insert = _insert_sql(table, staging, columns.listed(quote), tokens)
    return [
        Statement(_held_sql(table, where), about=HELD),
        Statement(_staged_sql(staging, tokens), about=STAGED),
        Statement(_delete_sql(table, where), about=DELETE),
        Statement(insert, about=INSERT),
        Statement(_COMMIT),
    ]


def _conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[str]:
    for shards, bounds in conditions(slices, slice_by):
        yield f"{shards} AND {bounds}" if bounds else shards


def _held_sql(table: TableName, where: str) -> str:
    return f"SELECT etl_source, COUNT(*) FROM {table.sql} WHERE {where} GROUP BY etl_source"


def _staged_sql(staging: TableName, tokens: Sequence[str]) -> str:
    return (
        f"SELECT {TOKEN}, COUNT(*) FROM {staging.sql} WHERE {TOKEN} IN ({literals(tokens)}) GROUP BY {TOKEN}"
    )


def _delete_sql(table: TableName, where: str) -> str:
    return f"DELETE FROM {table.sql} WHERE {where}"


def _insert_sql(table: TableName, staging: TableName, names: str, tokens: Sequence[str]) -> str:
    return f"INSERT INTO {table.sql} ({names}) SELECT {names} FROM {staging.sql} WHERE {TOKEN} IN ({literals(tokens)})"


def gone(table: TableName) -> StagingError:
    """Tell that a staging table is not there: the run that made it has ended, or was ended."""
    return StagingError(f"the staging table {table} is gone: the run that made it has ended")
