"""What is news to a channel and what has recovered, against a model of plain sets."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.alerts.state import (
    AlertState,
    FailureKey,
    Notified,
    StateChange,
    deduplicate,
    with_notified,
    without_unknown,
)

DAY = date(2020, 7, 14)
NOW = datetime(2020, 7, 14, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
REPEAT = timedelta(hours=24)

TASKS = [(work, shard) for work in ("orders", "calls") for shard in ("abakan", "achinsk", "chita")]
CLASSES = ("ConnectError", "QueryError")
#: What a run found of each task: well, failing for a reason, or not looked at.
RUNS = st.lists(
    st.tuples(
        st.fixed_dictionaries({task: st.sampled_from((*CLASSES, "well", "left")) for task in TASKS}),
        st.integers(1, 30),
    ),
    max_size=8,
)


def a_fact(work: str, shard: str, error_class: str, day: date | None = DAY) -> FailureKey:
    return FailureKey(work, "server_1" if shard == "chita" else "server_0", error_class, shard, day)


class Channel:
    """A channel that is told whatever the rules say."""

    def __init__(self) -> None:
        self.memory: AlertState = {}

    def run(self, found: dict[tuple[str, str], str], now: datetime = NOW, day: date = DAY) -> StateChange:
        failing = {a_fact(*task, state, day): True for task, state in found.items() if state in CLASSES}
        good = {task: frozenset([day]) for task, state in found.items() if state == "well"}
        change = deduplicate(self.memory, failing, good, now=now, repeat_after=REPEAT)
        told = change.new or change.due or change.recovered
        self.memory = with_notified(change.state, failing, now=now, alert_id=1) if told else change.state
        return change


@given(RUNS)
def test_the_rules_are_those_of_plain_sets(runs: list[tuple[dict[tuple[str, str], str], int]]) -> None:
    channel, now = Channel(), NOW
    told: dict[FailureKey, datetime] = {}
    last: dict[tuple[str, str], str] = {}
    for found, hours in runs:
        now += hours * HOUR
        change = channel.run(found, now)
        last |= {task: state for task, state in found.items() if state != "left"}
        fails = {a_fact(*task, state) for task, state in found.items() if state in CLASSES}
        assert change.new == fails - set(told)
        assert change.due == {fact for fact in fails & set(told) if now - told[fact] >= REPEAT}
        over = {
            fact.task
            for fact in told
            if all(last[one.task] == "well" for one in told if one.reason == fact.reason)
        }
        assert {fact.task for fact in change.recovered} == over
        told = {fact: at for fact, at in told.items() if fact.task not in over}
        if change.new or change.due or over:
            told |= dict.fromkeys(fails, now)
        assert set(channel.memory) == set(told)


@given(RUNS)
def test_every_shard_that_was_told_to_fail_is_told_once_to_be_well(
    runs: list[tuple[dict[tuple[str, str], str], int]],
) -> None:
    channel, now = Channel(), NOW
    failing: set[tuple[str, str]] = set()
    for found, hours in [*runs, (dict.fromkeys(TASKS, "well"), 1), (dict.fromkeys(TASKS, "well"), 1)]:
        now += hours * HOUR
        change = channel.run(found, now)
        recovered = {fact.task for fact in change.recovered}
        assert recovered <= failing, "told well, and never told to fail since it was last told well"
        failing -= recovered
        failing |= {fact.task for fact in change.new}
    assert failing == set()
    assert not change.recovered
    assert channel.memory == {}


@given(RUNS, st.data())
def test_fewer_failures_are_no_news(
    runs: list[tuple[dict[tuple[str, str], str], int]], data: st.DataObject
) -> None:
    channel = Channel()
    for found, _ in runs:
        channel.run(found)
    if runs:
        again = {task: state for task, state in runs[-1][0].items() if data.draw(st.booleans())}
        assert channel.run(again).new == frozenset()


def all_in(state: str, *shards: str) -> dict[tuple[str, str], str]:
    return {("orders", shard): state for shard in shards}


def test_a_shard_that_comes_and_goes_among_those_told_is_no_news() -> None:
    channel = Channel()
    assert len(channel.run(all_in("ConnectError", "abakan", "achinsk")).new) == 2
    partly = all_in("ConnectError", "abakan") | all_in("well", "achinsk")
    for _ in range(3):
        change = channel.run(partly)
        assert (change.new, change.recovered) == (frozenset(), frozenset())
        assert not channel.run(all_in("ConnectError", "abakan", "achinsk")).new
    channel.run(partly)
    # The last one is well: the reason is over for both.
    assert len(channel.run(all_in("well", "abakan")).recovered) == 2


def test_a_shard_that_alternates_between_two_reasons_is_told_of_each_once() -> None:
    channel = Channel()
    assert channel.run(all_in("ConnectError", "abakan")).new
    assert channel.run(all_in("QueryError", "abakan")).new
    for state in ("ConnectError", "QueryError", "ConnectError"):
        change = channel.run(all_in(state, "abakan"))
        assert (change.new, change.recovered) == (frozenset(), frozenset())
    assert len(channel.run(all_in("well", "abakan")).recovered) == 2


def test_a_new_connection_of_the_same_shard_is_news() -> None:
    memory = {FailureKey("orders", "server_0", "ConnectError", "abakan", DAY): Notified(NOW)}
    moved = {FailureKey("orders", "server_9", "ConnectError", "abakan", DAY): True}
    assert deduplicate(memory, moved, {}, now=NOW, repeat_after=REPEAT).new == set(moved)


@pytest.mark.parametrize(
    ("newest", "good", "is_well"),
    [
        (True, DAY, True),
        (True, DAY + timedelta(days=1), True),
        (True, DAY - timedelta(days=1), False),
        # A gap in the past is not filled by today's load, however well that goes.
        (False, DAY + timedelta(days=1), False),
        (False, DAY, True),
    ],
)
def test_which_day_shows_that_a_task_is_well(newest: bool, good: date, is_well: bool) -> None:
    fact = a_fact("orders", "abakan", "QueryError")
    memory = {fact: Notified(NOW, newest=newest)}
    change = deduplicate(memory, {}, {fact.task: frozenset([good])}, now=NOW, repeat_after=REPEAT)
    assert bool(change.recovered) is is_well


def test_what_a_channel_refused_is_news_and_has_no_recovery() -> None:
    fact = a_fact("orders", "abakan", "QueryError")
    memory = {fact: Notified(NOW, delivered=False, pending=False)}
    assert deduplicate(memory, {fact: True}, {}, now=NOW, repeat_after=REPEAT).new == {fact}
    change = deduplicate(memory, {}, {fact.task: frozenset([DAY])}, now=NOW, repeat_after=REPEAT)
    assert change.recovered == {fact}
    assert not change.announced
    assert not change.state


def test_what_can_never_recover_is_forgotten() -> None:
    gone, old, kept = (a_fact("orders", shard, "QueryError") for shard in ("gone", "old", "abakan"))
    memory = {gone: Notified(NOW), old: Notified(NOW - 31 * 24 * HOUR), kept: Notified(NOW)}
    found = without_unknown(memory, lambda fact: fact.shard != "gone", NOW - 30 * 24 * HOUR)
    assert list(found) == [kept]
