"""A target without transactions replaces slices in its own way, under the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from dwhctl.core.errors import SessionsLostError, TargetError
from dwhctl.load.publish import PublishRules, publish
from dwhctl.systems.base.staging import ReplaceGuard, UncertainCommitError, compare_staged
from dwhctl.systems.base.target import StagedSlice, StagingGroup
from tests.unit.projects import a_load
from tests.unit.runs_kit import FREELY, GROUP, GUARDED, FakeTarget, staged

LOAD = a_load()


@dataclass
class SwappingTarget(FakeTarget):
    """Swaps whole slices, as a system does that has partitions and no transactions."""

    fails_after: int | None = None

    def publication(self, *_arguments: object) -> object:  # type: ignore[override]
        raise NotImplementedError

    def replace_slices(
        self,
        table: str,
        slice_by: str | None,
        timeout: timedelta,
        group: StagingGroup,
        slices: Sequence[StagedSlice],
        guard: ReplaceGuard,
    ) -> None:
        allowed = guard.allowed(slices, dict(self.held), lambda _shards, _columns: {})
        compare_staged(
            [one for one in allowed if one.rows],
            {token: rows for token, (*_, rows) in self.in_staging.items()},
        )
        guard.permit(allowed)
        for number, one in enumerate(allowed):
            if number == self.fails_after:
                raise UncertainCommitError(TargetError("lost"), allowed)
            self.held[one.slice.shard] = one.rows
            self.ids[one.etl_id] = one.rows


def test_slices_are_replaced_by_the_operation_of_the_target() -> None:
    target = SwappingTarget(held={"abakan": 5})
    both = target.put(staged("abakan", 7, 1), staged("chita", 3, 2))
    assert [one.failure for one in publish(target, LOAD, GROUP, both, FREELY)] == [None, None]
    assert target.held == {"abakan": 7, "chita": 3}


def test_what_the_guard_refuses_keeps_its_rows() -> None:
    target = SwappingTarget(held={"abakan": 100, "chita": 3})
    both = target.put(staged("abakan", 1, 1), staged("chita", 3, 2))
    first, second = publish(target, LOAD, GROUP, both, GUARDED)
    assert first.failure is not None
    assert first.failure.error_class == "ShrunkSourceError"
    assert second.failure is None
    assert target.held == {"abakan": 100, "chita": 3}


def test_nothing_is_replaced_by_a_run_that_may_publish_no_more() -> None:
    def fence() -> None:
        raise SessionsLostError("the sessions database is lost")

    target = SwappingTarget(held={"abakan": 5})
    with pytest.raises(SessionsLostError):
        publish(target, LOAD, GROUP, target.put(staged("abakan", 7)), PublishRules(True, fence))
    assert target.held == {"abakan": 5}


@pytest.mark.parametrize(("swapped", "state"), [(0, "TargetError"), (1, "TargetError"), (2, None)])
def test_an_uncertain_end_is_looked_up(swapped: int, state: str | None) -> None:
    target = SwappingTarget(fails_after=swapped)
    three = target.put(staged("abakan", 7, 1), staged("chita", 3, 2), staged("omsk", 0, 3))
    found = publish(target, LOAD, GROUP, three, FREELY)
    assert {one.failure.error_class if one.failure else None for one in found} == {state}
