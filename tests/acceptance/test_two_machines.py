"""Two machines, each with a state folder of its own: sessions in PostgreSQL keep them apart, SQLite serves one only."""

from __future__ import annotations

import dataclasses
import fcntl
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import SessionsError, StateDirError
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, postgres_sessions, wait_for_end
from tests.support.projects import DAY, Sandbox

LOAD = ("load", "--date", str(DAY))


@pytest.fixture
def machines(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> tuple[Sandbox, Sandbox]:
    """Two projects of the same shards and warehouse, one sessions table, no file lock in common."""
    one = Sandbox(tmp_path / "one", {"server_0": ["abakan"]}, max_workers=1)
    one.sessions = postgres_sessions(postgres_server, postgres_database)
    one.write().fill()
    two = dataclasses.replace(one, root=tmp_path / "two").write()
    (two.root / "servers").symlink_to(one.root / "servers")
    warehouse = str(one.root / "state" / "warehouse.duckdb")
    config = two.root / "config" / "dwhctl.toml"
    config.write_text(config.read_text().replace("state/warehouse.duckdb", warehouse))
    return one, two


def test_the_same_load_and_day_never_run_on_two_machines(
    machines: tuple[Sandbox, Sandbox], tmp_path: Path
) -> None:
    one, two = machines
    faults = Faults(tmp_path / "log").at("stage.write", "pause")
    first = one.start(*LOAD, env=faults.env())
    faults.wait_for("stage.write")
    second = two.run(*LOAD)
    assert second.returncode == 75
    for words in (f"load orders of {DAY}", f"pid {first.pid} on", "since"):
        assert words in second.stderr
    waiting = two.start(*LOAD, "--wait", "60s")
    other_day = two.run("load", "--date", "2020-07-01", "--quiet")
    assert other_day.returncode == 0, other_day.stderr
    faults.go_on()
    for process in (first, waiting):
        _, err = wait_for_end(process)
        assert process.returncode == 0, err
    assert one.target_rows() == one.source_rows()


def test_a_machine_that_dies_leaves_its_work_to_the_other(
    machines: tuple[Sandbox, Sandbox], tmp_path: Path
) -> None:
    one, two = machines
    dying = one.start(*LOAD, env=Faults(tmp_path / "log").at("publish.commit", "kill group").env())
    wait_for_end(dying)
    done = two.run(*LOAD, "--wait", "20s")
    assert done.returncode == 0, done.stderr
    assert "had died" in done.stderr
    assert one.target_rows() == one.source_rows()


@pytest.mark.long
def test_nobody_begins_while_another_still_reaps_who_had_the_work(
    machines: tuple[Sandbox, Sandbox], tmp_path: Path
) -> None:
    one, two = machines
    dying = one.start(*LOAD, env=Faults(tmp_path / "died").at("publish.commit", "kill group").env())
    wait_for_end(dying)
    slow, next_ = Faults(tmp_path / "slow").at("reap.drop", "pause"), Faults(tmp_path / "next")
    reaping = two.start("load", "--date", "2020-07-01", env=slow.env())
    slow.wait_for("reap.drop")
    waiting = one.start(*LOAD, env=next_.env())
    next_.wait_for("run.held")
    time.sleep(2)
    assert waiting.poll() is None
    assert {point for point, _, _ in next_.reached() if not point.startswith("sessions.")} == {"run.held"}
    slow.go_on()
    for process in (reaping, waiting):
        _, err = wait_for_end(process)
        assert process.returncode == 0, err
    assert one.target_rows() == one.source_rows()


def test_over_sqlite_a_run_of_another_machine_is_an_error_that_says_so(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, {"server_0": ["abakan"]}).write().fill()
    sandbox.load()
    with closing(sqlite3.connect(tmp_path / "state" / "sessions.sqlite", isolation_level=None)) as db:
        db.execute(
            "UPDATE sessions SET state = 'running', successful = NULL, finished = NULL, host = 'etl-2'"
        )
        ((run_id,),) = db.execute("SELECT DISTINCT run_id FROM sessions")
    with pytest.raises(SessionsError, match=r"machine etl-2 .* PostgreSQL") as told:
        sandbox.load()
    (tmp_path / "state" / "locks" / "runs" / f"{run_id}.lock").touch()
    assert f"touch {tmp_path}/state/locks/runs/{run_id}.lock" in str(told.value)
    assert sandbox.load().failed == 0


def _no_locks(*_arguments: Any) -> None:
    raise OSError(37, "No locks available")


def _no_effect(*_arguments: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("flock", "reason"), [(_no_locks, "No locks available"), (_no_effect, "two can hold one lock at once")]
)
def test_a_state_folder_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: Callable[..., None], reason: str
) -> None:
    sandbox = Sandbox(tmp_path, {"server_0": ["abakan"]}).write().fill()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StateDirError, match=f"{reason}.*state_dir"):
        sandbox.load()
    monkeypatch.undo()
    assert sandbox.load().failed == 0
