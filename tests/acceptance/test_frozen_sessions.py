"""A sessions database that is frozen: it keeps its connections and answers nothing. Every command comes to its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.alerts import channels
from dwhctl.core.errors import ExitCode, SessionsError
from dwhctl.runtime.locks import Lock, StateDir
from dwhctl.sessions import REPORT_TIMEOUT, WORK_TIMEOUT, open_store
from dwhctl.sessions.postgres_store import PostgresStore
from dwhctl.systems.postgres import client as postgres_wait
from tests.cli_support import dwh
from tests.integration.alerts_kit import Post
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, held_locks, postgres_sessions, wait_for_end, wait_until
from tests.support.freezing import FreezingProxy
from tests.support.projects import DAY, Sandbox

OPENING, CLOSING, FENCE, LOOKING = (
    b"INSERT INTO sessions",
    b"UPDATE sessions AS s",
    b"SELECT 1\x00",
    b"pg_class",
)
ONE_SECOND = 'answer_timeout = "1s"'
CHANNEL = """
[alerts.chat]
type = "email"
when = ["one_failed", "sla_miss"]
host = "localhost"
from = "a@b.c"
to = ["d@e.f"]
"""


@pytest.fixture(autouse=True)
def short_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_wait, "_LAST_WORD_SECONDS", 0.1)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FreezingProxy]:
    with FreezingProxy(postgres_server) as proxy:
        yield proxy


def sandbox_behind(proxy: FreezingProxy, root: Path, database: str, *keys: str) -> Sandbox:
    sessions = proxy.sessions(database, *keys)
    keys_of_load = 'retries = 0\nstart_date = 2020-07-13\ndeadline = "07:00"'
    sandbox = Sandbox(root, {"server_0": ["abakan", "achinsk"]}, sessions=sessions, load_keys=keys_of_load)
    return sandbox.write().fill()


def thawed(sandbox: Sandbox, server: PostgresServer, database: str) -> Sandbox:
    """The same project, past the proxy."""
    sandbox.sessions = postgres_sessions(server, database)
    return sandbox.write()


@pytest.mark.parametrize(
    ("at", "doing"),
    [
        (OPENING, r"opening \d sessions"),
        (FENCE, "checking the connection"),
        (CLOSING, r"closing \d sessions"),
    ],
)
def test_a_load_ends_and_the_next_one_puts_it_right(
    tmp_path: Path,
    proxy: FreezingProxy,
    postgres_server: PostgresServer,
    postgres_database: str,
    at: bytes,
    doing: str,
) -> None:
    sandbox = sandbox_behind(proxy, tmp_path, postgres_database, ONE_SECOND)
    proxy.freeze_at = at
    begun = time.monotonic()
    report = sandbox.load()
    assert time.monotonic() - begun < 10
    assert proxy.frozen.is_set()
    assert report.stopped is not None
    lost = rf"{doing}: the connection is lost: no answer for 1s \(answer_timeout of connections.sessions\)"
    assert re.search(lost, report.stopped)
    assert "may no longer publish" in report.stopped
    assert report.exit_code is ExitCode.FAILED
    assert held_locks(sandbox.root / "state") == []
    if at is not CLOSING:
        assert sandbox.target_rows() == []
    # The server learns of the connection's end, and lets go of the locks, when the proxy does.
    proxy.end()
    report = thawed(sandbox, postgres_server, postgres_database).load(wait=timedelta(seconds=10))
    assert (report.failed, report.stopped) == (0, None)
    assert sandbox.target_rows() == sandbox.source_rows()


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)],
)
def test_a_signal_ends_a_load_that_waits_for_a_frozen_database(
    tmp_path: Path, proxy: FreezingProxy, postgres_database: str, sent: signal.Signals, code: int
) -> None:
    """With the default of 60 s: before it has begun (SIGINT), and in its loop (SIGTERM)."""
    sandbox = sandbox_behind(proxy, tmp_path / "project", postgres_database)
    proxy.freeze_at = OPENING if sent is signal.SIGTERM else LOOKING
    process = sandbox.start("load", "--date", str(DAY), env=Faults(tmp_path / "log").env())
    wait_until(proxy.frozen.is_set, "the database is frozen", seconds=30)
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(sent)
    out, err = wait_for_end(process)
    assert time.monotonic() - begun < 6
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    assert held_locks(sandbox.root / "state") == []


@pytest.mark.parametrize(
    "command",
    [
        ("report", "runs"),
        ("watch",),
        ("backfill", "-s", "2020-07-13", "-e", "2020-07-14", "--only-missing"),
        pytest.param(("report", "failures"), marks=pytest.mark.long),
        pytest.param(("load", "--date", "2020-07-14"), marks=pytest.mark.long),
        pytest.param(("sessions", "prune", "--keep", "400d"), marks=pytest.mark.long),
    ],
)
def test_a_command_ends_with_1_and_says_what_it_waited_for(
    tmp_path: Path,
    proxy: FreezingProxy,
    postgres_database: str,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    sandbox = sandbox_behind(proxy, tmp_path, postgres_database, ONE_SECOND)
    proxy.freeze_at = LOOKING
    begun = time.monotonic()
    assert dwh(*command, "--project", sandbox.root) == 1
    assert time.monotonic() - begun < 6
    said = capsys.readouterr().err
    assert f"sessions in PostgreSQL postgres@127.0.0.1:{proxy.port}/{postgres_database}: " in said
    assert "no answer for 1s (answer_timeout of connections.sessions)" in said


def test_a_report_waits_10_seconds_and_a_run_60_unless_the_key_says_otherwise(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    plain = postgres_server.connection(postgres_database)
    own = plain.model_copy(update={"answer_timeout": REPORT_TIMEOUT * 3})
    for connection, given, seconds in (
        (plain, WORK_TIMEOUT, 60),
        (plain, REPORT_TIMEOUT, 10),
        (own, REPORT_TIMEOUT, 30),
    ):
        with open_store(connection, answer_timeout=given) as store:
            assert isinstance(store, PostgresStore)
            assert store._connection.answer_timeout.total_seconds() == seconds
            # The server gives the statement up at the same time, and says so in its own words.
            cursor = store._connection.execute(
                "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"
            )
            assert cursor.fetchone() == (str(seconds * 1000),)


def test_ctrl_c_ends_a_report_at_once(tmp_path: Path, proxy: FreezingProxy, postgres_database: str) -> None:
    # A shell starts what runs in the background deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sandbox = sandbox_behind(proxy, tmp_path, postgres_database)
    proxy.freeze_at = LOOKING

    def press() -> None:
        proxy.frozen.wait(20)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    begun = time.monotonic()
    try:
        assert dwh("report", "runs", "--project", sandbox.root) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 5


def test_a_watch_tells_once_that_it_cannot_see(
    tmp_path: Path, proxy: FreezingProxy, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Post()
    monkeypatch.setattr(channels, "open_channel", post.open)
    sandbox = sandbox_behind(proxy, tmp_path, postgres_database, 'connect_timeout = "1s"')
    sandbox.put("config/dwhctl.toml", sandbox._toml() + CHANNEL)
    proxy.frozen.set()
    assert [dwh("watch", "--project", sandbox.root) for _ in range(2)] == [1, 1]
    assert len(post.sent) == 1


def test_a_second_watch_ends_with_75_and_tells_the_channels_once_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    post = Post()
    monkeypatch.setattr(channels, "open_channel", post.open)
    sandbox = Sandbox(tmp_path, load_keys='start_date = 2020-07-13\ndeadline = "07:00"').write()
    sandbox.put("config/dwhctl.toml", sandbox._toml() + CHANNEL)
    state = StateDir(tmp_path / "state")
    state.make()
    other = Lock(state.work_locks / "dwhctl.watch.lock")
    assert other.try_take("dwhctl watch")
    codes = [dwh("watch", "--scheduled", "--project", sandbox.root) for _ in range(8)]
    other.release()
    assert codes == [75] * 8
    assert "a watch is running by pid" in capsys.readouterr().err
    # One that holds its lock over three starts is stuck, and that is worth one message.
    assert len(post.sent) == 1
    assert dwh("watch", "--project", sandbox.root) == 1, "the lock is free again, and a deadline is missed"


def test_a_name_that_is_not_resolved_is_not_waited_for(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = postgres_server.connection("etl").model_copy(update={"host": "etl-db"})
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(5))
    begun = time.monotonic()
    one_second = type(connection.connect_timeout)(seconds=1)
    with pytest.raises(SessionsError, match='connecting: the name "etl-db" was not resolved within 1s'):
        open_store(connection.model_copy(update={"connect_timeout": one_second}))
    released.set()
    assert time.monotonic() - begun < 3


def test_other_connections_of_the_process_may_copy(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    """COPY does not work with psycopg2's wait callback, which holds for all connections: we set none."""
    import io

    with (
        open_store(postgres_server.connection(postgres_database)) as store,
        closing(postgres_server.connect(postgres_database)) as plain,
        plain.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE t (id INTEGER)")
        cursor.copy_expert("COPY t FROM STDIN", io.StringIO("1\n2\n"))
        store.check_alive()
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (2,)
