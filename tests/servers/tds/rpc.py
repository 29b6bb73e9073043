"""Remote procedure calls as the client sends them: which procedure, and parameters with types and values.

[MS-TDS] 2.2.6.6 (RPC request), 2.2.5.4 (types), 2.2.5.5.2 (streams in parts).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from .convert import Typed
from .errors import TdsError, error
from .storage import DAY_TICKS, DAYS_1900, EPOCH_US, from_utf16, quoted
from .tokens import FIXED_TYPES, LONG_TYPES, OLD_TYPES, SCALED_TYPES
from .types import BINARIES, COLLATIONS, LATIN, WIDE, SqlType

_BY_NUMBER = {
    10: "sp_executesql",
    11: "sp_prepare",
    12: "sp_execute",
    13: "sp_prepexec",
    15: "sp_unprepare",
}
_NUMBERED = 0xFFFF
_SEPARATORS = (0x80, 0xFF, 0xFE)
_BY_REFERENCE, _DEFAULT = 0x01, 0x02
_MOST = 2100
_FIXED = {number: name for name, number in FIXED_TYPES.items()}
_LONG = {number: name for name, number in LONG_TYPES.items()}
_SCALED = {number: name for name, number in SCALED_TYPES.items()}
_OLD = {number: name for name, number in OLD_TYPES.items()}
#: The types of which each size is one: by token, then by the size.
_SIZED = {
    0x26: {1: "tinyint", 2: "smallint", 4: "int", 8: "bigint"},
    0x68: {1: "bit"},
    0x6D: {4: "real", 8: "float"},
    0x6E: {4: "smallmoney", 8: "money"},
    0x6F: {4: "smalldatetime", 8: "datetime"},
}
_DECIMALS = {0x6A: "decimal", 0x6C: "numeric", 0x37: "decimal", 0x3F: "numeric"}
_GUID, _DATE, _XML = 0x24, 0x28, 0xF1
_NO_TYPE = 0x1F
_PLP = 0xFFFF
_PLP_NULL = 0xFFFF_FFFF_FFFF_FFFF
_LAST_DAY, _LAST_DATETIME, _FIRST_DATETIME = 3_652_058, 2_958_463, -53_690
_WIDEST_OFFSET = 840


class BrokenStream(Exception):  # noqa: N818 - the connection ends, no error is sent
    """The request ends too early: the server hangs up."""


@dataclass(frozen=True)
class Given:
    """A parameter of a call: its name in lower case, None without one; no value is DEFAULT."""

    name: str | None
    value: Typed | None
    output: bool = False


@dataclass(frozen=True)
class Request:
    """A call: a procedure and its parameters, or why they cannot be taken."""

    procedure: str
    given: tuple[Given, ...]
    refused: TdsError | None = None


class _Stream:
    """The bytes of a request, from left to right."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self._data):
            raise BrokenStream(f"{count} bytes at {self.at} of {len(self._data)}")
        found = self._data[self.at : end]
        self.at = end
        return found

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def peek(self) -> int:
        return self._data[self.at]

    def name(self) -> str:
        return self.take(2 * self.number(1)).decode("utf-16-le", "replace").lower()


def read_requests(body: bytes) -> list[Request]:
    """The calls of a message. Raises BrokenStream."""
    stream = _Stream(body)
    found = []
    while stream:
        found.append(_request(stream))
        if stream and stream.number(1) not in _SEPARATORS:
            raise BrokenStream("no separator between two calls")
    return found


def _request(stream: _Stream) -> Request:
    length = stream.number(2)
    if length == _NUMBERED:
        number = stream.number(2)
        procedure = _BY_NUMBER.get(number, f"procedure number {number}")
    else:
        procedure = stream.take(2 * length).decode("utf-16-le", "replace").lower()
    stream.take(2)
    given: list[Given] = []
    refused: TdsError | None = None
    while stream and stream.peek() not in _SEPARATORS:
        reader = _Parameter(stream, len(given) + 1)
        given.append(reader.read())
        refused = refused or reader.refused
    if len(given) > _MOST:
        refused = error(8003, _MOST)
    return Request(procedure, tuple(given), refused)


class _Parameter:
    """Reads one parameter. What is wrong with it is kept: the rest of the message is still read."""

    def __init__(self, stream: _Stream, ordinal: int) -> None:
        self._stream = stream
        self._ordinal = ordinal
        self._name = ""
        self.refused: TdsError | None = None

    def read(self) -> Given:
        self._name = self._stream.name()
        flags = self._stream.number(1)
        kind, data = self._typed()
        value: Typed | None = None
        if not flags & _DEFAULT and self.refused is None:
            value = self._value(kind, data)
        return Given(self._name or None, value, bool(flags & _BY_REFERENCE))

    def _wrong(self, number: int, *words: object) -> None:
        self.refused = self.refused or error(number, self._ordinal, self._name, *words)

    def _typed(self) -> tuple[SqlType, bytes | None]:
        stream = self._stream
        token = stream.number(1)
        if token == _NO_TYPE:
            return SqlType("int"), None
        if token in _FIXED:
            kind = SqlType(_FIXED[token])
            return kind, stream.take(kind.octets)
        if token in _SIZED:
            return self._sized(token)
        if token in _DECIMALS:
            return self._decimal(token)
        if token == _GUID:
            self._must(token, stream.number(1) == 16)
            return SqlType("uniqueidentifier"), self._short(token, (16,))
        if token == _DATE:
            return SqlType("date"), self._short(token, (3,))
        if token in _SCALED:
            scale = stream.number(1)
            self._must(token, scale <= 7)
            kind = SqlType(_SCALED[token], scale=min(scale, 7))
            return kind, self._short(token, (kind.octets,))
        if token in _LONG:
            return self._long(token)
        if token in _OLD:
            return self._old(token)
        if token == _XML:
            if stream.number(1):
                stream.name(), stream.name(), stream.take(2 * stream.number(2))
            return SqlType("xml"), self._parts()
        # What follows a type that is not known cannot be read: the server ends the connection.
        raise error(8009, self._ordinal, self._name, f"{token:02X}")

    def _must(self, token: int, holds: bool) -> None:
        if not holds:
            self._wrong(8016, f"{token:02X}")

    def _short(self, token: int, sizes: tuple[int, ...]) -> bytes | None:
        """A value behind one byte with its length."""
        length = self._stream.number(1)
        data = self._stream.take(length)
        self._must(token, length in (0, *sizes))
        return data if length else None

    def _sized(self, token: int) -> tuple[SqlType, bytes | None]:
        size = self._stream.number(1)
        names = _SIZED[token]
        self._must(token, size in names)
        data = self._short(token, tuple(each for each in names if each <= size))
        name = names.get(len(data) if data else size, next(iter(names.values())))
        return SqlType(name), data

    def _decimal(self, token: int) -> tuple[SqlType, bytes | None]:
        size, precision, scale = self._stream.take(3)
        known = size in (5, 9, 13, 17) and 1 <= precision <= 38 and scale <= precision
        self._must(token, known)
        kind = SqlType(_DECIMALS[token], precision=precision, scale=scale) if known else SqlType("int")
        return kind, self._short(token, (5, 9, 13, 17))

    def _long(self, token: int) -> tuple[SqlType, bytes | None]:
        stream = self._stream
        name = _LONG[token]
        size = stream.number(2)
        collation = None if name in BINARIES else _collation(stream.take(5))
        wide = name in WIDE
        in_parts = size == _PLP
        self._must(token, (in_parts and "var" in name) or (size <= 8000 and not (wide and size % 2)))
        length = -1 if in_parts else max(1, size // (2 if wide else 1))
        kind = SqlType(name, length, collation=collation)
        if in_parts:
            return kind, self._parts()
        count = stream.number(2)
        if count == 0xFFFF:
            return kind, None
        data = stream.take(count)
        self._must(token, count <= size and not (wide and count % 2))
        return kind, data

    def _old(self, token: int) -> tuple[SqlType, bytes | None]:
        self._stream.take(4)
        name = _OLD[token]
        collation = None if name == "image" else _collation(self._stream.take(5))
        count = self._stream.number(4, signed=True)
        return SqlType(name, collation=collation), self._stream.take(count) if count >= 0 else None

    def _parts(self) -> bytes | None:
        """A value in parts: its length, or that the length is not known; then parts to one of no bytes."""
        if self._stream.number(8) == _PLP_NULL:
            return None
        found = bytearray()
        while count := self._stream.number(4):
            found += self._stream.take(count)
        return bytes(found)

    def _value(self, kind: SqlType, data: bytes | None) -> Typed | None:
        if data is None:
            return Typed(f"CAST(NULL AS {kind.stored})", kind)
        try:
            sql = _literal(kind, data)
        except (ValueError, ArithmeticError):
            self._wrong(8023, kind.name)
            return None
        return Typed(sql, kind)


def _collation(octets: bytes) -> str:
    return next((name for name, (_, known) in COLLATIONS.items() if known == octets), LATIN)


def _literal(kind: SqlType, data: bytes) -> str:
    """The value as DuckDB's literal, as `storage` says that it lies there. Raises ValueError for no such value."""
    if kind.is_text or kind.name == "xml":
        wide = kind.name in WIDE or kind.name == "xml"
        return quoted(from_utf16(data) if wide else data.decode(kind.codec, "replace"))
    if kind.name in BINARIES:
        return f"unhex('{data.hex()}')"
    maker = _MAKERS.get(kind.name)
    return maker(kind, data) if maker else _integer(kind, data)


def _integer(kind: SqlType, data: bytes) -> str:
    number = int.from_bytes(data, "little", signed=kind.name not in ("tinyint", "bit"))
    return f"CAST({number} AS {kind.stored})"


def _float(kind: SqlType, data: bytes) -> str:
    (value,) = struct.unpack("<f" if kind.name == "real" else "<d", data)
    if not math.isfinite(value):
        raise ValueError(value)
    return f"CAST('{value!r}' AS {kind.stored})"


def _decimal(kind: SqlType, data: bytes) -> str:
    digits = int.from_bytes(data[1:], "little")
    if digits >= 10**kind.precision or data[0] > 1:
        raise ValueError(digits)
    return _scaled(kind, digits if data[0] else -digits, kind.scale)


def _money(kind: SqlType, data: bytes) -> str:
    # The upper half of eight bytes goes first.
    whole = data if len(data) == 4 else data[4:] + data[:4]
    return _scaled(kind, int.from_bytes(whole, "little", signed=True), 4)


def _scaled(kind: SqlType, digits: int, scale: int) -> str:
    sign, plain = ("-", -digits) if digits < 0 else ("", digits)
    shown = f"{plain:0{scale + 1}d}"
    text = f"{shown[:-scale]}.{shown[-scale:]}" if scale else shown
    return f"CAST('{sign}{text}' AS {kind.stored})"


def _guid(kind: SqlType, data: bytes) -> str:
    return f"CAST('{UUID(bytes_le=data)}' AS {kind.stored})"


def _datetime(_kind: SqlType, data: bytes) -> str:
    if len(data) == 4:
        days, minutes = struct.unpack("<HH", data)
        if minutes >= 1440:
            raise ValueError(minutes)
        return _timestamp((days + DAYS_1900) * DAY_TICKS + minutes * 600_000_000)
    days, thirds = struct.unpack("<iI", data)
    if not _FIRST_DATETIME <= days <= _LAST_DATETIME or thirds >= 25_920_000:
        raise ValueError(days)
    return _timestamp((days + DAYS_1900) * DAY_TICKS + thirds * 10_000 // 3 * 10)


def _timestamp(ticks: int) -> str:
    return f"make_timestamp(CAST({ticks // 10 - EPOCH_US} AS BIGINT))"


def _day(data: bytes) -> int:
    days = int.from_bytes(data, "little")
    if days > _LAST_DAY:
        raise ValueError(days)
    return days


def _clock(kind: SqlType, data: bytes) -> int:
    ticks: int = int.from_bytes(data, "little") * 10 ** (7 - kind.scale)
    if ticks >= DAY_TICKS:
        raise ValueError(ticks)
    return ticks


def _date(_kind: SqlType, data: bytes) -> str:
    return f"(DATE '0001-01-01' + {_day(data)})"


def _time(kind: SqlType, data: bytes) -> str:
    ticks = _clock(kind, data)
    if kind.has_ticks:
        return f"CAST({ticks} AS BIGINT)"
    seconds, fraction = divmod(ticks // 10, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"TIME '{hour:02}:{minute:02}:{second:02}.{fraction:06}'"


def _datetime2(kind: SqlType, data: bytes) -> str:
    ticks = _day(data[-3:]) * DAY_TICKS + _clock(kind, data[:-3])
    return f"CAST({ticks} AS BIGINT)" if kind.has_ticks else _timestamp(ticks)


def _datetimeoffset(kind: SqlType, data: bytes) -> str:
    minutes = int.from_bytes(data[-2:], "little", signed=True)
    if abs(minutes) > _WIDEST_OFFSET:
        raise ValueError(minutes)
    ticks = _day(data[-5:-2]) * DAY_TICKS + _clock(kind, data[:-5])
    return f"{{'t': CAST({ticks} AS BIGINT), 'o': CAST({minutes} AS SMALLINT)}}"


_MAKERS: dict[str, Callable[[SqlType, bytes], str]] = {
    "float": _float,
    "real": _float,
    "decimal": _decimal,
    "numeric": _decimal,
    "money": _money,
    "smallmoney": _money,
    "uniqueidentifier": _guid,
    "datetime": _datetime,
    "smalldatetime": _datetime,
    "date": _date,
    "time": _time,
    "datetime2": _datetime2,
    "datetimeoffset": _datetimeoffset,
}
