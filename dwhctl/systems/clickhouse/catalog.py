"""Names of tables and queries, columns of tables, partitions, and the conditions of slices."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.core.columns import Kind
from dwhctl.core.errors import About, AttemptError, TargetRefusedError
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.ddl import check_case
from dwhctl.systems.base.staging import (
    Literals,
    bounds_of,
    first_date,
    staging_name,
    staging_prefix,
)
from dwhctl.systems.base.target import ColumnWarning
from dwhctl.systems.clickhouse import NAME_OCTETS
from dwhctl.systems.clickhouse import types as types
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup
    from dwhctl.systems.clickhouse.client import ClickHouseClient

_ZONE_UTC = ("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Universal", "Zulu", "GMT", "Etc/GMT")


class ClickHouseTable(Struct, frozen=True):
    """A table. ClickHouse compares names by case."""

    database: str
    table: str

    @classmethod
    def of(cls, text: str, database: str) -> ClickHouseTable:
        """Read `table` or `database.table`."""
        before, _, table = text.rpartition(".")
        return cls(before or database, table)

    @property
    def sql(self) -> str:
        return f"{quote_name(self.database)}.{quote_name(self.table)}"

    @property
    def condition(self) -> str:
        """The condition of the table's rows in `system.columns` and `system.parts`."""
        return f"database = {literal(self.database)} AND table = {literal(self.table)}"

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"


def staging_table(group: StagingGroup, database: str) -> ClickHouseTable:
    """Return the staging table of a group, beside its target."""
    database = ClickHouseTable.of(group.table, database).database
    return ClickHouseTable(database, staging_name(group, NAME_OCTETS))


def copy_table(label: str, table: ClickHouseTable, mark: str) -> ClickHouseTable:
    """Return the name of a copy that a publication or refresh makes, by the label of its run."""
    _, _, run_id = label.partition(":")
    return ClickHouseTable(
        table.database, f"{staging_prefix(run_id.partition(':')[0] or 'dwhctl')}copy_{mark}"
    )


class CatalogColumn(Struct, frozen=True):
    """A column as the catalog describes it: `default` is DEFAULT, MATERIALIZED, ALIAS, EPHEMERAL or empty."""

    name: str
    type: str
    default: str

    @property
    def written(self) -> bool:
        """Whether dwhctl writes the column: the server computes the others."""
        return self.default in ("", "DEFAULT")


def declared_columns(client: ClickHouseClient, table: ClickHouseTable) -> list[CatalogColumn]:
    """Return all columns of a table; none when there is no table."""
    rows = client.query(
        f"SELECT name, type, default_kind FROM system.columns WHERE {table.condition} ORDER BY position"
    )
    return [CatalogColumn(str(name), str(type_), str(default)) for name, type_, default in rows]


def existing_columns(client: ClickHouseClient, table: ClickHouseTable) -> list[CatalogColumn]:
    """Return the columns that dwhctl writes. Raise TargetRefusedError when there is no such table."""
    found = [column for column in declared_columns(client, table) if column.written]
    if not found:
        missing = TargetRefusedError(f"there is no table {table}, or the user has no privilege on it")
        missing.about = About.TABLE
        raise missing
    return found


def described(client: ClickHouseClient, table: ClickHouseTable) -> list[Column]:
    """Return the columns. Raise TargetRefusedError for a type that dwhctl does not write."""
    found = existing_columns(client, table)
    for column in found:
        if problem := types.name_problem(column.name):
            raise TargetRefusedError(f"{table}.{column.name}: {problem}; rename the column")
    columns = [_described(table, column) for column in found]
    check_case(str(table), [column.name for column in columns])
    if any(column.kind is Kind.TIMESTAMP for column in columns):
        _check_zone(client, table, columns)
    return columns


def described_column(client: ClickHouseClient, table: ClickHouseTable, name: str) -> Column:
    """Return one column. Raise TargetRefusedError when it does not exist."""
    for column in declared_columns(client, table):
        if column.name.lower() == name.lower():
            return _described(table, column)
    raise TargetRefusedError(f"there is no {table}.{name}, or the user has no privilege on the table")


def _described(table: ClickHouseTable, declared: CatalogColumn) -> Column:
    column = types.column(declared.name, declared.type)
    if column is None:
        raise TargetRefusedError(
            f"{table}.{declared.name}: dwhctl does not write ClickHouse's type {declared.type}"
        )
    if "\\" in declared.name:
        raise TargetRefusedError(
            f"{table}.{declared.name}: a backslash in a name escapes in ClickHouse; rename it"
        )
    return column


def _check_zone(client: ClickHouseClient, table: ClickHouseTable, columns: Sequence[Column]) -> None:
    ((zone,),) = client.query("SELECT timezone()")
    if zone not in _ZONE_UTC:
        names = ", ".join(column.name for column in columns if column.kind is Kind.TIMESTAMP)
        raise TargetRefusedError(
            f"{table}: {names} shows times in the server's time zone {zone}, in which not every wall clock time exists:"
            " run the server in UTC (<timezone>UTC</timezone>), or declare DateTime64(6, 'UTC') and load instants"
        )


# Partitions.

#: Engines that keep every row as it was inserted.
_ENGINES = ("MergeTree", "ReplicatedMergeTree", "SharedMergeTree")
_BY_DAY = re.compile(r"(?:toDate|toDate32|toYYYYMMDD|toStartOfDay)\((.*)\)")


def layout_problem(
    client: ClickHouseClient, table: ClickHouseTable, slice_by: str | None, slices: Sequence[Slice]
) -> str | None:
    """Return why slices of a table cannot be replaced, with what to do about it; None when they can.

    A slice of the table must be one partition, or the whole table without `slice_by`.
    """
    rows = client.query(
        "SELECT engine, partition_key FROM system.tables"
        f" WHERE database = {literal(table.database)} AND name = {literal(table.table)}"
    )
    if not rows:
        return None
    ((engine, partition),) = rows
    if engine not in _ENGINES:
        return (
            f"{table} has the engine {engine}; dwhctl replaces partitions of a MergeTree, and other engines change or"
            " leave out rows: make the table with ENGINE = MergeTree"
        )
    if slice_by is None:
        if not partition:
            return None
        return (
            f"{table} has PARTITION BY {partition}, and its load has no slice_by: its slices are replaced with the"
            " whole table, as one partition; make the table without PARTITION BY, or give the load slice_by"
        )
    column = described_column(client, table, slice_by)
    wanted = f"make the table with PARTITION BY toDate({column.name}), in the time zone of the slices"
    by_day = _BY_DAY.fullmatch(partition) or (column.kind is Kind.DATE and partition == column.name)
    if not by_day or not _is_one_partition(client, column, partition, slices):
        by = f"PARTITION BY {partition}" if partition else "no PARTITION BY"
        return f"{table} has {by}: a day of {column.name} is not one partition, which is what is replaced; {wanted}"
    return None


def _is_one_partition(
    client: ClickHouseClient, column: Column, partition: str, slices: Sequence[Slice]
) -> bool:
    for bounds in {bounds_of(slice, column) for slice in slices}:
        start, end = bounds
        tick = timedelta(days=1) if column.kind is Kind.DATE else _tick(column)
        moments = ", ".join(_moment(at, column.kind) for at in (start - tick, start, end - tick, end))
        declared = column.declared
        try:
            rows = client.query(
                f"SELECT toString({partition}) FROM"
                f" (SELECT CAST(arrayJoin([{moments}]) AS {declared}) AS {quote_name(column.name)})"
            )
        except AttemptError as error:
            if error.permanent:
                return False  # the partition depends on another column
            raise
        before, first, last, after = (str(value) for (value,) in rows)
        if first != last or before == first or after == last:
            return False
    return True


def _tick(column: Column) -> timedelta:
    return {"s": timedelta(seconds=1), "ms": timedelta(milliseconds=1)}.get(
        column.type.unit, timedelta(microseconds=1)
    )


def table_warnings(client: ClickHouseClient, table: ClickHouseTable) -> Iterator[ColumnWarning]:
    """Yield what makes loads into an existing table doubtful: replication, TTL, views that are fed by INSERTs."""
    rows = client.query(
        "SELECT engine, create_table_query, dependencies_database, dependencies_table FROM system.tables"
        f" WHERE database = {literal(table.database)} AND name = {literal(table.table)}"
    )
    for engine, created, databases, views in rows:
        if engine != "MergeTree":
            yield ColumnWarning(
                f"{table} is a {engine}: dwhctl publishes on one replica, the others follow: `dwhctl docs clickhouse`",
                blocks=False,
            )
        if re.search(r"\bTTL\b", _QUOTED.sub("", str(created))):
            yield ColumnWarning(
                f"{table} has a TTL: a slice that loses rows to it while it is published is refused; values of a column"
                " whose TTL has passed become its default",
                blocks=False,
            )
        if views:
            fed = ", ".join(f"{database}.{view}" for database, view in zip(databases, views, strict=True))
            yield ColumnWarning(
                f"{table} feeds the materialized view {fed} by INSERT, and dwhctl replaces partitions: the view does"
                " not get these rows; make it refreshable (REFRESH EVERY ...), or a report: `dwhctl docs clickhouse`",
                blocks=False,
            )


#: Texts and quoted names.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)

# Conditions of slices.


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        return f"toDate32({literal(first_date(bound))})"
    if bound.tzinfo is not None:
        bound = bound.astimezone(UTC).replace(tzinfo=None)
    return f"toDateTime64({literal(bound.isoformat(sep=' ', timespec='microseconds'))}, 6, 'UTC')"


LITERALS = Literals(literal, _moment)
