"""From a field's text to a value, exactly, and the reason where it cannot be: the slow and complete way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from zoneinfo import ZoneInfo

from tests.servers.vertica.kinds import ENGINE_DIGITS, Kind

#: The bit pattern of the least integer is NULL (docs: INTEGER).
_RESERVED = -(2**63)
_WHOLE = re.compile(r"[+-]?(\d+|0[xX][0-9a-fA-F]+)")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DAY = re.compile(r"(\d{1,4})-(\d{1,2})-(\d{1,2})")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?")
_OFFSET = re.compile(r"(?:\s*(Z|z|UTC)|\s*([+-])(\d{1,2}):?(\d{2})?)?")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_HEX = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})*)")
_OCTAL = re.compile(r"(?:[0-3][0-7]{2})*")
_TRUE = ("t", "true", "y", "yes", "1")
_FALSE = ("f", "false", "n", "no", "0")


class Reject(Exception):  # noqa: N818 - no error of the statement: one record does not fit
    """A record cannot be loaded."""


@dataclass(frozen=True)
class Field:
    """A place in the input: `column` is what it is called, `number` counts from 1."""

    number: int
    column: str
    kind: Kind
    nullable: bool = True
    enforce_length: bool = False
    format: str | None = None
    null: str | None = None

    def reject(self, what: str, value: str) -> Reject:
        """A record is rejected for this field."""
        return Reject(f"{what} '{value}' for column {self.number} ({self.column})")


def convert(field: Field, text: str | None, zone: ZoneInfo) -> object:
    """The value for Arrow; Reject when there is none."""
    if text is None:
        if not field.nullable:
            raise Reject(f"In column {field.number}: Cannot set NOT NULL column ({field.column}) to NULL")
        return None
    if field.kind.is_text:
        return _string(field, text)
    if field.kind.is_binary:
        return _octets(field, text)
    if field.kind.name == "timestamptz":
        return _zoned(field, text.strip(), zone)
    return _CONVERTERS[field.kind.name](field, text.strip())


def _whole(field: Field, text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise field.reject("Invalid integer format", text)
    value = int(text, 0 if "x" in text.lower() else 10)
    if not _RESERVED < value < 2**63:
        raise field.reject("Integer out of range", text)
    return value


def _numeric(field: Field, text: str) -> Decimal | str:
    if not _DECIMAL.fullmatch(text):
        raise field.reject("Invalid numeric format", text)
    precision, scale = field.kind.precision or 0, field.kind.scale or 0
    try:
        # Too many digits behind the point are rounded, half away from zero (believed).
        value = Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, Context(prec=precision))
    except InvalidOperation:
        raise field.reject("Numeric value out of range", text) from None
    return value if precision <= ENGINE_DIGITS else f"{value:f}"


def _float(field: Field, text: str) -> float:
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise field.reject("Invalid float format", text)


def _boolean(field: Field, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise field.reject("Invalid boolean format", text)


def _date(field: Field, text: str) -> date:
    # A time behind the date is taken and dropped, as a cast does.
    return _moment(field, text, "date")[0].date()


def _timestamp(field: Field, text: str) -> datetime:
    moment, rest = _moment(field, text, "timestamp")
    if not _OFFSET.fullmatch(rest):
        raise field.reject("Invalid timestamp format", text)
    # A zone is ignored by a column without one.
    return moment


def _zoned(field: Field, text: str, zone: ZoneInfo) -> datetime:
    moment, rest = _moment(field, text, "timestamptz")
    found = _OFFSET.fullmatch(rest)
    if found is None:
        raise field.reject("Invalid timestamptz format", text)
    try:
        if found[1]:
            return moment.replace(tzinfo=UTC)
        if found[2]:
            apart = timedelta(hours=int(found[3]), minutes=int(found[4] or 0))
            return (moment - (apart if found[2] == "+" else -apart)).replace(tzinfo=UTC)
        return moment.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        raise field.reject("Timestamp out of range", text) from None


def _moment(field: Field, text: str, what: str) -> tuple[datetime, str]:
    """The date and time at the beginning of a text, and the rest."""
    day = _DAY.match(text)
    if day is None:
        raise field.reject(f"Invalid {what} format", text)
    rest = text[day.end() :]
    if rest[:1] in ("T", "t", " "):
        rest = rest[1:].lstrip()
    clock = _CLOCK.match(rest)
    try:
        moment = datetime(int(day[1]), int(day[2]), int(day[3]))  # noqa: DTZ001 - a wall clock
        if clock is not None:
            moment += _duration(clock)
            rest = rest[clock.end() :]
    except (ValueError, OverflowError):
        raise field.reject(f"Invalid {what} format", text) from None
    if what == "date" and rest.strip() and clock is None:
        raise field.reject(f"Invalid {what} format", text)
    return moment, rest


def _duration(clock: re.Match[str]) -> timedelta:
    hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError
    fraction = Decimal(clock[4] or 0).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    return timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=int(fraction * 1_000_000))


def _time(field: Field, text: str) -> time:
    found = _CLOCK.fullmatch(text)
    try:
        if found is not None:
            whole = _duration(found)
            if whole < timedelta(days=1):
                return (datetime(2000, 1, 1) + whole).time()  # noqa: DTZ001 - only its time counts
    except ValueError:
        pass
    raise field.reject("Invalid time format", text)


def _uuid(field: Field, text: str) -> str:
    if not _UUID.fullmatch(text.strip("{}")):
        raise field.reject("Invalid uuid format", text)
    return text.strip("{}")


def _string(field: Field, text: str) -> str:
    value = text.rstrip(" ") if field.kind.name == "char" else text
    octets = value.encode()
    most = field.kind.length or 0
    if len(octets) <= most:
        return value
    if field.enforce_length:
        raise Reject(
            f"The {len(octets)}-byte value is too long for type {field.kind.shown.capitalize()}, "
            f"column {field.number} ({field.column})"
        )
    # Cut silently, at the border of a character.
    return octets[:most].decode(errors="ignore")


def _octets(field: Field, text: str) -> bytes:
    if field.format == "hex":
        found = _HEX.fullmatch(text)
        if found is None:
            raise field.reject("Invalid hexadecimal format", text)
        value = bytes.fromhex(found[1])
    elif field.format == "octal":
        if not _OCTAL.fullmatch(text):
            raise field.reject("Invalid octal format", text)
        value = bytes(int(text[at : at + 3], 8) for at in range(0, len(text), 3))
    else:
        value = _escaped(field, text)
    most = field.kind.length or 0
    if len(value) > most and field.enforce_length:
        raise Reject(
            f"The {len(value)}-byte value is too long for type {field.kind.shown.capitalize()}, "
            f"column {field.number} ({field.column})"
        )
    return value[:most]


_PIECE = re.compile(rb"\\([0-3][0-7]{2}|\\)|([^\\]+)")


def _escaped(field: Field, text: str) -> bytes:
    pieces: list[bytes] = []
    at = 0
    octets = text.encode()
    while at < len(octets):
        found = _PIECE.match(octets, at)
        if found is None:
            raise field.reject("Invalid binary format", text)
        if found[2] is not None:
            pieces.append(found[2])
        else:
            pieces.append(b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]))
        at = found.end()
    return b"".join(pieces)


_CONVERTERS: dict[str, Callable[[Field, str], object]] = {
    "int": _whole,
    "numeric": _numeric,
    "float": _float,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
    "time": _time,
    "uuid": _uuid,
}
