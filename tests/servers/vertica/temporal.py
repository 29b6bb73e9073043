"""Dates by templates, intervals and times with a zone: what the engine does not do as the original does.

Each function here is the engine's too (`register`). A value that is refused leaves as the text that
`problems.from_duckdb` reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb

from tests.servers.vertica.problems import MARK

_DAY = 86_400_000_000
#: Microseconds of a unit, or months for units of a year (docs: "Interval Literal").
_UNITS = {
    "us": 1, "usec": 1, "usecs": 1, "microsecond": 1, "microseconds": 1,
    "ms": 1000, "msec": 1000, "msecs": 1000, "millisecond": 1000, "milliseconds": 1000,
    "s": 1_000_000, "sec": 1_000_000, "secs": 1_000_000, "second": 1_000_000, "seconds": 1_000_000,
    "m": 60_000_000, "min": 60_000_000, "mins": 60_000_000, "minute": 60_000_000, "minutes": 60_000_000,
    "h": 3_600_000_000, "hr": 3_600_000_000, "hrs": 3_600_000_000, "hour": 3_600_000_000,
    "hours": 3_600_000_000,
    "d": _DAY, "day": _DAY, "days": _DAY, "w": 7 * _DAY, "week": 7 * _DAY, "weeks": 7 * _DAY,
    # A year has 365 days and a month 30 where days are counted (seen in the vendor's test_bind_interval).
    "mon": 30 * _DAY, "mons": 30 * _DAY, "month": 30 * _DAY, "months": 30 * _DAY,
    "y": 365 * _DAY, "yr": 365 * _DAY, "yrs": 365 * _DAY, "year": 365 * _DAY, "years": 365 * _DAY,
}  # fmt: skip
_MONTHS = {
    **dict.fromkeys(("m", "mon", "mons", "month", "months"), 1),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), 12),
}
_SIZES = {"day": _DAY, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}
_ORDER = ("day", "hour", "minute", "second")
_PART = re.compile(r"\s*([+-]?)(\d+(?:\.\d*)?|\.\d+)\s*(:|[a-z]+|-(?=\d)|)", re.IGNORECASE)


def refusal(sqlstate: str, code: int, message: str) -> ValueError:
    """What a function of the engine raises for a value that the original refuses."""
    return ValueError(f"{MARK}|{sqlstate}|{code}|{message}")


def _invalid(what: str, text: str) -> ValueError:
    return refusal("22007", 3679, f'Invalid input syntax for {what}: "{text}"')


# --- intervals


def interval(text: str, span: str, precision: int) -> int:
    """Microseconds of a text as an interval from days to seconds; months of one from years to months."""
    body = text.strip()
    ago = body.lower().endswith("ago")
    body = body[:-3].rstrip() if ago else body
    of_months = span.startswith(("year", "month"))
    value = _months(body, span) if of_months else _microseconds(body, span)
    if value is None:
        raise _invalid("interval", text)
    return -_cut(value, span, precision) if ago else _cut(value, span, precision)


def _cut(value: Decimal, span: str, precision: int) -> int:
    """What the last field of the range keeps: the rest is cut off, of seconds it is rounded."""
    last = span.rpartition(" ")[2]
    if last in ("year", "month"):
        step = 12 if last == "year" else 1
    elif last == "second":
        unit = Decimal(10 ** (6 - precision))
        return int((value / unit).quantize(Decimal(1), ROUND_HALF_UP) * unit)
    else:
        step = _SIZES[last]
    whole = abs(int(value)) // step * step
    return -whole if value < 0 else whole


def _parts(text: str) -> list[tuple[str, Decimal, str]] | None:
    """Signs, numbers and what stands behind each: a unit, a colon, a minus (years-months) or nothing."""
    found: list[tuple[str, Decimal, str]] = []
    at = 0
    while at < len(text.rstrip()):
        part = _PART.match(text, at)
        if part is None:
            return None
        found.append((part[1], Decimal(part[2]), part[3].lower()))
        at = part.end()
    return found or None


def _months(text: str, span: str) -> Decimal | None:
    parts = _parts(text)
    if parts is None:
        return None
    total, sign = Decimal(0), 1
    first = span.partition(" ")[0]
    for index, (mark, number, unit) in enumerate(parts):
        if mark:
            sign = -1 if mark == "-" else 1
        if unit in _MONTHS:
            total += sign * number * _MONTHS[unit]
        elif unit in ("", "-"):
            # Without units: years and then months, or the one field that there is.
            total += sign * number * (12 if first == "year" and index == 0 else 1)
        else:
            return None
    return total


def _microseconds(text: str, span: str) -> Decimal | None:
    parts = _parts(text)
    if parts is None:
        return None
    total, sign, at = Decimal(0), 1, 0
    while at < len(parts):
        mark, number, unit = parts[at]
        if mark:
            sign = -1 if mark == "-" else 1
        elif unit:
            sign = 1 if at and parts[at - 1][2] not in (":", "") else sign
        clock = [number]
        while unit == ":" and at + 1 < len(parts):
            at += 1
            clock.append(parts[at][1])
            unit = parts[at][2]
        at += 1
        if len(clock) > 1:
            names = _ORDER[_clock_start(span, len(clock)) :][: len(clock)]
            if len(names) < len(clock) or unit:
                return None
            total += sign * sum(
                (value * _SIZES[name] for value, name in zip(clock, names, strict=True)), Decimal(0)
            )
        elif unit in _UNITS:
            total += sign * number * _UNITS[unit]
        elif not unit:
            total += sign * number * _SIZES[_bare(span, last=at == len(parts) and at > 1)]
        else:
            return None
    return total


def _clock_start(span: str, count: int) -> int:
    """Where numbers with colons begin: at the minutes only in a range that begins there."""
    return 2 if count == 2 and span.startswith("minute") else 1


def _bare(span: str, *, last: bool) -> str:
    """The field of a number without a unit: the first of the range, behind another number the last."""
    fields = span.split(" to ")
    return fields[-1] if last else fields[0]


def show_interval(microseconds: int, span: str) -> str:
    """An interval as text, by its range (docs: "Displaying or Omitting Interval Units in Output": without units)."""
    first, _, last = span.partition(" to ")
    last = last or first
    sign = "-" if microseconds < 0 else ""
    rest = abs(microseconds)
    fields: dict[str, int] = {}
    for name in _ORDER[_ORDER.index(first) : _ORDER.index(last) + 1]:
        fields[name], rest = divmod(rest, _SIZES[name])
    days = fields.pop("day", None)
    clock = [
        f"{value:02}" if index or days is not None else str(value)
        for index, value in enumerate(fields.values())
    ]
    if clock and len(clock) > 1 and days is None:
        clock[0] = clock[0].rjust(2, "0")
    text = ":".join(clock)
    if rest and last == "second":
        text += f".{rest:06}".rstrip("0")
    if days is not None and (days or last in ("day", "hour")):
        # A lone hour would be read as days.
        text = f"{days} {text}".rstrip()
    return sign + text


def show_months(months: int, span: str) -> str:
    """An interval of years and months as text."""
    sign, rest = ("-" if months < 0 else ""), abs(months)
    if span == "year to month":
        return f"{sign}{rest // 12}-{rest % 12}"
    return f"{sign}{rest // 12 if span == 'year' else rest}"


# --- times with a zone

_TIMETZ = re.compile(
    r"(?:(\d{1,4})-(\d{1,2})-(\d{1,2})[ T])?(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?"
    r"\s*(?:([+-])(\d{1,2})(?::?(\d{2}))?(?::(\d{2}))?|([A-Za-z][\w/+-]*))?"
)


def timetz(text: str, precision: int, zone: str) -> str:
    """A time with its offset, normalized: hh:mm:ss[.ffffff]+hh[:mm[:ss]]."""
    found = _TIMETZ.fullmatch(text.strip())
    if found is None:
        raise _invalid("type timetz", text)
    hour, minute, second = (int(found[index] or 0) for index in (4, 5, 6))
    if hour > 23 or minute > 59 or second > 59:
        raise refusal("22008", 2992, f'Date/time field value out of range: "{text}"')
    fraction = Decimal(found[7] or 0).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)
    moment = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=int(fraction * 1_000_000))
    if found[8]:
        seconds = int(found[9]) * 3600 + int(found[10] or 0) * 60 + int(found[11] or 0)
        offset = seconds if found[8] == "+" else -seconds
    else:
        now = datetime.now(UTC)
        day = datetime(int(found[1]), int(found[2]), int(found[3]), tzinfo=UTC) if found[1] else now
        offset = _zone_offset(found[12] or zone, day, text)
    clock = moment.total_seconds() % 86400
    micros = round(clock * 1_000_000)
    whole, rest = divmod(micros, 1_000_000)
    shown = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    if rest:
        shown += f".{rest:06}".rstrip("0")
    return shown + show_offset(offset)


def _zone_offset(name: str, day: datetime, text: str) -> int:
    try:
        apart = day.replace(tzinfo=ZoneInfo(name)).utcoffset()
    except (ZoneInfoNotFoundError, ValueError):
        raise _invalid("type timetz", text) from None
    return int(apart.total_seconds()) if apart is not None else 0


def show_offset(seconds: int) -> str:
    """A zone's offset: +hh, with minutes and seconds where there are."""
    sign = "-" if seconds < 0 else "+"
    minutes, rest = divmod(abs(seconds), 60)
    shown = f"{sign}{minutes // 60:02}"
    if minutes % 60 or rest:
        shown += f":{minutes % 60:02}"
    return shown + (f":{rest:02}" if rest else "")


def timetz_binary(text: str) -> int:
    """Microseconds since midnight in UTC, and the offset in the lower 24 bits (client: load_timetz_binary)."""
    found = _TIMETZ.fullmatch(text)
    assert found is not None
    seconds = int(found[9]) * 3600 + int(found[10] or 0) * 60 + int(found[11] or 0)
    offset = seconds if found[8] == "+" else -seconds
    micros = (int(found[4]) * 3600 + int(found[5]) * 60 + int(found[6])) * 1_000_000
    micros += int(Decimal(found[7] or 0) * 1_000_000)
    return ((micros - offset * 1_000_000) % _DAY) << 24 | (86400 - offset)


# --- dates and timestamps by a template

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PATTERNS = re.compile(
    r"HH24|HH12|HH|MI|SSSS|SS|MS|US|YYYY|YYY|YY|Y|MONTH|MON|MM|DDD|DD|DAY|DY|D|J|AM|PM|A\.M\.|P\.M\.|AD|BC|A\.D\.|B\.C\."
    r'|TZ|"[^"]*"|.',
    re.IGNORECASE | re.DOTALL,
)
_NUMBERS = {
    "HH24": ("hour", 2), "HH12": ("hour", 2), "HH": ("hour", 2), "MI": ("minute", 2), "SS": ("second", 2),
    "YYYY": ("year", 4), "YYY": ("year", 3), "YY": ("year", 2), "Y": ("year", 1), "MM": ("month", 2),
    "DD": ("day", 2), "DDD": ("yearday", 3), "J": ("julian", 7),
}  # fmt: skip


def _templated(text: str, template: str) -> dict[str, int]:
    """The fields that a template finds in a text. What the text has behind them is left out."""
    found = {
        "year": 1,
        "month": 1,
        "day": 1,
        "hour": 0,
        "minute": 0,
        "second": 0,
        "micro": 0,
        "bc": 0,
        "pm": -1,
    }
    at = 0
    for pattern in _PATTERNS.findall(template):
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            break
        if pattern.isspace():
            continue
        at = _take(pattern, text, at, found)
    return found


def _take(pattern: str, text: str, at: int, found: dict[str, int]) -> int:
    word = pattern.upper()
    if word in _NUMBERS:
        name, width = _NUMBERS[word]
        number = re.compile(rf"[+-]?\d{{1,{width}}}").match(text, at)
        if number is None:
            raise refusal("22007", 3679, f'Invalid value for "{word}": "{text}"')
        found[name] = int(number[0])
        return number.end()
    if word in ("MS", "US"):
        number = re.compile(rf"\d{{1,{3 if word == 'MS' else 6}}}").match(text, at)
        if number is None:
            raise refusal("22007", 3679, f'Invalid value for "{word}": "{text}"')
        found["micro"] = int(number[0].ljust(6, "0") if word == "US" else number[0].ljust(3, "0") + "000")
        return number.end()
    if word in ("MON", "MONTH"):
        short = text[at : at + 3].lower()
        if short not in _MONTH_NAMES:
            raise refusal("22007", 3679, f'Invalid value for "{word}": "{text}"')
        found["month"] = _MONTH_NAMES.index(short) + 1
        letters = re.compile(r"[A-Za-z]+").match(text, at)
        return letters.end() if letters and word == "MONTH" else at + 3
    return _take_word(word, text, at, found)


def _take_word(word: str, text: str, at: int, found: dict[str, int]) -> int:
    if word.replace(".", "") in ("AD", "BC", "AM", "PM"):
        mark = re.compile(r"([AB])\.?([DC])\.?|([AP])\.?M\.?", re.IGNORECASE).match(text, at)
        if mark is None:
            return at
        if mark[1]:
            found["bc"] = int(mark[1].upper() == "B")
        else:
            found["pm"] = int(mark[3].upper() == "P")
        return mark.end()
    if word in ("TZ", "DAY", "DY", "D"):
        name = re.compile(r"[\w/+:]+").match(text, at)
        return name.end() if name else at
    # Any other sign of the template stands for one of the text.
    return at + 1 if not text[at].isdigit() or text[at] == word else at


def to_date(text: str, template: str) -> str:
    """The engine's text of a date."""
    found = _templated(text, template)
    return _day(found, text) + (" (BC)" if found["bc"] else "")


def to_timestamp(text: str, template: str) -> str:
    """The engine's text of a timestamp."""
    found = _templated(text, template)
    hour = found["hour"]
    if found["pm"] == 1 and hour < 12:
        hour += 12
    elif found["pm"] == 0 and hour == 12:
        hour = 0
    if hour > 23 or found["minute"] > 59 or found["second"] > 59:
        raise refusal("22008", 2992, f'Date/time field value out of range: "{text}"')
    clock = f"{hour:02}:{found['minute']:02}:{found['second']:02}.{found['micro']:06}"
    return f"{_day(found, text)}{' (BC)' if found['bc'] else ''} {clock}"


def _day(found: dict[str, int], text: str) -> str:
    year = found["year"]
    try:
        if "yearday" in found:
            day = date(year, 1, 1) + timedelta(days=found["yearday"] - 1)
        else:
            day = date(year, found["month"], found["day"])
    except ValueError:
        raise refusal("22008", 2992, f'Date/time field value out of range: "{text}"') from None
    return f"{day.year:04}-{day.month:02}-{day.day:02}"


# --- octets

_PIECE = re.compile(rb"\\([0-3][0-7]{2}|\\)|([^\\]+)", re.DOTALL)


def octets(text: str) -> bytes:
    r"""A text as octets: `\ooo` is one, `\\` a backslash (docs: "Binary Data Types")."""
    given, at, pieces = text.encode(), 0, []
    while at < len(given):
        found = _PIECE.match(given, at)
        if found is None:
            raise refusal("22V02", 3683, f'Invalid input syntax for type varbinary: "{text}"')
        if found[2] is not None:
            pieces.append(found[2])
        else:
            pieces.append(b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]))
        at = found.end()
    return b"".join(pieces)


_FUNCTIONS: tuple[tuple[str, Callable[..., object], list[str], str], ...] = (
    ("vertica_interval", interval, ["VARCHAR", "VARCHAR", "BIGINT"], "BIGINT"),
    ("vertica_timetz", timetz, ["VARCHAR", "BIGINT", "VARCHAR"], "VARCHAR"),
    ("vertica_to_date", to_date, ["VARCHAR", "VARCHAR"], "VARCHAR"),
    ("vertica_to_timestamp", to_timestamp, ["VARCHAR", "VARCHAR"], "VARCHAR"),
    ("vertica_octets", octets, ["VARCHAR"], "BLOB"),
)
_ZERO = f"error('{MARK}|22012|3117|Division by zero')"
_MACROS = f"""
CREATE MACRO divided(a, b) AS CASE WHEN b = 0 THEN {_ZERO} ELSE a / b END;
CREATE MACRO remainder(a, b) AS CASE WHEN b = 0 THEN {_ZERO} ELSE a % b END;
CREATE MACRO to_octets(x) AS
    CASE WHEN typeof(x) = 'BLOB' THEN CAST(x AS BLOB) ELSE vertica_octets(CAST(x AS VARCHAR)) END;
CREATE MACRO cut_binary(x, n) AS CASE WHEN octet_length(x) <= n THEN x ELSE unhex(left(hex(x), 2 * n)) END;
CREATE MACRO rounded(us, p) AS CAST(round(us / 10.0 ** (6 - p)) * 10 ** (6 - p) AS BIGINT);
CREATE MACRO rounded_timestamp(x, p) AS make_timestamp(rounded(epoch_us(x), p));
CREATE MACRO rounded_timestamptz(x, p) AS to_timestamp(0) + to_microseconds(rounded(epoch_us(x), p));
CREATE MACRO rounded_time(x, p) AS CAST(make_timestamp(rounded(epoch_us(x), p)) AS TIME);
-- Days apart from the rest: Arrow counts the rest in nanoseconds, which would not hold them.
CREATE MACRO to_span(n) AS to_days(CAST(n // 86400000000 AS INTEGER)) + to_microseconds(n % 86400000000);
"""


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the functions and macros the engine's."""
    for name, function, parameters, result in _FUNCTIONS:
        connection.create_function(name, function, parameters, result)  # type: ignore[arg-type]
    connection.execute(_MACROS)
