"""How `adopt` puts slices into batches, and what it lists into ranges."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from dwhctl.monitor.coverage import Gap
from dwhctl.runtime.plan import LoadRequest, candidates
from dwhctl.verify import adopt
from dwhctl.verify.findings import Check, SliceComparison, SliceFinding, ranges_of
from tests.support.projects import DAY, Sandbox, days_from


def test_a_batch_is_whole_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "BATCH_SLICES", 7)
    project = Sandbox(tmp_path).write().project()
    slices = candidates(project, LoadRequest(tuple(days_from(DAY, 5)))).slices
    batches = adopt.batches_of(slices)
    assert [len(batch) for batch in batches] == [6, 6, 3]
    assert [one for batch in batches for one in batch] == list(slices)
    assert adopt.batches_of([]) == []


def test_a_day_larger_than_a_batch_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "BATCH_SLICES", 2)
    project = Sandbox(tmp_path).write().project()
    slices = candidates(project, LoadRequest(tuple(days_from(DAY, 2)))).slices
    assert [len(batch) for batch in adopt.batches_of(slices)] == [3, 3]


def test_days_in_a_row_are_one_range() -> None:
    def verdict(shard: str, day: date | None) -> SliceComparison:
        return SliceComparison("orders", shard, day, [SliceFinding(Check.ROWS, "2", "1")])

    days = [DAY + timedelta(days=back) for back in (4, 0, 1)]
    verdicts = [verdict("chita", day) for day in days] + [verdict("abakan", DAY), verdict("abakan", None)]
    assert ranges_of(verdicts) == [
        Gap("orders", ("abakan",), DAY, DAY),
        Gap("orders", ("chita",), DAY, days[2]),
        Gap("orders", ("chita",), days[0], days[0]),
    ]
