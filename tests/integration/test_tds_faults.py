"""The TDS server of the tests: faults, sessions, transactions, locks, encryption, driven by the real pymssql."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymssql
import pytest

from tests.servers.base import Fault, Link, Server
from tests.servers.tds import TdsServer

from .test_tds_server import ask, connect, number, refused

ROWS = 20_000


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan", "chita"), snapshot=("chita",)) as running:
        for name in ("abakan", "chita"):
            running.execute(
                name, f"SELECT value AS id, N'строка' AS t INTO r FROM GENERATE_SERIES(1, {ROWS})"
            )
        yield running


@pytest.fixture(autouse=True)
def _whole(server: TdsServer) -> Iterator[None]:
    yield
    server.faults.clear()
    server.revive()
    _until(lambda: server.connections_now == 0)


def _until(true: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def read(db: Any, sql: str = "SELECT id, t FROM r ORDER BY id") -> tuple[int, int]:
    """How many rows came before the error, and its number."""
    seen = 0
    try:
        db.execute(sql)
        while row := db.fetchone():
            seen += bool(row)
    except pymssql.Error as error:
        return seen, number(error)
    pytest.fail("nothing went wrong")


def elsewhere(server: TdsServer, work: str, **keys: Any) -> subprocess.Popen[str]:
    """Work with a cursor `k` in a process of its own, which prints the number of the error that ends it.

    In this process numbers at connect are stale after the first, and a timeout is everybody's.
    """
    code = (
        "import pymssql\n"
        f"try: c = pymssql.connect(server='127.0.0.1', port={server.port}, user='sa', tds_version='7.4',"
        f" login_timeout=1, **{{'password': 'Secret_123', 'database': 'abakan', **{keys!r}}}); k = c.cursor(); {work}\n"
        "except pymssql.Error as e:\n"
        "    first = e.args[0]; print(first[0] if isinstance(first, tuple) else first, flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def failing(server: TdsServer, work: str = "pass", **keys: Any) -> int:
    """The number of the error that ends the work."""
    with elsewhere(server, work, **keys) as process:
        return int(process.communicate(timeout=20)[0].split()[-1])


def test_refused_logins_one_database(server: TdsServer) -> None:
    server.faults.add(Fault("refuse_login", database="abakan", times=1))
    assert failing(server) == 18456
    with closing(connect(server)) as one, closing(connect(server, "chita")) as other:
        assert one
        assert other


@pytest.mark.parametrize("kind", ["hang_accept", "hang_login"])
def test_hanging_before_the_login(server: TdsServer, kind: str) -> None:
    fault = server.faults.add(Fault(kind, times=1))
    started = time.monotonic()
    assert failing(server) in (20002, 20003, 20009)
    assert 0.9 < time.monotonic() - started < 8
    assert fault.struck == 1


def test_a_killed_server_refuses_and_comes_back_with_its_data(server: TdsServer) -> None:
    with closing(connect(server, autocommit=False)) as connection:
        db = connection.cursor()
        db.execute("DELETE FROM r WHERE id > 5")
        db.execute("SELECT id, t FROM r")
        server.kill()
        assert server.connections_now == 0
        assert failing(server) in (20002, 20009)
        with pytest.raises(pymssql.Error):
            ask(db, "SELECT 1 AS a")
    server.revive()
    with closing(connect(server)) as connection:
        assert ask(connection.cursor(), "SELECT COUNT(*) AS n FROM r") == [(ROWS,)]


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("reset", {20047, 20006, 20004}), ("close", {20017, 20047, 20004}), ("deadlock", {1205})],
)
@pytest.mark.parametrize("after", [0, 1, 5000])
def test_lost_in_the_middle(server: TdsServer, kind: str, numbers: set[int], after: int) -> None:
    server.faults.add(Fault(kind, database="abakan", statement=r"\bFROM r\b", after_rows=after, times=1))
    with closing(connect(server)) as connection:
        seen, error = read(connection.cursor())
        assert error in numbers
        assert seen <= after
        if kind == "deadlock":
            assert seen == after
    with closing(connect(server)) as connection:
        assert ask(connection.cursor(), "SELECT COUNT(*) AS n FROM r") == [(ROWS,)]


def test_any_error_at_the_description(server: TdsServer) -> None:
    server.faults.add(Fault("error", statement="sp_describe", error=(7999, 17, "out of luck")))
    with closing(connect(server)) as connection:
        db = connection.cursor()
        assert refused(db, "EXEC sp_describe_first_result_set N'SELECT 1 AS a'") == 7999
        assert ask(db, "SELECT 1 AS a") == [(1,)]


def test_an_error_after_rows_leaves_the_session_alive(server: TdsServer) -> None:
    server.faults.add(Fault("error", after_rows=100, error=(8646, 16, "no index entry"), times=1))
    with closing(connect(server)) as connection:
        db = connection.cursor()
        assert read(db) == (100, 8646)
        assert len(ask(db, "SELECT id FROM r")) == ROWS


def test_a_fatal_error_ends_the_connection(server: TdsServer) -> None:
    server.faults.add(Fault("error", after_rows=100, error=(823, 24, "the disk"), times=1))
    with closing(connect(server)) as connection:
        db = connection.cursor()
        assert read(db) == (100, 823)
        _until(lambda: server.sessions_now == 0)
        with pytest.raises(pymssql.Error):
            ask(db, "SELECT 1 AS a")


def test_hanging_in_a_query_until_the_client_goes(server: TdsServer) -> None:
    server.faults.add(Fault("hang_query", statement="FROM r", after_rows=10))
    started = time.monotonic()
    assert failing(server, "k.execute('SELECT id FROM r'); k.fetchall()", timeout=1) in (20003, 20047)
    assert time.monotonic() - started < 6
    _until(lambda: server.sessions_now == 0)


def test_a_client_that_is_killed_ends_what_it_waited_for(server: TdsServer) -> None:
    with elsewhere(server, """k.execute("WAITFOR DELAY '00:01:00'")""") as process:
        _until(lambda: any("WAITFOR" in each.sql for each in server.statements), 10)
        process.kill()
        _until(lambda: server.sessions_now == 0, 2)


def test_slow(server: TdsServer) -> None:
    server.faults.add(Fault("slow", statement="TOP 1 ", seconds=0.3, times=1))
    server.faults.add(Fault("slow", statement="TOP 5000", seconds=0.05, after_rows=1))
    with closing(connect(server)) as connection:
        db = connection.cursor()
        for sql, least in (("SELECT TOP 1 id FROM r", 0.3), ("SELECT TOP 5000 id FROM r", 0.25)):
            started = time.monotonic()
            ask(db, sql)
            assert least <= time.monotonic() - started < 2


@pytest.mark.parametrize(("kind", "left"), [("lost_before_commit", 0), ("lost_after_commit", 1)])
def test_commit_in_doubt(server: TdsServer, kind: str, left: int) -> None:
    server.execute("abakan", "DROP TABLE IF EXISTS c; CREATE TABLE c (id int)")
    server.faults.add(Fault(kind, database="abakan", times=1))
    with closing(connect(server, autocommit=False)) as connection:
        connection.cursor().execute("INSERT c VALUES (1)")
        with pytest.raises(pymssql.Error):
            connection.commit()
    _until(lambda: server.sessions_now == 0)
    assert server.execute("abakan", "SELECT COUNT(*) AS n FROM c") == [(left,)]


class _Busy(Server):
    """Does not look for some time whether its clients are still there."""

    def converse(self, link: Link) -> None:
        with self.session(link):
            link.sleep(2)


def test_a_session_whose_client_has_gone_is_none_of_the_most() -> None:
    """A killed worker has no connection any more, whenever the server notices."""
    with _Busy() as server:
        address = (server.host, server.port)
        with socket.create_connection(address):
            _until(lambda: server.sessions_now == 1)
        with socket.create_connection(address):
            _until(lambda: server.sessions_now == 2)
            assert server.sessions_most == 1
            with socket.create_connection(address):
                _until(lambda: server.sessions_now == 3)
                assert server.sessions_most == 2


def test_sessions_and_statements_are_counted(server: TdsServer) -> None:
    server.forget()
    with closing(connect(server, appname="dwhctl:1")) as one, closing(connect(server, "chita")) as other:
        assert (server.sessions_now, server.sessions_most) == (2, 2)
        sql = "SELECT  N'Ё'   AS a -- as it is"
        ask(one.cursor(), sql)
        last = server.statements[-1]
        assert (last.sql, last.database, last.user, last.application) == (sql, "abakan", "sa", "dwhctl:1")
        assert other.cursor().execute("SELECT 1 AS a") is None
        assert server.statements[-1].database == "chita"
        rows = ask(
            one.cursor(), "SELECT program_name FROM sys.dm_exec_sessions WHERE database_id = DB_ID('abakan')"
        )
        assert rows == [("dwhctl:1",)]
    _until(lambda: server.sessions_now == 0)
    assert server.sessions_most == 2
    server.forget()
    assert (server.sessions_most, server.statements) == (0, [])


def test_transactions(server: TdsServer) -> None:
    server.execute("abakan", "DROP TABLE IF EXISTS t; CREATE TABLE t (id int)")
    with closing(connect(server, autocommit=False)) as connection:
        db = connection.cursor()
        assert ask(db, "SELECT @@TRANCOUNT AS n") == [(1,)]
        db.execute("INSERT t VALUES (1); CREATE TABLE t2 (id int)")
        connection.rollback()
        assert ask(db, "SELECT COUNT(*) AS n FROM t") == [(0,)]
        assert refused(db, "SELECT * FROM t2") == 208
        connection.rollback()
        db.execute("INSERT t VALUES (1)")
        connection.commit()
        db.execute("INSERT t VALUES (2)")
    assert server.execute("abakan", "SELECT id FROM t") == [(1,)]


def test_an_error_within_a_transaction(server: TdsServer) -> None:
    server.execute(
        "abakan", "DROP TABLE IF EXISTS k; CREATE TABLE k (id int PRIMARY KEY); INSERT k VALUES (1)"
    )
    with closing(connect(server, autocommit=False)) as connection:
        db = connection.cursor()
        assert refused(db, "INSERT k VALUES (1)") == 2627
        assert ask(db, "SELECT id FROM k") == [(1,)]
        connection.rollback()
        db.execute("INSERT k VALUES (2)")
        connection.commit()
    assert server.execute("abakan", "SELECT COUNT(*) AS n FROM k") == [(2,)]


def test_snapshot_isolation(server: TdsServer) -> None:
    with closing(connect(server)) as connection:
        db = connection.cursor()
        db.execute("SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        assert ask(db, "SELECT 1 AS a") == [(1,)]
        assert refused(db, "SELECT TOP 1 id FROM r") == 3952
    with closing(connect(server, "chita")) as connection:
        db = connection.cursor()
        db.execute("BEGIN TRAN; SELECT TOP 1 id FROM r; SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        assert refused(db, "SELECT TOP 1 id FROM r") == 3951
    server.execute("chita", "DROP TABLE IF EXISTS s; CREATE TABLE s (id int); INSERT s VALUES (1)")
    with closing(connect(server, "chita")) as connection:
        db = connection.cursor()
        db.execute("SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRAN")
        assert ask(db, "SELECT id FROM s") == [(1,)]
        server.execute("chita", "INSERT s VALUES (2)")
        assert ask(db, "SELECT id FROM s") == [(1,)]
        db.execute("COMMIT")
        assert ask(db, "SELECT id FROM s ORDER BY id") == [(1,), (2,)]


def test_a_reader_waits_for_a_writer(server: TdsServer) -> None:
    server.execute("abakan", "DROP TABLE IF EXISTS l; CREATE TABLE l (id int)")
    with closing(connect(server, autocommit=False)) as writer, closing(connect(server)) as reader:
        writer.cursor().execute("INSERT l VALUES (1)")
        db = reader.cursor()
        db.execute("SET LOCK_TIMEOUT 100")
        assert refused(db, "SELECT * FROM l") == 1222
        assert ask(db, "SELECT COUNT(*) AS n FROM l WITH (NOLOCK)") in ([(0,)], [(1,)])
        db.execute("SET LOCK_TIMEOUT -1")
        timer = threading.Timer(0.2, writer.commit)
        timer.start()
        assert ask(db, "SELECT id FROM l") == [(1,)]
        # A connection that is closed while another thread uses it takes the process with it.
        timer.join()


def test_a_deadlock_has_a_victim(server: TdsServer) -> None:
    server.execute(
        "abakan", "DROP TABLE IF EXISTS d1, d2; CREATE TABLE d1 (id int); CREATE TABLE d2 (id int)"
    )
    numbers: list[int] = []
    barrier = threading.Barrier(2)

    def fight(first: str, second: str) -> None:
        with closing(connect(server, autocommit=False)) as connection:
            db = connection.cursor()
            db.execute(f"INSERT {first} VALUES (1)")
            barrier.wait(5)
            try:
                db.execute(f"INSERT {second} VALUES (1)")
                connection.commit()
            except pymssql.Error as error:
                numbers.append(number(error))

    both = [threading.Thread(target=fight, args=pair) for pair in (("d1", "d2"), ("d2", "d1"))]
    for each in both:
        each.start()
    for each in both:
        each.join(10)
    assert numbers == [1205]


def test_encryption() -> None:
    with TdsServer(databases=("abakan",), tls=True) as server:
        for encryption in ("require", "request"):
            with closing(connect(server, encryption=encryption)) as connection:
                sql = "SELECT value FROM GENERATE_SERIES(1, 30000)"
                assert len(ask(connection.cursor(), sql)) == 30_000


def test_no_encryption_where_it_is_required(server: TdsServer) -> None:
    assert failing(server, encryption="require") in (20002, 20009)


def test_unread_rows_are_cancelled(server: TdsServer) -> None:
    with closing(connect(server)) as connection:
        db = connection.cursor()
        db.execute("SELECT value FROM GENERATE_SERIES(1, 2000000)")
        assert db.fetchone() == (1,)
        started = time.monotonic()
        assert ask(connection.cursor(), "SELECT 2 AS a") == [(2,)]
        assert time.monotonic() - started < 2


def test_kept_answers(server: TdsServer, tmp_path: Path) -> None:
    server.cache_answers = tmp_path
    try:
        with closing(connect(server)) as connection:
            db = connection.cursor()
            first = ask(db, "SELECT id, t FROM r")
            server.execute("abakan", "CREATE TABLE other (id int)")
            assert len(list(tmp_path.glob("*.answer"))) == 1
            assert ask(db, "SELECT id, t FROM r") == first
            assert refused(db, "SELECT nothing FROM r") == 207
            assert sorted(path.suffix for path in tmp_path.iterdir()) == [".answer", ".rows"]
    finally:
        server.cache_answers = None


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "fill.sql"
    script.write_text("CREATE TABLE t (id int); INSERT t VALUES (1)")
    command = [sys.executable, "-m", "tests.servers.tds", "--database", "abakan", "--run", f"abakan:{script}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline())
        with closing(connect(port)) as connection:
            assert ask(connection.cursor(), "SELECT id FROM t") == [(1,)]
        process.stdin.close()
        assert process.wait(10) == 0
