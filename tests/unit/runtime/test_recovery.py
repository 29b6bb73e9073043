"""Staging that cannot be dropped keeps what it must: the run's sessions, its lock, its load."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import ConfigError, LockHeldError, TargetError
from dwhctl.runtime.events import Notice
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.recovery import Reaper
from dwhctl.runtime.slots import Slots
from dwhctl.sessions.values import State
from dwhctl.systems.duckdb.target import DuckdbTarget
from tests.support.projects import DAY, Sandbox
from tests.unit.projects import a_load, a_project
from tests.unit.runs_kit import FakeTarget, anything

DEAD = "20200713T060000-0000dead"


class DeadRun:
    """A sessions table with one dead run of one open session, or of none."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.closed: list[Any] = []
        self.is_open = is_open

    def unfinished(self, run_id: str) -> list[Any]:
        return (
            [anything(id=1, load="orders", shard="abakan", host=None, error_class=None)]
            if self.is_open
            else []
        )

    def of_run(self, run_id: str) -> list[Any]:
        return self.unfinished(run_id)

    @property
    def is_shared(self) -> bool:
        return True

    def try_hold_run(self, run_id: str) -> bool:
        return True

    def release_run(self, run_id: str) -> None:
        pass

    def close(self, closings: list[Any]) -> None:
        self.closed += closings

    def fail_waiting(self, run_id: str, comment: str) -> int:
        return 0


def reap(reaper: Reaper, state: StateDir, work: Collection[str] = ()) -> None:
    """Reap the dead run for another one, as that does."""
    reaper.reap_dead_runs({DEAD}, state.locked_runs(), work)


def test_a_run_without_an_open_session_may_have_died_before_its_first_one(tmp_path: Path) -> None:
    state, store, notices = StateDir(tmp_path), DeadRun(is_open=False), list[Notice]()
    state.make()
    lock = state.run_lock(DEAD)
    lock.write_text("pid 1 on alpha: dwhctl load --date today")
    project = a_project(tmp_path, loads={"orders": a_load()})
    reaper = Reaper(project, state, store, {"dwh": FakeTarget()}, Slots(state.slots, {}), notices.append)  # type: ignore[arg-type]
    reap(reaper, state)
    assert [notice.text for notice in notices] == [f"run {DEAD} had died with no session open"]
    assert not lock.exists()


@pytest.mark.parametrize("droppable", [True, False])
def test_a_load_waits_for_its_dead_runs_staging(tmp_path: Path, droppable: bool) -> None:
    state, store, target = StateDir(tmp_path), DeadRun(), FakeTarget()
    state.make()
    if not droppable:
        target.faults["drop"] = TargetError("gone for a moment")
    project = a_project(tmp_path, loads={"orders": a_load()})
    slots = Slots(state.slots, {})
    reaper = Reaper(project, state, store, {"dwh": target}, slots, lambda text: None)  # type: ignore[arg-type]
    reap(reaper, state)
    assert (list(reaper.blocked), len(store.closed)) == (([], 1) if droppable else (["orders"], 0))
    assert (state.run_locks / f"{DEAD}.lock").exists() is not droppable


def test_a_load_waits_although_the_dead_run_had_closed_its_sessions(tmp_path: Path) -> None:
    """It may have closed them as failed while its commit was in doubt, and be at it still."""
    state, store, target = StateDir(tmp_path), DeadRun(is_open=False), FakeTarget()
    state.make()
    target.faults["drop"] = TargetError("a session does not end")
    project = a_project(tmp_path, loads={"orders": a_load()})
    reaper = Reaper(project, state, store, {"dwh": target}, Slots(state.slots, {}), lambda text: None)  # type: ignore[arg-type]
    reap(reaper, state)
    assert list(reaper.blocked) == ["orders"]
    assert (state.run_locks / f"{DEAD}.lock").exists()


def test_a_run_that_cannot_drop_its_staging_leaves_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    locks = tmp_path / "state" / "locks" / "runs"

    def refuse(target: DuckdbTarget, run_id: str) -> None:
        raise TargetError("gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(DuckdbTarget, "drop_run", refuse)
        assert sandbox.load().failed == 0
    assert len(list(locks.iterdir())) == 1
    assert sandbox.load().failed == 0
    assert list(locks.iterdir()) == []


class DyingRun(DeadRun):
    """A run of another machine, whose lock is held for so many more looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def try_hold_run(self, run_id: str) -> bool:
        self.looks -= 1
        return self.looks < 0

    def unfinished(self, run_id: str) -> list[Any]:
        return [anything(id=1, load="orders", shard="abakan", host="etl-1", day=DAY, error_class=None)]


def reap_with(tmp_path: Path, store: DyingRun, work: str) -> None:
    """Reap for a run that holds this work."""
    state = StateDir(tmp_path)
    state.make()
    project, target = a_project(tmp_path, loads={"orders": a_load()}), FakeTarget()
    reaper = Reaper(project, state, store, {"dwh": target}, Slots(state.slots, {}), lambda text: None)  # type: ignore[arg-type]
    reap(reaper, state, {work})


def test_who_takes_its_work_over_waits_for_a_dying_run(tmp_path: Path) -> None:
    """The server lets go of the locks of a connection one by one."""
    store = DyingRun(looks=3)
    reap_with(tmp_path, store, f"orders.{DAY}")
    assert [one.id for one in store.closed] == [1]


def test_who_does_other_work_leaves_a_living_run_alone(tmp_path: Path) -> None:
    store = DyingRun(looks=3)
    reap_with(tmp_path, store, "orders.2020-07-13")
    assert (store.closed, store.looks) == ([], 2)


def test_nothing_begins_beside_a_run_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwhctl.runtime.recovery._OUT_OF_THE_WAY_SECONDS", 0.2)
    with pytest.raises(LockHeldError, match=f"load orders of {DAY} was being done by run {DEAD} on etl-1"):
        reap_with(tmp_path, DyingRun(looks=99), f"orders.{DAY}")


class DoubtfulRun(DeadRun):
    """A run that ended with a commit in doubt."""

    def unfinished(self, run_id: str) -> list[Any]:
        fields = {"load": "orders", "shard": "abakan", "host": None, "error_class": "CommitInDoubtError"}
        return [anything(id=1, **fields)]


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_in_doubt_is_decided_by_the_next_run(tmp_path: Path, happened: bool) -> None:
    state, store = StateDir(tmp_path), DoubtfulRun()
    target = FakeTarget(ids={1: 7} if happened else {})
    state.make()
    project, told = a_project(tmp_path, loads={"orders": a_load()}), list[Notice]()
    reaper = Reaper(project, state, store, {"dwh": target}, Slots(state.slots, {}), told.append)  # type: ignore[arg-type]
    reap(reaper, state)
    [closing] = store.closed
    assert (closing.state, closing.loaded_rows) == (
        (State.LOADED, 7) if happened else (State.ABANDONED, None)
    )
    # It ended with 1 and alerted of it itself: it is no death to alert of again.
    assert [type(one) for one in told] == [Notice]
    assert f"run {DEAD} had ended with a commit in doubt: {int(happened)} of its sessions" in told[0].text


def test_every_run_says_why_it_is_blocked_and_reports_are_blocked_too(tmp_path: Path) -> None:
    state, store, target = StateDir(tmp_path), DoubtfulRun(), FakeTarget()
    state.make()
    target.faults["drop"] = TargetError("a session does not end")
    project = a_project(
        tmp_path, loads={"orders": a_load()}, reports={"cities": anything(name="cities", connection="dwh")}
    )
    for _ in range(2):
        told = list[Notice]()
        reaper = Reaper(project, state, store, {"dwh": target}, Slots(state.slots, {}), told.append)  # type: ignore[arg-type]
        reap(reaper, state)
        assert sorted(reaper.blocked) == ["cities", "orders"]
        assert store.closed == []
        assert "1 of its sessions wait for their warehouse: a session does not end" in told[0].text


class WithoutSecret(FakeTarget):
    """Has a password that is not there."""

    def drop_run(self, run_id: str) -> None:
        raise ConfigError("connections.second.password: the environment variable NOT_THERE is not set")


def test_a_warehouse_without_its_secret_blocks_its_own_loads_only(tmp_path: Path) -> None:
    state, store = StateDir(tmp_path), DeadRun()
    state.make()
    loads = {"orders": a_load(), "calls": a_load(name="calls", target="second", table="stage.calls")}
    project = a_project(tmp_path, loads=loads)
    targets = {"second": WithoutSecret(), "dwh": FakeTarget()}
    notices: list[str] = []
    reaper = Reaper(
        project,
        state,
        store,  # type: ignore[arg-type]
        targets,
        Slots(state.slots, {}),
        lambda notice: notices.append(str(notice)),
    )
    reap(reaper, state)
    assert list(reaper.blocked) == ["calls"]
    assert [one.id for one in store.closed] == [1]
    assert (state.run_locks / f"{DEAD}.lock").exists()
    assert "its staging in second cannot be dropped yet" in notices[0]
