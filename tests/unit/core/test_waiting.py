"""Who waits says for what: once after a second, then rarely."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

import duckdb
import pytest

from dwhctl.core import waiting
from dwhctl.core.errors import ExitCode, Interrupted, LockHeldError, TargetBusyError, TargetRefusedError
from dwhctl.core.waiting import Wait, Waiting, announced, caught_signals
from dwhctl.core.words import use_zone
from dwhctl.runtime.events import Event, Notice
from dwhctl.runtime.locks import StateDir, held_in_sessions, held_work
from dwhctl.runtime.slots import Slots
from dwhctl.sessions.values import Held
from dwhctl.systems.duckdb import client as engine
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.duckdb.target import DuckdbTarget
from dwhctl.systems.sqlite import client as sqlite_link
from tests.support.holders import another_process
from tests.support.projects import DAY, Sandbox
from tests.unit.runtime.test_prepare import BusyTarget

if TYPE_CHECKING:
    from dwhctl.sessions import SessionStore

HOLD_WORK = """
import sys, time
from pathlib import Path
from dwhctl.runtime.locks import held_work
from dwhctl.runtime.locks import StateDir
state = StateDir(Path(sys.argv[1]))
state.make()
with held_work(state.work_locks, {sys.argv[2]: "it is done"}, "dwhctl backfill orders", 0.0):
    print("held", flush=True)
    sys.stdin.readline()
"""
HOLD_SLOT = """
import sys
from pathlib import Path
from dwhctl.runtime.locks import Lock
from dwhctl.runtime.slots import Slots
from dwhctl.runtime.locks import StateDir
state = StateDir(Path(sys.argv[1]))
state.make()
lock = Lock(state.run_lock("20200714T000000-00000000"))
assert lock.try_take("dwhctl load orders")
slot = Slots(state.slots, {"server_0": 1}).try_take("server_0")
print("held", flush=True)
sys.stdin.readline()
"""
HOLD_FILE = """
import sys, duckdb
with duckdb.connect(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Waiting]]:
    """Take what is said of waits; the first line comes after a tenth of a second."""
    monkeypatch.setattr(waiting, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(Wait.__init__, "__defaults__", (None, 0.1))
    found: list[Waiting] = []
    with announced(found.append):
        yield found


def texts(said: list[Waiting]) -> list[str]:
    return [one.text for one in said]


def test_a_wait_is_said_once_and_then_rarely(said: list[Waiting], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    wait = Wait(7200, first=1.0)
    at: list[float] = []
    while clock[0] < 3600:
        before = len(said)
        wait.note(lambda: "nothing")
        at += [clock[0]] * (len(said) - before)
        clock[0] += 0.5
    wait.end()
    assert at[:5] == [1.0, 31.0, 62.0, 124.0, 248.0]
    assert len(at) < 15
    assert texts(said)[:2] == [
        "waiting for nothing, up to 2 h",
        "waiting for nothing, up to 2 h (31 s so far)",
    ]
    assert said[-1] == Waiting(said[0].key), "the end is said as well"


def test_an_instant_is_not_said(said: list[Waiting]) -> None:
    wait = Wait(10, first=1.0)
    wait.note(lambda: "nothing")
    wait.end()
    assert said == []


def test_who_waits_for_a_lock_says_who_holds_it(tmp_path: Path, said: list[Waiting]) -> None:
    state = StateDir(tmp_path)
    with another_process(HOLD_WORK, tmp_path, "orders.2020-07-14") as holder:
        work = {"orders.2020-07-14": "load orders of 2020-07-14 is being done"}
        with pytest.raises(LockHeldError), held_work(state.work_locks, work, "dwhctl load", 0.6):
            pass
    first = said[0].text
    assert first.startswith(
        f"waiting for pid {holder.pid} on {socket.gethostname()} (dwhctl backfill orders, since "
    )
    assert first.endswith("): load orders of 2020-07-14 is being done, up to 1 s")
    assert said[-1].text == "", "the wait is over"


def test_a_held_lock_says_how_to_wait_for_it(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write().fill(shards=["abakan"])
    with (
        another_process(HOLD_WORK, tmp_path / "state", f"orders.{DAY}") as holder,
        pytest.raises(LockHeldError) as caught,
    ):
        sandbox.load(shards=("abakan",))
    assert f"pid {holder.pid} on " in str(caught.value)
    assert str(caught.value).endswith("); try again later, or wait for it: --wait 10m")


def test_the_start_of_a_lock_is_shown_in_the_projects_zone(tmp_path: Path) -> None:
    use_zone(ZoneInfo("Asia/Novosibirsk"))
    try:
        with (
            another_process(HOLD_WORK, tmp_path, "orders"),
            pytest.raises(LockHeldError, match=r"\+07:00\)$"),
            held_work(StateDir(tmp_path).work_locks, {"orders": "it is done"}, "dwhctl load", 0.0),
        ):
            pass
    finally:
        use_zone(UTC)


def test_who_waits_for_a_slot_says_who_has_it(tmp_path: Path, said: list[Waiting]) -> None:
    with another_process(HOLD_SLOT, tmp_path) as holder:
        slots = Slots(StateDir(tmp_path).slots, {"server_0": 1})
        with (
            pytest.raises(TargetBusyError, match=rf"allows: pid {holder.pid} on "),
            slots.held("server_0", 0.4),
        ):
            pass
    assert said[0].text.startswith(
        "waiting for a slot of server_0 (max_connections of server_0 are in use by"
        f" pid {holder.pid} on {socket.gethostname()} (dwhctl load orders, since "
    )


def test_who_waits_for_a_duckdb_file_says_which_process_has_it(tmp_path: Path, said: list[Waiting]) -> None:
    path = tmp_path / "warehouse.duckdb"
    with another_process(HOLD_FILE, path) as holder, pytest.raises(duckdb.IOException):
        engine.open_file(path, read_only=False, wait=0.8, config={})
    assert said[0].text == f"waiting for {path}: it is open in process {holder.pid}, up to 1 s"


def test_who_waits_for_the_sessions_file_says_so(
    tmp_path: Path, said: list[Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_link, "_ROUND_MILLISECONDS", 50)
    path = tmp_path / "sessions.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    mine = sqlite3.connect(path, isolation_level=None, timeout=30)
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(sqlite_link, "BUSY_SECONDS", 0.4)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite_link.begin_immediate(mine, path)
    assert said[0].text == f"waiting for the sessions file {path}: another process writes to it, up to 1 s"
    holder.execute("COMMIT")
    sqlite_link.begin_immediate(mine, path)
    mine.execute("COMMIT")
    assert len(said) == 2


# The warehouse


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def target_at(path: Path) -> DuckdbTarget:
    connection = DuckdbConnection(name="warehouse", type="duckdb", path=path, lock_wait=timedelta(seconds=5))
    return DuckdbTarget(connection, path.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_warehouse_that_may_not_be_opened_is_refused_at_once() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        path = root / "warehouse.duckdb"
        duckdb.connect(str(path)).close()
        path.chmod(0o600)
        with as_nobody(), pytest.raises(TargetRefusedError, match="Permission denied") as caught:
            target_at(path).columns("orders")
    assert f"{path} belongs to root (mode 0600), and this is " in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "text", "no folder", "link to itself"])
def test_a_warehouse_that_cannot_be_one_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "warehouse.duckdb"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is a text, not a database\n" * 200)
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        path = tmp_path / "missing" / "warehouse.duckdb"
    with pytest.raises(TargetRefusedError):
        target_at(path).columns("orders")


@pytest.mark.parametrize(
    "text",
    [
        'Cannot open file "/w.duckdb": Permission denied',
        'Cannot open file "/w.duckdb": Read-only file system',
        'Could not read from file "/w.duckdb": Is a directory',
    ],
)
def test_what_the_system_refuses_is_permanent(tmp_path: Path, text: str) -> None:
    error = target_at(tmp_path / "w.duckdb").translate_error(duckdb.IOException(f"IO Error: {text}"))
    assert error.permanent
    full = target_at(tmp_path / "w.duckdb").translate_error(
        duckdb.IOException('IO Error: Could not write file "/w.duckdb": No space left on device')
    )
    assert not full.permanent


def test_a_warehouse_of_another_version_is_damage_and_permanent() -> None:
    words = (
        "Trying to read a database file with storage version number 99, but we can only read storage versions"
        " between 64 and 67."
    )
    assert engine.is_damage(duckdb.IOException(words))


def test_a_warehouse_that_is_not_ready_is_said_before_it_is_tried_again(tmp_path: Path) -> None:
    from dwhctl.runtime.plan import Plan
    from dwhctl.runtime.prepare import describe_targets
    from tests.unit.projects import a_load, a_project
    from tests.unit.runs_kit import planned

    load = a_load(name="orders", retry_delay=timedelta(0))
    told: list[Notice] = []
    describe_targets(
        a_project(tmp_path),
        Plan((planned("abakan", load=load),)),
        {"dwh": BusyTarget()},
        Slots(tmp_path, {}),
        {},
        lambda _load: 1,
        told.append,
    )
    [notice] = told
    assert notice.text.startswith(
        "the warehouse dwh is not ready for load orders: attempt 1 of 2 failed: The target is in use by another."
    )


def test_who_waits_for_a_lock_in_the_sessions_database_says_who_holds_it(said: list[Waiting]) -> None:
    class Store:
        asked = 0

        def hold_work(self, names: Sequence[str]) -> Held | None:
            self.asked += 1
            return (
                Held(names[0], "dwhctl load on etl-2 (since 2020-07-14 09:00:05 +03:00)")
                if self.asked < 3
                else None
            )

        def release_work(self, names: Sequence[str]) -> None: ...

    store = cast("SessionStore", Store())
    with held_in_sessions(store, {"orders": "load orders is being done"}, 60.0):
        pass
    assert texts(said) == [
        "waiting for dwhctl load on etl-2 (since 2020-07-14 09:00:05 +03:00): load orders is being done, up to 1 m",
        "",
    ]


def test_a_load_that_gets_no_slot_says_who_has_it(tmp_path: Path, said: list[Waiting]) -> None:
    sandbox = Sandbox(tmp_path, servers={"server_0": ["abakan"]}, connection_keys="max_connections = 1")
    sandbox.write().fill()
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Waiting):
            holder.kill()

    with another_process(HOLD_SLOT, tmp_path / "state") as holder:
        report = sandbox.load(listen=hear)
    assert report.loaded == 1
    waits = [event.text for event in heard if isinstance(event, Waiting)]
    assert waits[0].startswith(
        "waiting for a slot of server_0 (max_connections of server_0 are in use by pid "
    )
    assert waits[-1] == ""
    assert said == [], "a run shows its waits itself"
    [log] = (tmp_path / "state" / "logs").glob("*.jsonl")
    assert '"event":"waiting"' in log.read_text()


def test_a_signal_is_no_error_of_the_library_that_it_interrupts() -> None:
    """DuckDB raises an error of its own in the place of that of a handler."""

    def query(listener: Callable[[ExitCode], None] | None, text: str, *, is_ended: bool) -> None:
        with caught_signals() as signals:
            signals.listener = listener
            if is_ended:
                with suppress(Interrupted):
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(1)
            raise RuntimeError(text)

    with pytest.raises(Interrupted) as caught:
        query(None, "Query interrupted", is_ended=True)
    assert caught.value.exit_code is ExitCode.TERMINATED
    with pytest.raises(RuntimeError, match="another"):
        query(None, "another", is_ended=False)
    # A listener is told of the signal: what is raised then is an error.
    with pytest.raises(RuntimeError, match="a third"):
        query(lambda _: None, "a third", is_ended=True)


def test_only_a_process_that_handles_signals_has_a_thread_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert waiting.interruptible(threading.current_thread) is not threading.main_thread()
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_IGN)  # as in a worker
    assert waiting.interruptible(threading.current_thread) is threading.main_thread()
