"""Vertica's types: what each is here, and which of them holds the values of a new column."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable


#: The most octets of VARCHAR and VARBINARY, and of their LONG forms.
#: Source: https://docs.vertica.com/24.2.x/en/sql-reference/data-types/
VARCHAR_OCTETS = 65_000
LONG_OCTETS = 32_000_000

#: How long a new LONG column is when the source does not say how long its values are: a longer one costs Vertica memory
#: in every query, and a value that does not fit is refused by name.
_UNSAID_OCTETS = 2**20
_OCTETS_PER_CHARACTER = 4
_MOST_DIGITS_128, _MOST_DIGITS_256 = 38, 76

_DECLARED = re.compile(r"([a-z][a-z0-9 ]*?) ?(?:\((\d+)(?:, ?(\d+))?\))?")
_SOURCE_TEXT = re.compile(r"(?:n?(?:var)?char(?:acter)?(?: varying)?|string) ?\((\d+)\)", re.IGNORECASE)

# -2^63 is Vertica's NULL: https://docs.vertica.com/24.2.x/en/sql-reference/data-types/numeric-data-types/integer/
_LEAST_INTEGER, _MOST_INTEGER = -(2**63) + 1, 2**63 - 1

_FRACTIONS = {None: "us", "6": "us", "3": "ms", "0": "s"}
_LAST_FRACTION = {"us": 999_999, "ms": 999_000, "s": 0}

_Details = tuple[Kind, pa.DataType, dict[str, Any]]


def column(name: str, declared: str, *, nullable: bool = True) -> Column | None:
    """Describe a Vertica column by what v_catalog.columns says of it; None when its type has no place here.

    Refused are INTERVAL, TIMETZ, ARRAY, SET, ROW, MAP, GEOMETRY, GEOGRAPHY, NUMERIC of more than 76 digits, and times
    that keep other fractions of a second than whole ones, three or six digits.
    """
    match = _DECLARED.fullmatch(declared.lower())
    describe = _TYPES.get(match[1]) if match else None
    details = describe(match[2], match[3]) if match and describe else None
    if details is None:
        return None
    kind, arrow, limits = details
    return Column(name, kind, arrow, declared, nullable, **limits)


_SIZED_NAMES = ("char", "varchar", "long varchar", "binary", "varbinary", "long varbinary")
_TIMED_NAMES = ("time", "timestamp", "timestamptz")
_MICROSECOND_DIGITS = 6


def answer_type(answered: Any) -> str:
    """Give the type of an answer's column (the driver's description of it) in the catalog's words."""
    name = str(answered.type_name).lower()
    if name.startswith("interval"):
        return "interval"  # the catalog and the driver spell its range in different words
    if name == "numeric":
        return f"numeric({answered.precision},{answered.scale})"
    if name in _SIZED_NAMES and answered.display_size:
        return f"{name}({answered.display_size})"
    if name in _TIMED_NAMES and answered.precision != _MICROSECOND_DIGITS:
        return f"{name}({answered.precision})"
    return name


def _integer(*_: str | None) -> _Details:
    return Kind.INTEGER, pa.int64(), {"least": _LEAST_INTEGER, "most": _MOST_INTEGER}


def _numeric(precision: str | None, scale: str | None) -> _Details | None:
    digits, places = int(precision or 37), int((scale or 0) if precision else 15)
    if digits > _MOST_DIGITS_256:
        return None
    make = pa.decimal128 if digits <= _MOST_DIGITS_128 else pa.decimal256
    return Kind.DECIMAL, make(digits, places), {}


def _text(octets: str | None, _: str | None) -> _Details:
    return Kind.TEXT, pa.string(), {"octets": int(octets or 80)}


def _long_text(octets: str | None, _: str | None) -> _Details:
    return Kind.TEXT, pa.string(), {"octets": int(octets or _UNSAID_OCTETS)}


def _char(octets: str | None, _: str | None) -> _Details:
    return Kind.TEXT, pa.string(), {"octets": int(octets or 1), "padded": True}


def _binary(octets: str | None, _: str | None) -> _Details:
    return Kind.BINARY, pa.binary(), {"octets": int(octets or 80)}


def _long_binary(octets: str | None, _: str | None) -> _Details:
    return Kind.BINARY, pa.binary(), {"octets": int(octets or _UNSAID_OCTETS)}


def _date(*_: str | None) -> _Details:
    return Kind.DATE, pa.date32(), {"least": date.min, "most": date.max}


def _time(fraction: str | None, _: str | None) -> _Details | None:
    unit = _FRACTIONS.get(fraction)
    if unit is None:
        return None
    most = time.max.replace(microsecond=_LAST_FRACTION[unit])
    return Kind.TIME, pa.time64(unit) if unit == "us" else pa.time32(unit), {"most": most}


def _timestamp(fraction: str | None, _: str | None) -> _Details | None:
    unit = _FRACTIONS.get(fraction)
    if unit is None:
        return None
    least, most = datetime.min, datetime.max  # noqa: DTZ901
    limits = {"least": least, "most": most.replace(microsecond=_LAST_FRACTION[unit])}
    return Kind.TIMESTAMP, pa.timestamp(unit), limits


def _timestamptz(fraction: str | None, _: str | None) -> _Details | None:
    unit = _FRACTIONS.get(fraction)
    if unit is None:
        return None
    least = datetime.min.replace(tzinfo=UTC)
    most = datetime.max.replace(microsecond=_LAST_FRACTION[unit], tzinfo=UTC)
    return Kind.TIMESTAMPTZ, pa.timestamp(unit, tz="UTC"), {"least": least, "most": most}


def holds(name: str) -> str:
    """Say for the reference page what a type of that name holds."""
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


_TYPES: dict[str, Callable[[str | None, str | None], _Details | None]] = {
    **dict.fromkeys(("int", "integer", "bigint", "smallint", "tinyint", "int8"), _integer),
    **dict.fromkeys(("numeric", "decimal", "number"), _numeric),
    **dict.fromkeys(
        ("float", "float8", "double precision", "real"), lambda *_: (Kind.FLOAT, pa.float64(), {})
    ),
    **dict.fromkeys(("boolean", "bool"), lambda *_: (Kind.BOOLEAN, pa.bool_(), {})),
    "uuid": lambda *_: (Kind.UUID, pa.string(), {}),
    **dict.fromkeys(("varchar", "character varying"), _text),
    "long varchar": _long_text,
    **dict.fromkeys(("char", "character"), _char),
    **dict.fromkeys(("varbinary", "binary varying", "bytea", "raw"), _binary),
    "binary": lambda octets, _: (Kind.BINARY, pa.binary(), {"octets": int(octets or 1), "padded": True}),
    "long varbinary": _long_binary,
    "date": _date,
    "time": _time,
    **dict.fromkeys(("timestamp", "timestamp without time zone", "datetime", "smalldatetime"), _timestamp),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), _timestamptz),
}


#: Every type that a target's column may have.
NAMES = tuple(_TYPES)


def declaration(column: Column) -> str:
    """Give the Vertica type that holds the values of a column of another system.

    Raise TargetRefusedError when there is none.
    """
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


def _text_declaration(column: Column) -> str:
    octets = column.octets
    if octets is None and (match := _SOURCE_TEXT.fullmatch(column.declared)):
        octets = int(match[1]) * _OCTETS_PER_CHARACTER
    if column.padded and octets and octets <= VARCHAR_OCTETS:
        return f"CHAR({octets})"
    return _sized("VARCHAR", octets)


def _sized(word: str, octets: int | None) -> str:
    if octets is not None and octets <= VARCHAR_OCTETS:
        return f"{word}({max(1, octets)})"
    return f"LONG {word}({min(octets or _UNSAID_OCTETS, LONG_OCTETS)})"


_LARGEST_INTEGER = 2**63 - 1
#: Microseconds of the units that a column may keep.
_UNITS = {"ms": 1_000, "s": 1_000_000}


def would_change(name: str, source: Column, table: Column) -> str:
    """Give the condition of the values of the (quoted) column `name` that do not fit; it may be NULL for NULL."""
    if table.kind is Kind.INTEGER:
        return f"ABS({name}) > {_LARGEST_INTEGER}"
    if table.kind is Kind.DECIMAL:
        return _beyond_decimal(name, source, table)
    if table.kind in (Kind.TEXT, Kind.BINARY):
        return _beyond_octets(name, table)
    # Whatever its zone, a moment's microseconds within its minute are the same.
    micros = f"CAST(EXTRACT(MICROSECONDS FROM {name}) AS INTEGER)"
    return f"MOD({micros}, {_UNITS[table.type.unit]}) <> 0"


def _beyond_decimal(name: str, source: Column, table: Column) -> str:
    whole = table.type.precision - table.type.scale
    conditions = [f"ABS({name}) >= {10**whole}"]
    if source.kind is Kind.DECIMAL and source.type.scale > table.type.scale:
        conditions.append(f"{name} <> ROUND({name}, {table.type.scale})")
    return " OR ".join(conditions)


def _beyond_octets(name: str, table: Column) -> str:
    conditions = [f"OCTET_LENGTH({name}) > {table.octets}"]
    if table.padded and table.kind is Kind.TEXT:
        # CHAR keeps no blank at a text's end.
        conditions.append(f"OCTET_LENGTH({name}) <> OCTET_LENGTH(RTRIM({name}))")
    if table.padded and table.kind is Kind.BINARY:
        conditions.append(f"OCTET_LENGTH({name}) < {table.octets}")
    return " OR ".join(conditions)
