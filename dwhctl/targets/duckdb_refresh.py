"""Replace a report's rows in a DuckDB file: one transaction."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import duckdb

from dwhctl.engines import duckdb as engine
from dwhctl.targets.contract import Refresh, RefreshColumns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.report_sql import RowSource
    from dwhctl.targets.duckdb import DuckdbTarget


class DuckdbRefresh(Refresh):
    """One transaction in the file."""

    def __init__(
        self, target: DuckdbTarget, db: duckdb.DuckDBPyConnection, table: str, source: RowSource
    ) -> None:
        self._target = target
        self._db = db
        self._table = table
        # A comment at the query's end must not swallow the bracket.
        self._query = source.text if source.is_query else None
        self._source = f"({source.text}\n) AS source" if source.is_query else engine.quote(source.text)

    def columns(self) -> RefreshColumns:
        # The query begins in the first line of what is sent: its lines are those that DuckDB counts.
        with self._target.at_statement(self._query) if self._query else nullcontext():
            source = self._db.execute(f"DESCRIBE SELECT * FROM {self._source}").fetchall()
        rows = self._db.execute(
            f"PRAGMA table_info('{self._table.replace(chr(39), chr(39) * 2)}')"
        ).fetchall()
        return RefreshColumns(
            tuple(str(row[0]) for row in source),
            tuple(str(row[1]) for row in rows),
            frozenset(str(row[1]) for row in rows if row[4] is not None),
        )

    def delete(self) -> None:
        self._db.execute(f"DELETE FROM {engine.quote(self._table)}")

    def insert(self, columns: Sequence[str]) -> int:
        names = ", ".join(map(engine.quote_column, columns))
        row = self._db.execute(
            f"INSERT INTO {engine.quote(self._table)} ({names}) SELECT {names} FROM {self._source}"
        ).fetchone()
        return int(row[0]) if row else 0

    def commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except duckdb.Error as error:
            raise self._target.in_words(error) from error
