"""How values of SQL Server's types lie in DuckDB, and the macros that calculate with them.

A moment of seven digits is a count of 100 ns ("ticks"), since 0001-01-01 or since midnight; a datetimeoffset is its UTC
ticks and its offset in minutes; every other type has one of DuckDB's own. A datetime lies in the microseconds of its
1/300 s, rounded down.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from datetime import date, timedelta

import duckdb

#: Where DuckDB's TIMESTAMP has its zero, in microseconds since 0001-01-01.
EPOCH_US = 62_135_596_800_000_000
DAY_TICKS = 864_000_000_000
DAYS_1900 = 693_595
_SURROGATES = 0x10_0000
_MACROS = f"""
CREATE SCHEMA m;
CREATE MACRO m.us(ts) AS epoch_us(ts) + {EPOCH_US};
CREATE MACRO m.from_us(u) AS make_timestamp((u - {EPOCH_US})::BIGINT);
CREATE MACRO m.ts(ticks) AS make_timestamp((ticks // 10 - {EPOCH_US})::BIGINT);
CREATE MACRO m.ticks(ts) AS (epoch_us(ts) + {EPOCH_US}) * 10;
CREATE MACRO m.date_ticks(d) AS (d - DATE '0001-01-01') * {DAY_TICKS};
CREATE MACRO m.ticks_date(t) AS DATE '0001-01-01' + (t // {DAY_TICKS})::INTEGER;
CREATE MACRO m.time_ticks(t) AS epoch_us(t) * 10;
CREATE MACRO m.ticks_time(t) AS make_time((t // 36000000000)::BIGINT, ((t // 600000000) % 60)::BIGINT,
    ((t % 600000000) // 10)::DOUBLE / 1000000);
CREATE MACRO m.thirds(ticks) AS ((ticks % {DAY_TICKS}) * 3 + 50000) // 100000;
CREATE MACRO m.ticks_datetime(t) AS
    m.from_us((t // {DAY_TICKS}) * {DAY_TICKS // 10} + m.thirds(t) * 10000 // 3);
CREATE MACRO m.datetime_ticks(ts) AS
    (m.ticks(ts) // {DAY_TICKS}) * {DAY_TICKS} + m.thirds(m.ticks(ts)) * 100000 // 3;
CREATE MACRO m.ticks_minute(t) AS m.ts((t + 300000000) // 600000000 * 600000000);
CREATE MACRO m.rounded(t, step) AS (t + step // 2) // step * step;
CREATE MACRO m.iso(x) AS
    regexp_replace(regexp_replace(trim(x), '^(\\d{{4}})(\\d{{2}})(\\d{{2}})( |$)', '\\1-\\2-\\3\\4'),
                   '\\s*(Z|[+-]\\d\\d:\\d\\d)$', '');
CREATE MACRO m.digit(x) AS coalesce(try_cast(regexp_extract(x, '\\.\\d{{6}}(\\d)', 1) AS BIGINT), 0);
CREATE MACRO m.text_ticks(x) AS CASE
    WHEN trim(x) = '' THEN {DAYS_1900 * DAY_TICKS}
    WHEN regexp_matches(m.iso(x), '^\\d\\d?:\\d\\d?')
        THEN {DAYS_1900 * DAY_TICKS} + epoch_us(try_cast(m.iso(x) AS TIME)) * 10 + m.digit(x)
    ELSE m.ticks(try_cast(m.iso(x) AS TIMESTAMP)) + m.digit(x) END;
CREATE MACRO m.text_offset(x) AS coalesce(
    try_cast(regexp_extract(x, '([+-]\\d\\d):\\d\\d$', 1) || '1' AS INTEGER) // abs(try_cast(
        regexp_extract(x, '([+-]\\d\\d):\\d\\d$', 1) || '1' AS INTEGER)) * (
        try_cast(regexp_extract(x, '[+-](\\d\\d):\\d\\d$', 1) AS INTEGER) * 60
        + try_cast(regexp_extract(x, '[+-]\\d\\d:(\\d\\d)$', 1) AS INTEGER)), 0)::SMALLINT;
CREATE MACRO m.dto(local, minutes) AS
    {{'t': (local - minutes::BIGINT * 600000000)::BIGINT, 'o': minutes::SMALLINT}};
CREATE MACRO m.dto_local(x) AS x.t + x.o::BIGINT * 600000000;
CREATE MACRO m.units(x) AS length(x) + length(regexp_replace(x, '[^\\x{{10000}}-\\x{{10C7FF}}]', '', 'g'));
CREATE MACRO m.fit(x, n) AS
    CASE WHEN strlen(x) <= n THEN x ELSE left(x, (2 * n - m.units(left(x, n)))::BIGINT) END;
CREATE MACRO m.fit_octets(x, n) AS CASE WHEN strlen(x) <= n THEN x ELSE left(x, len(list_filter(
    range(1, n + 1), lambda k: k <= length(x) AND strlen(left(x, k::BIGINT)) <= n))::BIGINT) END;
CREATE MACRO m.pad_octets(x, n) AS rpad(x, (n - strlen(x) + length(x))::INTEGER, ' ');
CREATE MACRO m.pad(x, n) AS rpad(x, (n - m.units(x) + length(x))::INTEGER, ' ');
CREATE MACRO m.offset_text(o) AS
    CASE WHEN o < 0 THEN '-' ELSE '+' END || lpad((abs(o) // 60)::VARCHAR, 2, '0') || ':'
    || lpad((abs(o) % 60)::VARCHAR, 2, '0');
CREATE MACRO m.fraction(ticks, digits) AS left(lpad((ticks % 10000000)::VARCHAR, 7, '0'), digits);
"""
#: How DuckDB SQL names the macros from within any database.
M = "memory.m"
_DATE = r"(\d{4})(?:(?=\d{4})|[-/.])(\d{1,2})(?:(?<=\d{6})|[-/.])(\d{1,2})"
_CLOCK = r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.:](\d{1,9}))?)?\s*(Z|[+-]\d{2}:\d{2})?"
_MOMENT = re.compile(rf"\s*(?:{_DATE})?(?:[T ]?\s*{_CLOCK})?\s*", re.ASCII)


def prepare(root: duckdb.DuckDBPyConnection) -> None:
    """Create the macros."""
    qualified = re.sub(r"\bm\.(?=[a-z_]+\()", f"{M}.", _MACROS)
    root.execute(qualified)


def lone_surrogate(code: int) -> str:
    """What stands in DuckDB for half of a surrogate pair (0xD800 to 0xDFFF), which UTF-8 cannot hold."""
    if not 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"{code:#x} is no surrogate")
    return chr(_SURROGATES + code)


def utf16(text: str) -> bytes:
    """The text as UTF-16LE; what `lone_surrogate` gave becomes half a pair again."""
    low, high = chr(_SURROGATES + 0xD800), chr(_SURROGATES + 0xDFFF)
    if any(low <= sign <= high for sign in text):
        text = "".join(chr(ord(sign) - _SURROGATES) if low <= sign <= high else sign for sign in text)
    return text.encode("utf-16-le", "surrogatepass")


def from_utf16(data: bytes) -> str:
    """Text as the client sent it; half a pair is kept in its stand-in."""
    text = data.decode("utf-16-le", "surrogatepass")
    return "".join(lone_surrogate(ord(sign)) if "\ud800" <= sign <= "\udfff" else sign for sign in text)


#: The order of a day's parts in the session's language: what `2020-07-05` means to datetime and smalldatetime.
DATE_ORDER = ContextVar("DATE_ORDER", default="mdy")
_BY_LANGUAGE = re.compile(r"\s*(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?![\dT])", re.ASCII)


def in_session_order(text: str) -> str:
    """The text of a datetime, its day in the order of the session's language; ISO 8601 with a T has none.

    https://learn.microsoft.com/sql/t-sql/data-types/datetime-transact-sql
    """
    if DATE_ORDER.get() != "dmy":
        return text
    return _BY_LANGUAGE.sub(r"\1\2\4\2\3", text, count=1)


def read_moment(text: str) -> tuple[int, int, int | None, int] | None:
    """Days since 0001-01-01, ticks of the day, offset in minutes (None: none), digits of the fraction; None: no moment.

    The formats that do not depend on a language: ISO 8601 and yyyymmdd; a time alone falls on 1900-01-01.
    https://learn.microsoft.com/sql/t-sql/functions/cast-and-convert-transact-sql
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        days = (date(int(year), int(month), int(day)) - date(1, 1, 1)).days if year else DAYS_1900
    except ValueError:
        return None
    parts = [int(each or 0) for each in (hour, minute, second)]
    if parts[0] > 23 or parts[1] > 59 or parts[2] > 59 or len(fraction or "") > 7:
        return None
    seconds = (parts[0] * 60 + parts[1]) * 60 + parts[2]
    ticks = seconds * 10_000_000 + int((fraction or "0").ljust(7, "0"))
    return days, ticks, _offset(zone), len(fraction or "")


def _offset(zone: str | None) -> int | None:
    if zone is None:
        return None
    if zone == "Z":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return -minutes if zone[0] == "-" else minutes


def iso_day(days: int) -> str:
    """A day since 0001-01-01 as text."""
    return (date(1, 1, 1) + timedelta(days)).isoformat()


def quoted(text: str) -> str:
    """A text as DuckDB's literal."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """A name as DuckDB's identifier."""
    return '"' + name.replace('"', '""') + '"'
