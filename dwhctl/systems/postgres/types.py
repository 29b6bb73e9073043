"""PostgreSQL's types: the column that each makes, and the type that holds the values of another system's column.

This module does not import pyarrow when it is imported: the reference page reads the table.
Source: https://www.postgresql.org/docs/current/datatype.html
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, TargetRefusedError
from dwhctl.core.sql import quote_name, quote_path, shown_name
from dwhctl.systems.base.ddl import check_name
from dwhctl.systems.base.system import SourceType, TypeRow, decimal_type, time_type
from dwhctl.systems.postgres import NAME_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from dwhctl.systems.base.ddl import NewTable

#: The most characters of varchar(n), and the octets of a table's name in that of its index.
_MOST_CHARACTERS = 10_485_760
_INDEX_OCTETS = 40
#: With a name: that of an expression is the engine's own choice.
_AS_TEXT = "CAST({column} AS text) AS {column}"


_TEXT = "text as it is"

#: The types that have a place. Any other (arrays, ranges, composites, an extension's) is refused.
TYPES: tuple[TypeRow, ...] = (
    TypeRow("smallint", Kind.INTEGER, "16-bit integer", "int16"),
    TypeRow("integer", Kind.INTEGER, "32-bit integer", "int32"),
    TypeRow("bigint", Kind.INTEGER, "64-bit integer", "int64"),
    TypeRow("numeric", Kind.DECIMAL, "decimal of its own precision, at most 76 digits; refused without one"),
    TypeRow("real", Kind.FLOAT, "32-bit float", "float"),
    TypeRow("double precision", Kind.FLOAT, "64-bit float", "double"),
    TypeRow("boolean", Kind.BOOLEAN, "boolean", "bool"),
    TypeRow("text", Kind.TEXT, _TEXT, "string"),
    TypeRow("character varying", Kind.TEXT, _TEXT, "string"),
    TypeRow("character", Kind.TEXT, "text without the blanks that fill it up", "string"),
    TypeRow("name", Kind.TEXT, _TEXT, "string"),
    TypeRow("json", Kind.TEXT, _TEXT, "string"),
    TypeRow("jsonb", Kind.TEXT, "text as PostgreSQL writes it", "string"),
    TypeRow("xml", Kind.TEXT, _TEXT, "string"),
    TypeRow("enum", Kind.TEXT, "its label", "string"),
    TypeRow("uuid", Kind.UUID, "uuid in lower case", "string"),
    TypeRow("bytea", Kind.BINARY, "binary", "binary"),
    TypeRow("date", Kind.DATE, "date of the years 1 to 9999; infinity is refused", "date32"),
    TypeRow("time without time zone", Kind.TIME, "time in microseconds; 24:00:00 is refused", "time64[us]"),
    TypeRow("timestamp without time zone", Kind.TIMESTAMP,
            "timestamp in microseconds of the years 1 to 9999; infinity is refused", "timestamp[us]"),
    TypeRow("timestamp with time zone", Kind.TIMESTAMPTZ, "instant in UTC, in microseconds; the same limits",
            "timestamp[us, tz=UTC]"),
)  # fmt: skip
_BY_NAME = {row.name: row for row in TYPES}
#: What to write in place of a type that is refused.
_REMEDIES = {
    "numeric": "CAST({column} AS numeric(38,10)) AS {column}, or whatever digits it needs",
    "money": "CAST({column} AS numeric(19,2)) AS {column}",
    "interval": "EXTRACT(EPOCH FROM {column})::numeric(20,6) AS {column}",
    "oid": "CAST({column} AS bigint) AS {column}",
    "time with time zone": "CAST({column} AS time) AS {column}",
}
_DECLARED = re.compile(r"([a-z][a-z ]*?)(?:\((\d+)(?:,(-?\d+))?\))?(?(2)( with(?:out)? time zone)?)")


class AnswerColumn(Struct, frozen=True):
    """A column of an answer: `declared` is the type's name with precision or length; `is_enum` an enum's."""

    name: str
    declared: str
    is_enum: bool = False


def source_columns(described: Iterable[AnswerColumn]) -> list[Column]:
    """Return a query's columns. Raise QueryError for a type that is refused, and a missing or duplicate name."""
    columns: dict[str, Column] = {}
    for number, one in enumerate(described, 1):
        if one.name in ("", "?column?"):
            raise QueryError(f"column {number} of the extract has no name; give it one: ... AS name")
        if one.name.lower() in columns:
            raise QueryError(f"column {one.name} occurs twice in the extract; give one of them another name")
        if (found := column(one.name, one.declared, is_enum=one.is_enum)) is None:
            base = one.declared.partition("(")[0]
            remedy = _REMEDIES.get(base, _AS_TEXT).format(column=shown_name(one.name))
            raise QueryError(
                f"column {one.name}: PostgreSQL's type {one.declared} would not arrive as it is; CAST it in the"
                f" extract: {remedy}"
            )
        columns[one.name.lower()] = found
    return list(columns.values())


_EXAMPLES = {
    "numeric": "numeric(12,2)",
    "character varying": "character varying(50)",
    "character": "character(10)",
}


def source_types() -> list[SourceType]:
    found = []
    for row in TYPES:
        declared = _EXAMPLES.get(row.name, row.name)
        example = column("c", declared, is_enum=row.name == "enum")
        found.append(SourceType(declared, example, row.note))
    refused = [SourceType(name, None, remedy) for name, remedy in _REMEDIES.items()]
    return [
        *found,
        *refused,
        *(SourceType(name, None, _AS_TEXT) for name in ("inet", "integer[]", "int4range")),
    ]


def column(name: str, declared: str, *, nullable: bool = True, is_enum: bool = False) -> Column | None:
    """Return the column of a type as `format_type` writes it; None for one without a place."""
    base, first, second = ("enum", None, None) if is_enum else _parts(declared)
    row = _BY_NAME.get(base)
    if row is None or row.kind is None or (row.kind is Kind.DECIMAL and first is None):
        return None
    arrow = _arrow(row, first, second)
    if arrow is None:
        return None
    limits: dict[str, Any] = {}
    if row.kind is Kind.TEXT:
        length = 1 if base == "character" and first is None else first
        if length is not None:
            limits = {"characters": length, "octets": None, "places": length}
        elif base == "name":
            limits = {"octets": NAME_OCTETS}
        limits |= {"padded": base == "character", "no_nul": True, "rewrites": _REWRITES.get(base, "")}
    elif row.kind in _RANGES:
        least, most = _RANGES[row.kind]
        limits = {"least": least, "most": _cut(most, first), "fraction": 6 if first is None else first}
    return Column(name, row.kind, arrow, declared, nullable, **limits)


#: Types that write a text in another way: blanks, the order of fields, fields that occur twice, XML declarations.
_REWRITES = {
    "jsonb": "it does not keep the text: make the column json, or generate it from one that is",
    "xml": "it does not keep the text: make the column text",
}
_RANGES: dict[Kind, tuple[Any, Any]] = {
    Kind.DATE: (date.min, date.max),
    Kind.TIME: (time.min, time.max),
    Kind.TIMESTAMP: (datetime.min, datetime.max),  # noqa: DTZ901
    Kind.TIMESTAMPTZ: (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
}


def _cut(most: Any, digits: int | None) -> Any:
    return most if digits is None else most.replace(microsecond={0: 0, 3: 999_000}.get(digits, 999_999))


def _parts(declared: str) -> tuple[str, int | None, int | None]:
    """Return the name without precision or length, and these."""
    match = _DECLARED.fullmatch(declared)
    if match is None:
        return declared, None, None
    base = match[1] + (match[4] or "")
    return base, int(match[2]) if match[2] else None, int(match[3] or 0) if match[2] else None


#: Arrow's unit of times with so many digits of a second; no other number of digits has one.
_UNITS = {None: "us", 6: "us", 3: "ms", 0: "s"}


def _arrow(row: TypeRow, first: int | None, second: int | None) -> pa.DataType | None:
    import pyarrow as pa

    if row.kind is Kind.DECIMAL and first is not None:
        # numeric(3,5) holds 0.00999, numeric(3,-2) holds 99900.
        scale = second or 0
        return decimal_type(first - scale, 0) if scale < 0 else decimal_type(max(first, scale), scale)
    if row.kind in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return time_type(row.kind, unit) if (unit := _UNITS.get(first)) is not None else None
    return pa.type_for_alias(row.arrow)


#: A modifier of a type counts its own four octets.
_NUMERIC_OID, _SIZED = 1700, {1042: "character", 1043: "character varying"}
_SCALE_BITS = 0x7FF


def result_column(column: Any, names: Mapping[int, tuple[str, bool]]) -> AnswerColumn:
    """Return a column of an answer from psycopg2's description and the types' names, by oid."""
    name, is_enum = names.get(column.type_code, (f"of oid {column.type_code}", False))
    written = declared(name, column.type_code, column.internal_size, column.precision, column.scale)
    return AnswerColumn(str(column.name), written, is_enum)


def declared(name: str, oid: int, size: int | None, precision: int | None, scale: int | None) -> str:
    """Return the type of a result column as `format_type` writes it, from psycopg2's description."""
    if oid == _NUMERIC_OID and precision is not None and 0 < precision <= 1000:
        # The scale is a signed number of 11 bits.
        signed = (((scale or 0) & _SCALE_BITS) ^ 1024) - 1024
        return f"numeric({precision},{signed})"
    if oid in _SIZED and size is not None and size > 0:
        return f"{_SIZED[oid]}({size})"
    return name


def declaration(column: Column) -> str:
    """Return the type that holds the values of another system's column. Raise TargetRefusedError when none does."""
    check_name(column, "PostgreSQL", NAME_OCTETS)
    kind, type_ = column.kind, column.type
    if kind is Kind.DECIMAL:
        return f"numeric({type_.precision},{type_.scale})"
    if kind is Kind.INTEGER:
        return _INTEGERS[str(type_)]
    if kind is Kind.FLOAT:
        return "real" if str(type_) in ("float", "halffloat") else "double precision"
    if kind in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        digits = {"s": "(0)", "ms": "(3)"}.get(type_.unit, "")
        word = "time" if kind is Kind.TIME else "timestamp"
        return f"{word}{digits}{' with time zone' if kind is Kind.TIMESTAMPTZ else ''}"
    if kind is Kind.TEXT and column.places is not None and column.places <= _MOST_CHARACTERS:
        # A unit of UTF-16 or a byte of a code page is one character at most.
        return f"character varying({max(1, column.places)})"
    if (plain := _OTHERS.get(kind)) is None:
        raise TargetRefusedError(f"column {column.name}: no PostgreSQL type holds {column.declared}")
    return plain


def create_table(table: NewTable) -> list[str]:
    """Return the statements that make a table, with an index by which a slice is found.

    Names of columns are written small: otherwise every query would have to quote them.
    """
    columns = table.columns_sql(declaration, small)
    indexed = ", ".join(map(small, ("etl_source", *([table.slice_by] if table.slice_by else []))))
    name = table.name.rpartition(".")[2]
    mark = hashlib.blake2s(name.encode(), digest_size=4).hexdigest()
    index = f"{name.encode()[:_INDEX_OCTETS].decode(errors='ignore')}_{mark}_slice_idx"
    sql = f"CREATE INDEX IF NOT EXISTS {quote_name(index)} ON {quote_path(table.name)} ({indexed})"
    return [*table.statements(columns), sql]


def small(name: str) -> str:
    """Return a new column's quoted name. Raise TargetRefusedError for one that PostgreSQL keeps for itself."""
    if name.lower() in _SYSTEM_COLUMNS:
        raise TargetRefusedError(
            f"column {name}: each table of PostgreSQL has a system column of this name; write ... AS another in the"
            " extract"
        )
    return quote_name(name.lower())


#: https://www.postgresql.org/docs/current/ddl-system-columns.html
_SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
_INTEGERS = {
    **dict.fromkeys(("int8", "uint8", "int16"), "smallint"),
    **dict.fromkeys(("uint16", "int32"), "integer"),
    **dict.fromkeys(("uint32", "int64"), "bigint"),
    "uint64": "numeric(20,0)",
}
_OTHERS = {
    Kind.BOOLEAN: "boolean",
    Kind.TEXT: "text",
    Kind.UUID: "uuid",
    Kind.BINARY: "bytea",
    Kind.DATE: "date",
}


def would_change(name: str, table: Column) -> str:
    """Return the condition of values of the (quoted) column `name` that do not fit; NULL or false for NULL."""
    if table.kind is Kind.INTEGER:
        most = 2 ** (table.type.bit_width - 1)
        return f"{name} NOT BETWEEN {-most} AND {most - 1} OR {name} <> ROUND({name})"
    if table.kind is Kind.DECIMAL:
        whole = table.type.precision - table.type.scale
        return f"ABS({name}) >= {10**whole} OR {name} <> ROUND({name}, {table.type.scale})"
    if table.kind is Kind.TEXT:
        text = f"CAST({name} AS text)"
        longer = f"LENGTH({text}) > {table.characters}" if table.characters is not None else "false"
        return f"{longer} OR {text} <> RTRIM({text})" if table.padded else longer
    return f"{name} <> CAST({name} AS {table.declared})"
