"""Which days a backfill takes, and about how long they take."""

from __future__ import annotations

import itertools
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.cli.common.output import about
from dwhctl.cli.common.progress import Tally
from dwhctl.core.errors import UsageError
from dwhctl.project.loads import Shard
from dwhctl.runtime.events import RunStarted, SliceClosed
from dwhctl.runtime.plan import (
    MOST_DAYS,
    NO_PAST,
    LoadRequest,
    Past,
    Plan,
    candidates,
    days_between,
    forecast,
    loads_with_days,
    open_at_once,
    slowest_first,
)
from dwhctl.sessions.values import State
from tests.unit.projects import a_load, a_project
from tests.unit.runs_kit import DAY, planned

DAYS = (DAY, DAY + timedelta(days=1))
SHARDS = ("a", "b", "c", "d")


def a_plan(shards: tuple[str, ...] = SHARDS) -> Plan:
    return Plan(tuple(planned(shard, day=day) for day in DAYS for shard in shards))


# Days


@given(st.dates(date(1900, 1, 1), date(2999, 12, 31)), st.integers(0, MOST_DAYS - 1), st.booleans())
def test_every_day_once_both_ends_included_and_in_order(start: date, more: int, newest_first: bool) -> None:
    end = start + timedelta(days=more)
    days = days_between(start, end, newest_first=newest_first)
    ordered = days[::-1] if newest_first else days
    assert (ordered[0], ordered[-1], len(days)) == (start, end, more + 1)
    assert all(later - earlier == timedelta(days=1) for earlier, later in itertools.pairwise(ordered))


@given(st.dates(), st.integers(1, 100_000))
def test_a_range_that_is_none_is_refused(day: date, days: int) -> None:
    try:
        earlier = day - timedelta(days=days)
    except OverflowError:
        return
    with pytest.raises(UsageError, match=f"--end {earlier} lies before --start {day}"):
        days_between(day, earlier)
    if days >= MOST_DAYS:
        with pytest.raises(UsageError, match=f"takes {MOST_DAYS:,} at most"):
            days_between(earlier, day)


def test_days_come_in_order_over_all_loads() -> None:
    """Not one load's last day before the next one's first: what is oldest is whole first."""
    shards = (Shard("abakan", "abakan", "server_0", "UTC"), Shard("chita", "chita", "server_1", "UTC"))
    loads = {name: a_load(name=name, table=f"stage.{name}") for name in ("orders", "items")}
    project = a_project(Path("/nowhere"), shard_groups={"cities": shards}, loads=loads)
    plan = slowest_first(
        candidates(project, LoadRequest(days=DAYS)), {("orders", "abakan"): 1, ("orders", "chita"): 2}
    )
    assert [(one.slice.day, one.load.name) for one in plan.slices[::2]] == [
        (day, name) for day in DAYS for name in ("orders", "items")
    ]
    assert [one.shard.name for one in plan.slices if one.load.name == "orders"] == ["chita", "abakan"] * 2


def test_loads_without_days_are_left_out_or_refused() -> None:
    loads = {"orders": a_load(), "whole": a_load(name="whole", table="stage.whole", slice_by=None)}
    project = a_project(loads=loads)
    assert loads_with_days(project, ()) == (("orders",), ("whole",))
    assert loads_with_days(project, ("orders", "orders")) == (("orders",), ())
    with pytest.raises(UsageError, match="load whole has no slice_by"):
        loads_with_days(project, ("orders", "whole"))


# How long


def test_the_past_weighs_each_shard_and_the_workers_share() -> None:
    past = Past({("orders", shard): 10.0 for shard in "abc"} | {("orders", "d"): 30.0}, open_at_once=4.0)
    # Two days of 60 seconds, four sessions at once with the usual four workers.
    assert forecast(a_plan(), past, 4, 4).seconds == pytest.approx(30)
    assert forecast(a_plan(), past, 1, 4).seconds == pytest.approx(120)


def test_what_was_never_loaded_is_taken_for_one_like_the_others() -> None:
    past = Past({("orders", "a"): 10.0, ("orders", "b"): 20.0})
    assert forecast(a_plan(), past, 1, 1).seconds == pytest.approx(2 * (10 + 20 + 15 + 15))


def test_no_past_is_no_guess() -> None:
    assert forecast(a_plan(), NO_PAST, 4, 4).seconds is None
    assert forecast(a_plan(), Past({("others", "a"): 1.0}), 4, 4).seconds is None


def test_the_large_runs_say_how_many_sessions_are_open_at_once() -> None:
    small = [(1.0, 1.0)] * 20
    waited = [(3.0, 3600.0)]
    assert open_at_once([*small, *waited, (1000.0, 100.0)]) == pytest.approx(10)
    assert open_at_once([]) == 1.0
    assert open_at_once([(0.0, 0.0), (2.0, 1.0)]) == pytest.approx(2)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6))))
def test_it_is_always_the_rate_of_some_run(runs: list[tuple[float, float]]) -> None:
    rates = [sum_ / clock for sum_, clock in runs if sum_ > 0 and clock > 0]
    assert open_at_once(runs) in rates or (not rates and open_at_once(runs) == 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "59 s"), (61, "1 m 1 s"), (601, "10 m"), (3599, "1 h 0 m"), (3600, "1 h 0 m")],
)
def test_a_guess_is_written_without_false_precision(seconds: float, text: str) -> None:
    assert about(seconds) == text


# What is left


def closed(shard: str, day: date, state: State = State.LOADED) -> SliceClosed:
    return SliceClosed("orders", shard, "server_0", day, 1, state, 1, 0.5)


def a_tally(seconds: dict[tuple[str, str], float]) -> tuple[Tally, list[float]]:
    now = [0.0]
    tally = Tally(lambda: now[0])
    tally.take(RunStarted("1", a_plan(), seconds))
    return tally, now


def test_nothing_is_guessed_before_anything_is_done_nor_in_the_first_seconds() -> None:
    tally, now = a_tally({})
    now[0] = 100.0
    assert tally.remaining() is None
    now[0] = 1.0
    tally.take(closed("a", DAYS[0]))
    assert tally.remaining() is None
    now[0] = 10.0
    assert tally.remaining() == pytest.approx(70)


def test_slices_weigh_what_they_took_lately() -> None:
    tally, now = a_tally(
        {("orders", "a"): 1.0, ("orders", "b"): 1.0, ("orders", "c"): 1.0, ("orders", "d"): 97.0}
    )
    for shard in "abc":
        tally.take(closed(shard, DAYS[0]))
    now[0] = 6.0
    assert tally.remaining() == pytest.approx(6.0 * 197 / 3)


def test_what_fails_is_neither_left_nor_a_pace() -> None:
    tally, now = a_tally({})
    for shard in "abc":
        tally.take(closed(shard, DAYS[0], State.FAILED))
    now[0] = 10.0
    assert tally.remaining() is None
    tally.take(closed("d", DAYS[0], State.SKIPPED))
    assert tally.remaining() == pytest.approx(40)
    tally.take(closed("a", DAYS[1], State.UP_FOR_RETRY))
    assert tally.remaining() == pytest.approx(40)


def test_nothing_is_left_at_the_end() -> None:
    tally, now = a_tally({})
    now[0] = 10.0
    for day in DAYS:
        for shard in SHARDS:
            tally.take(closed(shard, day))
    assert tally.remaining() is None
