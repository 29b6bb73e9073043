"""Locks of work and limits hold over all processes that share a state folder."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.check import connections as round_trip
from dwhctl.runtime.slots import slots_of
from dwhctl.sessions import State
from tests.support.faulty import Faults, held_locks, wait_for_end, wait_until
from tests.support.projects import DAY, Sandbox, days_from

LOAD = ("load", "--date", str(DAY))
DAY_BEFORE = DAY - timedelta(days=1)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """One shard and two days."""
    return Sandbox(tmp_path / "project", {"server_0": ["abakan"]}).write().fill(days=[DAY, DAY_BEFORE])


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Where the first load waits while others start."""
    return Faults(tmp_path / "log")


def test_the_same_load_and_day_at_once(sandbox: Sandbox, faults: Faults) -> None:
    first = sandbox.start(*LOAD, env=faults.at("stage.write", "pause").env())
    faults.wait_for("stage.write")
    second = sandbox.run(*LOAD, "--lookback", "1")
    assert second.returncode == 75
    for word in (
        f"load orders of {DAY}",
        f"pid {first.pid}",
        socket.gethostname(),
        f"dwhctl load --date {DAY}",
    ):
        assert word in second.stderr
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+03:00\)", second.stderr)
    assert len(sandbox.sessions_newest_first()) == 1, "it starts nothing, not even the other day"
    another_day = sandbox.run("load", "--date", str(DAY_BEFORE))
    assert another_day.returncode == 0, another_day.stderr
    assert sandbox.target_rows() == sandbox.source_rows([DAY_BEFORE])
    faults.go_on()
    _, err = wait_for_end(first)
    assert first.returncode == 0, err
    assert sandbox.target_rows() == sandbox.source_rows()


def test_it_waits_as_long_as_it_is_told(sandbox: Sandbox, faults: Faults) -> None:
    first = sandbox.start(*LOAD, env=faults.at("stage.write", "pause").env())
    faults.wait_for("stage.write")
    started = time.monotonic()
    impatient = sandbox.run(*LOAD, "--wait", "1s")
    assert impatient.returncode == 75
    assert time.monotonic() - started > 1
    patient = sandbox.start(*LOAD, "--wait", "1m")
    time.sleep(1)
    assert patient.poll() is None
    faults.go_on()
    for process in (first, patient):
        _, err = wait_for_end(process)
        assert process.returncode == 0, err
    assert sandbox.target_rows() == sandbox.source_rows([DAY])
    assert [one.state for one in sandbox.sessions_newest_first()] == [State.LOADED] * 2


def test_a_killed_load_holds_no_lock(sandbox: Sandbox, faults: Faults) -> None:
    first = sandbox.start(*LOAD, env=faults.at("stage.write", "kill").env())
    wait_for_end(first)
    assert first.returncode == -9
    done = sandbox.run(*LOAD)
    assert done.returncode == 0, done.stderr
    assert sandbox.target_rows() == sandbox.source_rows([DAY])


def most_at_once(faults: Faults, begin: str, end: str) -> int:
    """How many processes were between two points at once, from the order in the log."""
    inside: set[int] = set()
    most = 0
    for point, _, pid in faults.reached():
        if point == begin:
            inside.add(pid)
            most = max(most, len(inside))
        elif point == end:
            inside.discard(pid)
    return most


def worker_processes(groups: set[int]) -> int:
    """Count the workers of these loads that live now."""
    found = 0
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            # Asked first, and without reading a file: a busy machine has hundreds of other processes.
            if os.getpgid(pid) not in groups:
                continue
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += state not in "ZX" and name == "dwhctl-worker"
    return found


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.long)])
def test_loads_at_once_keep_the_limits(tmp_path: Path, faults: Faults, count: int) -> None:
    days = days_from(DAY, count)
    sandbox = Sandbox(tmp_path / "project", {"server_0": ["abakan"]}, max_workers=2)
    sandbox.connection_keys = "max_connections = 1"
    sandbox.write().fill(days=days)
    loads = [sandbox.start("load", "--date", str(day), "--quiet", env=faults.env()) for day in days]
    groups = {process.pid for process in loads}
    most: list[int] = []

    def all_ended() -> bool:
        most.append(worker_processes(groups))
        return all(process.poll() is not None for process in loads)

    wait_until(all_ended, f"{count} loads", seconds=100)
    for process in loads:
        out, err = wait_for_end(process)
        assert process.returncode == 0, out + err
    assert 1 <= max(most) <= 2, "max_workers"
    assert most_at_once(faults, "stage.connect", "stage.finished") == 1, "max_connections of the server"
    assert sandbox.target_rows() == sandbox.source_rows()
    assert [one.state for one in sandbox.sessions_newest_first()] == [State.LOADED] * count
    assert held_locks(sandbox.root / "state") == []


def test_jobs_do_not_pass_the_projects_limit(tmp_path: Path, faults: Faults) -> None:
    shards = [f"city_{number}" for number in range(6)]
    sandbox = Sandbox(tmp_path / "project", {"server_0": shards}, max_workers=2).write().fill()
    process = sandbox.start(*LOAD, "--jobs", "20", env=faults.at("stage.write", "pause", until=20).env())
    faults.wait_for("stage.write", nth=2)
    time.sleep(0.5)
    assert worker_processes({process.pid}) == 2
    faults.go_on()
    _, err = wait_for_end(process)
    assert process.returncode == 0, err
    assert most_at_once(faults, "stage.connect", "stage.finished") == 2
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_load_that_waits_for_a_retry_leaves_its_worker_to_others(tmp_path: Path, faults: Faults) -> None:
    servers = {"server_0": ["abakan"], "server_1": ["chita"]}
    sandbox = Sandbox(
        tmp_path / "project", servers, max_workers=1, load_keys='retries = 1\nretry_delay = "5m"'
    )
    sandbox.write().fill(days=[DAY, DAY_BEFORE])
    sandbox.shard_file("abakan").parent.rename(tmp_path / "away")
    waiting = sandbox.start(*LOAD, "--shard", "abakan", env=faults.env())
    faults.wait_for("sessions.close.done")
    done = sandbox.run("load", "--date", str(DAY_BEFORE), "--shard", "chita", timeout=20)
    assert done.returncode == 0, done.stderr
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    wait_for_end(waiting)
    assert waiting.returncode == 130


def test_a_round_trip_takes_a_slot_like_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(tmp_path / "project", {"server_0": ["abakan"]})
    sandbox.connection_keys = "max_connections = 1"
    sandbox.write().fill().load()
    monkeypatch.setattr(round_trip, "_SLOT_SECONDS", 0.1)
    project = sandbox.project()
    with slots_of(project).held("server_0"):
        (refused,) = round_trip.round_trips(project, ["server_0"])
    assert not refused.ok
    assert "max_connections" in (refused.reason or "")
    (trip,) = round_trip.round_trips(project, ["server_0"])
    assert trip.ok, trip.reason
