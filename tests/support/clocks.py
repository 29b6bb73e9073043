"""Days on which clocks are changed, and every half hour around them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import count, pairwise, takewhile
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.support.projects import days_from

HALF_HOUR = timedelta(minutes=30)
ONE_DAY = timedelta(days=1)
ZONES = (
    "Africa/Casablanca", "America/Asuncion", "America/Havana", "America/New_York", "America/Santiago",
    "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut", "Asia/Tehran", "Australia/Lord_Howe", "Europe/Dublin",
    "Europe/Moscow", "Pacific/Chatham",
)  # fmt: skip


@cache
def changes(zone: str) -> list[date]:
    """The days on which this zone's clocks are changed, from 2012 on: before, some did so a minute past midnight."""
    clock = ZoneInfo(zone)
    offsets = [
        (day, datetime(day.year, day.month, day.day, 12, tzinfo=clock).utcoffset())
        for day in days_from(date(2012, 1, 1), 366 * 13)
    ]
    return [after[0] for before, after in pairwise(offsets) if before[1] != after[1]]


@st.composite
def zones_and_days(draw: st.DrawFn) -> tuple[str, date]:
    """A zone, and a day on which its clocks are changed."""
    zone = draw(st.sampled_from(ZONES))
    return zone, draw(st.sampled_from(changes(zone)))


def half_hours(first: date, last: date) -> list[datetime]:
    """Every half hour, as an instant, of days that hold these whole in any zone."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC) - ONE_DAY
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + 2 * ONE_DAY
    return list(takewhile(lambda at: at < end, (start + number * HALF_HOUR for number in count())))
