"""A run loses the warehouse in mid-COMMIT, cannot look, and ends; that COMMIT may still happen.

Nobody may publish the same slices before the old session on the server is ended: else its rows double the new ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.runtime.events import Notice, RunResult
from dwhctl.sessions.values import State
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.servers.base import Fault
from tests.servers.vertica import VerticaServer
from tests.support.faulty import postgres_sessions, wait_until
from tests.support.projects import DAY, Sandbox
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = needs_faults

#: Longer than the next run takes.
LATE = 8.0


@pytest.fixture(params=["one machine", "two machines"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Wire, Wire]]:
    """The project on the machine that runs first, and on the one that runs next: they share no state folder, or all."""
    keys = {"load_keys": 'retries = 0\nretry_delay = "0s"\ntimeout = "30s"'}
    if request.param == "two machines":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        keys["sessions"] = postgres_sessions(server, request.getfixturevalue("postgres_database"))
    with a_wire(tmp_path / "one", {"mssql_0": ["abakan", "achinsk"]}, **keys) as one:
        assert one.load(DAY - timedelta(days=1)).failed == 0  # both tables are there
        one.fill()
        yield (
            one,
            one
            if request.param == "one machine"
            else dataclasses.replace(one, root=tmp_path / "two").write(),
        )


def server_of(wire: Wire) -> VerticaServer:
    """Return our Vertica."""
    assert wire.dwh is not None
    return wire.dwh


def lose_the_warehouse(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose it at the next COMMIT, which happens late; from then on nobody gets at it."""

    def reached(point: str) -> None:
        if point == "publish.fenced":
            monkeypatch.undo()
            server_of(wire).faults.add(Fault("refuse_login", application="^dwhctl"))

    monkeypatch.setattr("dwhctl.core.faults.handler", reached)
    server_of(wire).faults.add(Fault("late_commit", application=":publish:", seconds=LATE, times=1))


def load(sandbox: Sandbox) -> tuple[RunResult, list[str]]:
    """Load, and return the notices too."""
    notices: list[str] = []
    report = sandbox.load(
        listen=lambda event: notices.append(event.text) if isinstance(event, Notice) else None
    )
    return report, notices


def wait_for_the_late_commit(wire: Wire) -> None:
    """Wait until no session is left on the server: the late one has committed, or was ended."""
    wait_until(lambda: not server_of(wire).sessions(), "nobody is at the warehouse", seconds=LATE + 10)


def test_nobody_publishes_beside_a_commit_in_doubt(
    machines: tuple[Wire, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    lose_the_warehouse(first, monkeypatch)
    report, _ = load(first)
    assert (report.in_doubt, report.failed, report.exit_code) == (2, 0, 1)
    sessions = first.sessions_newest_first(2)
    assert {one.state for one in sessions} == {State.RUNNING}
    assert {one.error_class for one in sessions} == {"CommitInDoubtError"}
    assert all("cannot be asked whether it happened" in str(one.comment) for one in sessions)

    # As long as nobody can look, every run is blocked and says why.
    report, notices = load(second)
    assert (report.failed, report.loaded, report.exit_code) == (2, 0, 1)
    assert any("2 of its sessions wait for their warehouse" in text for text in notices)
    assert first.target_rows() == []

    server_of(first).faults.clear()
    first.in_shard("abakan", "UPDATE Orders SET amount = amount + 1", "DELETE FROM Orders WHERE id % 2 = 1")
    report, notices = load(second)
    assert (report.loaded, report.failed, report.in_doubt) == (2, 0, 0)
    assert any(
        "had ended with a commit in doubt: 0 of its sessions turned out loaded, 2 aband" in text
        for text in notices
    )
    wait_for_the_late_commit(first)
    assert first.target_rows() == first.source_rows()
    states = [one.state for one in first.sessions_newest_first(6)]
    assert states == [State.LOADED] * 2 + [State.FAILED] * 2 + [State.ABANDONED] * 2


@pytest.mark.parametrize("machines", ["one machine"], indirect=True)
def test_a_commit_in_doubt_that_happened_turns_out_loaded(
    machines: tuple[Wire, Wire], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = machines
    server_of(first).faults.add(Fault("lost_after_commit", application=":publish:"))
    server_of(first).faults.add(Fault("refuse_login", application=":(count|drop):"))
    done = first.run("load", "--date", str(DAY))
    assert done.returncode == 1, done.stderr
    assert "2 in doubt" in done.stdout
    assert "2 slices in doubt on warehouse: the next run checks: CommitInDoubtError: " in done.stdout
    assert "in doubt: orders abakan" in done.stderr

    def shown(*arguments: str) -> list[dict[str, Any]]:
        assert dwh("report", *arguments, "--format", "json", "--project", first.root) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found

    assert {one["slices"] for one in shown("gaps", "-s", str(DAY), "-e", str(DAY))} == {1}
    assert [one["running"] for one in shown("runs", "--limit", "1")] == [2]
    assert {one["state"] for one in shown("timeline", "last")} == {"running"}
    found = shown("sessions", "--state", "running")
    assert {(one["error_class"], one["finished"]) for one in found} == {("CommitInDoubtError", None)}
    server_of(first).faults.clear()
    report, notices = load(second)
    assert any(
        "had ended with a commit in doubt: 2 of its sessions turned out loaded" in text for text in notices
    )
    assert report.loaded == 2
    assert first.target_rows() == first.source_rows()
