"""Publish in ClickHouse: copy the partition, replace rows in the copy, REPLACE PARTITION from the copy's one part.

Readers see the old partition or the new one. The copy is a table of the run: a later run drops it before it publishes
the same slices, so that a late REPLACE PARTITION of a dead run fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import CountsDifferError, TargetError, TargetRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.sql import quote_name as quote
from dwhctl.systems.base.inspection import held_values_sql, read_held_values
from dwhctl.systems.base.server import ServerInspection
from dwhctl.systems.base.staging import TOKEN, Publication, gone, of_shards, slice_conditions
from dwhctl.systems.base.target import HELD, STAGED, Statement, TableColumns
from dwhctl.systems.clickhouse.catalog import (
    LITERALS,
    ClickHouseTable,
    declared_columns,
    described,
    described_column,
)
from dwhctl.systems.clickhouse.errors import MISSING, UNKNOWN_SETTING, is_code
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup
    from dwhctl.systems.clickhouse.client import ClickHouseClient

_REPLICATED = re.compile(r"^(?:Replicated|Shared)MergeTree(?:\((?:[^()']|'[^']*')*\))?")
#: An empty copy empties the partition.
_FROM_EMPTY = "SETTINGS allow_replace_partition_from_empty_source = 1"
#: A copy may be larger than what the server lets a DROP remove by default.
ANY_SIZE = "SETTINGS max_table_size_to_drop = 0, max_partition_size_to_drop = 0"


class ClickHousePublication(Publication):
    """A copy of one partition, and its exchange for the partition.

    `slice_by` is the target's column by which it is sliced.
    """

    def __init__(
        self,
        client: ClickHouseClient,
        table: ClickHouseTable,
        copy: ClickHouseTable,
        slice_by: Column | None,
        staging: Callable[[StagingGroup], ClickHouseTable],
    ) -> None:
        self._client = client
        self._table = table
        self._copy = copy
        self._slice_by = slice_by
        self._staging = staging
        self._partitions: set[str] = set()
        self._deleted: list[str] = []
        self._rows_kept = 0
        self._made = False

    @property
    def _current(self) -> ClickHouseTable:
        return self._copy if self._made else self._table

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        held: dict[str, int] = {}
        for where in slice_conditions(slices, self._slice_by, LITERALS):
            held.update(
                (str(shard), int(count))
                for shard, count in self._client.query(_held_sql(self._current, where))
            )
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        table = self._table if self._slice_by is not None else self._current
        sql = held_values_sql(table.sql, of_shards(shards, LITERALS), list(map(quote, columns)))
        return read_held_values(self._client.query(sql), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        rows = self._of_staging(group, lambda table: self._client.query(_staged_sql(table, tokens)))
        return {str(token): int(count) for token, count in rows}

    def delete(self, slices: Sequence[Slice]) -> None:
        self._make()
        found = set[str]()
        for where in slice_conditions(slices, self._slice_by, LITERALS):
            rows = self._client.query(f"SELECT DISTINCT _partition_id FROM {self._table.sql} WHERE {where}")
            found.update(str(partition) for (partition,) in rows)
            if self._partitions:
                self._client.run(f"ALTER TABLE {self._copy.sql} DELETE WHERE {where}")
            self._deleted.append(where)
        for partition in self._partitions:
            self._rows_kept = self._count(self._table, self._kept(partition))
        self._take(found)

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        self._make()
        before = self._count(self._copy)
        self._of_staging(group, lambda staging: self._insert(staging, tokens))
        inserted = self._count(self._copy) - before
        found = self._client.query(f"SELECT DISTINCT _partition_id FROM {self._copy.sql}")
        self._take({str(partition) for (partition,) in found})
        self._merge()
        return inserted

    def _insert(self, staging: ClickHouseTable, tokens: Sequence[str]) -> list[Sequence[Any]]:
        # A group that was opened before the target got a new column still inserts rightly: by its own columns.
        columns = [column.name for column in declared_columns(self._client, staging) if column.name != TOKEN]
        if not columns:
            raise gone(staging)
        self._client.run(_insert_sql(self._copy, staging, ", ".join(map(quote, columns)), tokens))
        return []

    def _of_staging(
        self, group: StagingGroup, ask: Callable[[ClickHouseTable], list[Sequence[Any]]]
    ) -> list[Sequence[Any]]:
        table = self._staging(group)
        try:
            return ask(table)
        except TargetRefusedError as error:
            if is_code(error, MISSING) and table.table in str(error):
                raise gone(table) from error
            raise

    def _make(self) -> None:
        if self._made:
            return
        reach("clickhouse.copy")
        rows = self._client.query(
            "SELECT engine_full FROM system.tables"
            f" WHERE database = {literal(self._table.database)} AND name = {literal(self._table.table)}"
        )
        if not rows:
            raise TargetRefusedError(f"there is no table {self._table}, or the user has no privilege on it")
        # Another replica has no copy, and no use for one.
        engine = _REPLICATED.sub("MergeTree", str(rows[0][0]))
        self._client.run(f"CREATE TABLE {self._copy.sql} AS {self._table.sql} ENGINE = {engine}")
        self._made = True

    def _take(self, partitions: set[str]) -> None:
        """Copy what is kept of the partitions. Raise TargetRefusedError for a second one: only one is atomic."""
        new = partitions - self._partitions
        self._partitions |= partitions
        if len(self._partitions) > 1:
            raise TargetRefusedError(
                f"{self._table}: the slices are in the partitions {', '.join(sorted(self._partitions))}, and only one"
                " partition can be replaced at once; make the table with a partition for each day of slice_by"
            )
        for partition in new:
            reach("clickhouse.kept")
            self._refuse_hidden(partition)
            columns = [
                one.name for one in declared_columns(self._client, self._table) if one.default in _STORED
            ]
            names = ", ".join(map(quote, columns))
            before = self._count(self._copy)
            self._client.run(
                f"INSERT INTO {self._copy.sql} ({names}) SELECT {names} FROM {self._table.sql}"
                f" WHERE {self._kept(partition)}"
            )
            kept = self._count(self._table, self._kept(partition))
            if (copied := self._count(self._copy) - before) != kept:
                raise CountsDifferError(f"{self._table}: {kept} rows are kept, but {copied} were copied")
            self._rows_kept = kept

    def _refuse_hidden(self, partition: str) -> None:
        """Raise TargetRefusedError for rows that a SELECT of this user does not give: no copy would have them."""
        here = f"partition_id = {literal(partition)}"
        # Rows of a lightweight DELETE count on both sides. First what is seen: a merge may remove rows in between.
        ((seen,),) = self._client.query(
            f"SELECT count() FROM {self._table.sql} WHERE _{here} SETTINGS apply_deleted_mask = 0"
        )
        ((stored,),) = self._client.query(
            f"SELECT sum(rows) FROM system.parts WHERE {self._table.condition} AND active AND {here}"
        )
        if (hidden := (stored or 0) - seen) > 0:
            raise TargetRefusedError(
                f"{self._table}: {hidden:,} of the {stored:,} rows of the partition {partition} are hidden from the"
                " user, and would be lost when it is replaced: drop the row policy (or additional_table_filters) of"
                " this user; rows of a DELETE that is under way are gone when it has ended"
            )

    def _kept(self, partition: str) -> str:
        """Return the condition of the rows that stay; a condition that is NULL is not that of a slice."""
        deleted = "".join(f" AND NOT ifNull({where}, 0)" for where in self._deleted)
        return f"_partition_id = {literal(partition)}{deleted}"

    def _merge(self) -> None:
        """Merge the copy into one part: the replacement of several is not atomic when the server dies."""
        reach("clickhouse.merge")
        rows = self._count(self._copy)
        if self._parts() > 1:
            self._client.run(f"OPTIMIZE TABLE {self._copy.sql} FINAL SETTINGS optimize_throw_if_noop = 1")
        if (parts := self._parts()) > 1:
            raise TargetError(f"{self._copy}: the server left {parts} parts; only one is replaced at once")
        if (merged := self._count(self._copy)) != rows:
            raise CountsDifferError(
                f"{self._table}: of {rows} rows a merge left {merged}: a TTL, or another engine?"
            )

    def _parts(self) -> int:
        ((parts,),) = self._client.query(
            f"SELECT count() FROM system.parts WHERE {self._copy.condition} AND active AND rows > 0"
        )
        return int(parts)

    def _count(self, table: ClickHouseTable, where: str = "") -> int:
        ((rows,),) = self._client.query(f"SELECT count() FROM {table.sql}{' WHERE ' if where else ''}{where}")
        return int(rows)

    def commit(self) -> None:
        if not self._partitions:
            return
        (partition,) = self._partitions
        if self._parts() > 1:  # without `insert`
            self._merge()
        if self._count(self._table, self._kept(partition)) != self._rows_kept:
            raise TargetError(
                f"{self._table}: another client changed the partition {partition} while it was copied"
            )
        reach("clickhouse.replace")
        empty = not self._count(self._copy)
        try:
            self._client.run(
                _replace_sql(self._table, self._copy, partition) + (f" {_FROM_EMPTY}" if empty else "")
            )
        except TargetRefusedError as error:
            if not (empty and is_code(error, (UNKNOWN_SETTING,))):
                raise
            self._client.run(f"ALTER TABLE {self._table.sql} DROP PARTITION ID {literal(partition)}")
        reach("clickhouse.replaced")


#: Columns with values of their own in a part.
_STORED = ("", "DEFAULT", "MATERIALIZED")


def publish_statements(
    table: ClickHouseTable, staging: ClickHouseTable, slice: Slice, columns: TableColumns
) -> list[Statement]:
    copy, tokens = ClickHouseTable(table.database, "<copy>"), ["<token>"]
    (where,) = slice_conditions([slice], columns.slice_by, LITERALS)
    names = columns.listed(quote)
    return [
        Statement(_held_sql(table, where), about=HELD),
        Statement(_staged_sql(staging, tokens), about=STAGED),
        Statement(
            f"CREATE TABLE {copy.sql} AS {table.sql} ENGINE = MergeTree ...",
            about="the copy of the partition",
        ),
        Statement(
            f"INSERT INTO {copy.sql} ({names}) SELECT {names} FROM {table.sql}"
            f" WHERE _partition_id = '<partition>' AND NOT ifNull({where}, 0)",
            about="the rows of other shards; another number than the table has fails the slice",
        ),
        Statement(
            _insert_sql(copy, staging, names, tokens),
            about="another number of rows than was staged fails the slice",
        ),
        Statement(f"OPTIMIZE TABLE {copy.sql} FINAL", about="until the copy is one part"),
        Statement(_replace_sql(table, copy, "<partition>"), about="readers see the new slice from here on"),
        Statement(f"DROP TABLE {copy.sql} SYNC"),
    ]


def _held_sql(table: ClickHouseTable, where: str) -> str:
    return f"SELECT etl_source, count() FROM {table.sql} WHERE {where} GROUP BY etl_source"


def _staged_sql(staging: ClickHouseTable, tokens: Sequence[str]) -> str:
    return f"SELECT {TOKEN}, count() FROM {staging.sql} WHERE {_of_tokens(tokens)} GROUP BY {TOKEN}"


def _insert_sql(copy: ClickHouseTable, staging: ClickHouseTable, names: str, tokens: Sequence[str]) -> str:
    return f"INSERT INTO {copy.sql} ({names}) SELECT {names} FROM {staging.sql} WHERE {_of_tokens(tokens)}"


def _of_tokens(tokens: Sequence[str]) -> str:
    return f"{TOKEN} IN ({', '.join(map(literal, tokens))})"


def _replace_sql(table: ClickHouseTable, copy: ClickHouseTable, partition: str) -> str:
    return f"ALTER TABLE {table.sql} REPLACE PARTITION ID {literal(partition)} FROM {copy.sql}"


class ClickHouseInspection(ServerInspection["ClickHouseClient"]):
    """Reads a table. `slice_by` is the column by which it is sliced."""

    literals = LITERALS

    def __init__(self, client: ClickHouseClient, table: ClickHouseTable, slice_by: Column | None) -> None:
        super().__init__("clickhouse", client, table.sql, slice_by)
        self._name = table

    def columns(self) -> Sequence[Column]:
        return described(self._client, self._name)

    def beside(self, table: str, slice_by: str | None) -> ClickHouseInspection:
        name = ClickHouseTable.of(table, self._name.database)
        column = described_column(self._client, name, slice_by) if slice_by else None
        return ClickHouseInspection(self._client, name, column)
