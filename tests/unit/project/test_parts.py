"""How a slice is cut into parts: by time and by ranges, no row in two of them, and none in none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.check.offline import template_problems
from dwhctl.core.errors import ConfigError
from dwhctl.project.days import Slice, _bounds, make_slice
from dwhctl.project.parts import KeyRange, check_split, key_ranges, time_parts
from dwhctl.project.read import read_project
from dwhctl.project.templates import render_extract
from tests.unit.projects import LOAD, problems, write_project

DAY = date(2020, 7, 14)
#: Days of 23, 24 and 25 hours, of 24 hours that skip midnight, and one that an island did not have.
DAYS = [DAY, date(2020, 3, 29), date(2020, 10, 25), date(2018, 11, 4), date(2011, 12, 31), date(1969, 9, 30)]
ZONES = [
    "UTC", "Europe/Berlin", "Asia/Chita", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Kathmandu",
    "Pacific/Kwajalein",
]  # fmt: skip


def a_slice(day: date, midnights: str, clock: str) -> Slice:
    """The slice of a day between the midnights of one zone, by the clock of another."""
    held_in = None if clock == midnights else ZoneInfo(clock)
    return Slice("orders", "chita", day, *_bounds(day, ZoneInfo(midnights), held_in), clock)


@given(
    day=st.sampled_from(DAYS) | st.dates(date(1960, 1, 1), date(2030, 1, 1)),
    midnights=st.sampled_from(ZONES),
    clock=st.sampled_from(ZONES),
    parts=st.integers(1, 64),
)
def test_parts_by_time_are_the_slice(day: date, midnights: str, clock: str, parts: int) -> None:
    whole = a_slice(day, midnights, clock)
    found = time_parts(whole, parts)
    assert 1 <= len(found) <= parts
    assert (found[0].start, found[0].start_at) == (whole.start, whole.start_at)
    assert (found[-1].end, found[-1].end_at) == (whole.end, whole.end_at)
    for before, after in pairwise(found):
        assert (before.end, before.end_at) == (after.start, after.start_at)
        assert after.start is not None
        assert after.start_at is not None
        assert before.start is not None
        assert before.start < after.start
        # A moment that the clock shows once: naive values and instants are cut at the same place.
        shown = after.start.replace(tzinfo=ZoneInfo(clock))
        assert shown.astimezone(UTC) == shown.replace(fold=1).astimezone(UTC) == after.start_at
        assert after.start.second == after.start.microsecond == 0
    named = {(part.load, part.shard, part.day, part.zone) for part in found}
    assert named == {(whole.load, whole.shard, whole.day, whole.zone)}


@given(
    day=st.sampled_from(DAYS),
    zone=st.sampled_from(ZONES),
    parts=st.integers(1, 64),
    seconds=st.floats(0, 1, exclude_max=True),
)
def test_each_instant_is_in_the_part_that_its_clock_shows(
    day: date, zone: str, parts: int, seconds: float
) -> None:
    whole = a_slice(day, zone, zone)
    assert whole.start_at is not None
    assert whole.end_at is not None
    at = whole.start_at + timedelta(
        microseconds=int((whole.end_at - whole.start_at) / timedelta(microseconds=1) * seconds)
    )
    shown = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    by_instant = [
        part.start_at <= at < part.end_at
        for part in time_parts(whole, parts)
        if part.start_at and part.end_at
    ]
    by_clock = [
        part.start <= shown < part.end for part in time_parts(whole, parts) if part.start and part.end
    ]
    assert by_instant == by_clock
    assert sum(by_instant) == 1


@given(micros=st.integers(1, 200), parts=st.integers(1, 10**12))
def test_a_slice_of_a_few_microseconds_has_no_more_parts_than_these(micros: int, parts: int) -> None:
    start = datetime(2020, 7, 14, 3)  # noqa: DTZ001
    at, length = start.replace(tzinfo=UTC), timedelta(microseconds=micros)
    parts = min(parts, 500)
    found = time_parts(Slice("orders", "chita", DAY, start, start + length, at, at + length, "UTC"), parts)
    assert len(found) == min(micros, parts)
    assert sum(((part.end or start) - (part.start or start) for part in found), timedelta()) == length


def test_a_day_of_25_hours_is_cut_after_twelve_and_a_half() -> None:
    first, second = time_parts(a_slice(date(2020, 10, 25), "Europe/Berlin", "Europe/Berlin"), 2)
    assert str(first.end) == "2020-10-25 11:30:00"
    assert str(second.start_at) == "2020-10-25 10:30:00+00:00"


def test_a_slice_without_bounds_is_not_cut_by_time() -> None:
    whole = Slice("orders", "chita", DAY, None, None, None, None, "UTC")
    assert time_parts(whole, 4) == [whole]


_DECIMALS = st.decimals(
    allow_nan=False, allow_infinity=False, places=4, min_value=-(10**30), max_value=10**30
)
_KEYS = st.integers(-(2**63), 2**63) | _DECIMALS | st.dates()


@given(data=st.data(), parts=st.integers(1, 64))
def test_each_key_is_in_one_range(data: st.DataObject, parts: int) -> None:
    one: Any = data.draw(_KEYS)
    like: Any = {int: st.integers(-(2**63), 2**63), Decimal: _DECIMALS, date: st.dates()}[type(one)]
    other, asked = data.draw(like), data.draw(like)
    low, high = sorted([one, other])
    ranges = key_ranges("id", low, high, parts)
    assert 1 <= len(ranges) <= parts
    for value in (low, high, asked, *(found.low for found in ranges if found.low is not None)):
        assert sum(_holds(found, value) for found in ranges) == 1
    assert [("IS NULL" in found.condition('"id"')) or not found.condition('"id"') for found in ranges] == [
        number == 0 for number in range(len(ranges))
    ]


def _holds(found: KeyRange, value: Any) -> bool:
    return (found.low is None or found.low <= value) and (found.high is None or value < found.high)


@pytest.mark.parametrize(
    ("low", "high", "conditions"),
    [
        (1, 10, ['("id" < 6 OR "id" IS NULL)', '"id" >= 6']),
        (7, 7, [""]),
        (None, None, [""]),
        (Decimal("-0.5"), Decimal("0.5"), ['("id" < 0.0 OR "id" IS NULL)', '"id" >= 0.0']),
        (date(2020, 1, 1), date(2020, 1, 2),
         ["(\"id\" < CAST('2020-01-02' AS date) OR \"id\" IS NULL)", "\"id\" >= CAST('2020-01-02' AS date)"]),
    ],
)  # fmt: skip
def test_ranges_in_sql(low: Any, high: Any, conditions: list[str]) -> None:
    assert [found.condition('"id"') for found in key_ranges("id", low, high, 2)] == conditions


# Templates


def test_the_bounds_of_a_part_are_those_of_the_query(tmp_path: Path) -> None:
    extract = (
        "SELECT * FROM orders WHERE start_time >= :start AND start_time < :end"
        " -- {{ ds }} {{ data_interval_start }} {{ data_interval_end }}\n"
    )
    project = read_project(write_project(tmp_path, extract=extract, load=LOAD + "split = 2\n"))
    load, shard = project.loads["orders"], project.shards_of(project.loads["orders"])[0]
    whole = make_slice(project, load, shard, DAY)
    first, second = (render_extract(project, load, shard, part) for part in time_parts(whole, 2))
    assert (str(first.binds["start"]), str(first.binds["end"])) == (
        "2020-07-14 00:00:00",
        "2020-07-14 12:00:00",
    )
    assert (str(second.binds["start"]), str(second.binds["end"])) == (
        "2020-07-14 12:00:00",
        "2020-07-15 00:00:00",
    )
    assert first.sql.endswith("2020-07-14 2020-07-14 00:00:00+03:00 2020-07-14 12:00:00+03:00")
    assert second.sql.endswith("2020-07-14 2020-07-14 12:00:00+03:00 2020-07-15 00:00:00+03:00")


def test_a_shards_own_clock_is_written_as_it_shows_the_time(tmp_path: Path) -> None:
    """A wall clock's bounds are midnights as written, in whatever zone the shard is; so is a part's."""
    extract = (
        "SELECT * FROM orders WHERE start_time >= '{{ data_interval_start.strftime('%F %T') }}'"
        " AND start_time < '{{ data_interval_end.strftime('%F %T') }}'\n"
    )
    project = read_project(write_project(tmp_path, extract=extract, load=LOAD + "split = 3\n"))
    load = project.loads["orders"]
    shard = next(shard for shard in project.shards_of(load) if shard.name == "chita")
    parts = time_parts(make_slice(project, load, shard, DAY), 3)
    assert [render_extract(project, load, shard, part).sql.partition("WHERE ")[2] for part in parts] == [
        "start_time >= '2020-07-14 00:00:00' AND start_time < '2020-07-14 08:00:00'",
        "start_time >= '2020-07-14 08:00:00' AND start_time < '2020-07-14 16:00:00'",
        "start_time >= '2020-07-14 16:00:00' AND start_time < '2020-07-15 00:00:00'",
    ]


# What is refused


@pytest.mark.parametrize(
    ("extract", "named"),
    [
        ("SELECT * FROM orders WHERE start_time >= :start AND start_time < DATE '{{ ds }}' + 1", ":end"),
        ("SELECT * FROM orders WHERE CAST(start_time AS date) = '{{ ds }}'", ":start or :end"),
        ("SELECT * FROM orders WHERE start_time >= '{{ ds }}' AND start_time < :end -- {{ data_interval_start }}",
         ":start"),
    ],
)  # fmt: skip
def test_a_query_without_both_bounds_is_refused(tmp_path: Path, extract: str, named: str) -> None:
    project = read_project(write_project(tmp_path, extract=extract + "\n", load=LOAD + "split = 2\n"))
    (found,) = template_problems(project)
    assert found.startswith("config/loads/orders.toml: split: cuts by time")
    assert f"does not depend on {named}:" in found
    load = project.loads["orders"]
    shard = project.shards_of(load)[0]
    with pytest.raises(ConfigError, match="cuts by time"):
        check_split(project, load, shard, make_slice(project, load, shard, DAY))


def test_a_query_without_bounds_may_be_split_by_a_column(tmp_path: Path) -> None:
    extract = "SELECT * FROM orders WHERE CAST(start_time AS date) = '{{ ds }}'\n"
    load = LOAD + 'split = 2\nsplit_by = "id"\n'
    assert template_problems(read_project(write_project(tmp_path, extract=extract, load=load))) == []


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (LOAD + 'split_by = "id"\n', "split_by: has no use without split; add split = 2"),
        (LOAD.replace('slice_by = "start_time"\n', "split = 2\n"),
         'split: cannot cut by time, for the load has no slice_by; add split_by = "id"'),
        (LOAD + "split = 0\n", "split"),
        (LOAD + "split = 65\n", "split"),
        (LOAD + 'split = 2\nsplit_by = "etl_id"\n', "'etl_id' is a service field"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, load: str, said: str) -> None:
    (found,) = problems(write_project(tmp_path, load=load))
    assert said in found
