"""SQL Server's types: the type that each becomes, or what to write instead of one that is refused.

This module imports neither the driver nor pyarrow: the reference page and the configuration's checks read the table.
Source: https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-types-transact-sql
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError
from dwhctl.systems.base.fingerprint import literal as literal_text
from dwhctl.systems.base.fingerprint import quote_name
from dwhctl.systems.base.type_map import SourceType

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One of SQL Server's types.

    `kind` is None for a type that is refused; `note` is what the values become, or what to write instead.
    `arrow` is Arrow's name of the type, empty where it depends on precision and scale.
    """

    name: str
    kind: Kind | None
    note: str
    arrow: str = ""


_AS_TEXT = "CAST({column} AS nvarchar(max))"
_DECIMAL = "decimal of its own precision and scale"
_GEOMETRY = "CAST({column}.STAsText() AS nvarchar(max))"
_TEXT = "text as it is, trailing blanks included"


def _rows(names: str, kind: Kind | None, note: str, arrow: str = "") -> tuple[TypeRow, ...]:
    return tuple(TypeRow(name, kind, note, arrow) for name in names.split())


#: Every type of SQL Server. Any other (an assembly's) is refused.
TYPES: tuple[TypeRow, ...] = (
    TypeRow("bigint", Kind.INTEGER, "64-bit integer", "int64"),
    TypeRow("int", Kind.INTEGER, "32-bit integer", "int32"),
    TypeRow("smallint", Kind.INTEGER, "16-bit integer", "int16"),
    TypeRow("tinyint", Kind.INTEGER, "integer from 0 to 255", "uint8"),
    TypeRow("bit", Kind.BOOLEAN, "boolean", "bool"),
    *_rows("decimal numeric", Kind.DECIMAL, _DECIMAL),
    TypeRow("money", Kind.DECIMAL, "decimal(19,4)"),
    TypeRow("smallmoney", Kind.DECIMAL, "decimal(10,4)"),
    TypeRow("float", Kind.FLOAT, "64-bit float", "double"),
    TypeRow("real", Kind.FLOAT, "32-bit float", "float"),
    TypeRow("date", Kind.DATE, "date", "date32"),
    TypeRow("time", Kind.TIME, "time in microseconds; a seventh digit is cut", "time64[us]"),
    TypeRow("smalldatetime", Kind.TIMESTAMP, "timestamp in microseconds", "timestamp[us]"),
    TypeRow("datetime", Kind.TIMESTAMP, "timestamp in microseconds, rounded to milliseconds as SQL Server shows it",
            "timestamp[us]"),
    TypeRow("datetime2", Kind.TIMESTAMP, "timestamp in microseconds; a seventh digit is cut", "timestamp[us]"),
    TypeRow("datetimeoffset", Kind.TIMESTAMPTZ, "instant in UTC, in microseconds; a seventh digit is cut",
            "timestamp[us, tz=UTC]"),
    *_rows("char varchar text nchar nvarchar ntext sysname", Kind.TEXT, _TEXT, "string"),
    TypeRow("uniqueidentifier", Kind.UUID, "uuid in lower case", "string"),
    *_rows("binary varbinary image", Kind.BINARY, "binary", "binary"),
    TypeRow("rowversion", Kind.BINARY, "binary of 8 bytes", "binary"),
    TypeRow("timestamp", Kind.BINARY, "rowversion: binary of 8 bytes, no time", "binary"),
    *_rows("xml json vector", None, _AS_TEXT),
    TypeRow("sql_variant", None, "CAST({column} AS nvarchar(4000)), or AS the type that it holds"),
    TypeRow("hierarchyid", None, "CAST({column} AS nvarchar(4000))"),
    *_rows("geometry geography", None, _GEOMETRY),
    TypeRow("cursor", None, "a cursor is no column"),
    TypeRow("table", None, "a table is no column"),
)  # fmt: skip

_BY_NAME = {row.name: row for row in TYPES}
_DECIMALS = {"money": (19, 4), "smallmoney": (10, 4)}
_LENGTHS = {"sysname": "128", "rowversion": "8", "timestamp": "8"}
_FIXED = frozenset({"char", "nchar", "binary", "rowversion", "timestamp"})
_FRACTIONS = {"datetime": 3, "smalldatetime": 0}
_DECLARED = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<first>\d+|max)(?:,\s*(?P<second>\d+))?\))?")
#: The most octets in UTF-8 for one place of the column: a byte of a code page, or a unit of UTF-16 (two are 4 octets).
_OCTETS_PER_PLACE = 3


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A row of `sp_describe_first_result_set`."""

    name: str | None
    declared: str | None
    nullable: bool = True
    own_type: str | None = None
    collation: str | None = None


def declared_columns(described: Iterable[ResultColumn]) -> list[Column]:
    """Return a query's columns. Raise QueryError for a type that is refused, and a missing or duplicate name."""
    columns: dict[str, Column] = {}
    for number, row in enumerate(described, 1):
        if not row.name:
            raise QueryError(f"column {number} of the extract has no name; give it one: ... AS name")
        if row.name.lower() in columns:
            raise QueryError(f"column {row.name} occurs twice in the extract; give one of them another name")
        columns[row.name.lower()] = column(row)
    return list(columns.values())


def column(described: ResultColumn) -> Column:
    """Return one column. Raise QueryError with the remedy when its type is refused."""
    name, declared = described.name or "", described.declared or described.own_type or "unknown"
    match = _DECLARED.fullmatch(declared)
    row = _BY_NAME.get(match["name"].lower()) if match else None
    if match is None or row is None or row.kind is None:
        # SQL Server returns no name for an assembly's type.
        remedy = (row.note if row else "CAST({column}.ToString() AS nvarchar(max))").format(column=name)
        raise QueryError(
            f"column {name}: SQL Server's type {declared} would not arrive as it is; CAST it in the extract: {remedy}"
        )
    places = _places(row, match["first"])
    is_utf8 = row.name in ("char", "varchar") and (described.collation or "").upper().endswith("_UTF8")
    octets_per_place = _OCTETS_PER_PLACE if row.kind is Kind.TEXT and not is_utf8 else 1
    return Column(
        name,
        row.kind,
        _arrow(row, match["first"], match["second"]),
        declared,
        described.nullable,
        octets=places and places * octets_per_place,
        places=places,
        fixed=row.name in _FIXED,
        fraction=_fraction(row, match["first"]),
    )


def _arrow(row: TypeRow, first: str | None, second: str | None) -> pa.DataType:
    import pyarrow as pa

    if row.kind is Kind.DECIMAL:
        precision, scale = _DECIMALS.get(row.name) or (int(first or 18), int(second or 0))
        return pa.decimal128(precision, scale)
    return pa.timestamp("us", tz="UTC") if row.kind is Kind.TIMESTAMPTZ else pa.type_for_alias(row.arrow)


def _places(row: TypeRow, first: str | None) -> int | None:
    first = _LENGTHS.get(row.name, first)
    if row.kind not in (Kind.TEXT, Kind.BINARY) or first is None or first == "max":
        return None
    return int(first)


def _fraction(row: TypeRow, first: str | None) -> int | None:
    if row.kind not in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return None
    # The driver cuts the seventh digit.
    return _FRACTIONS.get(row.name, min(int(first or 7), 6))


#: Examples of the types that have a length or precision.
_EXAMPLES = {
    **{name: f"{name}(12,2)" for name in ("decimal", "numeric")},
    **{name: f"{name}(10)" for name in ("char", "nchar")},
    **{name: f"{name}(50) {name}(max)" for name in ("varchar", "nvarchar", "varbinary")},
    "binary": "binary(8)",
    "time": "time(7)",
    "datetime2": "datetime2(7)",
    "datetimeoffset": "datetimeoffset(7)",
}


def source_types() -> list[SourceType]:
    """Return the types for the type map."""
    return [
        SourceType(declared, column(ResultColumn("c", declared)) if row.kind else None, row.note)
        for row in TYPES
        for declared in _EXAMPLES.get(row.name, row.name).split(" ")
    ]


def quote(name: str) -> str:
    """Quote one name for T-SQL."""
    return quote_name(name, "[]")


def literal(text: str) -> str:
    """Quote a text for T-SQL."""
    return "N" + literal_text(text)


#: Code pages whose name in FreeTDS is not CP and the number; UTF-8 needs no conversion.
_NAMES = {65001: "UTF-8"}
_REFUSED = ctypes.c_void_p(-1).value


@functools.lru_cache(maxsize=64)
def can_read(code_page: int) -> bool:
    """Return whether the C library converts this code page to UTF-8; True where that cannot be found out."""
    try:
        library = ctypes.CDLL(None)
        opened, closed = library.iconv_open, library.iconv_close
    except (OSError, AttributeError):
        return True
    opened.restype, opened.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    closed.argtypes = [ctypes.c_void_p]
    handle = opened(b"UTF-8", os.fsencode(_NAMES.get(code_page, f"CP{code_page}")))
    if handle == _REFUSED:
        return False
    closed(handle)
    return True
