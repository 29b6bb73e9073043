"""Workers of two runs over one number of places."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dwhctl.load import workers as module
from dwhctl.load.workers import Worker, WorkerPool
from dwhctl.runtime.slots import WORKERS, Slots


class Nobody(Worker):
    """A worker that does nothing."""

    killed = False

    def submit(self, function: Callable[..., object], *arguments: Any) -> Future[object]:
        raise AssertionError

    def kill(self) -> None:
        self.killed = True


class Clock:
    """Time as the test wants it."""

    now = 1000.0

    def monotonic(self) -> float:
        """Tell it."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The pool's clock."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def a_crew(folder: Path, places: int) -> WorkerPool:
    return WorkerPool(places, Nobody, Slots(folder, {WORKERS: places}))


def all_of(pool: WorkerPool) -> list[Worker]:
    found = []
    while (worker := pool.take()) is not None:
        found.append(worker)
    return found


def test_a_run_with_several_workers_leaves_one_to_a_run_with_none(tmp_path: Path, clock: Clock) -> None:
    large, small = a_crew(tmp_path, 3), a_crew(tmp_path, 3)
    first, second, _third = all_of(large)
    assert small.take() is None
    clock.now += 2
    large.give_back(first)
    assert getattr(first, "killed", False)
    large.give_back(second)
    assert not getattr(second, "killed", True), "one at a time"
    assert len(all_of(small)) == 1


def test_nobody_waits_nobody_is_sent_home(tmp_path: Path, clock: Clock) -> None:
    pool = a_crew(tmp_path, 2)
    workers = all_of(pool)
    clock.now += 100
    for worker in workers:
        pool.give_back(worker)
    assert set(all_of(pool)) == set(workers)


def test_the_only_worker_goes_when_it_had_its_turn(tmp_path: Path, clock: Clock) -> None:
    large, small = a_crew(tmp_path, 1), a_crew(tmp_path, 1)
    (only,) = all_of(large)
    clock.now += module._TURN_SECONDS - 1
    assert small.take() is None
    large.give_back(only)
    assert all_of(large) == [only]
    clock.now += 2
    assert small.take() is None
    large.give_back(only)
    assert len(all_of(small)) == 1
