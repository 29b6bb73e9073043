"""Refresh a report in ClickHouse: fill a table like it, then EXCHANGE TABLES."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, TargetRefusedError, ValueRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.sql import quote_name as quote
from dwhctl.project.query import at_statement
from dwhctl.systems.base.target import (
    SHOWN_CHARACTERS,
    Narrowing,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Statement,
    TableColumns,
    refresh_source,
)
from dwhctl.systems.clickhouse import types as types
from dwhctl.systems.clickhouse.catalog import ClickHouseTable, existing_columns
from dwhctl.systems.clickhouse.errors import is_code

if TYPE_CHECKING:
    from dwhctl.project.names import RowSource
    from dwhctl.systems.clickhouse.client import ClickHouseClient

_NOT_IMPLEMENTED = 48


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
        table = existing_columns(self._client, self._table)
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
            source, table = pair.source.known, pair.table.known
            if source is None or table is None:
                raise TypeError(f"{pair.table.name}: only known types are narrowed")
            named = replace(source, declared=pair.source.declared)
            where = types.would_change(quote(pair.table.name), named, table)
            found = self._client.query(
                f"SELECT leftUTF8(toString({quote(pair.table.name)}), {SHOWN_CHARACTERS}) FROM {self._raw.sql}"
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


def refresh_statements(table: ClickHouseTable, source: RowSource, columns: TableColumns) -> list[Statement]:
    """Return the statements of a refresh."""
    copy, raw = (
        ClickHouseTable(table.database, "<new table>"),
        ClickHouseTable(table.database, "<source's rows>"),
    )
    names, rows = list(columns.names) or [f"<columns of {columns.table}>"], refresh_source(source)
    checks = []
    for pair in columns.narrowed:
        if pair.source.known is not None and pair.table.known is not None:
            named = replace(pair.source.known, declared=pair.source.declared)
            where = types.would_change(quote(pair.table.name), named, pair.table.known)
            checks.append(Statement(f"SELECT {quote(pair.table.name)} FROM {raw.sql} WHERE {where} LIMIT 1"))
    return [
        Statement(f"CREATE TABLE {copy.sql} AS {table.sql}"),
        *([Statement(_raw_sql(raw, names, rows)), *checks] if checks else []),
        Statement(_insert_sql(copy, names, raw.sql if checks else rows)),
        Statement(
            f"EXCHANGE TABLES {table.sql} AND {copy.sql}", about="readers see the new rows from here on"
        ),
        Statement(f"DROP TABLE {copy.sql} SYNC", about="the old rows"),
    ]


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
        cast = f"accurateCast(assumeNotNull({quote(name)}), {types.literal(wanted)})"
        strict = f"if(isNull({quote(name)}), NULL, {cast})"
        values.append(strict if given != wanted else quote(name))
    return ", ".join(values)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(name if name.startswith("<") else quote(name) for name in columns)


def _column(name: str, declared: str) -> RefreshColumn:
    return RefreshColumn(name, declared, types.column(name, declared), declared == "Nullable(Nothing)")
