"""Days, durations and slices, over clock changes and in every zone."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dwhctl.core.errors import UsageError
from dwhctl.project.days import (
    LONGEST,
    Slice,
    format_duration,
    make_slice,
    parse_duration,
    resolve_day,
    start_of_day,
)
from tests.support.clocks import half_hours, zones_and_days
from tests.unit.projects import a_load, a_project, a_shard

NEW_YORK, HAVANA, SAO_PAULO = (
    ZoneInfo("America/New_York"),
    ZoneInfo("America/Havana"),
    ZoneInfo("America/Sao_Paulo"),
)
MOSCOW = ZoneInfo("Europe/Moscow")
NOW = datetime(2020, 7, 13, 22, 30, tzinfo=UTC)  # the 14th in Moscow already

zones = st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
days = st.dates(date(1900, 1, 1), date(2100, 1, 1))


def naive(text: str) -> datetime:
    return datetime.fromisoformat(text)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2020-02-29", "2020-02-29"),
        ("today", "2020-07-14"),
        (" Yesterday ", "2020-07-13"),
        ("-3d", "2020-07-11"),
        ("-0d", "2020-07-14"),
        ("-400d", "2019-06-10"),
    ],
)
def test_a_day_is_resolved_in_the_projects_zone(text: str, day: str) -> None:
    assert resolve_day(text, MOSCOW, NOW) == date.fromisoformat(day)


def test_today_is_now() -> None:
    assert abs(resolve_day("today", MOSCOW) - datetime.now(MOSCOW).date()) <= timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2020-02-30", "'2020-02-30' is not a day: the calendar has no such date; write YYYY-MM-DD, today"),
        ("2020-13-01", "the calendar has no such date"),
        ("20200713", "'20200713' is not a day: not of the form YYYY-MM-DD; write"),
        ("2020-W29-1", "not of the form"),
        ("13.07.2020", "not of the form"),
        ("", "'' is not a day"),
        ("tomorow", "'tomorow' is not a day"),
        ("3d", "'3d' is not a day"),
        ("-3", "'-3' is not a day"),
        ("-999999d", "'-999999d' is not a day"),
        ("0020-07-13", "'0020-07-13' is not a day to load: outside 1900-01-01 to 2999-12-31"),
        ("9999-12-31", "is not a day to load"),
        ("２０２０-07-13", "not of the form"),
    ],
)
def test_what_is_no_day_is_told_with_the_forms(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_day(text, MOSCOW, NOW)
    assert words in str(caught.value)


@given(st.text())
def test_no_text_makes_resolving_fail_otherwise(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(resolve_day(text, MOSCOW, NOW), date)


@given(days)
def test_every_date_is_its_own_day(day: date) -> None:
    assert resolve_day(day.isoformat(), MOSCOW, NOW) == day


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("30m", 1800),
        ("8h", 28800),
        ("400d", 34560000),
        ("1h30m", 5400),
        ("1d2h3m4s", 93784),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5h", "30m1h", "1h1h", "-1h", "10 s", "1w", "１s", "99999999999d"]
)
def test_what_is_no_duration_is_told_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert str(caught.value).startswith(f"'{text}' is ")


@given(st.timedeltas(timedelta(0), LONGEST))
def test_a_duration_is_read_as_it_was_written(duration: timedelta) -> None:
    whole = timedelta(seconds=duration // timedelta(seconds=1))
    assert parse_duration(format_duration(duration)) == whole


@given(st.text(alphabet="0123456789dhms .-"))
def test_no_text_makes_parsing_fail_otherwise(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert timedelta(0) <= parse_duration(text) <= LONGEST


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        (NEW_YORK, "2013-03-10", "2013-03-10T05:00"),
        (NEW_YORK, "2013-03-11", "2013-03-11T04:00"),
        (NEW_YORK, "2013-11-03", "2013-11-03T04:00"),
        (NEW_YORK, "2013-11-04", "2013-11-04T05:00"),
        (SAO_PAULO, "2018-11-04", "2018-11-04T03:00"),  # no midnight: 00:00 is 01:00
        (HAVANA, "2020-11-01", "2020-11-01T04:00"),  # two midnights: 01:00 is 00:00 again
        (ZoneInfo("America/Toronto"), "1919-03-31", "1919-03-31T04:30"),  # 23:30 is 00:30
        (ZoneInfo("Pacific/Apia"), "2011-12-30", "2011-12-30T10:00"),  # a date that was left out
        (ZoneInfo("Pacific/Apia"), "2011-12-31", "2011-12-30T10:00"),
        (ZoneInfo("UTC"), "2020-01-01", "2020-01-01T00:00"),
    ],
)
def test_a_day_starts_with_its_first_instant(zone: ZoneInfo, day: str, start: str) -> None:
    assert start_of_day(date.fromisoformat(day), zone) == utc(start)


@given(zones, days)
@example("America/Toronto", date(1919, 3, 30))
@example("America/Sao_Paulo", date(2018, 11, 4))
def test_no_clock_shows_the_date_before_its_start(zone: str, day: date) -> None:
    clock = ZoneInfo(zone)
    start = start_of_day(day, clock)
    assert start.astimezone(clock).date() >= day
    assert (start - timedelta(seconds=1)).astimezone(clock).date() < day
    assert start < start_of_day(day + timedelta(days=2), clock)


def slice_of(
    day: date, *, zone: str = "UTC", slice_zone: str = "wall", project: str = "America/New_York"
) -> Slice:
    return make_slice(a_project(timezone=project), a_load(slice_zone=slice_zone), a_shard(zone), day)


def test_a_wall_slice_is_the_dates_midnights_as_written() -> None:
    made = slice_of(date(2020, 7, 13), zone="Asia/Chita")
    assert made == Slice(
        load="orders",
        shard="chita",
        day=date(2020, 7, 13),
        start=naive("2020-07-13"),
        end=naive("2020-07-14"),
        start_at=utc("2020-07-12T15:00"),
        end_at=utc("2020-07-13T15:00"),
        zone="Asia/Chita",
    )


@pytest.mark.parametrize(("day", "hours"), [("2013-03-10", 23), ("2013-11-03", 25), ("2013-07-13", 24)])
def test_a_wall_slice_over_a_clock_change(day: str, hours: int) -> None:
    made = slice_of(date.fromisoformat(day), zone="America/New_York")
    assert (made.start, made.end) == (naive(day), naive(day) + timedelta(days=1))
    assert made.start_at is not None
    assert made.end_at is not None
    assert made.end_at - made.start_at == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2013-03-09", "2013-03-09T05:00", "2013-03-10T05:00"),
        ("2013-03-10", "2013-03-10T05:00", "2013-03-11T04:00"),
        ("2013-11-03", "2013-11-03T04:00", "2013-11-04T05:00"),
    ],
)
def test_a_utc_slice_is_the_projects_day(day: str, start: str, end: str) -> None:
    made = slice_of(date.fromisoformat(day), slice_zone="UTC", zone="Asia/Chita")
    assert (made.start, made.end, made.zone) == (naive(start), naive(end), "UTC")
    assert (made.start_at, made.end_at) == (utc(start), utc(end))


def test_a_slice_in_another_zone_is_the_projects_day_in_that_clock() -> None:
    made = slice_of(date(2020, 7, 13), slice_zone="Asia/Chita", project="Europe/Moscow")
    assert (made.start, made.end) == (naive("2020-07-13T06:00"), naive("2020-07-14T06:00"))


def test_a_load_without_slice_by_has_no_bounds() -> None:
    made = make_slice(a_project(), a_load(slice_by=None), a_shard(), date(2020, 7, 13))
    assert (made.start, made.end, made.start_at, made.end_at) == (None, None, None, None)


@given(day=days, project=zones, shard=zones, column=st.one_of(st.just("wall"), zones))
def test_slices_of_consecutive_days_neither_gap_nor_overlap(
    day: date, project: str, shard: str, column: str
) -> None:
    first, second = (
        slice_of(each, zone=shard, slice_zone=column, project=project)
        for each in (day, day + timedelta(days=1))
    )
    assert first.end == second.start
    assert first.end_at == second.start_at
    assert first.start is not None
    assert first.end is not None
    assert first.start <= first.end
    assert first.start.tzinfo is None
    assert first.start.fold == 0


@given(project=zones, day=days, time=st.times())
def test_every_instant_lies_in_one_slice(project: str, day: date, time: clock) -> None:
    at = datetime.combine(day, time, UTC)
    shown = at.astimezone(ZoneInfo(project)).date()
    holding = []
    for offset in range(-2, 3):
        made = slice_of(shown + timedelta(days=offset), slice_zone="UTC", project=project)
        assert made.start_at is not None
        assert made.end_at is not None
        if made.start_at <= at < made.end_at:
            holding.append(made.day)
    assert len(holding) == 1


# Around clock changes

moments = st.integers(-36 * 60, 36 * 60).map(lambda minutes: timedelta(minutes=minutes))


@given(one=zones_and_days(), moment=moments, ago=st.integers(0, 3000))
@example(("America/St_Johns", date(2006, 10, 29)), timedelta(hours=3), 1)
def test_today_is_what_the_clock_shows_around_its_changes(
    one: tuple[str, date], moment: timedelta, ago: int
) -> None:
    zone, changed = ZoneInfo(one[0]), one[1]
    now = datetime.combine(changed, clock(), UTC) + moment
    today = resolve_day("today", zone, now)
    assert f"{today}" == f"{now.astimezone(zone):%Y-%m-%d}"
    assert resolve_day("yesterday", zone, now) == today - timedelta(days=1)
    # Days of the calendar, however many hours they had.
    assert resolve_day(f"-{ago}d", zone, now).toordinal() == today.toordinal() - ago
    assert start_of_day(today, zone) <= now
    next_day = start_of_day(today + timedelta(days=1), zone)
    if next_day <= now:
        offsets = [
            at.astimezone(zone).utcoffset() or timedelta() for at in (next_day - timedelta(seconds=1), now)
        ]
        assert offsets[1] < offsets[0], "put back over midnight"


@given(one=zones_and_days(), column=st.sampled_from(["UTC", "Asia/Kolkata", "Etc/GMT+5", "wall"]))
def test_a_day_of_a_clock_change_holds_the_half_hours_that_its_clock_shows(
    one: tuple[str, date], column: str
) -> None:
    zone, changed = one
    project = "Asia/Chita" if column == "wall" else zone
    held_in = ZoneInfo(zone if column == "wall" else column)
    for day in (changed - timedelta(days=1), changed, changed + timedelta(days=1)):
        made = slice_of(day, zone=zone, slice_zone=column, project=project)
        assert made.start is not None
        assert made.end is not None
        assert made.start_at is not None
        assert made.end_at is not None
        instants = half_hours(day, day)
        wanted = [at for at in instants if at.astimezone(ZoneInfo(zone)).date() == day]
        assert [at for at in instants if made.start_at <= at < made.end_at] == wanted
        readings = [(at, at.astimezone(held_in).replace(tzinfo=None)) for at in instants]
        assert [at for at, reading in readings if made.start <= reading < made.end] == wanted


def test_paths_of_the_helpers_are_absolute() -> None:
    assert a_load().extract == Path("/nowhere/sql/extract.sql")
