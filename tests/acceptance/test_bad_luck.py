"""Bad luck costs its own slices only, or stops the run in words; the next load puts it right."""

from __future__ import annotations

import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from subprocess import Popen

import pytest

from dwhctl.sessions import Session, State
from tests.support.faulty import (
    Faults,
    OwnPostgres,
    held_locks,
    own_postgres,
    postgres_sessions,
    reader_of,
    tiny_disk,
    wait_for_end,
)
from tests.support.projects import DAY, Sandbox

LOAD = ("load", "--date", str(DAY))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two shards and one worker, so that the first slice to start is abakan's."""
    keys = 'retries = 0\nretry_delay = "1s"'
    servers = {"server_0": ["abakan", "achinsk"]}
    return Sandbox(tmp_path / "project", servers, max_workers=1, load_keys=keys).write().fill()


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """What goes wrong."""
    return Faults(tmp_path / "log")


def sessions(sandbox: Sandbox, shard: str) -> list[Session]:
    """A shard's sessions, oldest first."""
    return [one for one in reversed(sandbox.sessions_newest_first()) if one.shard == shard]


def outcomes(sandbox: Sandbox, shard: str) -> list[tuple[State, str | None]]:
    """How they ended."""
    return [(one.state, one.error_class) for one in sessions(sandbox, shard)]


def load_well(sandbox: Sandbox) -> None:
    """The next load puts it right."""
    report = sandbox.load()
    assert (report.failed, report.stopped, report.loaded) == (0, None, len(sandbox.shards()))
    assert sandbox.target_rows() == sandbox.source_rows()
    assert State.RUNNING not in {one.state for one in sandbox.sessions_newest_first()}
    assert list((sandbox.root / "state" / "staging").iterdir()) == []
    assert held_locks(sandbox.root / "state") == []


def change_sources(sandbox: Sandbox) -> None:
    """Make what is to be loaded differ from what was loaded."""
    for shard in sandbox.shards():
        sandbox.in_shard(shard, "UPDATE orders SET amount = amount + 1", "DELETE FROM orders WHERE id = 3")


# Workers


def test_a_worker_that_is_killed_once_is_replaced(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load_keys = 'retries = 1\nretry_delay = "1s"'
    sandbox.write()
    done = sandbox.run(*LOAD, env=faults.at("stage.write", "kill worker").env())
    assert done.returncode == 0, done.stderr
    assert outcomes(sandbox, "abakan") == [(State.UP_FOR_RETRY, "WorkerDiedError"), (State.LOADED, None)]
    assert "the worker process died" in str(sessions(sandbox, "abakan")[0].comment)
    assert outcomes(sandbox, "achinsk") == [(State.LOADED, None)]
    assert sandbox.target_rows() == sandbox.source_rows()
    load_well(sandbox)


def test_a_slice_that_kills_its_worker_twice_is_left_alone(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load_keys = 'retries = 5\nretry_delay = "0s"'
    sandbox.write()
    # Its second attempt comes before the other shard's first.
    done = sandbox.run(*LOAD, env=faults.at("stage.write", "kill worker", until=2).env())
    assert done.returncode == 1
    assert "QuarantinedError" in done.stdout
    by_state = {shard: outcomes(sandbox, shard) for shard in sandbox.shards()}
    bad = next(shard for shard, ended in by_state.items() if len(ended) == 2)
    good = next(shard for shard in by_state if shard != bad)
    assert by_state[bad] == [(State.UP_FOR_RETRY, "WorkerDiedError"), (State.FAILED, "QuarantinedError")]
    assert "killed its worker twice" in str(sessions(sandbox, bad)[1].comment)
    assert by_state[good] == [(State.LOADED, None)]
    assert sandbox.target_rows() == sandbox.source_rows(shards=[good])
    load_well(sandbox)


def test_a_worker_that_hangs_is_killed_at_its_deadline(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load_keys = 'retries = 0\ntimeout = "6s"'
    sandbox.write()
    started = time.monotonic()
    process = sandbox.start(*LOAD, env=faults.at("stage.extract", "pause").env())
    out, err = wait_for_end(process)
    assert process.returncode == 1, err
    assert time.monotonic() - started < 20
    assert "timeout of 6s" in out
    assert outcomes(sandbox, "abakan") == [(State.FAILED, "TimedOutError")]
    assert "its worker was killed" in str(sessions(sandbox, "abakan")[0].comment)
    assert outcomes(sandbox, "achinsk") == [(State.LOADED, None)]
    assert sandbox.target_rows() == sandbox.source_rows(shards=["achinsk"])
    load_well(sandbox)


# The sessions database


def spoil_with_a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def spoil_with_other_bytes(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 1000)


def spoil_the_parent(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("a file where a folder should be")


@pytest.mark.parametrize("spoil", [spoil_with_a_folder, spoil_with_other_bytes, spoil_the_parent])
def test_sqlite_cannot_be_used_at_the_start(sandbox: Sandbox, spoil: Callable[[Path], None]) -> None:
    sandbox.sessions = 'type = "sqlite"\npath = "elsewhere/deep/sessions.sqlite"'
    path = sandbox.write().root / "elsewhere" / "deep" / "sessions.sqlite"
    spoil(path)
    done = sandbox.run(*LOAD)
    assert done.returncode == 1
    assert f"sessions in {path}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not sandbox.warehouse_file.exists()
    (sandbox.root / "elsewhere").rename(sandbox.root / "away")
    load_well(sandbox)


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    """A server that the tests here stop and start."""
    with own_postgres() as running:
        yield running


def with_postgres(sandbox: Sandbox, postgres: OwnPostgres) -> None:
    postgres.start_again()
    sandbox.sessions = postgres_sessions(postgres.server, postgres.server.make_database())
    sandbox.write()


def test_postgresql_is_down_at_the_start(sandbox: Sandbox, postgres: OwnPostgres) -> None:
    with_postgres(sandbox, postgres)
    postgres.kill()
    done = sandbox.run(*LOAD)
    assert done.returncode == 1
    assert "sessions in PostgreSQL postgres@" in done.stderr
    assert "check connections.sessions and that the server runs" in done.stderr
    assert "Traceback" not in done.stderr
    assert not sandbox.warehouse_file.exists()
    postgres.start_again()
    load_well(sandbox)


@pytest.mark.parametrize(
    "point",
    [
        "stage.write",
        "publish.commit",
        pytest.param("publish.begin", marks=pytest.mark.long),
        pytest.param("publish.committed", marks=pytest.mark.long),
    ],
)
def test_postgresql_is_killed_in_the_middle(
    sandbox: Sandbox, faults: Faults, postgres: OwnPostgres, point: str
) -> None:
    with_postgres(sandbox, postgres)
    sandbox.load()
    change_sources(sandbox)
    before = sandbox.target_rows()
    process = sandbox.start(*LOAD, env=faults.at(point, "pause").env())
    faults.wait_for(point)
    postgres.kill()
    faults.go_on()
    out, err = wait_for_end(process)
    assert process.returncode == 1
    assert "stopped before its end: sessions in PostgreSQL" in out
    assert "connection is lost" in out
    assert "Traceback" not in err
    published = point == "publish.committed"
    assert sandbox.target_rows() == (sandbox.source_rows() if published else before)
    postgres.start_again()
    running = {one.id for one in sandbox.sessions_newest_first() if one.state is State.RUNNING}
    assert running
    load_well(sandbox)
    ended = {one.state for one in sandbox.sessions_newest_first() if one.id in running}
    assert ended == {State.LOADED if published else State.ABANDONED}


def remove(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def put_back(path: Path) -> None:
    path.with_suffix(".away").rename(path)


def test_the_sqlite_file_vanishes_in_the_middle(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    change_sources(sandbox)
    before = sandbox.target_rows()
    path = sandbox.root / "state" / "sessions.sqlite"
    process = sandbox.start(*LOAD, env=faults.at("stage.write", "pause").env())
    faults.wait_for("stage.write")
    remove(path)
    faults.go_on()
    out, err = wait_for_end(process)
    assert process.returncode == 1
    assert "the file was removed or replaced" in out
    assert "Traceback" not in err
    assert sandbox.target_rows() == before
    put_back(path)
    load_well(sandbox)


def test_the_sessions_table_is_dropped_in_the_middle(sandbox: Sandbox, faults: Faults) -> None:
    process = sandbox.start(*LOAD, env=faults.at("stage.write", "pause").env())
    faults.wait_for("stage.write")
    with closing(sqlite3.connect(sandbox.root / "state" / "sessions.sqlite")) as other:
        other.execute("ALTER TABLE sessions RENAME TO away")
    faults.go_on()
    out, err = wait_for_end(process)
    assert process.returncode == 1
    assert "no such table" in out
    assert "Traceback" not in err
    with closing(sqlite3.connect(sandbox.root / "state" / "sessions.sqlite")) as other:
        other.execute("ALTER TABLE away RENAME TO sessions")
    load_well(sandbox)


# The disk

FAT = "UPDATE orders SET customer = " + " || ".join(f"md5(random() || '{number}')" for number in range(12))


@pytest.fixture
def fat(sandbox: Sandbox) -> Sandbox:
    """One shard has some megabytes that no compression makes small."""
    sandbox.fill(20_000, shards=["abakan"])
    sandbox.in_shard("abakan", FAT)
    return sandbox


def test_the_disk_of_the_staging_is_full(fat: Sandbox) -> None:
    staging = fat.root / "state" / "staging"
    with tiny_disk(staging, "256k"):
        done = fat.run(*LOAD)
        assert list(staging.iterdir()) == []
    assert done.returncode == 1
    assert outcomes(fat, "abakan") == [(State.FAILED, "StagingError")]
    assert "No space left on device" in str(sessions(fat, "abakan")[0].comment)
    assert outcomes(fat, "achinsk") == [(State.LOADED, None)]
    assert fat.target_rows() == fat.source_rows(shards=["achinsk"])
    load_well(fat)


def test_the_disk_of_the_state_folder_is_full(fat: Sandbox) -> None:
    with tiny_disk(fat.root / "state", "3m"):
        done = fat.run(*LOAD)
        assert done.returncode == 1
        assert outcomes(fat, "abakan")[0][0] is State.FAILED
        assert "No space left" in str(sessions(fat, "abakan")[0].comment)
        assert outcomes(fat, "achinsk") == [(State.LOADED, None)]
        assert fat.target_rows() == fat.source_rows(shards=["achinsk"])
        fat.in_shard("abakan", "DELETE FROM orders WHERE id >= 10")
        load_well(fat)


def test_not_a_byte_is_left_on_the_disk(sandbox: Sandbox) -> None:
    with tiny_disk(sandbox.root / "state", "2m"):
        filler = sandbox.root / "state" / "filler"
        with suppress(OSError):
            filler.write_bytes(bytes(4_000_000))
        done = sandbox.run(*LOAD)
        assert done.returncode == 1
        assert str(sandbox.root / "state") in done.stderr
        assert "Traceback" not in done.stderr
        filler.unlink()
        load_well(sandbox)


@pytest.mark.long
def test_files_may_not_grow(fat: Sandbox) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = fat.start(*LOAD, preexec_fn=limit)
    _, err = wait_for_end(process)
    assert process.returncode == 1, err
    assert outcomes(fat, "abakan") == [(State.FAILED, "StagingError")]
    assert "File too large" in str(sessions(fat, "abakan")[0].comment)
    assert outcomes(fat, "achinsk") == [(State.LOADED, None)]
    load_well(fat)


# The warehouse's file


def set_lock_wait(sandbox: Sandbox, wait: str) -> None:
    text = (sandbox.root / "config" / "dwhctl.toml").read_text()
    sandbox.put("config/dwhctl.toml", text.replace('lock_wait = "5s"', f'lock_wait = "{wait}"'))


def start_until_published(sandbox: Sandbox, faults: Faults) -> Popen[str]:
    """A load that waits right before it publishes."""
    process = sandbox.start(*LOAD, env=faults.at("publish.begin", "pause").env())
    faults.wait_for("publish.begin")
    return process


def test_a_reader_has_the_warehouse_for_a_moment(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    change_sources(sandbox)
    process = start_until_published(sandbox, faults)
    with reader_of(sandbox.warehouse_file):
        faults.go_on()
        time.sleep(1)
        assert process.poll() is None
    _, err = wait_for_end(process)
    assert process.returncode == 0, err
    assert sandbox.target_rows() == sandbox.source_rows()
    load_well(sandbox)


@pytest.mark.long
def test_a_reader_has_the_warehouse_for_too_long(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.load()
    change_sources(sandbox)
    before = sandbox.target_rows()
    set_lock_wait(sandbox, "1s")
    process = start_until_published(sandbox, faults)
    with reader_of(sandbox.warehouse_file) as reader:
        faults.go_on()
        out, err = wait_for_end(process)
    assert process.returncode == 1, err
    assert "TargetBusyError" in out
    for shard in sandbox.shards():
        last = sessions(sandbox, shard)[-1]
        assert (last.state, last.error_class) == (State.FAILED, "TargetBusyError")
        assert f"open in process {reader.pid}" in str(last.comment)
        assert "waited 1 s" in str(last.comment)
    assert sandbox.target_rows() == before
    load_well(sandbox)


def test_a_reader_has_the_warehouse_from_the_start(sandbox: Sandbox) -> None:
    sandbox.load()
    change_sources(sandbox)
    before = sandbox.target_rows()
    set_lock_wait(sandbox, "1s")
    with reader_of(sandbox.warehouse_file) as reader:
        done = sandbox.run(*LOAD)
    assert done.returncode == 1
    assert f"open in process {reader.pid}" in done.stdout
    assert {outcomes(sandbox, shard)[-1] for shard in sandbox.shards()} == {(State.FAILED, "TargetBusyError")}
    assert sandbox.target_rows() == before
    load_well(sandbox)


@pytest.mark.long
def test_a_dead_run_is_not_judged_while_its_warehouse_cannot_be_asked(
    sandbox: Sandbox, faults: Faults
) -> None:
    sandbox.load()
    change_sources(sandbox)
    set_lock_wait(sandbox, "1s")
    process = sandbox.start(*LOAD, env=faults.at("publish.committed", "kill").env())
    wait_for_end(process)
    assert process.returncode == -9
    with reader_of(sandbox.warehouse_file):
        done = sandbox.run(*LOAD)
    assert done.returncode == 1
    assert "wait for their warehouse" in done.stderr
    assert [state for state, _ in outcomes(sandbox, "abakan")] == [State.LOADED, State.RUNNING, State.FAILED]
    load_well(sandbox)
    assert outcomes(sandbox, "abakan")[1] == (State.LOADED, None)
