"""`sessions prune` and the state folder: what is left over goes, what is in use stays."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dwhctl.core.files import SpillFolder
from dwhctl.load.run import plan_load
from dwhctl.monitor.prune import clean_up_state
from dwhctl.runtime.locks import Lock, StateDir, held_work, work_names
from dwhctl.runtime.plan import LoadRequest
from dwhctl.sessions import Closing, State, open_store
from tests.cli_support import dwh
from tests.integration.sessions_kit import new
from tests.support.faulty import flocked
from tests.support.projects import DAY, Sandbox
from tests.unit.projects import a_load

BEFORE = datetime.now(UTC) - timedelta(days=30)


def aged(path: Path, days: int, text: str = "") -> Path:
    """A file of that age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.make()
    return made


def test_old_leftovers_go_and_what_is_in_use_stays(state: StateDir) -> None:
    goes = [
        aged(state.work_locks / "orders.2020-01-01.lock", 8, "pid 1 on dead"),
        aged(state.staging / "20200101T000000-dead" / "g" / "t.parquet", 8, "x" * 100),
        aged(state.logs / "20200101.log", 31, "y" * 10),
        aged(state.verified / "sales.json", 31, "y" * 10),
    ]
    stays = [
        aged(state.work_locks / "orders.2020-01-02.lock", 6),
        aged(state.staging / "20200102T000000-alive" / "g" / "t.parquet", 9),
        aged(state.run_locks / "20200102T000000-alive.lock", 9),
        aged(state.staging / "20200103T000000-new" / "g" / "t.parquet", 6),
        aged(state.logs / "20200102.log", 29),
        aged(state.verified / "orders.json", 29),
        aged(state.slots / "warehouse.0.lock", 900),
    ]
    held = aged(state.work_locks / "orders.2020-01-03.lock", 9)
    with flocked(held), closing(SpillFolder(state.path)) as spill:
        stays.append(aged(Path(spill.path) / "t.tmp", 9))
        # Of a dead process: rows of customers go at once.
        goes.append(aged(state.path / "spill" / "dead" / "duckdb_temp_storage_S32K-0.tmp", 0, "z" * 1000))
        os.utime(held, (1, 1))
        os.utime(state.staging / "20200101T000000-dead", (1, 1))
        dry = clean_up_state(state.path, BEFORE, dry_run=True)
        assert all(path.exists() for path in (*goes, *stays, held))
        done = clean_up_state(state.path, BEFORE, dry_run=False)
        assert all(path.exists() for path in (*stays, held))
    stays.pop()
    assert dry == done
    assert [(one.what, one.looked_at, one.removed, one.bytes) for one in done] == [
        ("work locks", 3, 1, 13),
        ("staging", 2, 1, 100),
        ("spill", 1, 1, 1000),
        ("logs", 2, 1, 10),
        ("verify results", 2, 1, 10),
    ]
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in (*stays, held))
    assert not (state.staging / "20200101T000000-dead").exists()


def test_a_state_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert [one.removed for one in clean_up_state(tmp_path / "none", BEFORE, dry_run=False)] == [0] * 5
    assert not (tmp_path / "none").exists()


def test_whoever_waits_for_a_removed_lock_takes_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first, waiting = Lock(path), Lock(path)
    assert first.try_take("first")
    assert not waiting.try_take("waiting")
    first.release()
    assert Lock(path).remove_if_free()
    assert waiting.try_take("waiting")
    assert "waiting" in path.read_text()
    assert not Lock(path).remove_if_free()
    assert not Lock(path).try_take()
    waiting.release()


def test_a_lock_is_held_by_one_alone_whatever_is_tidied_meanwhile(tmp_path: Path) -> None:
    """Two that do the same work in turns, without timeout, while a third removes the lock's file all the time."""
    load, over, inside, most, errors = a_load(), threading.Event(), [0], [0], []

    def work() -> None:
        try:
            while not over.is_set():
                with held_work(tmp_path, work_names([(load, DAY)]), "work", 5):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.001)
                    inside[0] -= 1
        except Exception as error:
            errors.append(error)

    def tidy() -> None:
        while not over.is_set():
            for path in tmp_path.glob("*.lock"):
                Lock(path).remove_if_free()

    threads = [threading.Thread(target=each) for each in (work, work, tidy)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    over.set()
    for thread in threads:
        thread.join()
    assert (errors, most) == ([], [1])


def test_work_without_patience_outlasts_who_only_tidies(tmp_path: Path) -> None:
    path = tmp_path / f"orders.{DAY}.lock"
    with flocked(path) as file:
        threading.Timer(0.15, file.close).start()
        with held_work(tmp_path, work_names([(a_load(), DAY)]), "me", 0):
            assert "me" in path.read_text()


# The command


def test_the_command_prunes_sessions_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = Sandbox(tmp_path).write().fill(3)
    prune = ("sessions", "prune", "--project", tmp_path, "--keep", "400d", "--format", "json")
    assert dwh(*prune) == 0
    nothing = {one["what"]: one["removed"] for one in json.loads(capsys.readouterr().out)["removals"]}
    assert nothing == {
        "sessions": 0,
        "work locks": 0,
        "staging": 0,
        "spill": 0,
        "logs": 0,
        "verify results": 0,
    }
    assert not (tmp_path / "state" / "sessions.sqlite").exists()
    old = datetime(2020, 7, 15, tzinfo=UTC)
    with open_store(sandbox.project().sessions) as store:
        store.prepare()
        for state in (State.FAILED, State.LOADED):
            [one] = store.open([new("abakan", day=DAY, started=old)])
            store.close([Closing(one, state, old)])
    assert dwh(*prune, "--dry-run") == 0
    captured = capsys.readouterr()
    assert captured.err == "dry run: nothing was removed\n"
    counted = json.loads(captured.out)
    assert counted["dry_run"] is True
    assert counted["removals"][0] == {"what": "sessions", "looked_at": 2, "removed": 1, "bytes": None}
    assert dwh(*prune) == 0
    assert json.loads(capsys.readouterr().out)["removals"][0]["removed"] == 1
    missing = plan_load(sandbox.project(), LoadRequest(days=(DAY,), only_missing=True))
    assert [one.shard.name for one in missing.slices] == ["achinsk", "chita"]
    assert (
        dwh("query", "--project", tmp_path, "sessions", "SELECT failed FROM dwhctl_days", "--format", "csv")
        == 0
    )
    assert capsys.readouterr().out == "failed\n1\n"


def test_too_short_a_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sandbox(tmp_path).write()
    assert dwh("sessions", "prune", "--project", tmp_path, "--keep", "6d") == 2
    assert "at least 7d" in capsys.readouterr().err
