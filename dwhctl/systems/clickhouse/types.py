"""ClickHouse's types: the column that each makes, and the type that holds the values of another system's column.

ClickHouse changes a value that does not fit without an error: an integer wraps, a decimal loses digits, NULL becomes
the column's default. So each column has its exact Arrow type and its limits here, and dwhctl refuses what does not fit.
Source: https://clickhouse.com/docs/sql-reference/data-types
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec.structs import replace

from dwhctl.core.columns import SERVICE_FIELDS, Column, Kind
from dwhctl.core.errors import TargetRefusedError
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.system import decimal_type, time_type

if TYPE_CHECKING:
    from dwhctl.systems.base.ddl import NewTable

_INTEGERS = {
    **{f"Int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
}
_PLAIN = {
    **{name: (Kind.INTEGER, type_) for name, type_ in _INTEGERS.items()},
    "Float32": (Kind.FLOAT, pa.float32()),
    "Float64": (Kind.FLOAT, pa.float64()),
    "Bool": (Kind.BOOLEAN, pa.bool_()),
    "String": (Kind.TEXT, pa.string()),
    "UUID": (Kind.UUID, pa.string()),
}
_UNITS = {"0": "s", "3": "ms", "6": "us", "9": "ns"}
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - bounds are compared with naive and with zoned values
_LAST_DATETIME = _EPOCH + timedelta(seconds=2**32 - 1)
_FIRST_DATE32, _LAST_DATE32 = date(1900, 1, 1), date(2299, 12, 31)
_LAST_DATE = date(1970, 1, 1) + timedelta(days=2**16 - 1)
#: The last moment that 64 bits of nanoseconds hold, in microseconds.
_LAST_NANOSECONDS = datetime(2262, 4, 11, 23, 47, 16, 854775)  # noqa: DTZ001

_WRAPPED = re.compile(r"(LowCardinality|Nullable)\((.*)\)")
_DECIMAL = re.compile(r"Decimal\((\d+), ?(\d+)\)")
_FIXED = re.compile(r"FixedString\((\d+)\)")
_DATETIME = re.compile(r"DateTime(?:\('(?P<zone>[^']+)'\))?")
_DATETIME64 = re.compile(r"DateTime64\((?P<digits>\d)(?:, ?'(?P<zone>[^']+)')?\)")
_TIME64 = re.compile(r"Time64\((\d)\)")
_ENUM = re.compile(r"Enum(?:8|16)\(.*\)", re.DOTALL)
_ENUM_NAME = re.compile(r"'((?:[^'\\]|\\.|'')*)' ?= ?-?\d+", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}

#: Virtual columns of MergeTree that a publication reads; a column of that name would be read in their place.
_VIRTUAL = ("_part", "_partition_id")

#: Every type that a target's column may have, as the reference page shows them.
NAMES = (
    *_INTEGERS, "Decimal(P, S)", "Float32", "Float64", "Bool", "String", "FixedString(N)", "Enum8(...)", "Enum16(...)",
    "UUID", "Date", "Date32", "DateTime", "DateTime('ZONE')", "DateTime64(6)", "DateTime64(6, 'ZONE')", "Time64(6)",
)  # fmt: skip


def column(name: str, declared: str) -> Column | None:
    """Return a ClickHouse column by its type in system.columns; None when dwhctl does not write the type.

    It does not write integers of more than 64 bits, IPv4, IPv6, Array, Map, Tuple, Nested, Variant, JSON, states of
    aggregates, Time, and times with other than no, three, six or nine digits of a second.
    """
    nullable, inner = False, declared
    while match := _WRAPPED.fullmatch(inner):
        nullable = nullable or match[1] == "Nullable"
        inner = match[2]
    found = _plain(name, inner) or _moment(name, inner)
    return None if found is None else replace(found, declared=declared, nullable=nullable)


def _plain(name: str, inner: str) -> Column | None:
    if inner in _PLAIN:
        kind, type_ = _PLAIN[inner]
        return Column(name, kind, type_, inner, any_octets=inner == "String")
    if match := _DECIMAL.fullmatch(inner):
        return Column(name, Kind.DECIMAL, decimal_type(int(match[1]), int(match[2])), inner)
    if match := _FIXED.fullmatch(inner):
        return Column(name, Kind.BINARY, pa.binary(), inner, octets=int(match[1]), padded=True)
    if _ENUM.fullmatch(inner):
        return Column(
            name, Kind.TEXT, pa.string(), inner, allowed=tuple(map(_unescaped, _ENUM_NAME.findall(inner)))
        )
    return None


def _unescaped(text: str) -> str:
    text = text.replace("''", "'")
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text, flags=re.DOTALL)


def _moment(name: str, inner: str) -> Column | None:
    if inner in ("Date", "Date32"):
        least, most = (date(1970, 1, 1), _LAST_DATE) if inner == "Date" else (_FIRST_DATE32, _LAST_DATE32)
        return Column(name, Kind.DATE, pa.date32(), inner, least=least, most=most)
    if match := _DATETIME.fullmatch(inner):
        return _timestamp(name, inner, "s", match["zone"], _EPOCH, _LAST_DATETIME)
    if (match := _DATETIME64.fullmatch(inner)) and (unit := _UNITS.get(match["digits"])):
        first = datetime.combine(_FIRST_DATE32, time.min)
        last = datetime.combine(_LAST_DATE32, time.max)
        last -= timedelta(microseconds=_TICKS[unit] - 1)
        return _timestamp(
            name, inner, unit, match["zone"], first, _LAST_NANOSECONDS if unit == "ns" else last
        )
    if (match := _TIME64.fullmatch(inner)) and (unit := _UNITS.get(match[1])):
        return Column(name, Kind.TIME, time_type(Kind.TIME, unit), inner)
    return None


def _timestamp(name: str, inner: str, unit: str, zone: str | None, least: datetime, most: datetime) -> Column:
    """Return the column: one with a zone holds instants, one without a zone holds wall clock time."""
    if zone is None:
        return Column(name, Kind.TIMESTAMP, pa.timestamp(unit), inner, least=least, most=most)
    limits: dict[str, Any] = {"least": least.replace(tzinfo=UTC), "most": most.replace(tzinfo=UTC)}
    return Column(name, Kind.TIMESTAMPTZ, pa.timestamp(unit, tz="UTC"), inner, **limits)


def holds(name: str) -> str:
    """Return what a type holds, for the reference page."""
    sample = (
        name.replace("P, S", "38, 10").replace("N", "16").replace("ZONE", "UTC").replace("...", "'a' = 1")
    )
    found = column("c", sample)
    if found is None:
        return "refused"
    words = [found.kind.value]
    words += ["and binary, any octets"] if found.any_octets else []
    words += ["a value of another length is refused"] if found.padded else []
    words += ["another value than its own is refused"] if found.allowed else []
    if found.least is not None:
        words.append(f"from {found.least} to {found.most}")
    return ", ".join(words)


_OTHERS = {
    Kind.BOOLEAN: "Bool",
    Kind.TEXT: "String",
    Kind.UUID: "UUID",
    Kind.DATE: "Date32",
}
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def declaration(column: Column, *, nullable: bool = False) -> str:
    """Return the type that holds the values of another system's column. Raise TargetRefusedError when none does."""
    word = _OTHERS.get(column.kind)
    if column.kind is Kind.INTEGER:
        word = next(name for name, type_ in _INTEGERS.items() if type_ == column.type)
    elif column.kind is Kind.DECIMAL:
        word = f"Decimal({column.type.precision}, {column.type.scale})"
    elif column.kind is Kind.FLOAT:
        word = f"Float{max(column.type.bit_width, 32)}"
    elif column.kind is Kind.BINARY:
        word = f"FixedString({column.octets})" if column.padded and column.octets else "String"
    elif column.kind is Kind.TIME:
        word = f"Time64({_DIGITS[column.type.unit]})"
    elif column.kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        zone = ", 'UTC'" if column.kind is Kind.TIMESTAMPTZ else ""
        word = f"DateTime64({_DIGITS[column.type.unit]}{zone})"
    if word is None:
        raise TargetRefusedError(f"column {column.name}: no ClickHouse type holds {column.declared}")
    return f"Nullable({word})" if nullable else word


def name_problem(name: str) -> str | None:
    """Return why a table of dwhctl's can have no column of this name."""
    if "\\" in name:
        return "a backslash in a column's name has a meaning of its own in ClickHouse"
    return "each MergeTree has a column of its own of this name" if name in _VIRTUAL else None


def new_name(name: str) -> str:
    """Return a new column's quoted name. Raise TargetRefusedError for one that ClickHouse cannot have."""
    if problem := name_problem(name):
        raise TargetRefusedError(f"column {name}: {problem}; write ... AS another name in the extract")
    return quote_name(name)


def create_table(table: NewTable) -> list[str]:
    """Return the statements that make a table with a partition for each day of `slice_by`."""

    def declared(column: Column) -> str:
        word = declaration(column, nullable=column.nullable)
        return f"LowCardinality({word})" if column.name == SERVICE_FIELDS[0] else word

    order = ", ".join(map(quote_name, (SERVICE_FIELDS[0], *table.key)))
    days = f"PARTITION BY {_day(table)}\n" if table.slice_by else ""
    statements = table.statements(
        table.columns_sql(declared, new_name), f"ENGINE = MergeTree\n{days}ORDER BY ({order})"
    )
    return [sql.replace("CREATE SCHEMA", "CREATE DATABASE", 1) for sql in statements]


def _day(table: NewTable) -> str:
    column = next(column for column in table.columns if column.name == table.slice_by)
    name = quote_name(column.name)
    if column.kind is Kind.TIMESTAMPTZ and table.zone is not None:
        return f"toDate({name}, {literal(table.zone)})"
    return name if column.kind is Kind.DATE else f"toDate({name})"


def would_change(name: str, source: Column, table: Column) -> str:
    """Return the condition of values of the (quoted) column `name` that the table's type would change.

    NULL or false for NULL. The conversion there and back shows a value that it changes.
    """
    there = f"accurateCastOrNull({name}, {literal(bare(table.declared))})"
    if table.kind in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        there = f"CAST({name} AS Nullable({bare(table.declared)}))"
    if table.allowed is not None:
        return f"toString({name}) NOT IN ({', '.join(map(literal, table.allowed))})"
    if table.kind is Kind.BINARY:
        return f"length({name}) != {table.octets}"
    back = f"CAST({there} AS Nullable({bare(source.declared)}))"
    return f"{name} IS NOT NULL AND ({there} IS NULL OR {back} != {name})"


def bare(declared: str) -> str:
    """Return a type without LowCardinality and Nullable."""
    while match := _WRAPPED.fullmatch(declared):
        declared = match[2]
    return declared


def literal(text: str) -> str:
    """Quote a text for SQL: a backslash escapes in ClickHouse."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
