"""Replace the rows of a report in one transaction of Vertica, and look at a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, TargetRefusedError
from dwhctl.core.sql import quote_name as quote
from dwhctl.project.query import at_statement
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from dwhctl.systems.base.server import ServerInspection
from dwhctl.systems.base.target import (
    Narrowing,
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
from dwhctl.systems.vertica import types as types
from dwhctl.systems.vertica.catalog import (
    TableName,
    described,
    described_column,
    existing_columns,
    filled_columns,
)
from dwhctl.systems.vertica.types import VARCHAR_OCTETS, would_change

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.vertica.client import VerticaClient


class VerticaRefresh(Refresh):
    """One transaction in one session.

    DELETE and INSERT, never TRUNCATE, which commits what came before it.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/statements/truncate-table/
    """

    def __init__(self, session: VerticaClient, table: TableName, source: RowSource) -> None:
        self._session = session
        self._table = table
        self._query = source.text if source.is_query else None
        self._source = source

    def columns(self) -> RefreshColumns:
        table = existing_columns(self._session, self._table)
        with at_statement(self._query) if self._query else nullcontext():
            source = self._session.declared(f"SELECT * FROM {refresh_source(self._source)} LIMIT 0")
        return RefreshColumns(
            tuple(_column(name, declared) for name, declared in source),
            tuple(_column(name, declared) for name, declared, _ in table),
            frozenset(filled_columns(self._session, self._table)),
        )

    def delete(self) -> None:
        self._session.query(f"DELETE FROM {self._table.sql}")

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = TableColumns(str(self._table), names=columns, narrowed=narrowed)
        try:
            answer = self._session.query(refresh_sql(self._table.sql, self._source, wanted, _checked)[1])
        except AttemptError as error:
            if (refused := refused_value(str(error), str(self._table), narrowed)) is not None:
                raise refused from error
            raise
        if not answer:
            answer = self._session.query(f"SELECT COUNT(*) FROM {self._table.sql}")
        return int(answer[0][0])

    def commit(self) -> None:
        self._session.query("COMMIT")


def refresh_statements(source: RowSource, columns: TableColumns) -> list[Statement]:
    """Return the statements of a refresh."""
    sql = refresh_sql(TableName.of(columns.table).sql, source, columns, _checked)
    return [*map(Statement, sql), Statement("COMMIT")]


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


#: Another locale of the database would compare texts without case.
#: Source: https://www.vertica.com/docs/10.1.x/HTML/Content/Authoring/SQLReferenceManual/Statements/SET/SETLOCALE.htm
_LOCALE = "SET LOCALE TO 'en_US@collation=binary'"
#: More than the octets of any other kind's text, with its frame.
_OTHER_OCTETS, _FRAME_OCTETS = 100, 10


class VerticaInspection(ServerInspection["VerticaClient"]):
    """Looks at a table in one session. `slice_by` is the column by which it is sliced."""

    def __init__(self, session: VerticaClient, table: TableName, slice_by: Column | None) -> None:
        super().__init__("vertica", session, table.sql, slice_by)
        self._name = table
        session.query(_LOCALE)

    def columns(self) -> Sequence[Column]:
        return described(self._client, self._name)

    def beside(self, table: str, slice_by: str | None) -> VerticaInspection:
        name = TableName.of(table)
        column = described_column(self._client, name, slice_by) if slice_by else None
        return VerticaInspection(self._client, name, column)

    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        """Measure. Raise TargetRefusedError for columns whose texts are longer than Vertica hashes."""
        _check_octets([*measure.key, *measure.values])
        return super().fingerprints(slices, measure)


def _check_octets(columns: Sequence[Column]) -> None:
    if sum(map(_octets, columns)) > VARCHAR_OCTETS:
        widest = max(columns, key=_octets)
        raise TargetRefusedError(
            f"column {widest.name} is {widest.declared}: MD5 takes a VARCHAR of up to {VARCHAR_OCTETS:,} octets, and"
            " what is compared together may be longer; leave it out of verify_columns"
        )


def _octets(column: Column) -> int:
    octets = _OTHER_OCTETS
    if column.kind in (Kind.TEXT, Kind.BINARY):
        # A binary is hashed as hexadecimal digits.
        octets = (column.octets or VARCHAR_OCTETS) * (2 if column.kind is Kind.BINARY else 1)
    return octets + _FRAME_OCTETS
