"""Which slices a run loads, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dwhctl.core.errors import UsageError
from dwhctl.project.loads import Shard
from dwhctl.project.model import Project
from dwhctl.runtime.plan import LoadRequest, candidates, days_back, slowest_first, without_complete
from tests.unit.projects import a_load, a_project

DAYS = (date(2020, 7, 14), date(2020, 7, 13))
SHARDS = (
    Shard("abakan", "abakan", "server_0", "UTC"),
    Shard("achinsk", "achinsk", "server_0", "UTC", date(2020, 7, 14)),
    Shard("chita", "chita", "server_1", "Asia/Chita"),
)


def project(**loads: dict[str, Any]) -> Project:
    made = {
        name: a_load(name=name, table=f"stage.{name}", **keys)
        for name, keys in (loads or {"orders": {}}).items()
    }
    return a_project(Path("/nowhere"), shard_groups={"cities": SHARDS}, loads=made)


def names(found: Project, **asked: Any) -> list[tuple[str, str, int]]:
    plan = candidates(found, LoadRequest(**{"days": DAYS, **asked}))
    return [(one.load.name, one.shard.name, one.slice.day.day) for one in plan.slices]


def test_every_load_day_and_shard_once() -> None:
    assert names(project()) == [
        ("orders", "abakan", 14), ("orders", "achinsk", 14), ("orders", "chita", 14),
        ("orders", "abakan", 13), ("orders", "chita", 13),
    ]  # fmt: skip


def test_what_is_asked_for_twice_is_loaded_once() -> None:
    asked = {"loads": ("orders", "orders"), "days": (*DAYS, *DAYS), "shards": ("abakan", "aba*")}
    assert names(project(), **asked) == [("orders", "abakan", 14), ("orders", "abakan", 13)]


def test_the_later_of_start_date_and_from_counts() -> None:
    plan = candidates(project(orders={"start_date": date(2020, 7, 14)}), LoadRequest(days=DAYS))
    assert ({one.slice.day for one in plan.slices}, plan.before_start) == ({DAYS[0]}, 3)
    assert candidates(project(), LoadRequest(days=DAYS)).before_start == 1


def test_no_slice_after_the_last_day_of_a_shard() -> None:
    made = project()
    shards = [replace(one, from_date=None, until_date=DAYS[1]) for one in SHARDS]
    plan = candidates(
        dataclasses.replace(made, shard_groups={"cities": tuple(shards)}), LoadRequest(days=DAYS)
    )
    assert plan.after_end == len(shards)
    assert {one.slice.day for one in plan.slices} == {DAYS[1]}
    assert without_complete(plan, []).after_end == slowest_first(plan, {}).after_end == len(shards)


def test_a_load_without_slices_is_loaded_once_whatever_the_days() -> None:
    found = names(project(whole={"slice_by": None}), days=days_back(date(2020, 7, 15), 9))
    assert found == [("whole", "abakan", 15), ("whole", "achinsk", 15), ("whole", "chita", 15)]
    # Also where the oldest day comes first, as in verify: achinsk opened within the range.
    assert names(project(whole={"slice_by": None}), days=DAYS[::-1]) == [
        ("whole", "abakan", 14), ("whole", "achinsk", 14), ("whole", "chita", 14),
    ]  # fmt: skip


class Days(tuple[date, ...]):
    """Days that count how often they are gone through."""

    reads = 0

    def __iter__(self) -> Iterator[date]:
        Days.reads += 1
        return super().__iter__()


def test_loads_without_slices_take_no_longer_for_many_days() -> None:
    loads: dict[str, dict[str, Any]] = {f"whole_{number}": {"slice_by": None} for number in range(20)}
    plan = candidates(project(**loads), LoadRequest(days=Days(days_back(DAYS[0], 100))))
    assert len(plan.slices) == len(loads) * len(SHARDS)
    assert Days.reads <= 2


def test_globs_choose_shards_and_each_must_match() -> None:
    assert {shard for _, shard, _ in names(project(), shards=("a*", "chit?"))} == {
        "abakan",
        "achinsk",
        "chita",
    }
    with pytest.raises(UsageError, match=r"no shard matches 'chyta'.*chita"):
        names(project(), shards=("abakan", "chyta"))


def test_unknown_loads_are_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no load 'ordesr'.*orders"):
        names(project(), loads=("ordesr",))
    with pytest.raises(UsageError, match="the project has no load"):
        candidates(a_project(), LoadRequest(days=DAYS))


def test_complete_slices_are_left_out_and_counted() -> None:
    plan = without_complete(candidates(project(), LoadRequest(days=DAYS)), [("orders", "abakan", DAYS[0])])
    assert (len(plan.slices), plan.complete, plan.before_start) == (4, 1, 1)


def test_the_slowest_start_first_within_their_day_and_the_unknown_before_them() -> None:
    plan = candidates(project(), LoadRequest(days=DAYS))
    ordered = slowest_first(plan, {("orders", "abakan"): 1.0, ("orders", "achinsk"): 60.0})
    assert [(one.shard.name, one.slice.day.day) for one in ordered.slices] == [
        ("chita", 14), ("achinsk", 14), ("abakan", 14), ("chita", 13), ("abakan", 13),
    ]  # fmt: skip


def test_work_is_in_one_order_for_everybody() -> None:
    two = project(b={}, a={})
    expected = [("a", 13), ("a", 14), ("b", 13), ("b", 14)]
    for days in (DAYS, DAYS[::-1]):
        work = candidates(two, LoadRequest(days=days, loads=("b", "a"))).work()
        assert [(load.name, day.day) for load, day in work] == expected


def test_days_back() -> None:
    assert days_back(date(2020, 3, 1), 2) == (date(2020, 3, 1), date(2020, 2, 29), date(2020, 2, 28))
    assert days_back(DAYS[0], 0) == (DAYS[0],)
