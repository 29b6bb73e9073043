"""What goes wrong with the sessions database, and what is said and true afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.core.secrets import Secret
from dwhctl.sessions import SessionStore, State, open_store
from dwhctl.sessions.postgres_store import PostgresStore
from dwhctl.sessions.sqlite_store import SqliteStore
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite import client as sqlite_link
from tests.postgres import PostgresServer, running_server

from .sessions_kit import Place, closed, new, postgres_place, sqlite_place, write


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    place = sqlite_place(tmp_path)
    yield place
    place.end()


@pytest.fixture
def postgres(postgres_server: PostgresServer, postgres_database: str) -> Iterator[Place]:
    place = postgres_place(postgres_server, postgres_database)
    yield place
    place.end()


# Killed at any moment

KILLED = """
import os, signal, sys
from pathlib import Path
from datetime import UTC, date, datetime
from dwhctl.core import faults
from dwhctl.systems.sqlite.system import SqliteConnection
from dwhctl.sessions import Closing, NewSession, State, open_store

def kill(point):
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

now = datetime.now(UTC)
store = open_store(SqliteConnection(name="sessions", path=Path(sys.argv[1])))
faults.handler = kill
store.prepare()
ids = store.open([NewSession("run-1", "orders", s, date(2020, 7, 13), 1, s, now) for s in "abc"])
store.close([Closing(i, State.UP_FOR_RETRY, now) for i in ids])
store.fail_waiting("run-1")
"""
POINTS = [
    ("sessions.prepare.begin", []),
    ("sessions.prepare.commit", []),
    ("sessions.open.begin", []),
    ("sessions.open.commit", []),
    ("sessions.open.done", [State.RUNNING] * 3),
    ("sessions.close.begin", [State.RUNNING] * 3),
    ("sessions.close.commit", [State.RUNNING] * 3),
    ("sessions.close.done", [State.UP_FOR_RETRY] * 3),
    ("sessions.fail_waiting.commit", [State.UP_FOR_RETRY] * 3),
    ("sessions.fail_waiting.done", [State.FAILED] * 3),
]


@pytest.mark.parametrize(("point", "states"), POINTS)
def test_killed_a_batch_is_there_as_a_whole_or_not_at_all(
    sqlite: Place, tmp_path: Path, point: str, states: list[State]
) -> None:
    path = tmp_path / "state" / "sessions.sqlite"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), point], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    store = sqlite.store()
    assert [row.state for row in store.of_run("run-1")] == states
    running = State.RUNNING in states or State.UP_FOR_RETRY in states
    assert store.unfinished_runs() == (["run-1"] if running else [])


def test_an_interrupt_within_a_transaction_leaves_nothing(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite.store()

    def interrupt(point: str) -> None:
        if point == "sessions.open.commit":
            raise KeyboardInterrupt

    monkeypatch.setattr("dwhctl.core.faults.handler", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.open([new("a")])
    monkeypatch.setattr("dwhctl.core.faults.handler", None)
    assert store.open([new("b")])
    assert [row.shard for row in store.recent(9)] == ["b"]


# SQLite


def test_sqlite_file_removed_or_replaced_is_noticed(sqlite: Place, tmp_path: Path) -> None:
    store = sqlite.store()
    path = tmp_path / "state" / "sessions.sqlite"
    path.rename(tmp_path / "moved")
    with pytest.raises(SessionsLostError, match="removed or replaced"):
        store.check_alive()
    path.touch()
    with pytest.raises(SessionsLostError, match="put it back"):
        store.open([new()])
    path.unlink()
    (tmp_path / "moved").rename(path)
    assert store.open([new()]) == [1]


def test_sqlite_locked_for_long_is_told(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_link, "BUSY_SECONDS", 0.1)
    store = sqlite.store()
    with sqlite.other_program() as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionsError, match="opening 1 sessions: database is locked; another program"):
            store.open([new()])
        connection.execute("COMMIT")
    assert store.open([new()]) == [1]


def test_sqlite_disk_full_is_told_and_survived(sqlite: Place) -> None:
    store = sqlite.store()
    assert isinstance(store, SqliteStore)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SessionsError, match="disk is full; make room") as caught:
        store.open([new(f"s{number}") for number in range(2000)])
    assert "largest id" not in str(caught.value)
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.recent(1) == []
    assert store.open([new()])


def test_sqlite_without_a_further_id_is_told(sqlite: Place) -> None:
    """Its error is that of a full disk."""
    store = sqlite.store()
    store.open([new()])
    sqlite.rows(f"UPDATE sqlite_sequence SET seq = {2**63 - 1}")
    with pytest.raises(SessionsError, match=r"is full; a row has the largest id .* delete that row"):
        store.open([new()])


def test_sqlite_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(SessionsError, match=r"sessions in .*/state/sessions.sqlite: opening the file"):
        sqlite_place(tmp_path).store()


# PostgreSQL: the connection


def test_postgres_down_at_the_start_is_told_without_the_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    down = PostgresConnection(
        name="books", host="127.0.0.1", port=port, user="etl", password=Secret("s3cr3t pw'"), database="etl"
    )
    with pytest.raises(SessionsError) as caught:
        open_store(down)
    text = str(caught.value)
    assert not isinstance(caught.value, SessionsLostError)
    assert f"sessions in PostgreSQL etl@127.0.0.1:{port}/etl: connecting: " in text
    assert "check connections.books" in text
    assert "s3cr3t" not in text
    assert "\n" not in text
    assert caught.value.__cause__ is None


def test_postgres_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        mute = PostgresConnection(
            name="books",
            host="127.0.0.1",
            port=deaf.getsockname()[1],
            user="etl",
            database="etl",
            connect_timeout="1s",  # type: ignore[arg-type]
        )
        with pytest.raises(SessionsError, match="timeout expired"):
            open_store(mute)


def test_postgres_without_the_database_is_told(postgres_server: PostgresServer) -> None:
    with pytest.raises(SessionsError, match='database "no_such" does not exist; check connections'):
        open_store(postgres_server.connection("no_such"))


def test_postgres_stands_in_for_a_dead_host(postgres: Place) -> None:
    connection = postgres.connection
    assert isinstance(connection, PostgresConnection)
    hosts = ("/nowhere", connection.host or "")
    both = Place(connection.model_copy(update={"host": None, "hosts": hosts}), postgres.server)
    assert both.store().open([new()])
    both.end()


def kill_connection(place: Place, store: SessionStore) -> None:
    assert isinstance(store, PostgresStore)
    place.rows(f"SELECT pg_terminate_backend({store._connection.info.backend_pid})")


def test_postgres_connection_lost_stays_lost(postgres: Place) -> None:
    store = postgres.store()
    [session_id] = store.open([new()])
    store.check_alive()
    kill_connection(postgres, store)
    with pytest.raises(
        SessionsLostError, match=r"checking the connection: the connection is lost: .*run stops"
    ):
        store.check_alive()
    for again in (lambda: store.open([new()]), store.prepare, lambda: store.close([closed(session_id)])):
        with pytest.raises(SessionsLostError):
            again()
    store.close_connection()
    assert [row.id for row in postgres.store().unfinished("run-1")] == [session_id]


def test_postgres_connection_lost_within_a_statement(postgres: Place) -> None:
    store = postgres.store()
    caught: list[BaseException] = []

    def opens() -> None:
        try:
            store.open([new()])
        except BaseException as error:
            caught.append(error)

    with postgres.other_program() as connection:
        connection.cursor().execute("BEGIN; LOCK TABLE sessions")
        thread = threading.Thread(target=opens)
        thread.start()
        wait_for_waiters(postgres)
        kill_connection(postgres, store)
        thread.join()
    assert [type(error) for error in caught] == [SessionsLostError]
    assert postgres.store().recent(9) == []


def wait_for_waiters(place: Place) -> None:
    until = time.monotonic() + 20
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not place.rows(waiting):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_postgres_ids_survive_a_crash_of_the_server() -> None:
    with running_server() as server:
        database = server.make_database()
        # Commits that do not wait for the disk would be lost here, and their ids handed out again.
        server.run(f"ALTER DATABASE {database} SET synchronous_commit = off")
        server.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
        server.run("SELECT pg_reload_conf()")
        place = postgres_place(server, database)
        ids = place.store().open([new("a"), new("b")])
        with place.other_program() as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
        store = store_after_recovery(place)
        assert [row.id for row in store.of_run("run-1")] == ids
        assert store.open([new("c")])[0] > max(ids)
        place.end()


def store_after_recovery(place: Place) -> SessionStore:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(SessionsError):
            return place.store()
        time.sleep(0.1)
    raise AssertionError("the server did not come back")


def test_postgres_settings_of_others_do_not_matter(postgres: Place) -> None:
    database = postgres.rows("SELECT current_database()")[0][0]
    for setting in (
        "synchronous_commit = off",
        "idle_session_timeout = '50ms'",
        "default_transaction_isolation = 'serializable'",
        "timezone = 'Asia/Chita'",
        "statement_timeout = '1s'",
    ):
        postgres.rows(f"ALTER DATABASE {database} SET {setting}")
    store = postgres.store()
    time.sleep(0.2)
    store.check_alive()
    assert isinstance(store, PostgresStore)
    shown = {}
    for name in ("synchronous_commit", "statement_timeout", "transaction_isolation", "timezone"):
        shown[name] = (store._connection.execute(f"SHOW {name}").fetchone() or ("",))[0]
    assert shown == {
        "synchronous_commit": "on",
        "statement_timeout": "1min",
        "transaction_isolation": "read committed",
        "timezone": "UTC",
    }


# PostgreSQL: two hosts


def test_postgres_a_run_is_held_by_one_connection(postgres: Place) -> None:
    one, two = postgres.store(host="alpha"), postgres.store(host="beta")
    assert one.try_hold_run("run-1")
    assert one.try_hold_run("run-1")
    assert not two.try_hold_run("run-1")
    assert two.try_hold_run("run-2")
    two.release_run("run-1")
    assert not two.try_hold_run("run-1")
    one.release_run("run-1")
    assert two.try_hold_run("run-1")


def test_postgres_a_dead_run_lets_go_and_is_reaped_from_another_host(postgres: Place) -> None:
    dead, reaper = postgres.store(host="alpha"), postgres.store(host="beta")
    assert dead.try_hold_run("run-1")
    write(dead, new("a"), State.UP_FOR_RETRY)
    dead.open([new("b")])
    kill_connection(postgres, dead)
    until = time.monotonic() + 20
    while not reaper.try_hold_run("run-1"):
        assert time.monotonic() < until
    [running] = reaper.unfinished("run-1")
    assert running.host == "alpha"
    reaper.close([closed(running.id, State.ABANDONED)])
    reaper.fail_waiting("run-1")
    assert [row.state for row in reaper.of_run("run-1")] == [State.FAILED, State.ABANDONED]
    with pytest.raises(SessionsLostError):
        dead.try_hold_run("run-1")


def test_postgres_behind_a_pooler_is_refused(postgres: Place) -> None:
    store = postgres.store()
    assert isinstance(store, PostgresStore)
    with pytest.raises(SessionsError, match=r"connection pooler.*connections\.sessions"):
        store._refuse_pooler(-1)


# PostgreSQL: others in the table


def test_postgres_deadlock_with_another_program_is_tried_again(postgres: Place) -> None:
    store = postgres.store()
    first, second = store.open([new("a"), new("b")])
    with postgres.other_program() as connection:
        cursor = connection.cursor()
        cursor.execute(f"BEGIN; SELECT 1 FROM sessions WHERE id = {second} FOR UPDATE")
        thread = threading.Thread(target=store.close, args=([closed(first), closed(second)],))
        thread.start()
        wait_for_waiters(postgres)
        with suppress(psycopg2.errors.DeadlockDetected):
            cursor.execute(f"SELECT 1 FROM sessions WHERE id = {first} FOR UPDATE")
        cursor.execute("ROLLBACK")
        thread.join()
    assert [row.state for row in store.of_run("run-1")] == [State.LOADED, State.LOADED]


def test_postgres_table_locked_for_long_is_told(postgres: Place) -> None:
    store = postgres.store()
    assert isinstance(store, PostgresStore)
    store._connection.execute("SET lock_timeout = '100ms'")
    with postgres.other_program() as connection:
        connection.cursor().execute("BEGIN; LOCK TABLE sessions")
        with pytest.raises(
            SessionsError, match="lock timeout; another program has locked the table"
        ) as caught:
            store.open([new()])
        assert not isinstance(caught.value, SessionsLostError)
        connection.cursor().execute("ROLLBACK")
    assert store.open([new()])


def test_postgres_with_another_encoding_takes_any_comment(postgres_server: PostgresServer) -> None:
    database = postgres_server.make_database(
        "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    place = postgres_place(postgres_server, database)
    try:
        store = place.store()
        write(store, new(), State.UP_FOR_RETRY, comment="нет " + "é" * 600)
        assert store.fail_waiting("run-1", "умер") == 1
        [comment] = [row.comment or "" for row in store.recent(1)]
        assert comment.startswith("\\u043d\\u0435\\u0442 \\xe9")
        assert comment.endswith("...")
        assert len(comment) == 500
    finally:
        place.end()
        postgres_server.drop_database(database)


def test_postgres_work_is_held_whole_or_not_at_all(postgres: Place) -> None:
    one, two, three = (postgres.store(host=host) for host in ("alpha", "beta", "gamma"))
    assert one.hold_work(["orders.2020-07-13"]) is None
    held = two.hold_work(["orders.2020-07-12", "orders.2020-07-13", "orders.2020-07-14"])
    assert held is not None
    assert held.name == "orders.2020-07-13"
    assert "pid" in held.holder
    assert three.hold_work(["orders.2020-07-12", "orders.2020-07-14"]) is None
    one.release_work(["orders.2020-07-13"])
    assert two.hold_work(["orders.2020-07-13"]) is None
