"""Publish groups: when they take, when they are due, when they are done."""

from __future__ import annotations

from datetime import date

import pytest

from dwhctl.engine.jobs import NameAndDay
from dwhctl.load import staging as module
from dwhctl.load.staging import Groups, PublishGroup
from dwhctl.project.loads import Load
from dwhctl.runtime.slots import Slot
from dwhctl.systems.base.target import StagedSlice
from tests.unit.projects import a_load
from tests.unit.runs_kit import DAY, staged

LOAD = a_load()


def none_queued(work: NameAndDay) -> int:
    return 0


def many_queued(work: NameAndDay) -> int:
    return 100


class Bench:
    def __init__(self, *, opens: bool = True) -> None:
        self.begun: list[PublishGroup] = []
        self.opens = opens
        self.groups = Groups("run", self.begun.append)

    def take(self, token: str, now: float = 0.0, day: date = DAY, load: Load = LOAD) -> PublishGroup:
        group = self.groups.take(load, day, token, now)
        if group.opening and self.opens:
            self.groups.opened(group, ok=True)
        return group

    def due(self, now: float = 0.0, *, more: bool = False) -> list[list[StagedSlice]]:
        return [slices for _, slices in self.groups.due(now, many_queued if more else none_queued)]


def test_a_group_belongs_to_one_load_and_day() -> None:
    bench = Bench()
    same = bench.take("a"), bench.take("b")
    assert same[0] is same[1]
    assert bench.take("c", day=date(2020, 7, 15)) is not same[0]
    assert bench.take("d", load=a_load(name="other", table="stage.other")) is not same[0]
    assert [one.staging.run_id for one in bench.begun] == ["run"] * 3
    assert len({one.staging.name for one in bench.begun}) == 3


@pytest.mark.parametrize("reason", ["slices", "rows", "age"])
def test_a_group_closes_by_slices_rows_and_age(reason: str) -> None:
    bench = Bench()
    first = bench.take("t0")
    if reason == "slices":
        for number in range(1, module.MAX_SLICES):
            assert bench.take(f"t{number}") is first
    elif reason == "rows":
        bench.groups.report(first, "t0", staged("abakan", module.MAX_ROWS), 0.0)
    now = module.MAX_AGE_SECONDS if reason == "age" else 0.0
    assert bench.take("next", now) is not first


def test_nothing_is_due_before_its_neighbours_have_reported() -> None:
    bench = Bench()
    group = bench.take("a")
    bench.take("b")
    one, two = staged("abakan", 5), staged("chita", 6, 2)
    bench.groups.report(group, "a", one, 0.0)
    assert bench.due() == []
    bench.groups.report(group, "b", two, 0.1)
    assert bench.due(0.1) == [[one, two]]
    assert bench.due(0.1) == []
    assert list(bench.groups.done()) == []
    group.publishing -= 1
    assert list(bench.groups.done()) == [group]
    assert not bench.groups.busy


def test_a_group_that_may_still_grow_waits() -> None:
    bench = Bench()
    group = bench.take("a")
    bench.groups.report(group, "a", staged("abakan", 5), 0.0)
    assert bench.due(module.IDLE_SECONDS - 0.1, more=True) == []
    assert bench.groups.next_due(0.0) == module.IDLE_SECONDS
    assert len(bench.due(module.IDLE_SECONDS, more=True)) == 1, "what is queued may be a dead server's"
    assert bench.take("b", 1.0) is group, "it takes more all the same"


def test_a_hanging_slice_does_not_hold_up_its_neighbours() -> None:
    bench = Bench()
    group = bench.take("hangs")
    bench.take("b")
    bench.groups.report(group, "b", staged("chita", 6), 0.2)
    assert bench.groups.next_due(0.4) == module.LATE_SECONDS - 0.4
    assert bench.due(module.LATE_SECONDS - 0.1) == []
    assert len(bench.due(module.LATE_SECONDS)) == 1
    assert bench.groups.next_due(7.0) is None
    group.publishing -= 1
    assert list(bench.groups.done()) == [], "the hanging one may still report"
    bench.groups.report(group, "hangs", None, 9.0)
    assert bench.due(9.0) == []
    assert list(bench.groups.done()) == [group]


def test_a_slice_is_not_late_that_takes_as_long_as_the_others() -> None:
    bench = Bench()
    group = bench.take("a")
    bench.take("b", 0.1)
    bench.groups.report(group, "a", staged("abakan", 5), 2.0)
    most = 2.0 + module.MAX_READY_SECONDS
    assert bench.groups.next_due(2.0) == module.MAX_READY_SECONDS
    assert bench.due(most - 0.1) == []
    assert len(bench.due(most)) == 1, "what is staged does not wait for ever"


def test_a_group_that_takes_more_waits_for_them_and_not_for_the_late() -> None:
    bench = Bench()
    group = bench.take("hangs")
    for number in range(3):
        now = 2.0 + 0.4 * number
        assert bench.take(f"t{number}", now) is group
        assert bench.due(now, more=True) == [], "it has a slice that is not late"
        bench.groups.report(group, f"t{number}", staged("chita", 6, number), now + 0.1)
        assert bench.due(now + 0.3, more=True) == [], "the next one may begin at once"
    idle = now + 0.1 + module.IDLE_SECONDS
    assert bench.groups.next_due(idle - 0.2) == pytest.approx(0.2)
    (published,) = bench.due(idle, more=True)
    assert len(published) == 3


def test_late_slices_that_end_together_are_published_together() -> None:
    bench = Bench()
    late = [f"late{number}" for number in range(5)]
    for token in late:
        group = bench.take(token)
    for number in range(10):
        bench.take(f"t{number}")
        bench.groups.report(group, f"t{number}", staged("abakan", 5, number), 0.1)
    assert len(bench.due(3.0)) == 1
    for number, token in enumerate(late[:4]):
        bench.groups.report(group, token, staged("chita", 6, number), 3.0 + 0.1 * number)
        assert bench.due(3.0 + 0.1 * number) == []
    (published,) = bench.due(3.0 + module.IDLE_SECONDS)
    assert len(published) == 4


def test_many_rows_are_published_at_once() -> None:
    bench = Bench()
    group = bench.take("hangs")
    bench.take("b")
    bench.groups.report(group, "b", staged("chita", module.MAX_ROWS), 0.0)
    assert len(bench.due(0.0)) == 1


def test_a_group_of_failures_is_done_without_a_publication() -> None:
    bench = Bench()
    group = bench.take("a")
    bench.groups.report(group, "a", None, 0.0)
    assert bench.due() == []
    assert list(bench.groups.done()) == [group]


def test_a_group_that_cannot_be_opened_leaves_nothing_behind() -> None:
    bench = Bench(opens=False)
    refused = bench.take("a")
    bench.groups.opened(refused, ok=False)
    assert not bench.groups.busy
    assert bench.take("a") is not refused


def test_a_group_is_open_when_it_is_told_so() -> None:
    bench = Bench(opens=False)
    group = bench.take("a")
    assert not group.is_open
    bench.groups.opened(group, ok=True)
    assert bench.take("b").is_open


def test_a_load_whose_table_has_changed_begins_another_group() -> None:
    bench = Bench()
    other = a_load(name="other", table="stage.other")
    before, others = bench.take("a"), bench.take("b", load=other)
    bench.groups.close(LOAD)
    assert bench.take("c") is not before
    assert bench.take("d", load=other) is others
    bench.groups.report(before, "a", staged("abakan", 5), 0.0)
    assert len(bench.due(0.0, more=True)) == 1, "what is staged in it is published all the same"


@pytest.mark.parametrize("ok", [True, False])
def test_a_group_whose_slices_gave_up_while_it_was_opened_is_waited_for(ok: bool) -> None:
    bench, released = Bench(opens=False), list[str]()

    class CountedSlot(Slot):
        def release(self) -> None:
            released.append("slot")

    group = bench.take("a")
    group.kept += [CountedSlot(None)]
    bench.groups.report(group, "a", None, 0.0)
    assert bench.due() == []
    assert list(bench.groups.done()) == [], "a session of the target still works for it"
    assert bench.groups.busy
    bench.groups.opened(group, ok=ok)
    assert released == ["slot"]
    assert list(bench.groups.done()) == ([group] if ok else [])
    assert not bench.groups.busy


class CountedSlot(Slot):
    """Says when it is given back."""

    def __init__(self) -> None:
        super().__init__(None)
        self.released = False

    def release(self) -> None:
        self.released = True


def test_a_group_begun_ahead_waits_for_its_first_slice_however_long() -> None:
    bench, slot = Bench(), CountedSlot()
    assert bench.groups.wants_ahead(LOAD, DAY, 0.0)
    bench.groups.begin_ahead(LOAD, DAY, 0.0, slot)
    assert not bench.groups.wants_ahead(LOAD, DAY, 0.0)
    (ahead,) = bench.begun
    bench.groups.opened(ahead, ok=True)
    assert slot.released
    later = 100 * module.MAX_AGE_SECONDS
    assert bench.due(later, more=True) == []
    assert list(bench.groups.done()) == []
    assert bench.take("a", later) is ahead
    assert bench.take("b", later + module.MAX_AGE_SECONDS - 0.1) is ahead
    assert bench.groups.wants_ahead(LOAD, DAY, later + module.MAX_AGE_SECONDS)


def test_a_group_begun_ahead_for_slices_that_never_start_is_dropped() -> None:
    bench = Bench()
    bench.groups.begin_ahead(LOAD, DAY, 0.0, CountedSlot())
    bench.groups.opened(bench.begun[0], ok=True)
    assert bench.due(1.0) == []
    assert list(bench.groups.done()) == bench.begun
    assert not bench.groups.busy


def test_what_could_not_be_begun_ahead_is_left_to_the_slice_that_needs_it() -> None:
    bench, slot = Bench(), CountedSlot()
    bench.groups.begin_ahead(LOAD, DAY, 0.0, slot)
    bench.groups.opened(bench.begun[0], ok=False)
    assert slot.released
    assert not bench.groups.busy
    assert not bench.groups.wants_ahead(LOAD, DAY, 0.0)
    assert bench.take("a") is bench.begun[1]


def test_the_slots_of_groups_that_are_still_opening_are_given_back_at_the_end() -> None:
    bench, slot = Bench(), CountedSlot()
    bench.groups.begin_ahead(LOAD, DAY, 0.0, slot)
    bench.groups.release()
    assert slot.released
