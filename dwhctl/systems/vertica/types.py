"""Vertica's types: the column that each makes, and the type that holds the values of another system's column."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetRefusedError
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.ddl import check_name
from dwhctl.systems.base.system import decimal_type, time_type
from dwhctl.systems.vertica import NAME_OCTETS

if TYPE_CHECKING:
    from dwhctl.systems.base.ddl import NewTable

#: The most octets of VARCHAR and VARBINARY, and of their LONG forms.
#: Source: https://docs.vertica.com/24.2.x/en/sql-reference/data-types/
VARCHAR_OCTETS = 65_000
LONG_OCTETS = 32_000_000

#: The length of a new LONG column when the source does not declare one: a longer column costs Vertica memory in every
#: query, and a value that does not fit is refused.
_UNKNOWN_OCTETS = 2**20
_OCTETS_PER_CHARACTER = 4

_DECLARED = re.compile(r"([a-z][a-z0-9 ]*?) ?(?:\((\d+)(?:, ?(\d+))?\))?")
_SOURCE_TEXT = re.compile(r"(?:n?(?:var)?char(?:acter)?(?: varying)?|string) ?\((\d+)\)", re.IGNORECASE)

# -2^63 is Vertica's NULL: https://docs.vertica.com/24.2.x/en/sql-reference/data-types/numeric-data-types/integer/
_LEAST_INTEGER, _MOST_INTEGER = -(2**63) + 1, 2**63 - 1

_UNITS = {None: "us", "6": "us", "3": "ms", "0": "s"}
_LAST_FRACTION = {"us": 999_999, "ms": 999_000, "s": 0}


class _Type(Struct, frozen=True):
    """One of Vertica's types. `octets` is its length where a column declares none, `arrow` None for one that varies."""

    kind: Kind
    arrow: pa.DataType | None = None
    octets: int | None = None
    padded: bool = False
    least: Any = None
    most: Any = None


_INTEGER = _Type(Kind.INTEGER, pa.int64(), least=_LEAST_INTEGER, most=_MOST_INTEGER)
_FLOAT = _Type(Kind.FLOAT, pa.float64())
_TIMESTAMP = _Type(Kind.TIMESTAMP, least=datetime.min, most=datetime.max)  # noqa: DTZ901
_TIMESTAMPTZ = _Type(
    Kind.TIMESTAMPTZ, least=datetime.min.replace(tzinfo=UTC), most=datetime.max.replace(tzinfo=UTC)
)
_TYPES = {
    **dict.fromkeys(("int", "integer", "bigint", "smallint", "tinyint", "int8"), _INTEGER),
    **dict.fromkeys(("numeric", "decimal", "number"), _Type(Kind.DECIMAL)),
    **dict.fromkeys(("float", "float8", "double precision", "real"), _FLOAT),
    **dict.fromkeys(("boolean", "bool"), _Type(Kind.BOOLEAN, pa.bool_())),
    "uuid": _Type(Kind.UUID, pa.string()),
    **dict.fromkeys(("varchar", "character varying"), _Type(Kind.TEXT, pa.string(), 80)),
    "long varchar": _Type(Kind.TEXT, pa.string(), _UNKNOWN_OCTETS),
    **dict.fromkeys(("char", "character"), _Type(Kind.TEXT, pa.string(), 1, padded=True)),
    **dict.fromkeys(("varbinary", "binary varying", "bytea", "raw"), _Type(Kind.BINARY, pa.binary(), 80)),
    "binary": _Type(Kind.BINARY, pa.binary(), 1, padded=True),
    "long varbinary": _Type(Kind.BINARY, pa.binary(), _UNKNOWN_OCTETS),
    "date": _Type(Kind.DATE, pa.date32(), least=date.min, most=date.max),
    "time": _Type(Kind.TIME, most=time.max),
    **dict.fromkeys(("timestamp", "timestamp without time zone", "datetime", "smalldatetime"), _TIMESTAMP),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), _TIMESTAMPTZ),
}
#: Every type that a target's column may have.
NAMES = tuple(_TYPES)


def column(name: str, declared: str, *, nullable: bool = True) -> Column | None:
    """Return a Vertica column by its type in v_catalog.columns; None when dwhctl does not write the type.

    It does not write INTERVAL, TIMETZ, ARRAY, SET, ROW, MAP, GEOMETRY, GEOGRAPHY, NUMERIC of more than 76 digits, and
    times with other than no, three or six digits of a second.
    """
    match = _DECLARED.fullmatch(declared.lower())
    type_ = _TYPES.get(match[1]) if match else None
    if match is None or type_ is None:
        return None
    arrow, most = type_.arrow, type_.most
    if type_.kind is Kind.DECIMAL:
        arrow = decimal_type(int(match[2] or 37), int(match[3] or 0) if match[2] else 15)
    elif arrow is None and (unit := _UNITS.get(match[2])) is not None:
        arrow = time_type(type_.kind, unit)
        most = most.replace(microsecond=_LAST_FRACTION[unit])
    if arrow is None:
        return None
    octets = int(match[2] or type_.octets) if type_.octets else None
    limits = {"octets": octets, "least": type_.least, "most": most, "padded": type_.padded}
    return Column(name, type_.kind, arrow, declared, nullable, **limits)


_SIZED_NAMES = ("char", "varchar", "long varchar", "binary", "varbinary", "long varbinary")
_TIMED_NAMES = ("time", "timestamp", "timestamptz")
_MICROSECOND_DIGITS = 6


def answer_type(answered: Any) -> str:
    """Return the type of a result column, described by the driver, as the catalog writes it."""
    name = str(answered.type_name).lower()
    if name.startswith("interval"):
        return "interval"  # the catalog and the driver write its range differently
    if name == "numeric":
        return f"numeric({answered.precision},{answered.scale})"
    if name in _SIZED_NAMES and answered.display_size:
        return f"{name}({answered.display_size})"
    if name in _TIMED_NAMES and answered.precision != _MICROSECOND_DIGITS:
        return f"{name}({answered.precision})"
    return name


def holds(name: str) -> str:
    """Return what a type holds, for the reference page."""
    described = column("c", name)
    if described is None:
        return "refused"
    words = [described.kind.value]
    words += ["its length counted in octets"] if described.octets else []
    if described.padded:
        text = described.kind is Kind.TEXT
        words.append("a value that ends in a blank is refused" if text else "a shorter value is refused")
    words += [f"from {described.least}"] if isinstance(described.least, int) else []
    return ", ".join(words)


def declaration(column: Column) -> str:
    """Return the type that holds the values of another system's column. Raise TargetRefusedError when none does."""
    check_name(column, "Vertica", NAME_OCTETS)
    if column.kind is Kind.DECIMAL:
        return f"NUMERIC({column.type.precision},{column.type.scale})"
    if column.kind is Kind.INTEGER:
        return "NUMERIC(20,0)" if column.type == pa.uint64() else "INTEGER"
    if column.kind is Kind.TEXT:
        return _text_declaration(column)
    if column.kind is Kind.BINARY:
        return f"BINARY({column.octets})" if column.padded else _sized("VARBINARY", column.octets)
    if column.kind in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return _OTHERS[column.kind] + {"s": "(0)", "ms": "(3)"}.get(column.type.unit, "")
    if (word := _OTHERS.get(column.kind)) is None:
        raise TargetRefusedError(f"column {column.name}: no Vertica type holds {column.declared}")
    return word


_OTHERS = {
    Kind.FLOAT: "FLOAT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.UUID: "UUID",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TIMESTAMPTZ: "TIMESTAMPTZ",
}


def _most_octets(column: Column) -> int | None:
    """Return how many octets a text or binary value has at most; None where the source does not say."""
    if column.octets is not None or column.kind is Kind.BINARY:
        return column.octets
    match = _SOURCE_TEXT.fullmatch(column.declared)
    return int(match[1]) * _OCTETS_PER_CHARACTER if match else None


def _text_declaration(column: Column) -> str:
    octets = _most_octets(column)
    if column.padded and octets and octets <= VARCHAR_OCTETS:
        return f"CHAR({octets})"
    return _sized("VARCHAR", octets)


def _sized(word: str, octets: int | None) -> str:
    if octets is not None and octets <= VARCHAR_OCTETS:
        return f"{word}({max(1, octets)})"
    return f"LONG {word}({min(octets or _UNKNOWN_OCTETS, LONG_OCTETS)})"


#: The most octets of a row, which is as long as its columns may be, and the room for a column of another kind.
#: Source: https://docs.vertica.com/24.2.x/en/new-features/system-limits/
_ROW_OCTETS = LONG_OCTETS
_OTHER_OCTETS = 64
#: The length of a key's text where the source declares none: Vertica groups and joins by VARCHAR, not LONG VARCHAR.
_KEY_OCTETS = 1_000


def create_table(table: NewTable) -> list[str]:
    """Return the statements that make a table in the order in which slices are deleted and read."""
    order = ", ".join(map(quote_name, ("etl_source", *([table.slice_by] if table.slice_by else []))))
    after = f"ORDER BY {order}\nSEGMENTED BY HASH({quote_name('hash_id')}) ALL NODES"
    sized = partial(_sized_in, table, _room(table))
    return table.statements(table.columns_sql(lambda column: declaration(sized(column))), after)


def _sized_in(table: NewTable, room: int, column: Column) -> Column:
    """Return the column with a length where the source declares none."""
    if column.kind not in (Kind.TEXT, Kind.BINARY) or _most_octets(column) is not None:
        return column
    return replace(column, octets=_KEY_OCTETS if column.name in table.key else room)


def _room(table: NewTable) -> int:
    """Return the length of each column whose length the source does not declare: all of them share a row."""
    unknown, taken = 0, 0
    for column in table.columns:
        octets = _most_octets(column) if column.kind in (Kind.TEXT, Kind.BINARY) else _OTHER_OCTETS
        unknown += octets is None and column.name not in table.key
        taken += _KEY_OCTETS if octets is None else min(octets, LONG_OCTETS)
    return max(1, min(_UNKNOWN_OCTETS, (_ROW_OCTETS - taken) // max(1, unknown)))


#: Microseconds of the units that a column may keep.
_MICROSECONDS = {"ms": 1_000, "s": 1_000_000}


def would_change(name: str, source: Column, table: Column) -> str:
    """Return the condition of values of the (quoted) column `name` that do not fit; NULL or false for NULL."""
    if table.kind is Kind.INTEGER:
        return f"ABS({name}) > {_MOST_INTEGER}"
    if table.kind is Kind.DECIMAL:
        return _beyond_decimal(name, source, table)
    if table.kind in (Kind.TEXT, Kind.BINARY):
        return _beyond_octets(name, table)
    # The microseconds of a moment within its minute do not depend on the time zone.
    micros = f"CAST(EXTRACT(MICROSECONDS FROM {name}) AS INTEGER)"
    return f"MOD({micros}, {_MICROSECONDS[table.type.unit]}) <> 0"


def _beyond_decimal(name: str, source: Column, table: Column) -> str:
    whole = table.type.precision - table.type.scale
    conditions = [f"ABS({name}) >= {10**whole}"]
    if source.kind is Kind.DECIMAL and source.type.scale > table.type.scale:
        conditions.append(f"{name} <> ROUND({name}, {table.type.scale})")
    return " OR ".join(conditions)


def _beyond_octets(name: str, table: Column) -> str:
    conditions = [f"OCTET_LENGTH({name}) > {table.octets}"]
    if table.padded and table.kind is Kind.TEXT:
        # CHAR keeps no trailing blanks.
        conditions.append(f"OCTET_LENGTH({name}) <> OCTET_LENGTH(RTRIM({name}))")
    if table.padded and table.kind is Kind.BINARY:
        conditions.append(f"OCTET_LENGTH({name}) < {table.octets}")
    return " OR ".join(conditions)
