"""SQL Server's types: what each becomes here, or why it is refused and what to write instead.

This module imports neither driver nor pyarrow: the reference page and the configuration's checks read the table.
Source: https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-types-transact-sql
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One of SQL Server's types.

    `kind` is None for a type that is refused; `note` says what the values become, or what to write instead.
    `arrow` is Arrow's name of the type, empty where it depends on precision and scale.
    """

    name: str
    kind: Kind | None
    note: str
    arrow: str = ""


_TEXT = "text as it is, trailing blanks included"
_AS_TEXT = "CAST({column} AS nvarchar(max))"

#: Every type of SQL Server, mapped or refused. A type that is not here (an assembly's own) is refused as well.
TYPES: tuple[TypeRow, ...] = (
    TypeRow("bigint", Kind.INTEGER, "64-bit integer", "int64"),
    TypeRow("int", Kind.INTEGER, "32-bit integer", "int32"),
    TypeRow("smallint", Kind.INTEGER, "16-bit integer", "int16"),
    TypeRow("tinyint", Kind.INTEGER, "integer from 0 to 255", "uint8"),
    TypeRow("bit", Kind.BOOLEAN, "boolean", "bool"),
    TypeRow("decimal", Kind.DECIMAL, "decimal of its own precision and scale"),
    TypeRow("numeric", Kind.DECIMAL, "decimal of its own precision and scale"),
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
    TypeRow("char", Kind.TEXT, _TEXT, "string"),
    TypeRow("varchar", Kind.TEXT, _TEXT, "string"),
    TypeRow("text", Kind.TEXT, _TEXT, "string"),
    TypeRow("nchar", Kind.TEXT, _TEXT, "string"),
    TypeRow("nvarchar", Kind.TEXT, _TEXT, "string"),
    TypeRow("ntext", Kind.TEXT, _TEXT, "string"),
    TypeRow("sysname", Kind.TEXT, _TEXT, "string"),
    TypeRow("uniqueidentifier", Kind.UUID, "uuid in lower case", "string"),
    TypeRow("binary", Kind.BINARY, "binary", "binary"),
    TypeRow("varbinary", Kind.BINARY, "binary", "binary"),
    TypeRow("image", Kind.BINARY, "binary", "binary"),
    TypeRow("rowversion", Kind.BINARY, "binary of 8 bytes", "binary"),
    TypeRow("timestamp", Kind.BINARY, "rowversion: binary of 8 bytes, no time", "binary"),
    TypeRow("xml", None, _AS_TEXT),
    TypeRow("json", None, _AS_TEXT),
    TypeRow("vector", None, _AS_TEXT),
    TypeRow("sql_variant", None, "CAST({column} AS nvarchar(4000)), or AS the type that it holds"),
    TypeRow("hierarchyid", None, "CAST({column} AS nvarchar(4000))"),
    TypeRow("geometry", None, "CAST({column}.STAsText() AS nvarchar(max))"),
    TypeRow("geography", None, "CAST({column}.STAsText() AS nvarchar(max))"),
    TypeRow("cursor", None, "a cursor is no column"),
    TypeRow("table", None, "a table is no column"),
)  # fmt: skip

_BY_NAME = {row.name: row for row in TYPES}
_DECIMALS = {"money": (19, 4), "smallmoney": (10, 4)}
_LENGTHS = {"sysname": "128", "rowversion": "8", "timestamp": "8"}
_FIXED = frozenset({"char", "nchar", "binary", "rowversion", "timestamp"})
_FRACTIONS = {"datetime": 3, "smalldatetime": 0}
_DECLARED = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<first>\d+|max)(?:,\s*(?P<second>\d+))?\))?")
#: The most octets that UTF-8 needs for what takes one place in the column: a byte of a code page, or one of UTF-16's
#: units (a pair of them is four octets).
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
    """Describe a query's columns.

    Raise QueryError for a type that has no place here, a column without a name, and a name that stands twice.
    """
    columns: list[Column] = []
    for number, one in enumerate(described, 1):
        if not one.name:
            raise QueryError(f"column {number} of the extract has no name; give it one: ... AS name")
        if any(one.name.lower() == column.name.lower() for column in columns):
            raise QueryError(f"column {one.name} occurs twice in the extract; give one of them another name")
        columns.append(column(one))
    return columns


def column(described: ResultColumn) -> Column:
    """Describe one column. Raise QueryError that names type and remedy when the type has no place here."""
    name, declared = described.name or "", described.declared or described.own_type or "unknown"
    match = _DECLARED.fullmatch(declared)
    row = _BY_NAME.get(match["name"].lower()) if match else None
    if match is None or row is None or row.kind is None:
        # An assembly's type has no name among SQL Server's own.
        remedy = (row.note if row else "CAST({column}.ToString() AS nvarchar(max))").format(column=name)
        raise QueryError(
            f"column {name}: SQL Server's type {declared} would not arrive as it is; CAST it in the extract: {remedy}"
        )
    return Column(
        name,
        row.kind,
        _arrow(row, match["first"], match["second"]),
        declared,
        described.nullable,
        octets=_octets(row, match["first"], described.collation),
        places=_places(row, match["first"]),
        fixed=row.name in _FIXED,
        fraction=_fraction(row, match["first"]),
    )


def _arrow(row: TypeRow, first: str | None, second: str | None) -> pa.DataType:
    import pyarrow as pa

    if row.kind is Kind.DECIMAL:
        precision, scale = _DECIMALS.get(row.name) or (int(first or 18), int(second or 0))
        return pa.decimal128(precision, scale)
    if row.kind is Kind.TIMESTAMPTZ:
        return pa.timestamp("us", tz="UTC")
    return pa.type_for_alias(row.arrow)


def _octets(row: TypeRow, first: str | None, collation: str | None) -> int | None:
    places = _places(row, first)
    is_utf8 = row.name in ("char", "varchar") and (collation or "").upper().endswith("_UTF8")
    return places and places * (_OCTETS_PER_PLACE if row.kind is Kind.TEXT and not is_utf8 else 1)


def _places(row: TypeRow, first: str | None) -> int | None:
    first = _LENGTHS.get(row.name, first)
    if row.kind not in (Kind.TEXT, Kind.BINARY) or first is None or first == "max":
        return None
    return int(first)


def _fraction(row: TypeRow, first: str | None) -> int | None:
    if row.kind not in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return None
    # The seventh digit is cut when a value is read.
    return _FRACTIONS.get(row.name, min(int(first or 7), 6))


def quote(name: str) -> str:
    """Quote a name for T-SQL, the parts of `schema.table` one by one."""
    return ".".join(f"[{part.replace(']', ']]')}]" for part in name.split("."))


def quote_column(name: str) -> str:
    """Quote a column's name for T-SQL: a dot in it is a letter like any other."""
    return f"[{name.replace(']', ']]')}]"


def literal(text: str) -> str:
    """Quote a text for T-SQL."""
    return "N'" + text.replace("'", "''") + "'"


#: Code pages that FreeTDS calls by another name than CP and the number; UTF-8 needs no conversion.
_NAMES = {65001: "UTF-8"}
_REFUSED = ctypes.c_void_p(-1).value


@functools.lru_cache(maxsize=64)
def can_read(code_page: int) -> bool:
    """Tell whether the C library converts this code page to UTF-8; True where it cannot be asked."""
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
