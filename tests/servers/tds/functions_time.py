"""Functions of dates and times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .convert import Typed, convert, from_ticks, to_ticks
from .errors import TdsError, error
from .storage import DAY_TICKS, EPOCH_US, M
from .types import BIGINT, DATETIME, INT, MOMENTS, SqlType, nvarchar

WITH_PART = frozenset(["DATEADD", "DATEDIFF", "DATEDIFF_BIG", "DATEPART", "DATENAME", "DATETRUNC"])
_PARTS = {
    "year": ("year", "yy", "yyyy"),
    "quarter": ("quarter", "qq", "q"),
    "month": ("month", "mm", "m"),
    "dayofyear": ("dayofyear", "dy", "y"),
    "day": ("day", "dd", "d"),
    "week": ("week", "wk", "ww"),
    "weekday": ("weekday", "dw"),
    "hour": ("hour", "hh"),
    "minute": ("minute", "mi", "n"),
    "second": ("second", "ss", "s"),
    "millisecond": ("millisecond", "ms"),
    "microsecond": ("microsecond", "mcs"),
    "nanosecond": ("nanosecond", "ns"),
}
_TICKS = {
    "week": 7 * DAY_TICKS,
    "weekday": DAY_TICKS,
    "dayofyear": DAY_TICKS,
    "day": DAY_TICKS,
    "hour": DAY_TICKS // 24,
    "minute": 600_000_000,
    "second": 10_000_000,
    "millisecond": 10_000,
    "microsecond": 10,
}
_MONTHS = {"year": 12, "quarter": 3, "month": 1}


def _part(text: str) -> str:
    for part, names in _PARTS.items():
        if text in names:
            return part
    raise TdsError(155, f"'{text}' is not a recognized datepart option.", 15)


def with_part(name: str, text: str, given: list[Typed]) -> Typed:
    """DATEADD, DATEDIFF, DATEPART, DATENAME."""
    part = _part(text)
    if name == "DATEADD":
        if len(given) != 2:
            raise error(174, "dateadd", 3)
        return _add(part, given[0], _moment(given[1]))
    if name in ("DATEDIFF", "DATEDIFF_BIG"):
        if len(given) != 2:
            raise error(174, "datediff", 3)
        kind = INT if name == "DATEDIFF" else BIGINT
        counted = _difference(part, _moment(given[0]), _moment(given[1]))
        return Typed(f"CAST({counted} AS {kind.stored})", kind, given[0].nullable or given[1].nullable)
    moment = _moment(given[0])
    ticks = to_ticks(moment)
    if name == "DATENAME" and part in ("month", "weekday"):
        form = "%B" if part == "month" else "%A"
        return Typed(f"strftime({M}.ts({ticks}), '{form}')", nvarchar(30))
    if name == "DATETRUNC":
        made = from_ticks(f"{M}.ticks(date_trunc('{part}', {M}.ts({ticks})))", moment.type)
        return Typed(made, moment.type)
    number = _number(part, ticks)
    return Typed(f"CAST({number} AS INTEGER)", INT, moment.nullable) if name == "DATEPART" else Typed(
        f"CAST({number} AS VARCHAR)", nvarchar(30)
    )  # fmt: skip


def _number(part: str, ticks: str) -> str:
    match part:
        case "millisecond":
            return f"(({ticks}) % 10000000) // 10000"
        case "microsecond":
            return f"(({ticks}) % 10000000) // 10"
        case "nanosecond":
            return f"(({ticks}) % 10000000) * 100"
        case "weekday":
            return f"dayofweek({M}.ts({ticks})) + 1"
        case "week":
            # Weeks begin on Sunday, the first with 1 January.
            ts = f"{M}.ts({ticks})"
            return f"(dayofyear({ts}) + dayofweek(date_trunc('year', {ts})) - 1) // 7 + 1"
        case _:
            return f"{part}({M}.ts({ticks}))"


def _moment(value: Typed) -> Typed:
    if value.type.is_text or value.null:
        return convert(value, SqlType("datetime2", scale=7) if value.text is not None else DATETIME)
    if value.type.name not in MOMENTS:
        return convert(value, DATETIME, explicit=True)
    return value


def _add(part: str, amount: Typed, moment: Typed) -> Typed:
    kind = moment.type
    # The number is cut to an int, says the reference.
    count = f"CAST({convert(amount, INT, explicit=True).sql} AS BIGINT)"
    ticks = to_ticks(moment)
    if part in _MONTHS:
        moved = (
            f"{M}.ticks({M}.ts({ticks}) + to_months(({count} * {_MONTHS[part]})::INTEGER)) + ({ticks}) % 10"
        )
    elif part == "nanosecond":
        moved = f"({ticks}) + {count} // 100"
    else:
        moved = f"({ticks}) + {count} * {_TICKS[part]}"
    if kind.name == "datetime" and moment.sql.startswith("'"):
        raise error(241)
    made = from_ticks(f"({moved})", kind, f"({moment.sql}).o")
    return Typed(made, kind, amount.nullable or moment.nullable)


def _difference(part: str, start: Typed, end: Typed) -> str:
    first, last = (f"({_utc(each)})" for each in (start, end))
    if part in _MONTHS:
        months = (f"(year({M}.ts({each})) * 12 + month({M}.ts({each})) - 1)" for each in (first, last))
        before, after = (f"({each} // {_MONTHS[part]})" for each in months)
        return f"{after} - {before}"
    if part == "week":
        # A Sunday is crossed; 0001-01-01 was a Monday.
        return f"({last} + {DAY_TICKS}) // {7 * DAY_TICKS} - ({first} + {DAY_TICKS}) // {7 * DAY_TICKS}"
    if part == "nanosecond":
        return f"({last} - {first}) * 100"
    step = _TICKS[part]
    return f"{last} // {step} - {first} // {step}"


def _utc(value: Typed) -> str:
    return f"({value.sql}).t" if value.type.name == "datetimeoffset" else to_ticks(value)


def switch_offset(compiler: object, given: list[Typed]) -> Typed:
    """SWITCHOFFSET(moment, '+hh:mm'): the same instant on another clock."""
    moment, zone = given
    kind = moment.type
    if kind.name != "datetimeoffset":
        raise error(8116, kind.name, 1, "switchoffset")
    minutes = f"{M}.text_offset({zone.sql})"
    sql = f"CASE WHEN {moment.sql} IS NOT NULL THEN {{'t': ({moment.sql}).t, 'o': {minutes}}} END"
    return Typed(sql, kind, moment.nullable)


def _now(kind: SqlType) -> Callable[[Any, list[Typed]], Typed]:
    def make(compiler: object, given: list[Typed]) -> Typed:
        since = datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds + EPOCH_US
        return Typed(from_ticks(f"{micros * 10}::BIGINT", kind), kind, nullable=False)

    return make


#: The server's clock stands at UTC.
NOW = {
    "GETDATE": _now(DATETIME),
    "GETUTCDATE": _now(DATETIME),
    "CURRENT_TIMESTAMP": _now(DATETIME),
    "SYSDATETIME": _now(SqlType("datetime2", scale=7)),
    "SYSUTCDATETIME": _now(SqlType("datetime2", scale=7)),
    "SYSDATETIMEOFFSET": _now(SqlType("datetimeoffset", scale=7)),
    "YEAR": lambda compiler, given: with_part("DATEPART", "year", given),
    "MONTH": lambda compiler, given: with_part("DATEPART", "month", given),
    "DAY": lambda compiler, given: with_part("DATEPART", "day", given),
}
