"""Rows of a result as DataRow messages: column by column, from Arrow batches."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from tests.servers.vertica import temporal
from tests.servers.vertica.kinds import Kind
from tests.servers.vertica.wire import Shown

#: What a NULL is on the wire: length -1.
_NULL = struct.pack("!i", -1)
#: Microseconds from 1970 to 2000, where the binary format's time begins.
_EPOCH = 946_684_800_000_000
#: The Julian day of 1970-01-01; what a date counts from here.
_JULIAN = 2_440_588
#: A piece of an answer, at least, octets.
_PIECE = 1 << 18


def messages(columns: Sequence[Shown], batch: Any, binary: bool, zone: str) -> Iterator[bytes]:
    """The DataRow messages of an Arrow batch, in pieces of some size."""
    cells = [_cells(column.kind, batch.column(index), binary, zone) for index, column in enumerate(columns)]
    head = struct.Struct("!cIH")
    count = len(columns)
    piece: list[bytes] = []
    size = 0
    for row in zip(*cells, strict=True):
        body = b"".join(row)
        piece += (head.pack(b"D", len(body) + 6, count), body)
        size += len(body) + 7
        if size > _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    yield b"".join(piece)


def _cells(kind: Kind, column: Any, binary: bool, zone: str) -> list[bytes]:
    values = _binary(kind, column) if binary else _text(kind, column, zone)
    pack = struct.Struct("!i").pack
    return [_NULL if value is None else pack(len(value)) + value for value in values]


def _text(kind: Kind, column: Any, zone: str) -> Sequence[bytes | None]:
    if kind.name == "timestamptz":
        return _zoned(column, zone)
    by_value = _TEXTS.get(kind.name)
    if kind.name == "binary":
        width = kind.length or 0
        return [
            None if value is None else _escaped(value.ljust(width, b"\0")) for value in column.to_pylist()
        ]
    if by_value is not None:
        return [None if value is None else by_value(value) for value in column.to_pylist()]
    if kind.name == "date":
        return [None if value is None else _christian(value).encode() for value in _strings(column)]
    if kind.name == "timestamp":
        strings = _trim(pc.cast(column, pa.string())).to_pylist()
        return [None if value is None else _christian(value).encode() for value in strings]
    if kind.span:
        shown = temporal.show_months if kind.name == "intervalym" else temporal.show_interval
        return [None if value is None else shown(value, kind.span).encode() for value in _spans(kind, column)]
    if kind.name == "time":
        return _octets(_trim(pc.cast(column, pa.string())))
    if kind.name == "char":
        return [_padded(value, kind) for value in column.to_pylist()]
    return _octets(pc.cast(column, pa.string()))


def _strings(column: Any) -> list[str | None]:
    found: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    return found


def _christian(text: str) -> str:
    """A date with the year that the original writes: 1 BC is Arrow's year 0."""
    year, mark, rest = text[1:].partition("-") if text.startswith("-") else text.partition("-")
    before = int(year) + 1 if text.startswith("-") else 1
    return f"{before:04}{mark}{rest} BC" if text.startswith("-") or int(year) == 0 else text


def _spans(kind: Kind, column: Any) -> list[int | None]:
    """Months, or microseconds, of intervals."""
    found: list[int | None] = []
    for value in column.to_pylist():
        if value is None:
            found.append(None)
        elif kind.name == "intervalym":
            found.append(value.months)
        else:
            found.append((value.months * 30 + value.days) * 86_400_000_000 + value.nanoseconds // 1000)
    return found


def _octets(strings: Any) -> Sequence[bytes | None]:
    return [None if value is None else value.encode("utf-8") for value in strings.to_pylist()]


def _trim(strings: Any) -> Any:
    """Cut the zeros at the end of a fraction."""
    shorter = pc.replace_substring_regex(strings, r"(\.\d*?)0+$", r"\1")
    return pc.replace_substring_regex(shorter, r"\.$", "")


def _zoned(column: Any, zone: str) -> Sequence[bytes | None]:
    here = pc.cast(column, pa.timestamp("us", zone))
    local = pc.local_timestamp(here)
    apart = pc.subtract(pc.cast(local, pa.int64()), pc.cast(here, pa.int64())).to_pylist()
    texts = _trim(pc.cast(local, pa.string())).to_pylist()
    return [
        None if value is None else (value + _offset(microseconds // 60_000_000)).encode()
        for value, microseconds in zip(texts, apart, strict=True)
    ]


def _offset(minutes: int) -> str:
    hours, rest = divmod(abs(minutes), 60)
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{hours:02}" + (f":{rest:02}" if rest else "")


def _padded(value: str | None, kind: Kind) -> bytes | None:
    return None if value is None else value.encode().ljust(kind.length or 0)


def _float(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    if value in (float("inf"), float("-inf")):
        return b"Infinity" if value > 0 else b"-Infinity"
    # 15 digits: the text format loses what is beyond (seen in the vendor's test_transfer_format.py).
    return f"{value:.15g}".encode()


def _numeric(value: Decimal | str | int) -> bytes:
    return f"{value:f}".encode() if isinstance(value, Decimal) else str(value).encode()


def _escaped(value: bytes) -> bytes:
    return b"".join(_OCTET[octet] for octet in value)


_OCTET = [
    b"\\\\" if octet == 0x5C else bytes([octet]) if 32 <= octet < 127 else f"\\{octet:03o}".encode()
    for octet in range(256)
]
_TEXTS: dict[str, Callable[[Any], bytes]] = {
    "boolean": lambda value: b"t" if value else b"f",
    "float": _float,
    "numeric": _numeric,
    "varbinary": _escaped,
    "long varbinary": _escaped,
}


def _binary(kind: Kind, column: Any) -> Sequence[bytes | None]:
    if kind.is_text:
        return _text(kind, column, "UTC")
    if kind.name == "timestamp" or kind.name == "timestamptz":
        column = pc.subtract(pc.cast(column, pa.int64()), _EPOCH)
    elif kind.name == "time":
        column = pc.cast(column, pa.int64())
    elif kind.name == "date":
        column = pc.cast(pc.cast(column, pa.int32()), pa.int64())
    if kind.span:
        return [None if value is None else _LONG(value) for value in _spans(kind, column)]
    by_value = _BINARIES[kind.name]
    return [None if value is None else by_value(value, kind) for value in column.to_pylist()]


def _wide(value: Decimal | str | int, kind: Kind) -> bytes:
    sign, digits, exponent = Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    unscaled: int = int("".join(map(str, digits))) * 10 ** ((kind.scale or 0) + exponent)
    size = ((kind.precision or 1) // 19 + 1) * 8
    return (-unscaled if sign else unscaled).to_bytes(size, "big", signed=True)


_LONG = struct.Struct("!q").pack
_BINARIES: dict[str, Callable[[Any, Kind], bytes]] = {
    "boolean": lambda value, kind: b"\1" if value else b"\0",
    "int": lambda value, kind: _LONG(int(value)),
    "float": lambda value, kind: struct.pack("!d", value),
    "numeric": _wide,
    "date": lambda value, kind: _LONG(value + _JULIAN),
    "time": lambda value, kind: _LONG(value),
    "timestamp": lambda value, kind: _LONG(value),
    "timestamptz": lambda value, kind: _LONG(value),
    "uuid": lambda value, kind: UUID(value).bytes if isinstance(value, str) else bytes(value),
    "timetz": lambda value, kind: _LONG(temporal.timetz_binary(value)),
    "binary": lambda value, kind: value.ljust(kind.length or 0, b"\0"),
    "varbinary": lambda value, kind: value,
    "long varbinary": lambda value, kind: value,
    "unknown": lambda value, kind: str(value).encode(),
}
