"""Replace a report's rows in Vertica: one transaction in one session."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from dwhctl.engines.vertica import quote
from dwhctl.project.sql_lines import at_statement
from dwhctl.targets.contract import Refresh, RefreshColumns
from dwhctl.targets.vertica_catalog import existing_columns, filled_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.engines.vertica import Session
    from dwhctl.project.report_sql import RowSource
    from dwhctl.targets.vertica_names import TableName


class VerticaRefresh(Refresh):
    """One transaction in one session.

    DELETE and INSERT, never TRUNCATE, which commits what came before it.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/statements/truncate-table/
    """

    def __init__(self, session: Session, table: TableName, source: RowSource) -> None:
        self._session = session
        self._table = table
        # A comment at the query's end must not swallow the bracket.
        self._query = source.text if source.is_query else None
        self._source = f"({source.text}\n) AS source" if source.is_query else _quoted(source.text)

    def columns(self) -> RefreshColumns:
        table = tuple(name for name, _, _ in existing_columns(self._session, self._table))
        with at_statement(self._query) if self._query else nullcontext():
            source = self._session.names(f"SELECT * FROM {self._source} LIMIT 0")
        return RefreshColumns(tuple(source), table, frozenset(filled_columns(self._session, self._table)))

    def delete(self) -> None:
        self._session.query(f"DELETE FROM {self._table.sql}")

    def insert(self, columns: Sequence[str]) -> int:
        names = ", ".join(map(quote, columns))
        answer = self._session.query(
            f"INSERT INTO {self._table.sql} ({names}) SELECT {names} FROM {self._source}"
        )
        if not answer:
            answer = self._session.query(f"SELECT COUNT(*) FROM {self._table.sql}")
        return int(answer[0][0])

    def commit(self) -> None:
        self._session.query("COMMIT")


def _quoted(name: str) -> str:
    return ".".join(map(quote, name.split(".")))
