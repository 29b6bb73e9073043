"""Replace a report's rows in a DuckDB file: one transaction."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import duckdb

from dwhctl.engines import duckdb as engine
from dwhctl.targets.contract import Columns, Refresh, RefreshColumn, RefreshColumns, Statement
from dwhctl.targets.duckdb_statements import BEGIN, COMMIT
from dwhctl.targets.strict_insert import carried, refused_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.report_sql import RowSource
    from dwhctl.targets.contract import Narrowing
    from dwhctl.targets.duckdb import DuckdbTarget


class DuckdbRefresh(Refresh):
    """One transaction in the file."""

    def __init__(
        self, target: DuckdbTarget, db: duckdb.DuckDBPyConnection, table: str, source: RowSource
    ) -> None:
        self._target = target
        self._db = db
        self._table = table
        self._query = source.text if source.is_query else None
        self._source = _from(source)

    def columns(self) -> RefreshColumns:
        # The query begins in the first line of what is sent: its lines are those that DuckDB counts.
        with self._target.at_statement(self._query) if self._query else nullcontext():
            source = self._db.execute(f"DESCRIBE SELECT * FROM {self._source}").fetchall()
        rows = self._db.execute(
            f"PRAGMA table_info('{self._table.replace(chr(39), chr(39) * 2)}')"
        ).fetchall()
        return RefreshColumns(
            tuple(_column(str(name), str(declared)) for name, declared, *_ in source),
            tuple(_column(str(name), str(declared)) for _, name, declared, *_ in rows),
            frozenset(str(row[1]) for row in rows if row[4] is not None),
        )

    def delete(self) -> None:
        self._db.execute(_delete_sql(self._table))

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = Columns(self._table, names=columns, narrowed=narrowed)
        try:
            row = self._db.execute(_insert_sql(self._source, wanted)).fetchone()
        except duckdb.Error as error:
            if (refused := refused_value(str(error), self._table, narrowed)) is not None:
                raise refused from error
            raise
        return int(row[0]) if row else 0

    def commit(self) -> None:
        try:
            self._db.execute(COMMIT)
        except duckdb.Error as error:
            raise self._target.in_words(error) from error


def refresh_statements(source: RowSource, columns: Columns) -> list[Statement]:
    """Return what a refresh sends."""
    insert = _insert_sql(_from(source), columns)
    return [Statement(BEGIN), Statement(_delete_sql(columns.table)), Statement(insert), Statement(COMMIT)]


def _from(source: RowSource) -> str:
    # A comment at the query's end must not swallow the bracket.
    return f"({source.text}\n) AS source" if source.is_query else engine.quote(source.text)


def _delete_sql(table: str) -> str:
    return f"DELETE FROM {engine.quote(table)}"


def _insert_sql(source: str, columns: Columns) -> str:
    checks = {one.table.name: _checked(number, one) for number, one in enumerate(columns.narrowed)}
    values = columns.listed(lambda name: checks.get(name, engine.quote_column(name)))
    names = columns.listed(engine.quote_column)
    return f"INSERT INTO {engine.quote(columns.table)} ({names}) SELECT {values} FROM {source}"


def _column(name: str, declared: str) -> RefreshColumn:
    untyped = declared == '"NULL"'
    return RefreshColumn(name, declared, engine.column(name, declared), untyped)


def _checked(number: int, one: Narrowing) -> str:
    """Write the column's value, or an error in its place where it does not come back as it was."""
    name = engine.quote_column(one.source.name)
    there = f"TRY_CAST({name} AS {one.table.declared})"
    changed = f"TRY_CAST({there} AS {one.source.declared}) IS DISTINCT FROM {name}"
    return f"CASE WHEN {changed} THEN error({carried(number, f'CAST({name} AS VARCHAR)')}) ELSE {name} END"
