"""The faults of the server with Vertica's protocol, as the real client meets them; and many clients at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from vertica_python import errors

from tests.integration.vertica_kit import Aside, ask, connect, connected, fails, load, refused, until
from tests.servers.base import Fault
from tests.servers.vertica import VerticaServer


@pytest.fixture
def server() -> Iterator[VerticaServer]:
    with VerticaServer(lock_timeout=20) as server:
        server.execute("CREATE TABLE t (id INT, name VARCHAR(1000))")
        yield server


def _committed(server: VerticaServer) -> int:
    return int(server.execute("SELECT COUNT(*) FROM t")[0][0])


def test_refused_and_hanging_logins(server: VerticaServer) -> None:
    server.faults.add(Fault("refuse_login", application="^dwhctl", times=1))
    assert refused(server, session_label="dwhctl:1") == ("28000", 3781)
    server.faults.add(Fault("refuse_login", error=("57V03", 4149, "Node is not up"), times=1))
    assert refused(server) == ("57V03", 4149)
    with connected(server, session_label="dwhctl:1"):
        pass
    for kind in ("hang_accept", "hang_login"):
        server.faults.add(Fault(kind, times=1))
        with pytest.raises(errors.ConnectionError, match="timed out"):
            connect(server, connection_timeout=0.2)
    until(lambda: server.connections_now == 0)


@pytest.mark.parametrize(
    "statement", ["INSERT INTO t VALUES (1, 'a')", "DELETE FROM t", "SELECT * FROM t", "COMMIT"]
)
def test_an_error_of_a_statement(server: VerticaServer, statement: str) -> None:
    with connected(server) as one:
        ask(one, "INSERT INTO t VALUES (7, 'a')")
        fault = server.faults.add(
            Fault("error", statement=statement.split()[0], error=("53200", 4302, "Out"), times=1)
        )
        with fails("53200", 4302):
            ask(one, statement)
        assert fault.struck == 1
        ask(one, statement)
        one.commit()
    assert _committed(server) > 0 or statement.startswith("DELETE")


def test_a_deadlock(server: VerticaServer) -> None:
    with connected(server) as one:
        server.faults.add(Fault("deadlock", statement="delete", times=1))
        with fails("55V03", 5157):
            ask(one, "DELETE FROM t")


def test_slow_and_hanging_statements(server: VerticaServer) -> None:
    server.faults.add(Fault("slow", statement="SELECT 1", seconds=0.2))
    with connected(server) as one:
        start = time.monotonic()
        ask(one, "SELECT 1")
        assert time.monotonic() - start >= 0.2
    server.faults.add(Fault("hang_query", statement="INSERT"))
    with (
        connected(server, connection_timeout=0.3) as one,
        pytest.raises(errors.ConnectionError, match="timed out"),
    ):
        ask(one, "INSERT INTO t VALUES (1, 'a')")
    until(lambda: server.sessions_now == 0)
    assert _committed(server) == 0


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("statement", ["INSERT", "CREATE", "SELECT", "COPY"])
def test_a_lost_connection(server: VerticaServer, kind: str, statement: str) -> None:
    server.faults.add(Fault(kind, statement=f"^{statement}", times=1))
    texts = {
        "INSERT": "INSERT INTO t VALUES (1, 'a')",
        "CREATE": "CREATE TABLE u (a INT)",
        "SELECT": "SELECT * FROM t",
        "COPY": "COPY t FROM STDIN",
    }
    with connected(server) as one, pytest.raises(errors.ConnectionError):
        ask(one, texts[statement])
    assert _committed(server) == 0


@pytest.mark.parametrize("kind", ["reset", "error", "hang_query"])
def test_a_fault_in_the_data_of_a_copy(server: VerticaServer, kind: str) -> None:
    fault = server.faults.add(Fault(kind, statement="COPY", after_bytes=100_000, times=1))
    data = "1|" + "x" * 997 + "\n"
    with connected(server, connection_timeout=1) as one:
        ask(one, "INSERT INTO t VALUES (1, 'a')")
        # After a loss the client opens a new connection, sends CopyFail there and waits for an answer.
        with pytest.raises((errors.QueryError, errors.ConnectionError, errors.DataError)):
            load(one, "COPY t FROM STDIN NO COMMIT", data * 1000)
        if kind == "error":
            assert ask(one, "SELECT COUNT(*) FROM t") == [[1]]
    assert fault.struck == 1
    until(lambda: server.sessions_now == 0)
    assert _committed(server) == 0
    with connected(server) as one:
        assert load(one, "COPY t FROM STDIN", data * 1000) == (1000, 0)


@pytest.mark.parametrize(("kind", "rows"), [("lost_before_commit", 0), ("lost_after_commit", 1)])
def test_an_answer_to_commit_that_is_lost(server: VerticaServer, kind: str, rows: int) -> None:
    server.faults.add(Fault(kind, times=1))
    with connected(server) as one:
        ask(one, "INSERT INTO t VALUES (1, 'a')")
        with pytest.raises(errors.ConnectionError):
            one.commit()
    assert _committed(server) == rows


def test_killed_and_revived(server: VerticaServer) -> None:
    server.execute("INSERT INTO t VALUES (1, 'a')")
    with connected(server) as one, connected(server) as two:
        ask(one, "INSERT INTO t VALUES (2, 'b')")
        waiting = Aside(lambda: ask(two, "DELETE FROM t"))
        until(lambda: any(not hold.granted for hold in server.locks.all()))
        server.kill()
        with pytest.raises(errors.ConnectionError):
            waiting.end()
        with pytest.raises(errors.ConnectionError):
            ask(one, "SELECT 1")
        with pytest.raises(errors.ConnectionError):
            connect(server)
    server.revive()
    with connected(server) as one:
        assert ask(one, "SELECT id FROM t") == [[1]]
        assert ask(one, "DELETE FROM t") == [[1]]


def test_canceling(server: VerticaServer) -> None:
    with connected(server) as one, connected(server) as two:
        ask(one, "DELETE FROM t")
        waiting = Aside(lambda: ask(two, "DELETE FROM t"))
        until(lambda: any(not hold.granted for hold in server.locks.all()))
        two.cancel()
        with fails("57014", 3322):
            waiting.end()
        one.rollback()
        assert ask(two, "DELETE FROM t") == [[0]]
        slow = Aside(
            lambda: ask(
                two, "SELECT COUNT(*) FROM RANGE(100000) a, RANGE(1000000) b WHERE a.range * b.range = 7"
            )
        )
        time.sleep(0.2)
        two.cancel()
        with fails("57014", 3322):
            slow.end()


def test_statements_are_kept(server: VerticaServer) -> None:
    with connected(server, session_label="me") as one:
        ask(one, "SELECT 1")
        ask(one, "SELECT 2 ; SELECT 3")
    kept = [(each.sql, each.application, each.user, each.database) for each in server.statements]
    assert kept == [(f"SELECT {n}", "me", "dbadmin", "docker") for n in (1, 2, 3)]
    server.forget()
    assert server.statements == []


def test_many_loads_at_once(server: VerticaServer) -> None:
    """Staging in parallel, publishing in turns: each reader sees whole groups only."""
    stop = threading.Event()
    wrong: list[object] = []

    def stage(number: int) -> None:
        with connected(server) as mine:
            for turn in range(5):
                name = f"stage_{number}_{turn}"
                ask(mine, f"CREATE TABLE {name} LIKE t INCLUDING PROJECTIONS")
                assert load(mine, f"COPY {name} FROM STDIN NO COMMIT", f"{number}|x\n" * 200) == (200, 0)
                mine.commit()
                ask(mine, f"DELETE FROM t WHERE id = {number}")
                assert ask(mine, f"INSERT INTO t SELECT * FROM {name}") == [[200]]
                mine.commit()
                ask(mine, f"DROP TABLE {name}")

    def read() -> None:
        with connected(server) as mine:
            while not stop.is_set():
                found = ask(mine, "SELECT id, COUNT(*) FROM t GROUP BY id HAVING COUNT(*) <> 200")
                wrong.extend(found)

    reader = Aside(read)
    for each in [Aside(lambda number=number: stage(number)) for number in range(4)]:  # type: ignore[misc]
        each.end()
    stop.set()
    reader.end()
    assert wrong == []
    assert server.execute("SELECT COUNT(*), COUNT(DISTINCT id) FROM t") == [(800, 4)]


def test_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "tests.servers.vertica", "--execute", "CREATE TABLE t (a INT)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        server = VerticaServer(int(process.stdout.readline()))
        with connected(server) as one:
            assert load(one, "COPY t FROM STDIN", "1\n2\n") == (2, 0)
        process.stdin.close()
        assert process.wait(20) == 0
