"""The parent is killed at every point of the way of the data; one plain rerun puts everything right.

First a recording run says which points there are. Then, point by point, a load dies there: the parent alone, whose
workers must follow it, or the whole process group.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import SessionsError
from dwhctl.runtime.events import Event, Notice, RunResult
from dwhctl.sessions import Session, State
from tests.acceptance.test_http_limits import KILL_POINTS as HTTP_KILL_POINTS
from tests.acceptance.test_split import KILL_POINTS as SPLIT_POINTS
from tests.integration.test_clickhouse import REFRESH_STEPS as CLICKHOUSE_REFRESH_STEPS
from tests.integration.test_clickhouse import STEPS as CLICKHOUSE_STEPS
from tests.integration.test_postgres_direct import POINTS as DIRECT_POINTS
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, held_locks, postgres_sessions, wait_for_end
from tests.support.projects import DAY, Sandbox

DAYS = (DAY, DAY - timedelta(days=1))
LOAD = ("load", "--date", str(DAY), "--lookback", "1")
ALONE, GROUP = "kill", "kill group"

#: What a load that replaces rows reaches, and of it what it reaches but once.
STAGE = (
    "stage.connect",
    "stage.describe",
    "stage.open",
    "stage.extract",
    "stage.write",
    "stage.finish",
    "stage.finished",
)
PUBLISH = (
    "publish.begin",
    "publish.held",
    "publish.staged",
    "publish.delete",
    "publish.insert",
    "publish.commit",
    "publish.fenced",
    "publish.committed",
    "publish.drop",
)
SESSIONS = tuple(
    f"sessions.{what}.{step}" for what in ("open", "close") for step in ("begin", "commit", "done")
)
ONCE = ("run.held", "prepare.create")
REPLACING = {*ONCE, *STAGE, *PUBLISH, *SESSIONS}
PREPARING = ("sessions.prepare.begin", "sessions.prepare.commit", "sessions.prepare.done")
FAILING = tuple(f"sessions.fail_waiting.{step}" for step in ("begin", "commit", "done"))
#: What only a run with something to tell reaches: test_alerts.py kills it there.
TELLING = ("alert.send", "alert.sent")
#: What a refresh of a report reaches: tests/acceptance/test_refresh_killed.py tries them.
REFRESH = (
    "refresh.begin",
    "refresh.create",
    "refresh.held",
    "refresh.delete",
    "refresh.insert",
    "refresh.commit",
    "refresh.committed",
)
#: What only `adopt` reaches: tests/acceptance/test_adopt.py kills it there.
ADOPTING = ("adopt.compared",)
REAPING = ("reap.drop", "reap.close", *FAILING)


@dataclass(frozen=True)
class Death:
    """Where a load dies: at the `nth` time that it reaches a point."""

    point: str
    nth: int = 1
    whom: str = ALONE

    def __str__(self) -> str:
        return f"{self.point}-{self.nth}-{self.whom.replace(' ', '-')}"


def deaths(*points: str) -> list[Any]:
    """The first time alone and with the group, a later time in turns; the gate's run has one death at each point."""
    # The second group's staging may go with the run's own, unseen here.
    often = [point not in (*ONCE, *PREPARING, *REAPING, "publish.drop") for point in points]
    # Before anything is published there is little to tell one point from the next: the gate takes every second.
    found = [
        pytest.param(
            death,
            marks=()
            if number % 2 == place and (number % 2 == 0 or point in (*ONCE, *PUBLISH))
            else pytest.mark.long,
        )
        for number, point in enumerate(points)
        for place, death in enumerate((Death(point, 1, ALONE), Death(point, 1, GROUP)))
    ]
    return found + [
        pytest.param(Death(point, 2, (ALONE, GROUP)[number % 2]), marks=pytest.mark.long)
        for number, point in enumerate(itertools.compress(points, often))
    ]


Copy = Callable[[], Sandbox]


def small_sandbox(root: Path) -> Sandbox:
    """Two shards and two days; one worker, so that the points come in one order."""
    return Sandbox(root, servers={"server_0": ["abakan", "achinsk"]}, max_workers=1).write().fill(5, DAYS)


def change_sources(sandbox: Sandbox) -> None:
    """Change, remove and add rows, and leave one slice without any."""
    sandbox.in_shard(
        "abakan",
        "UPDATE orders SET amount = amount + 1",
        "DELETE FROM orders WHERE id % 5 = 3",
        f"INSERT INTO orders VALUES (100, 'new', 1.5, TIMESTAMP '{DAY} 23:59:59.999999')",
    )
    sandbox.in_shard("achinsk", f"DELETE FROM orders WHERE start_time < TIMESTAMP '{DAY}'")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project whose days were loaded, and whose sources have changed since."""
    sandbox = small_sandbox(tmp_path_factory.mktemp("loaded"))
    sandbox.load(*DAYS)
    change_sources(sandbox)
    return sandbox


@pytest.fixture
def copy(loaded: Sandbox, tmp_path: Path) -> Copy:
    """Makes a copy of it to be broken."""
    return lambda: copied(loaded, tmp_path / "project")


def copied(sandbox: Sandbox, root: Path) -> Sandbox:
    """A copy of a project with all that it holds."""
    shutil.copytree(sandbox.root, root)
    return dataclasses.replace(sandbox, root=root)


def die(sandbox: Sandbox, faults: Faults) -> None:
    """Run the load that is killed, and look that nothing of it lives on."""
    process = sandbox.start(*LOAD, env=faults.env())
    wait_for_end(process)
    assert process.returncode == -9, f"it never came to {faults.rules}"
    assert held_locks(sandbox.root / "state") == []


def rerun(sandbox: Sandbox, listen: Callable[[Event], None] = lambda event: None) -> RunResult:
    """One plain rerun, and everything that must be right after it."""
    before = sessions_by_id(sandbox)
    stand = {etl_id for (etl_id,) in sandbox.warehouse("SELECT DISTINCT etl_id FROM stage.orders")}
    report = sandbox.load(*DAYS, listen=listen)
    assert (report.failed, report.stopped) == (0, None)
    assert report.loaded + report.skipped == 4
    assert sandbox.target_rows() == sandbox.source_rows()
    after = sessions_by_id(sandbox)
    for etl_id, session in before.items():
        assert after[etl_id].state == truth(session, etl_id in stand)
    ours = {session.id for session in after.values() if session.run_id == report.run_id}
    assert {etl_id for (etl_id,) in sandbox.warehouse("SELECT DISTINCT etl_id FROM stage.orders")} <= ours
    assert list((sandbox.root / "state" / "staging").iterdir()) == []
    assert list((sandbox.root / "state" / "locks" / "runs").iterdir()) == []
    assert held_locks(sandbox.root / "state") == []
    return report


def sessions_by_id(sandbox: Sandbox) -> dict[int, Session]:
    """The sessions, if their table is there yet."""
    try:
        return {session.id: session for session in sandbox.sessions_newest_first()}
    except SessionsError as error:
        if "no such table" in str(error):
            return {}
        raise


def truth(session: Session, stands: bool) -> State:
    """What a session of a dead run must be closed as."""
    if session.state is State.RUNNING:
        return State.LOADED if stands else State.ABANDONED
    return State.FAILED if session.state is State.UP_FOR_RETRY else session.state


# The points


def test_the_recording_run_reaches_exactly_the_points_that_are_tried(copy: Copy, tmp_path: Path) -> None:
    sandbox, faults = copy(), Faults(tmp_path / "log")
    done = sandbox.run(*LOAD, env=faults.env())
    assert done.returncode == 0, done.stderr
    reached = faults.reached()
    assert {point for point, _, _ in reached} == REPLACING
    assert {point for point, role, _ in reached if role == "worker"} == set(STAGE)
    # The last group's staging may go with the run's own, unseen here.
    often = REPLACING - {"publish.drop"}
    assert {point for point in often if faults.count(point) == 1} == set(ONCE)


def test_no_point_of_the_code_is_left_out() -> None:
    """A new point in the code must be named here, and so be tried."""
    package = Path(__file__).parents[2] / "dwhctl"
    found = set()
    for path in package.rglob("*.py"):
        for part in path.read_text().split('reach("')[1:]:
            found.add(part.partition('"')[0])
        for part in path.read_text().split('reach(f"')[1:]:
            found.add(part.partition('"')[0])
    named = {*REPLACING, *PREPARING, *REAPING, *REFRESH, *TELLING, *ADOPTING}
    named |= {
        *CLICKHOUSE_STEPS,
        *CLICKHOUSE_REFRESH_STEPS,
        *HTTP_KILL_POINTS,
        *DIRECT_POINTS,
        *SPLIT_POINTS,
    }  # tried in those files
    templates = {point for point in found if "{what}" in point}
    assert templates == {"sessions.{what}.begin", "sessions.{what}.commit", "sessions.{what}.done"}
    assert found - templates <= named


# Killed


@pytest.mark.parametrize("death", deaths(*ONCE, *STAGE, *PUBLISH, *SESSIONS), ids=str)
def test_killed_while_it_replaces_rows(copy: Copy, tmp_path: Path, death: Death) -> None:
    sandbox = copy()
    die(sandbox, Faults(tmp_path / "log").at(death.point, death.whom, nth=death.nth))
    rerun(sandbox)


def test_killed_when_a_worker_has_staged_before_its_session_is_written(copy: Copy, tmp_path: Path) -> None:
    """A worker begins within the transaction that writes its session: what it staged then is published by nobody."""
    sandbox, faults = copy(), Faults(tmp_path / "log").at("sessions.open.commit", "pause", nth=2)
    before = sandbox.target_rows()
    process = sandbox.start(*LOAD, env=faults.env())
    faults.wait_for("sessions.open.commit", nth=2)
    faults.wait_for("stage.finished", nth=2)
    time.sleep(0.5)
    assert faults.count("publish.begin") == 0
    process.kill()
    wait_for_end(process)
    assert len(sessions_by_id(sandbox)) == 4 + 1
    assert sandbox.target_rows() == before
    assert held_locks(sandbox.root / "state") == []
    notices: list[str] = []
    rerun(sandbox, lambda event: notices.append(event.text) if isinstance(event, Notice) else None)
    assert not any("restored from a backup" in text for text in notices), notices


@pytest.mark.parametrize("death", deaths(*PREPARING), ids=str)
def test_killed_in_the_first_load_of_a_project(tmp_path: Path, death: Death) -> None:
    sandbox = small_sandbox(tmp_path / "project")
    die(sandbox, Faults(tmp_path / "log").at(death.point, death.whom, nth=death.nth))
    rerun(sandbox)


@pytest.fixture(scope="module")
def dead(loaded: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project whose last load died: one slice published and not closed, one waiting for its retry."""
    root = tmp_path_factory.mktemp("dead")
    sandbox = copied(loaded, root / "project")
    sandbox.load_keys = 'retries = 1\nretry_delay = "1m"'
    sandbox.write()
    faults = Faults(root / "log").at("stage.write", "kill worker").at("publish.committed", ALONE)
    die(sandbox, faults)
    states = [session.state for session in sessions_by_id(sandbox).values()]
    assert State.RUNNING in states
    assert State.UP_FOR_RETRY in states
    return sandbox


@pytest.mark.parametrize(
    "death",
    deaths(*REAPING) + [Death(f"sessions.close.{step}") for step in ("begin", "commit", "done")],
    ids=str,
)
def test_killed_while_it_reaps_a_killed_run(dead: Sandbox, tmp_path: Path, death: Death) -> None:
    sandbox = copied(dead, tmp_path / "project")
    die(sandbox, Faults(tmp_path / "log").at(death.point, death.whom))
    rerun(sandbox)


def test_what_a_killed_run_published_is_told_from_what_it_did_not(dead: Sandbox, tmp_path: Path) -> None:
    sandbox = copied(dead, tmp_path / "project")
    before = sessions_by_id(sandbox)
    rerun(sandbox)
    after = sessions_by_id(sandbox)
    by_reaper = {
        after[etl_id].state: after[etl_id]
        for etl_id, session in before.items()
        if session.state in (State.RUNNING, State.UP_FOR_RETRY)
    }
    assert by_reaper[State.LOADED].loaded_rows == by_reaper[State.LOADED].extracted_rows
    assert "died" in str(by_reaper[State.ABANDONED].comment)
    assert by_reaper[State.ABANDONED].error_class == "RunDied"
    assert "died" in str(by_reaper[State.FAILED].comment)


@pytest.mark.parametrize("how", [pytest.param(ALONE, marks=pytest.mark.long), GROUP])
def test_killed_twice_and_rerun_as_a_process(copy: Copy, tmp_path: Path, how: str) -> None:
    sandbox = copy()
    die(sandbox, Faults(tmp_path / "log_1").at("publish.commit", how))
    die(sandbox, Faults(tmp_path / "log_2").at("publish.committed", how, nth=2))
    done = sandbox.run(*LOAD)
    assert done.returncode == 0, done.stderr
    assert "had died" in done.stderr
    assert sandbox.target_rows() == sandbox.source_rows()
    rerun(sandbox)


# Sessions in PostgreSQL

SAMPLE: list[Any] = [
    Death("sessions.open.begin", 1, ALONE),
    pytest.param(Death("sessions.open.done", 1, GROUP), marks=pytest.mark.long),
    pytest.param(Death("stage.write", 1, ALONE), marks=pytest.mark.long),
    Death("publish.commit", 1, GROUP),
    pytest.param(Death("publish.committed", 1, ALONE), marks=pytest.mark.long),
    pytest.param(Death("sessions.close.begin", 1, GROUP), marks=pytest.mark.long),
    Death("sessions.close.done", 2, ALONE),
]


@pytest.mark.parametrize("death", SAMPLE, ids=str)
def test_killed_with_sessions_in_postgresql(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str, death: Death
) -> None:
    sandbox = small_sandbox(tmp_path / "project")
    sandbox.sessions = postgres_sessions(postgres_server, postgres_database)
    sandbox.write()
    sandbox.load(*DAYS)
    change_sources(sandbox)
    die(sandbox, Faults(tmp_path / "log").at(death.point, death.whom, nth=death.nth))
    rerun(sandbox)


# Faults cannot be switched on by accident

PLAIN = "import dwhctl.cli.main, dwhctl.load.run, dwhctl.core.faults as faults; print(faults.handler)"


def test_no_environment_variable_switches_faults_on(tmp_path: Path) -> None:
    env = Faults(tmp_path / "log").at("run.held", ALONE).env() | {
        "DWHCTL_FAULTS": "kill",
        "DWHCTL_FAULT": "kill",
        "DWHCTL_DEBUG": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    shown = subprocess.run([sys.executable, "-c", PLAIN], env=env, capture_output=True, text=True, check=True)
    assert shown.stdout == "None\n"


def test_a_load_that_only_inherits_the_variable_ends_well(copy: Copy, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log").at("run.held", ALONE)
    env = faults.env() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = copy().run(*LOAD, "--debug", env=env)
    assert done.returncode == 0, done.stderr
    assert faults.reached() == []


def test_nothing_in_dwhctl_sets_the_handler() -> None:
    package = Path(__file__).parents[2] / "dwhctl"
    setters = [
        path.name
        for path in package.rglob("*.py")
        if "faults.handler" in path.read_text()
        or ("import handler" in path.read_text() and path.name != "faults.py")
    ]
    assert setters == []
