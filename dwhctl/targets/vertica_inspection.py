"""Look at a Vertica table: reads take no lock there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwhctl.columns import Kind
from dwhctl.engines.vertica import literal, quote
from dwhctl.engines.vertica_types import VARCHAR_OCTETS
from dwhctl.errors import TargetRefusedError
from dwhctl.targets.inspecting import SqlInspection
from dwhctl.targets.vertica_catalog import described, described_column
from dwhctl.targets.vertica_names import TableName
from dwhctl.targets.vertica_rows import conditions, of_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.fingerprint import Fingerprint, Measure
    from dwhctl.engines.vertica import Session
    from dwhctl.project.slices import Slice

#: Another locale of the database would compare texts without case.
#: Source: https://www.vertica.com/docs/10.1.x/HTML/Content/Authoring/SQLReferenceManual/Statements/SET/SETLOCALE.htm
_LOCALE = "SET LOCALE TO 'en_US@collation=binary'"
#: More than the octets of any other kind's text, with its frame.
_OTHER_OCTETS, _FRAME_OCTETS = 100, 10


class VerticaInspection(SqlInspection):
    """Looks at a table in one session. `slice_by` is the column by which it is sliced."""

    def __init__(self, session: Session, table: TableName, slice_by: Column | None) -> None:
        super().__init__("vertica", table.sql, sliced=slice_by is not None)
        self._session = session
        self._name = table
        self._slice_by = slice_by
        session.query(_LOCALE)

    def columns(self) -> Sequence[Column]:
        return described(self._session, self._name)

    def beside(self, table: str, slice_by: str | None) -> VerticaInspection:
        name = TableName.of(table)
        column = described_column(self._session, name, slice_by) if slice_by else None
        return VerticaInspection(self._session, name, column)

    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        """Measure. Raise TargetRefusedError for columns whose texts are longer than Vertica hashes."""
        _check_octets([*measure.key, *measure.values])
        return super().fingerprints(slices, measure)

    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:  # noqa: ARG002
        return self._session.query(sql)

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        for shards, bounds in conditions(slices, self._slice_by):
            yield shards, bounds, {}

    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        return of_shards(shards), {}

    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        return [literal(text) for text in texts], {}

    def _quoted(self, name: str) -> str:
        return quote(name)


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
