"""How SQL Server's columns are read for a fingerprint: as the driver would have given them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.columns import Kind
from dwhctl.engines.fingerprint import Dialect
from dwhctl.engines.mssql import quote_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.fingerprint import Measure

#: The collations of a fingerprint's texts: with a text among the columns, and without one.
UTF8 = "Latin1_General_100_BIN2_UTF8"
BINARY = "Latin1_General_BIN2"
#: The most characters of nvarchar that is not (max).
_NVARCHAR = 4000


def collation_for(measure: Measure, columns: Sequence[Column]) -> str:
    """Give the collation that all the texts of a fingerprint take."""
    wanted = {column.name.lower(): column.kind for column in (*measure.key, *measure.values)}
    texts = (
        column
        for column in columns
        if column.kind is Kind.TEXT and wanted.get(column.name.lower()) is Kind.TEXT
    )
    return UTF8 if any(texts) else BINARY


def read_part(column: Column, kind: Kind, collation: str) -> tuple[str, dict[str, str]]:
    """Give a column's value in SQL and what its form needs: the collation, and a text's length."""
    name, dialect = quote_column(column.name), Dialect("mssql")
    block = f"read {column.declared.lower()}"
    sql = dialect.block(block, c=name) if dialect.has(block) else name
    extras = {"collation": collation}
    if column.kind is Kind.TEXT and kind is Kind.TEXT:
        extras["length"] = _length(column.places)
    return sql, extras


def _length(longest: int | None) -> str:
    return "max" if longest is None or longest > _NVARCHAR else str(longest)
