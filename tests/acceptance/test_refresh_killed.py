"""A refresh is killed at every point, interrupted and held up; one plain rerun puts everything right."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from dwhctl.sessions import State
from tests.acceptance.test_killed import REFRESH, SESSIONS
from tests.servers.base import Fault
from tests.support.faulty import Faults, held_locks, reader_of, wait_for_end
from tests.support.projects import DAY
from tests.support.reports import Place, a_place, whole
from tests.support.wire import Wire, needs_faults

COMMAND = ("refresh-reports", "--date", str(DAY))
#: Those that are tried in the gate; the others with -m long.
SHORT = {("duckdb", "refresh.insert"), ("duckdb", "refresh.commit"), ("duckdb", "refresh.committed")}
SHORT |= {("vertica", "refresh.insert")}
DEATHS = [("duckdb", point) for point in (*REFRESH, "run.held", *SESSIONS)]
DEATHS += [("vertica", point) for point in ("refresh.delete", "refresh.insert", "refresh.committed")]
#: From here on the new content stands.
DONE = ("refresh.committed", *(point for point in SESSIONS if "close" in point))


WAYS = [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A warehouse whose report shows version 1, and whose source version 2."""
    with a_place(getattr(request, "param", "duckdb"), tmp_path / "project") as made:
        made.refresh()
        made.fill(2)
        yield made


def rerun(place: Place) -> None:
    """One plain rerun, and everything that must be right after it."""
    report = place.refresh()
    assert (report.failures, report.stopped) == ([], None)
    assert place.content() == whole(2)
    assert place.sessions()[-1].state is State.LOADED
    assert State.RUNNING not in {one.state for one in place.sessions()}
    assert list((place.sandbox.root / "state/locks/runs").iterdir()) == []
    assert held_locks(place.sandbox.root / "state") == []


def test_a_refresh_reaches_exactly_the_points_that_are_tried(place: Place, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log")
    done = place.sandbox.run(*COMMAND, env=faults.env())
    assert done.returncode == 0, done.stderr
    assert [point for point, _, _ in faults.reached() if point.startswith("refresh.")] == list(REFRESH)


@pytest.mark.parametrize(
    ("place", "point"),
    [pytest.param(*one, marks=() if one in SHORT else pytest.mark.long) for one in DEATHS],
    indirect=["place"],
)
def test_killed(place: Place, tmp_path: Path, point: str) -> None:
    process = place.sandbox.start(*COMMAND, env=Faults(tmp_path / "log").at(point, "kill").env())
    wait_for_end(process)
    assert process.returncode == -9
    assert place.content() == whole(2 if point in DONE else 1)
    before = {one.id: one.state for one in place.sessions()}
    rerun(place)
    for one in place.sessions():
        if before.get(one.id) is State.RUNNING:
            # Whether it came to its commit, nothing tells: the rerun refreshed anyway.
            assert (one.state, one.error_class) == (State.ABANDONED, "RunDied")


@pytest.mark.parametrize(("send", "code"), WAYS)
def test_a_signal_stops_it_within_seconds(place: Place, tmp_path: Path, send: int, code: int) -> None:
    path = place.sandbox.root / "config/dwhctl.toml"
    path.write_text(path.read_text().replace('lock_wait = "5s"', 'lock_wait = "2m"'))
    faults = Faults(tmp_path / "log")
    with reader_of(place.sandbox.warehouse_file):
        process = place.sandbox.start(*COMMAND, env=faults.env())
        faults.wait_for("refresh.create")
        time.sleep(0.2)
        interrupted(place, process, send, code)
    rerun(place)


@needs_faults
@pytest.mark.parametrize("place", ["vertica"], indirect=True)
def test_a_signal_ends_the_statement_on_the_server(place: Place, tmp_path: Path) -> None:
    assert isinstance(place.sandbox, Wire)
    assert place.sandbox.dwh is not None
    place.sandbox.dwh.faults.add(Fault("hang_query", statement="^INSERT", application="refresh"))
    faults = Faults(tmp_path / "log")
    process = place.sandbox.start(*COMMAND, env=faults.env())
    faults.wait_for("refresh.insert")
    time.sleep(0.3)
    interrupted(place, process, signal.SIGINT, 130)
    assert place.sandbox.dwh.sessions_now == 0
    place.sandbox.dwh.faults.clear()
    rerun(place)


def interrupted(place: Place, process: Popen[str], send: int, code: int) -> None:
    """The signal ends the run, its session is closed as interrupted, and the old report stands."""
    sent = time.monotonic()
    process.send_signal(send)
    out, err = wait_for_end(process)
    assert time.monotonic() - sent < 5
    assert process.returncode == code, err
    assert "interrupted before its end" in out
    last = place.sessions()[-1]
    assert (last.state, last.error_class, last.comment) == (
        State.FAILED,
        "InterruptedAttemptError",
        "interrupted",
    )
    assert held_locks(place.sandbox.root / "state") == []
