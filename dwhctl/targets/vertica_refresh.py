"""Replace a report's rows in Vertica: one transaction in one session."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from dwhctl.columns import Kind
from dwhctl.engines import vertica_types as types
from dwhctl.engines.vertica import quote
from dwhctl.engines.vertica_strict import would_change
from dwhctl.errors import AttemptError
from dwhctl.project.sql_lines import at_statement
from dwhctl.targets.contract import Columns, Refresh, RefreshColumn, RefreshColumns, Statement
from dwhctl.targets.strict_insert import carried, refused_value
from dwhctl.targets.vertica_catalog import existing_columns, filled_columns
from dwhctl.targets.vertica_names import TableName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.engines.vertica import Session
    from dwhctl.project.report_sql import RowSource
    from dwhctl.targets.contract import Narrowing

_COMMIT = "COMMIT"


class VerticaRefresh(Refresh):
    """One transaction in one session.

    DELETE and INSERT, never TRUNCATE, which commits what came before it.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/statements/truncate-table/
    """

    def __init__(self, session: Session, table: TableName, source: RowSource) -> None:
        self._session = session
        self._table = table
        self._query = source.text if source.is_query else None
        self._source = _from(source)

    def columns(self) -> RefreshColumns:
        table = existing_columns(self._session, self._table)
        with at_statement(self._query) if self._query else nullcontext():
            source = self._session.declared(f"SELECT * FROM {self._source} LIMIT 0")
        return RefreshColumns(
            tuple(_column(name, declared) for name, declared in source),
            tuple(_column(name, declared) for name, declared, _ in table),
            frozenset(filled_columns(self._session, self._table)),
        )

    def delete(self) -> None:
        self._session.query(_delete_sql(self._table))

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = Columns(str(self._table), names=columns, narrowed=narrowed)
        try:
            answer = self._session.query(_insert_sql(self._table, self._source, wanted))
        except AttemptError as error:
            if (refused := refused_value(str(error), str(self._table), narrowed)) is not None:
                raise refused from error
            raise
        if not answer:
            answer = self._session.query(f"SELECT COUNT(*) FROM {self._table.sql}")
        return int(answer[0][0])

    def commit(self) -> None:
        self._session.query(_COMMIT)


def refresh_statements(source: RowSource, columns: Columns) -> list[Statement]:
    """Return what a refresh sends."""
    table = TableName.of(columns.table)
    insert = _insert_sql(table, _from(source), columns)
    return [Statement(_delete_sql(table)), Statement(insert), Statement(_COMMIT)]


def _from(source: RowSource) -> str:
    # A comment at the query's end must not swallow the bracket.
    return f"({source.text}\n) AS source" if source.is_query else _quoted(source.text)


def _delete_sql(table: TableName) -> str:
    return f"DELETE FROM {table.sql}"


def _insert_sql(table: TableName, source: str, columns: Columns) -> str:
    checks = {one.table.name: _checked(number, one) for number, one in enumerate(columns.narrowed)}
    values = columns.listed(lambda name: checks.get(name, quote(name)))
    return f"INSERT INTO {table.sql} ({columns.listed(quote)}) SELECT {values} FROM {source}"


def _column(name: str, declared: str) -> RefreshColumn:
    if declared.lower().startswith("interval"):
        declared = "interval"
    # `unknown` is the type of a literal that nothing has given a type yet.
    return RefreshColumn(name, declared, types.column(name, declared), declared == "unknown")


def _checked(number: int, one: Narrowing) -> str:
    """Write the column's value, or an error in its place where it does not fit.

    Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/error-handling-functions/throw-error/
    """
    source, table = one.source.known, one.table.known
    if source is None or table is None:
        raise TypeError(f"{one.table.name}: only known types are narrowed")
    name = quote(one.source.name)
    text = f"TO_HEX({name})" if source.kind is Kind.BINARY else f"CAST({name} AS VARCHAR(400))"
    error = f"CAST(THROW_ERROR({carried(number, text)}) AS {one.source.declared})"
    return f"CASE WHEN {would_change(name, source, table)} THEN {error} ELSE {name} END"


def _quoted(name: str) -> str:
    return ".".join(map(quote, name.split(".")))
