"""Publishing decides that nothing is lost and nothing doubled; here against a warehouse that fails as it is told."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core.errors import (
    ConnectError,
    LoginRefusedError,
    SessionsLostError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
)
from dwhctl.load.publish import Publisher, PublishRules, look_up, publish
from dwhctl.load.staging import PublishGroup
from tests.unit.projects import a_load
from tests.unit.runs_kit import DAY, FREELY, GROUP, GUARDED, FakeTarget, staged

LOAD = a_load()


def classes(
    target: FakeTarget, *slices: object, rules: PublishRules = FREELY, load: object = LOAD
) -> list[str | None]:
    outcomes = publish(target, load, GROUP, slices, rules)  # type: ignore[arg-type]
    assert [one.staged for one in outcomes] == list(slices)
    return [one.failure.error_class if one.failure else None for one in outcomes]


def test_slices_are_replaced_in_one_transaction() -> None:
    target = FakeTarget(held={"abakan": 5, "other": 9})
    both = target.put(staged("abakan", 7, 1), staged("chita", 3, 2))
    assert classes(target, *both) == [None, None]
    assert target.held == {"abakan": 7, "other": 9, "chita": 3}
    assert (target.commits, target.deleted) == (1, ["abakan"])


def test_other_tokens_in_staging_are_not_read() -> None:
    target = FakeTarget()
    target.put(staged("abakan", 100, 1))  # of an attempt whose worker was lost
    (second,) = target.put(staged("abakan", 7, 2))
    assert classes(target, second) == [None]
    assert target.held == {"abakan": 7}


def test_a_slice_without_rows_deletes_what_is_held_and_commits_nothing_otherwise() -> None:
    target = FakeTarget(held={"abakan": 5})
    assert classes(target, staged("abakan", 0), staged("chita", 0, 2)) == [None, None]
    assert (target.held, target.commits) == ({}, 1)
    assert classes(target, staged("abakan", 0)) == [None]
    assert target.commits == 1


@pytest.mark.parametrize("found", [6, 8, 0, None])
def test_staged_rows_that_are_not_the_extracted_are_refused(found: int | None) -> None:
    target = FakeTarget(held={"abakan": 5})
    one = staged("abakan", 7)
    if found is not None:
        target.put(one, rows=found)
    assert classes(target, one) == ["CountsDifferError"]
    assert target.held == {"abakan": 5}


def test_inserted_rows_that_are_not_the_staged_are_rolled_back() -> None:
    target = FakeTarget(held={"abakan": 5}, inserted=6)
    assert classes(target, *target.put(staged("abakan", 7))) == ["CountsDifferError"]
    assert (target.held, target.commits) == ({"abakan": 5}, 0)


# Refusals


@pytest.mark.parametrize("step", ["begin", "held", "staged", "delete", "insert"])
@pytest.mark.parametrize("error", [TargetBusyError("busy"), TargetError("gone"), ConnectError("down")])
def test_what_may_go_away_fails_all_and_changes_nothing(step: str, error: TargetError) -> None:
    target = FakeTarget(held={"abakan": 5}, faults={step: error})
    both = target.put(staged("abakan", 7), staged("chita", 3, 2))
    assert classes(target, *both) == [type(error).__name__] * 2
    assert (target.held, target.commits) == ({"abakan": 5}, 0)


def test_a_refused_slice_costs_itself_only() -> None:
    target = FakeTarget(refused={"chita": TargetRefusedError("duplicate key")})
    three = target.put(staged("abakan", 7, 1), staged("chita", 3, 2), staged("omsk", 4, 3))
    assert classes(target, *three) == [None, "TargetRefusedError", None]
    assert target.held == {"abakan": 7, "omsk": 4}
    assert target.commits == 2


def test_one_by_one_a_transient_error_costs_that_one() -> None:
    target = FakeTarget(refused={"chita": TargetRefusedError("no"), "omsk": TargetError("gone")})
    three = target.put(staged("abakan", 7, 1), staged("chita", 3, 2), staged("omsk", 4, 3))
    assert classes(target, *three) == [None, "TargetRefusedError", "TargetError"]
    assert target.held == {"abakan": 7}


def test_everything_refused_fails_each_once() -> None:
    target = FakeTarget(faults={"insert": TargetRefusedError("no such table")})
    assert (
        classes(target, *target.put(staged("abakan", 7, 1), staged("chita", 3, 2)))
        == ["TargetRefusedError"] * 2
    )


# The commit in doubt


def test_a_commit_in_doubt_that_happened_is_a_success() -> None:
    target = FakeTarget(held={"abakan": 5}, faults={"commit": TargetError("lost")}, commits_in_spite=True)
    both = target.put(staged("abakan", 7, 1), staged("chita", 3, 2))
    assert classes(target, *both) == [None, None]
    assert target.held == {"abakan": 7, "chita": 3}
    assert target.commits == 1


def test_a_commit_in_doubt_that_did_not_happen_is_a_failure_to_try_again() -> None:
    target = FakeTarget(held={"abakan": 5}, faults={"commit": TargetError("lost")})
    outcomes = publish(target, LOAD, GROUP, target.put(staged("abakan", 7)), FREELY)
    assert outcomes[0].failure is not None
    assert (outcomes[0].failure.error_class, outcomes[0].failure.permanent) == ("TargetError", False)
    assert target.held == {"abakan": 5}


LOST = {"commit": TargetError("lost"), "look": ConnectError("still down")}


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_of_which_nobody_can_be_asked_is_in_doubt_until_somebody_has_looked(happened: bool) -> None:
    target = FakeTarget(faults=dict(LOST), commits_in_spite=happened)
    both = target.put(staged("abakan", 7, 1), staged("chita", 3, 2))
    found = publish(target, LOAD, GROUP, both, FREELY)
    assert [one.in_doubt for one in found] == [True, True]
    assert {one.failure.error_class for one in found if one.failure} == {"CommitInDoubtError"}
    assert "(lost)" in str(found[0].failure)
    assert "still down" in str(found[0].failure)
    found = look_up(target, LOAD, found)
    assert [one.in_doubt for one in found] == [True, True]
    target.faults.clear()
    found = look_up(target, LOAD, found)
    assert [one.in_doubt for one in found] == [False, False]
    failures = [one.failure.error_class if one.failure else None for one in found]
    assert failures == ([None, None] if happened else ["TargetError"] * 2)
    assert target.commits == int(happened)


def test_a_commit_in_doubt_is_not_tried_one_by_one_whoever_refuses_the_look() -> None:
    refuses = {"commit": TargetError("lost"), "look": LoginRefusedError("expired password")}
    target = FakeTarget(faults=dict(refuses), commits_in_spite=True)
    found = publish(target, LOAD, GROUP, target.put(staged("abakan", 7, 1), staged("chita", 3, 2)), FREELY)
    assert [(one.in_doubt, one.failure.permanent) for one in found if one.failure] == [(True, True)] * 2
    assert target.commits == 1


def test_a_commit_in_doubt_that_only_deletes_is_ended_before_anybody_goes_on() -> None:
    target = FakeTarget(held={"abakan": 5}, faults=dict(LOST))
    [found] = publish(target, LOAD, GROUP, [staged("abakan", 0)], FREELY)
    assert found.in_doubt


def test_beside_a_commit_in_doubt_what_was_left_out_of_it_is_decided() -> None:
    target = FakeTarget(held={"abakan": 1000}, faults=dict(LOST))
    three = target.put(staged("abakan", 1, 1), staged("chita", 3, 2), staged("omsk", 0, 3))
    found = publish(target, LOAD, GROUP, three, GUARDED)
    assert [one.in_doubt for one in found] == [False, True, False]
    assert found[0].failure is not None
    assert found[0].failure.error_class == "ShrunkSourceError"
    assert found[2].failure is None


def test_a_defect_at_the_commit_leaves_it_in_doubt_too() -> None:
    faults: dict[str, Any] = {"commit": ZeroDivisionError("a defect"), "look": ConnectError("down")}
    target = FakeTarget(faults=faults, commits_in_spite=True)
    [found] = publish(target, LOAD, GROUP, target.put(staged("abakan", 7)), FREELY)
    assert found.in_doubt
    target.faults = {"commit": faults["commit"]}
    assert classes(target, *target.put(staged("chita", 7, 2))) == [None]


def test_a_commit_in_doubt_with_an_emptied_slice_beside_it_goes_by_the_filled_ones() -> None:
    target = FakeTarget(held={"abakan": 5}, faults={"commit": TargetError("lost")}, commits_in_spite=True)
    two = [staged("abakan", 0, 1), *target.put(staged("chita", 3, 2))]
    assert classes(target, *two) == [None, None]


def test_a_commit_in_doubt_of_emptied_slices_only_is_tried_again() -> None:
    target = FakeTarget(held={"abakan": 5}, faults={"commit": TargetError("lost")}, commits_in_spite=True)
    assert classes(target, staged("abakan", 0, 1)) == ["TargetError"]
    target.faults.clear()
    assert classes(target, staged("abakan", 0, 2)) == [None]


def test_a_commit_refused_for_good_is_tried_one_by_one() -> None:
    target = FakeTarget(faults={"commit": TargetRefusedError("a constraint at the end")})
    both = target.put(staged("abakan", 7, 1), staged("chita", 3, 2))
    assert classes(target, *both) == ["TargetRefusedError"] * 2
    assert target.held == {}


def test_the_fence_stands_right_before_the_commit() -> None:
    def closed() -> None:
        raise SessionsLostError

    target = FakeTarget(held={"abakan": 5})
    with pytest.raises(SessionsLostError):
        publish(
            target,
            LOAD,
            GROUP,
            target.put(staged("abakan", 7)),
            PublishRules(allow_shrink=True, fence=closed),
        )
    assert (target.held, target.commits) == ({"abakan": 5}, 0)


# The guard


@pytest.mark.parametrize(
    ("max_shrink", "held", "rows", "passes"),
    [
        (0.5, 10, 4, False), (0.5, 10, 5, True), (0.5, 9, 0, True), (0.5, 26, 0, False), (0.5, 101, 50, False),
        (0.5, 101, 51, True), (0.5, 200, 100, True), (0.5, 200, 99, False), (0.9, 1000, 100, True),
        (0.9, 1000, 99, False), (0.7, 1000, 300, True), (0.7, 1000, 299, False), (0.18, 150, 123, True),
        (0.18, 150, 122, False), (0.0, 101, 101, True), (0.0, 26, 25, False), (0.0, 9, 8, True),
        (1.0, 26, 1, True), (1.0, 26, 0, False), (1.0, 10**9, 0, False), (0.5, 101, 10**6, True),
    ],
)  # fmt: skip
def test_the_guard_to_the_row(max_shrink: float, held: int, rows: int, passes: bool) -> None:
    target = FakeTarget(held={"abakan": held})
    load = a_load(max_shrink=max_shrink)
    found = classes(target, *target.put(staged("abakan", rows)), rules=GUARDED, load=load)
    assert found == [None if passes else "ShrunkSourceError"]
    if not passes:
        assert target.held == {"abakan": held}


@pytest.mark.parametrize(
    ("floor", "held", "rows", "passes"),
    [(1, 1, 0, False), (1, 0, 0, True), (1, 2, 1, True), (100, 99, 0, True), (100, 100, 0, False)],
)
def test_slices_below_the_shrink_floor_may_shrink_freely(
    floor: int, held: int, rows: int, passes: bool
) -> None:
    target = FakeTarget(held={"abakan": held} if held else {})
    load = a_load(shrink_floor=floor)
    found = classes(target, *target.put(staged("abakan", rows)), rules=GUARDED, load=load)
    assert found == [None if passes else "ShrunkSourceError"]


def test_an_emptied_slice_is_refused_whatever_max_shrink_is_and_the_message_says_so() -> None:
    target = FakeTarget(held={"abakan": 26})
    (outcome,) = publish(target, a_load(max_shrink=1.0), GROUP, [staged("abakan", 0)], GUARDED)
    assert outcome.failure is not None
    assert outcome.failure.message == (
        "the source has 0 rows, the warehouse 26: a slice of shrink_floor = 10 rows or more may not become empty"
        " (max_shrink = 1). If that is right: dwhctl load orders --date 2020-07-14 --shard abakan --allow-shrink"
    )
    assert classes(target, staged("abakan", 0), rules=FREELY) == [None]
    assert target.held == {}


@given(percent=st.integers(0, 100), held=st.integers(10, 10**7), data=st.data())
def test_the_guard_goes_by_the_decimal_that_was_written(percent: int, held: int, data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from([(100 - percent) * held // 100 + step for step in (-1, 0, 1)]))
    target = FakeTarget(held={"abakan": held})
    load = a_load(max_shrink=percent / 100)
    found = classes(target, *target.put(staged("abakan", max(rows, 0))), rules=GUARDED, load=load)
    passes = rows > 0 and rows * 100 >= (100 - percent) * held
    assert found == [None if passes else "ShrunkSourceError"]


def test_the_guard_costs_its_slice_only_and_prints_the_command() -> None:
    target = FakeTarget(held={"abakan": 1000, "chita": 1000})
    both = target.put(staged("abakan", 1, 1), staged("chita", 900, 2))
    outcomes = publish(target, LOAD, GROUP, both, GUARDED)
    failure = outcomes[0].failure
    assert failure is not None
    assert failure.permanent
    assert "the source has 1 rows, the warehouse 1000: more than max_shrink = 0.5 of them" in failure.message
    assert "shrink_floor = 10" in failure.message
    assert "dwhctl load orders --date 2020-07-14 --shard abakan --allow-shrink" in failure.message
    assert outcomes[1].failure is None
    assert target.held == {"abakan": 1000, "chita": 900}
    assert classes(target, both[0], rules=FREELY) == [None]


def test_the_guard_holds_one_by_one_too() -> None:
    target = FakeTarget(held={"abakan": 1000}, refused={"chita": TargetRefusedError("no")})
    three = target.put(staged("abakan", 1, 1), staged("chita", 3, 2), staged("omsk", 4, 3))
    assert classes(target, *three, rules=GUARDED) == ["ShrunkSourceError", "TargetRefusedError", None]
    assert target.held == {"abakan": 1000, "omsk": 4}


class _OneSlot:
    """A limit of one connection, which a direct slice holds until it is published."""

    def __init__(self) -> None:
        self.is_free = threading.Event()

    def try_take(self, _connection: str) -> _OneSlot | None:
        return self if self.is_free.is_set() else None

    def wanted(self, _connection: str) -> str:
        return "a connection"

    def release(self) -> None:
        pass


def test_a_direct_slice_is_published_while_another_group_waits_for_its_slot() -> None:
    slots, target, events = _OneSlot(), FakeTarget(), queue.SimpleQueue[Any]()
    publisher = Publisher({"dwh": target}, slots, events.put, FREELY)  # type: ignore[arg-type]
    groups = [PublishGroup(a_load(), DAY, GROUP, 0.0, direct=direct) for direct in (False, True)]
    alone, grouped = target.put(staged("chita", 1, 1), staged("abakan", 1, 2))
    direct = dataclasses.replace(alone, direct=target.publication("stage.orders", None, timedelta(seconds=1)))
    publisher.start()
    publisher.publish(groups[0], [grouped])
    while publisher.waits_for is None:
        time.sleep(0.01)
    publisher.publish(groups[1], [direct])
    assert events.get(timeout=5).group is groups[1]
    slots.is_free.set()
    assert events.get(timeout=5).group is groups[0]
    publisher.finish()
