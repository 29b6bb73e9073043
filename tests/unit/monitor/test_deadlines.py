"""Deadlines through clock changes: each day has one, in order, at the first moment at which its time has come."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.monitor.freshness import deadline_on, due_at, next_deadline
from dwhctl.project.days import start_of_day

#: Gaps and folds at 02:00, at midnight (Beirut, Havana, Asuncion), of half an hour (Lord Howe), of a day (Apia).
ZONES = st.sampled_from(
    [
        "Europe/Berlin", "America/New_York", "Asia/Beirut", "America/Havana", "America/Asuncion",
        "Australia/Lord_Howe", "Pacific/Apia", "Europe/Moscow", "Asia/Gaza", "UTC",
    ]
).map(ZoneInfo)  # fmt: skip
#: Mostly the hours in which clocks change.
CLOCKS = st.one_of(st.times(max_value=time(3, 59)), st.times()).map(
    lambda clock: clock.replace(second=0, microsecond=0)
)
DAYS = st.dates(date(2005, 1, 1), date(2030, 12, 31))
_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)


def shown(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo) -> list[date]:
    """The days of some years on which this zone's clocks change."""
    days = [date(2008, 1, 1) + number * _DAY for number in range(366 * 6)]
    return [
        day
        for day in days
        if datetime.combine(day, time(), zone).utcoffset()
        != datetime.combine(day + _DAY, time(), zone).utcoffset()
    ]


CHANGES = {name: changes(ZoneInfo(name)) for name in ("Europe/Berlin", "Asia/Beirut", "America/Havana")}


@given(zone=ZONES, clock=CLOCKS, day=DAYS)
def test_a_deadline_is_the_first_moment_that_shows_its_time_or_a_later_one(
    zone: ZoneInfo, clock: time, day: date
) -> None:
    check(zone, clock, day)


@given(data=st.data(), name=st.sampled_from(sorted(CHANGES)), clock=CLOCKS)
def test_so_it_is_on_days_on_which_the_clocks_change(data: st.DataObject, name: str, clock: time) -> None:
    check(ZoneInfo(name), clock, data.draw(st.sampled_from(CHANGES[name])))


def check(zone: ZoneInfo, clock: time, day: date) -> None:
    wanted, at = datetime.combine(day, clock), deadline_on(day, clock, zone)
    assert shown(at, zone) >= wanted
    # Whatever the offset, in the 26 hours before it no clock has come to it.
    for minutes in (1, 29, 30, 31, 59, 60, 61, 90, 120, 26 * 60):
        assert shown(at - minutes * _MINUTE, zone) < wanted
    if shown(at, zone) != wanted:
        assert shown(at - timedelta(seconds=1), zone) < wanted, "what is jumped over comes with the jump"
    assert deadline_on(day + _DAY, clock, zone) >= at


@given(zone=ZONES, clock=CLOCKS, day=DAYS)
def test_work_is_due_once_it_is_over_on_the_day_after_or_later(
    zone: ZoneInfo, clock: time, day: date
) -> None:
    end = start_of_day(day + _DAY, zone)
    at = due_at(day, end, clock, zone)
    assert end < at <= end + 3 * _DAY
    assert at in {deadline_on(day + number * _DAY, clock, zone) for number in (1, 2, 3)}
    late = end + timedelta(hours=11)  # a shard whose clock is far behind
    after = due_at(day, late, clock, zone)
    assert late < after
    assert after >= at
    assert due_at(day + _DAY, start_of_day(day + 2 * _DAY, zone), clock, zone) >= at


@given(zone=ZONES, clock=CLOCKS, minutes=st.integers(0, 25 * 366 * 24 * 60))
def test_the_next_deadline_is_the_first_after_now(zone: ZoneInfo, clock: time, minutes: int) -> None:
    at = datetime(2005, 1, 1, tzinfo=UTC) + minutes * _MINUTE
    found = next_deadline(at, clock, zone)
    today = at.astimezone(zone).date()
    coming = [deadline_on(today + number * _DAY, clock, zone) for number in range(-2, 5)]
    assert found == min(each for each in coming if each > at)


@pytest.mark.parametrize(
    ("zone", "day", "clock", "at"),
    [
        # 02:30 does not exist: the clocks go from 02:00 to 03:00 at 01:00 UTC. 07:00 always does.
        ("Europe/Berlin", date(2024, 3, 31), time(2, 30), "2024-03-31 01:00"),
        ("Europe/Berlin", date(2024, 3, 31), time(7), "2024-03-31 05:00"),
        # 02:30 comes twice, at 00:30 and at 01:30 UTC: the first.
        ("Europe/Berlin", date(2024, 10, 27), time(2, 30), "2024-10-27 00:30"),
        # Midnight does not exist: the day begins at 01:00.
        ("Asia/Beirut", date(2024, 3, 31), time(0), "2024-03-30 22:00"),
        ("Asia/Beirut", date(2024, 3, 31), time(0, 30), "2024-03-30 22:00"),
        # 00:30 comes twice.
        ("America/Havana", date(2024, 11, 3), time(0, 30), "2024-11-03 04:30"),
        # The 30th never was: its deadline comes with the 31st.
        ("Pacific/Apia", date(2011, 12, 30), time(7), "2011-12-30 10:00"),
    ],
)
def test_where_the_clocks_jump(zone: str, day: date, clock: time, at: str) -> None:
    assert deadline_on(day, clock, ZoneInfo(zone)) == datetime.fromisoformat(f"{at}+00:00")
