"""Ctrl-C and SIGTERM stop a load within seconds, whatever it does at that moment; the next one does the rest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dwhctl.sessions import State
from tests.support.faulty import (
    Faults,
    flocked,
    held_locks,
    processes_of_group,
    reader_of,
    wait_for_end,
    wait_until,
)
from tests.support.projects import CREATE, DAY, Sandbox

LOAD = ("load", "--date", str(DAY))
SECONDS = 5.0


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two shards, and a warehouse for which a load waits long."""
    sandbox = Sandbox(tmp_path / "project", {"server_0": ["abakan", "achinsk"]}, max_workers=2).write().fill()
    text = (sandbox.root / "config" / "dwhctl.toml").read_text()
    sandbox.put("config/dwhctl.toml", text.replace('lock_wait = "5s"', 'lock_wait = "2m"'))
    return sandbox


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Where a load is held up."""
    return Faults(tmp_path / "log")


def interrupt_parent(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def interrupt_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def terminate(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def terminate_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGTERM)


def hang_up_group(process: subprocess.Popen[str]) -> None:
    """As a shell does when its terminal is closed, and the system when that shell has ended."""
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGHUP)


WAYS = [
    (interrupt_parent, 130),
    (interrupt_group, 130),
    (terminate, 143),
    (terminate_group, 143),
    (hang_up_group, 143),
]


def stops(process: subprocess.Popen[str], send: Callable[[subprocess.Popen[str]], None], code: int) -> str:
    """Send the signal: the load and its workers are gone within seconds, with the exit code and in words."""
    sent = time.monotonic()
    send(process)
    out, err = wait_for_end(process)
    assert time.monotonic() - sent < SECONDS
    assert process.returncode == code, err
    assert "interrupted" in out + err
    assert "Traceback" not in out + err
    return out


def load_well(sandbox: Sandbox) -> None:
    """The next load puts it right."""
    assert held_locks(sandbox.root / "state") == []
    report = sandbox.load()
    assert (report.failed, report.stopped) == (0, None)
    assert sandbox.target_rows() == sandbox.source_rows()
    assert State.RUNNING not in {one.state for one in sandbox.sessions_newest_first()}


def assert_interrupted(sandbox: Sandbox, shards: list[str]) -> None:
    """Exactly these shards' sessions failed, as interrupted; nothing runs or waits, nothing is staged."""
    found = [one for one in sandbox.sessions_newest_first() if one.error_class == "InterruptedAttemptError"]
    assert sorted(str(one.shard) for one in found) == shards
    for one in found:
        assert (one.state, one.comment, one.successful) == (State.FAILED, "interrupted", False)
    states = {one.state for one in sandbox.sessions_newest_first()}
    assert not states & {State.RUNNING, State.UP_FOR_RETRY}
    assert list((sandbox.root / "state" / "staging").iterdir()) == []
    assert list((sandbox.root / "state" / "locks" / "runs").iterdir()) == []


#: The first way is the gate's in test_a_second_signal_changes_nothing as well, at the same moment.
@pytest.mark.parametrize(("send", "code"), [pytest.param(*WAYS[0], marks=pytest.mark.long), *WAYS[1:]])
def test_while_workers_hang(
    sandbox: Sandbox, faults: Faults, send: Callable[[subprocess.Popen[str]], None], code: int
) -> None:
    process = sandbox.start(*LOAD, env=faults.at("stage.extract", "pause", until=2).env())
    faults.wait_for("stage.extract", nth=2)
    out = stops(process, send, code)
    assert "interrupted before its end" in out
    assert_interrupted(sandbox, ["abakan", "achinsk"])
    load_well(sandbox)


def test_a_signal_to_the_workers_alone_changes_nothing(sandbox: Sandbox, faults: Faults) -> None:
    """The whole group gets it: a worker that ends before the run has heard of it would be a dead worker to the run."""
    process = sandbox.start(*LOAD, env=faults.at("stage.extract", "pause", until=2).env())
    faults.wait_for("stage.extract", nth=2)
    others = [pid for pid in processes_of_group(process.pid) if pid != process.pid]
    assert len(others) == 3
    for pid in others:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    faults.go_on()
    wait_for_end(process)
    assert process.returncode == 0
    assert {(one.state, one.attempt) for one in sandbox.sessions_newest_first()} == {(State.LOADED, 1)}


@pytest.mark.parametrize(("send", "code"), [WAYS[1], WAYS[2]])
@pytest.mark.long
def test_while_workers_start(
    sandbox: Sandbox, faults: Faults, send: Callable[[subprocess.Popen[str]], None], code: int
) -> None:
    process = sandbox.start(*LOAD, env=faults.env())
    # Their server still imports then, and no session is opened before there is a worker.
    faults.wait_for("run.held")
    stops(process, send, code)
    assert sandbox.sessions_newest_first() == []
    load_well(sandbox)


def test_what_is_published_counts_as_loaded(sandbox: Sandbox, faults: Faults) -> None:
    process = sandbox.start(*LOAD, env=faults.at("publish.committed", "pause").env())
    faults.wait_for("publish.committed")
    interrupt_parent(process)
    time.sleep(0.3)
    faults.go_on()
    wait_for_end(process)
    assert process.returncode == 130
    assert sandbox.target_rows() == sandbox.source_rows()
    assert {one.state for one in sandbox.sessions_newest_first()} == {State.LOADED}


def test_before_the_commit_nothing_is_published(sandbox: Sandbox, faults: Faults) -> None:
    process = sandbox.start(*LOAD, env=faults.at("publish.insert", "pause").env())
    faults.wait_for("publish.insert")
    interrupt_parent(process)
    time.sleep(0.3)
    faults.go_on()
    wait_for_end(process)
    assert process.returncode == 130
    states = {one.state for one in sandbox.sessions_newest_first()}
    # The statement that runs when the signal comes may be the last one: then it is published, and told so.
    assert states in ({State.FAILED}, {State.LOADED})
    assert sandbox.target_rows() == (sandbox.source_rows() if states == {State.LOADED} else [])
    load_well(sandbox)


@pytest.mark.long
def test_while_the_first_look_waits_for_the_warehouse(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    with reader_of(sandbox.warehouse_file):
        process = sandbox.start(*LOAD, env=faults.env())
        faults.wait_for("prepare.create")
        time.sleep(0.3)
        stops(process, interrupt_parent, 130)
    assert_interrupted(sandbox, [])
    load_well(sandbox)


def test_while_publishing_waits_for_the_warehouse(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    process = sandbox.start(*LOAD, env=faults.at("publish.begin", "pause").env())
    faults.wait_for("publish.begin")
    with reader_of(sandbox.warehouse_file):
        faults.go_on()
        time.sleep(0.5)
        stops(process, interrupt_parent, 130)
    assert_interrupted(sandbox, ["abakan", "achinsk"])
    load_well(sandbox)


@pytest.mark.long
def test_while_a_slice_waits_for_its_retry(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load_keys = 'retries = 3\nretry_delay = "1m"'
    sandbox.write()
    process = sandbox.start(*LOAD, env=faults.at("stage.write", "kill worker").env())
    faults.wait_for("sessions.close.done", nth=2)
    stops(process, terminate, 143)
    ended = {one.state: one for one in sandbox.sessions_newest_first()}
    assert set(ended) == {State.FAILED, State.LOADED}
    assert ended[State.FAILED].error_class == "WorkerDiedError"
    assert "interrupted" in str(ended[State.FAILED].comment)
    load_well(sandbox)


@pytest.mark.long
def test_while_it_waits_for_another_load(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    with flocked(sandbox.root / "state" / "locks" / "work" / f"orders.{DAY}.lock"):
        process = sandbox.start(*LOAD, "--wait", "10m", env=faults.env())
        time.sleep(1.5)
        assert process.poll() is None
        stops(process, interrupt_parent, 130)
    assert len(sandbox.sessions_newest_first()) == 2
    load_well(sandbox)


@pytest.mark.long
def test_while_it_waits_for_a_slot(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    slots = sandbox.root / "state" / "slots"
    with flocked(slots / "worker-processes.0.lock"), flocked(slots / "worker-processes.1.lock"):
        process = sandbox.start(*LOAD, env=faults.env())
        faults.wait_for("prepare.create")
        time.sleep(0.5)
        stops(process, interrupt_parent, 130)
    assert_interrupted(sandbox, [])
    load_well(sandbox)


def test_a_command_that_waits_before_it_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sessions = (
            f'type = "postgres"\nhost = "127.0.0.1"\nport = {silent.getsockname()[1]}\nuser = "etl"\n'
            'database = "etl"\nsslmode = "disable"'
        )
        sandbox = Sandbox(tmp_path / "project", sessions=sessions).write()
        for number, command in (
            (signal.SIGTERM, ("report", "failures")),
            (signal.SIGHUP, (*LOAD, "--only-missing")),
        ):
            process = sandbox.start(*command, "--format", "json")
            with silent.accept()[0]:
                process.send_signal(number)
                out, err = wait_for_end(process, seconds=SECONDS + 5)
            assert (process.returncode, json.loads(out)["exit_code"]) == (143, 143), err
            assert "Error: interrupted" in err


@pytest.mark.parametrize("silent_one", ["mssql", "postgres", "warehouse"])
def test_while_a_server_is_silent(tmp_path: Path, silent_one: str) -> None:
    """A shard of which the table is to be made, or the warehouse: the drivers in C go on waiting after a signal."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        keys = f'host = "127.0.0.1"\nport = {port}\nuser = "etl"\ndatabase = "etl"\nconnect_timeout = "30s"'
        off = {"mssql": 'encryption = "off"'}.get(silent_one, 'sslmode = "disable"')
        named = {"warehouse": "warehouse"}.get(silent_one, "server_0")
        sandbox = Sandbox(tmp_path / "project", create="").write()
        toml = sandbox.root / "config/dwhctl.toml"
        before, _, after = toml.read_text().partition(f"[connections.{named}]\n")
        _, _, after = after.partition("\n[")
        kind = {"mssql": "mssql"}.get(silent_one, "postgres")
        toml.write_text(f'{before}[connections.{named}]\ntype = "{kind}"\n{keys}\n{off}\n[{after}')
        process = sandbox.start(*LOAD)
        with silent.accept()[0]:
            time.sleep(0.3)
            stops(process, terminate, 143)


@pytest.mark.parametrize(("send", "code"), [(terminate, 143), (interrupt_parent, 130)])
def test_while_a_create_runs(
    tmp_path: Path, faults: Faults, send: Callable[[subprocess.Popen[str]], None], code: int
) -> None:
    """DuckDB's threads did the work, and the one that waited for them did not see the signal."""
    endless = f"{CREATE};\nCREATE TABLE stage.n AS SELECT count(*) AS n FROM range(1000000000000)"
    sandbox = Sandbox(tmp_path / "project", create=endless).write()
    process = sandbox.start(*LOAD, env=faults.env())
    faults.wait_for("prepare.create")
    time.sleep(0.5)
    stops(process, send, code)


def test_a_second_signal_changes_nothing(sandbox: Sandbox, faults: Faults) -> None:
    process = sandbox.start(*LOAD, env=faults.at("stage.extract", "pause", until=2).env())
    faults.wait_for("stage.extract", nth=2)
    for _ in range(3):
        interrupt_parent(process)
        time.sleep(0.02)
    wait_for_end(process)
    # The last one may come while the interpreter ends: then it ends by the signal, which a shell calls 130 as well.
    assert process.returncode in (130, -signal.SIGINT)
    assert_interrupted(sandbox, ["abakan", "achinsk"])
    wait_until(lambda: held_locks(sandbox.root / "state") == [], "the locks are free")
    load_well(sandbox)


# What is left in cron's log


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def interrupt_again_and_again(process: subprocess.Popen[str]) -> None:
    """Also at the end of the process."""
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (kill, -signal.SIGKILL),
        pytest.param(kill_group, -signal.SIGKILL, marks=pytest.mark.long),
        pytest.param(terminate, 143, marks=pytest.mark.long),
        (interrupt_again_and_again, 130),
    ],
)
def test_cron_s_log_holds_no_warning_of_python(
    sandbox: Sandbox,
    faults: Faults,
    tmp_path: Path,
    send: Callable[[subprocess.Popen[str]], None],
    code: int,
) -> None:
    log = tmp_path / "cron.log"
    with log.open("w") as written:
        command = [sys.executable, "-m", "dwhctl", *LOAD, "--project", str(sandbox.root)]
        held = faults.at("stage.extract", "pause", until=2).env()
        process = subprocess.Popen(
            command, stdout=written, stderr=written, text=True, start_new_session=True,
            env={**os.environ, **held},
        )  # fmt: skip
    faults.wait_for("stage.extract", nth=2)
    send(process)
    wait_for_end(process)
    text = log.read_text()
    assert process.returncode == code, text
    assert "run " in text
    for bad in ("Warning", "leaked", "Traceback", "Exception ignored"):
        assert bad not in text
    load_well(sandbox)
