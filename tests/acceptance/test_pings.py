"""What a service outside hears of loads and reports: by the load's own outcome, and nothing where nothing is said."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli_support import dwh
from tests.servers.checks import UUID, Checks
from tests.support.faulty import Faults, flocked, wait_for_end, wait_until
from tests.support.projects import DAY, Sandbox

LOAD = ("load", "--date", str(DAY), "--retries", "0", "--inline")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checks]:
    with Checks() as server:
        monkeypatch.setenv("ORDERS_PING", server.url())
        yield server


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    keys = 'retries = 0\nping_url = { env = "ORDERS_PING" }'
    return (
        Sandbox(tmp_path / "project", load_keys=keys, servers={"server_0": ["abakan", "chita"]})
        .write()
        .fill(3)
    )


def test_a_load_pings_its_own_outcome(
    sandbox: Sandbox, checks: Checks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*LOAD, "--project", sandbox.root) == 0
    assert checks.signals() == ["start", "success"]
    assert checks.pinged[-1].body == "2 of 2 slices loaded"
    sandbox.put(
        "config/loads/copies.toml",
        (sandbox.root / "config/loads/orders.toml")
        .read_text()
        .replace("stage.orders", "stage.copies")
        .replace("orders/create.sql", "copies.sql")
        .replace('{ env = "ORDERS_PING" }', f'"{checks.url("copies")}"'),
    )
    sandbox.put("sql/copies.sql", sandbox.create.replace("stage.orders", "stage.copies"))
    sandbox.shard_file("chita").rename(sandbox.root / "away")
    # Complete for one load, failing for the other: each check hears of its own.
    with closing(sqlite3.connect(sandbox.root / "state/sessions.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (2,)
    assert dwh(*LOAD, "--only-missing", "--project", sandbox.root) == 1
    assert checks.signals()[2:] == ["start", "success"]
    assert checks.signals("copies") == ["start", "fail"]
    [end] = [one for one in checks.pinged if one.signal == "fail"]
    assert end.body.splitlines()[0] == "1 of 2 slices loaded"
    assert "chita.duckdb" in end.body
    shown = "".join(capsys.readouterr())
    assert "copies" in shown
    assert UUID not in shown
    assert checks.url("copies") not in shown


@pytest.mark.parametrize(
    "command",
    [
        ("--dry-run",),
        ("--shard", "abakan"),
        ("--shard", "nowhere*"),
    ],
)
def test_what_says_nothing_of_the_schedule_pings_nobody(
    sandbox: Sandbox, checks: Checks, command: tuple[str, ...]
) -> None:
    dwh(*LOAD, *command, "--project", sandbox.root)
    assert checks.tried == 0


def test_a_backfill_and_a_held_lock_ping_nobody(sandbox: Sandbox, checks: Checks) -> None:
    assert dwh("backfill", "-s", DAY, "-e", DAY, "--inline", "--project", sandbox.root) == 0
    [lock] = list((sandbox.root / "state").rglob(f"*orders*{DAY}*.lock"))
    with flocked(lock):
        assert dwh(*LOAD, "--project", sandbox.root) == 75
    assert checks.tried == 0


def test_a_ping_that_fails_is_shown_and_changes_nothing(
    sandbox: Sandbox, checks: Checks, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.faults = ["404"] * 4
    assert dwh(*LOAD, "--quiet", "--project", sandbox.root) == 0
    assert capsys.readouterr().out == "ping of orders failed: it answers 404\n"


def test_a_run_that_loses_its_sessions_pings_that(sandbox: Sandbox, checks: Checks) -> None:
    (sandbox.root / "state").mkdir(exist_ok=True)
    (sandbox.root / "state" / "sessions.sqlite").write_text(
        "no database at all, but long enough to be looked at\n" * 99
    )
    assert dwh(*LOAD, "--project", sandbox.root) == 1
    assert checks.signals() == ["fail"]
    assert "SessionsError" in checks.pinged[-1].body


@pytest.mark.parametrize(
    ("how", "code", "heard"),
    [
        (signal.SIGKILL, -9, ["start"]),
        pytest.param(signal.SIGTERM, 143, ["start", "log"], marks=pytest.mark.long),
    ],
)
def test_a_killed_load_never_pings_success_and_an_interrupted_one_leaves_word(
    sandbox: Sandbox, checks: Checks, tmp_path: Path, how: signal.Signals, code: int, heard: list[str]
) -> None:
    faults = Faults(tmp_path / "faults.log").at("publish.commit", "pause")
    process = sandbox.start(*LOAD[:-1], "--jobs", "1", env=faults.env())
    faults.wait_for("publish.commit")
    wait_until(lambda: checks.signals() == ["start"], "the start is told")
    process.send_signal(how)
    faults.go_on()
    wait_for_end(process)
    assert process.returncode == code
    assert checks.signals() == heard


def test_a_report_pings_its_own_outcome(sandbox: Sandbox, checks: Checks) -> None:
    assert sandbox.load().failed == 0
    sandbox.put(
        "config/reports.toml",
        f"""
[reports.good]
connection = "warehouse"
source     = "SELECT count(*) AS orders FROM stage.orders"
target     = "reports.good"
create     = "reports.sql"
ping_url   = "{checks.url("good")}"

[reports.bad]
connection = "warehouse"
source     = "SELECT nothing FROM stage.orders"
target     = "reports.bad"
retries    = 0
ping_url   = "{checks.url("bad")}"
""",
    )
    sandbox.put(
        "sql/reports.sql",
        "CREATE SCHEMA IF NOT EXISTS reports;\nCREATE TABLE IF NOT EXISTS reports.good (orders BIGINT);\n",
    )
    assert dwh("refresh-reports", "--date", DAY, "--project", sandbox.root) == 1
    assert checks.signals("good") == ["start", "success"]
    assert checks.signals("bad") == ["start", "fail"]
    assert {one.body for one in checks.pinged if not one.signal} == {
        "2 of 2 slices loaded", "1 of 1 report refreshed"
    }  # fmt: skip
