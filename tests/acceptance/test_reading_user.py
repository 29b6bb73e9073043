"""A user who may only read the project gets every report, dry run and check, and never old rows for new ones."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from dwhctl.sessions import NewSession, open_if_there, open_store
from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox
from tests.support.users import open_folder, other_user

Captured = pytest.CaptureFixture[str]
REPORTS = (
    "report runs", "report sessions", "report grid --days 3", f"report gaps -s {DAY} -e {DAY}",
    "report failures --days 36500", "report durations", "report sla", "report timeline last", "report log last",
    "report alerts", "report metrics",
)  # fmt: skip
OTHERS = (
    f"load --date {DAY} --dry-run --only-missing", f"backfill -s {DAY} -e {DAY} --dry-run",
    f"refresh-reports --date {DAY} --dry-run", f"render orders --date {DAY}", "config check", "connections list",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> Iterator[Sandbox]:
    """A project that was loaded by its owner, and that everybody may read."""
    with open_folder() as folder:
        sandbox = Sandbox(folder / "project").write().fill()
        sandbox.put(
            "config/reports.toml",
            '[reports.all]\nconnection = "warehouse"\nsource = "stage.orders"\ntarget = "stage.copy"\n'
            'needs = [{ load = "orders" }]\n',
        )
        done = sandbox.run("load", "--date", str(DAY))
        assert done.returncode == 0, done.stderr
        sandbox.shard_file("chita").unlink()
        assert sandbox.run("load", "--date", str(DAY)).returncode == 1
        sandbox.fill(shards=["chita"])
        let_all_read(sandbox)
        yield sandbox


def let_all_read(sandbox: Sandbox) -> None:
    for path in (sandbox.root, *sandbox.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def shown(captured: Captured, *words: object) -> tuple[int, str, str]:
    code = dwh(*words)
    found = captured.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("command", [*REPORTS, *OTHERS], ids=lambda command: command.split(" -")[0])
def test_who_may_only_read_sees_what_the_owner_sees(command: str, loaded: Sandbox, capsys: Captured) -> None:
    words = (*command.split(), "--project", loaded.root)
    let_all_read(loaded)  # the owner's own commands close the files again
    before = sorted(loaded.root.rglob("*"))
    with other_user():
        code, out, err = shown(capsys, *words)
    assert sorted(loaded.root.rglob("*")) == before
    assert (code, "Error" in err) == (0, False), err
    owners = shown(capsys, *words)
    assert out.replace("54321", "root") == owners[1] or command in ("report metrics", "report sla")


def newest(sandbox: Sandbox, captured: Captured) -> tuple[int, str, str]:
    with other_user():
        return shown(
            captured, "report", "runs", "--format", "csv", "--days", "36500", "--project", sandbox.root
        )


@pytest.fixture
def own(loaded: Sandbox) -> Iterator[Sandbox]:
    """A copy of the project for a test that changes it."""
    with open_folder() as folder:
        shutil.copytree(loaded.root, folder / "project")
        sandbox = Sandbox(folder / "project")
        let_all_read(sandbox)
        yield sandbox


def open_run(sandbox: Sandbox) -> Any:
    """Open a session as a run does, and keep the database open."""
    store = open_store(sandbox.project().sessions)
    store.prepare()
    store.open([NewSession("alive", "orders", "abakan", DAY, 1, "token", datetime.now(UTC))])
    return store


def test_the_newest_rows_of_a_run_that_goes_on_are_read(own: Sandbox, capsys: Captured) -> None:
    files = own.root / "state"
    with open_run(own):
        let_all_read(own)
        assert (files / "sessions.sqlite-wal").stat().st_size > 0
        code, out, err = newest(own, capsys)
    assert (code, "alive" in out) == (0, True), err


def test_rows_that_cannot_be_read_are_an_error(own: Sandbox, capsys: Captured) -> None:
    with open_run(own):
        let_all_read(own)
        for suffix in ("-wal", "-shm"):
            (own.root / "state" / f"sessions.sqlite{suffix}").chmod(0o600)
        code, out, err = newest(own, capsys)
    assert (code, out) == (1, "")
    assert "the newest are in sessions.sqlite-wal, which this user cannot read; " in err
    assert "belongs to root (mode 0600), and this is user 54321" in err


def test_a_run_that_begins_while_a_report_is_open_is_seen(own: Sandbox) -> None:
    connection = own.project().sessions
    with other_user():
        reader = open_if_there(connection)
    assert reader is not None
    with reader:
        with other_user():
            before = reader.read("counting", "prune_end", {})
        with open_run(own):
            let_all_read(own)
            with other_user():
                assert reader.read("counting", "prune_end", {}) > before


def test_a_closed_state_folder_leaves_what_needs_the_project_only(own: Sandbox, capsys: Captured) -> None:
    (own.root / "state").chmod(0o700)
    with other_user():
        for command in (f"render orders --date {DAY}", "config check", "connections list"):
            code, _, err = shown(capsys, *command.split(), "--project", own.root)
            assert (code, "Error" in err) == (0, False), err
        code, _, err = shown(capsys, "report", "runs", "--project", own.root)
    assert code == 1
    assert "belongs to root (mode 0700), and this is user 54321" in err


def test_sessions_of_an_earlier_version_are_upgraded_by_who_may(own: Sandbox, capsys: Captured) -> None:
    with closing(sqlite3.connect(own.root / "state" / "sessions.sqlite")) as db:
        db.execute("DROP TABLE dwhctl_alert_failures")
    let_all_read(own)
    code, _, err = newest(own, capsys)
    assert code == 1
    assert "belongs to root" in err
