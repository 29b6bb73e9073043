"""The server with Vertica's protocol behaves as tests/servers/BEHAVIOUR.md says: all but COPY and faults."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from vertica_python import errors

from tests.integration.vertica_kit import Aside, ask, connect, connected, fails, load, refused, until
from tests.servers.vertica import VerticaServer


@pytest.fixture
def server() -> Iterator[VerticaServer]:
    with VerticaServer(lock_timeout=20) as server:
        server.execute("CREATE SCHEMA stage; CREATE TABLE stage.t (id INT NOT NULL, name VARCHAR(10))")
        yield server


@pytest.fixture
def one(server: VerticaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


@pytest.fixture
def other(server: VerticaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


def _count(connection: Any, table: str = "stage.t") -> int:
    ((count,),) = ask(connection, f"SELECT COUNT(*) FROM {table}")
    return int(count)


# --- login


@pytest.mark.parametrize("authentication", ["password", "hash"])
def test_login(authentication: str) -> None:
    with VerticaServer(authentication=authentication) as server:
        with connected(server) as connection:
            assert ask(connection, "SELECT 1") == [[1]]
        assert refused(server, password="wrong") == ("28000", 3781)
        assert refused(server, user="nobody") == ("28000", 3781)
        assert refused(server, database="other") == ("3D000", 2983)
        assert server.logins == 4
        until(lambda: server.connections_now == 0)
        assert (server.sessions_most, server.sessions_now) == (1, 0)


def test_login_over_tls() -> None:
    with VerticaServer(tls=True) as server:
        keys = {"tlsmode": "verify-full", "tls_cafile": str(server.tls_cafile)}
        with connected(server, **keys) as connection:
            assert connection.ssl()
            assert ask(connection, "SELECT 1") == [[1]]
            ask(connection, "CREATE TABLE t (a VARCHAR(10000))")
            assert load(connection, "COPY t FROM STDIN", ("x" * 9_999 + "\n") * 300) == (300, 0)


def test_a_server_without_tls_says_so(server: VerticaServer) -> None:
    with pytest.raises(errors.SSLNotSupported):
        connect(server, tlsmode="require")


def test_load_balancing(server: VerticaServer) -> None:
    with VerticaServer() as second:
        server.balance_to = ("127.0.0.1", second.port)
        with connected(server, connection_load_balance=True):
            assert (server.sessions_now, second.sessions_now) == (0, 1)


def test_too_many_sessions() -> None:
    with VerticaServer(max_sessions=1) as server, connected(server):
        assert refused(server) == ("53300", 4060)


# --- values

_VALUES: dict[str, list[Any]] = {
    "INT": [0, -(2**63) + 1, 2**63 - 1],
    "FLOAT": [0.5, -1e300, float("inf")],
    "BOOLEAN": [True, False],
    "NUMERIC(18,2)": [Decimal("-0.01"), Decimal("9999999999999999.99")],
    "NUMERIC(37,15)": [Decimal("0.000000000000001")],
    "VARCHAR(100)": ["", "NULL", "Привет 🚚 'x' \\ | \n", "a\0b"],
    "LONG VARCHAR(100000)": ["x" * 70_000],
    "DATE": [date(1, 1, 1), date(9999, 12, 31)],
    "TIME": [time(0, 0), time(23, 59, 59, 999999)],
    "TIMESTAMP": [
        datetime.fromisoformat(text) for text in ("0001-01-01", "2020-07-14 01:02:03", "9999-12-31 23:59:59.999999")
    ],
    "TIMESTAMPTZ": [datetime(2020, 7, 14, 1, 2, 3, 450000, UTC)],
    "UUID": [UUID("123e4567-e89b-12d3-a456-426655440a00")],
}  # fmt: skip


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("kind", _VALUES)
def test_values_come_back(server: VerticaServer, kind: str, binary: bool) -> None:
    server.execute(f"CREATE TABLE v (a {kind})")
    for value in [*_VALUES[kind], None]:
        server.duckdb("INSERT INTO v SELECT ?", [value])
    with connected(server, binary_transfer=binary) as connection:
        found = [row[0] for row in ask(connection, "SELECT a FROM v")]
        assert len(found) == len(_VALUES[kind]) + 1
        assert {*found} == {*_VALUES[kind], None}


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_octets_and_blanks_come_back(server: VerticaServer, binary: bool) -> None:
    server.execute("CREATE TABLE v (a VARBINARY(300), b CHAR(4))")
    server.duckdb("INSERT INTO v SELECT ?, 'ab'", [bytes(range(256))])
    with connected(server, binary_transfer=binary) as connection:
        assert ask(connection, "SELECT a, b FROM v") == [[bytes(range(256)), "ab  "]]


def test_a_float_as_text_has_fifteen_digits(one: Any) -> None:
    assert ask(one, "SELECT 1.489968353486419::FLOAT") == [[1.48996835348642]]


def test_the_session_time_zone(one: Any) -> None:
    ask(one, "SET TIME ZONE TO 'Europe/Moscow'")
    ((found,),) = ask(one, "SELECT TIMESTAMPTZ '2020-07-14 00:00:00'")
    assert found == datetime(2020, 7, 13, 21, tzinfo=UTC)
    assert found.utcoffset().total_seconds() == 3 * 3600


def test_description_knows_the_columns(server: VerticaServer, one: Any) -> None:
    server.execute("CREATE TABLE v (a NUMERIC(18,2), b VARCHAR(7), c INT)")
    cursor = one.cursor()
    cursor.execute("SELECT * FROM v")
    assert [(each.name, each.precision, each.scale) for each in cursor.description] == [
        ("a", 18, 2),
        ("b", None, None),
        ("c", None, None),
    ]
    assert cursor.description[1].display_size == 7
    cursor.fetchall()


def test_prepared_statements(server: VerticaServer) -> None:
    with connected(server, use_prepared_statements=True) as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO stage.t (id, name) VALUES (?, ?)", [1, "it's"])
        assert cursor.fetchall() == [[1]]
        cursor.executemany("INSERT INTO stage.t (id, name) VALUES (?, ?)", [[2, None], [3, ""]])
        cursor.execute("SELECT name FROM stage.t WHERE id < ? ORDER BY id", [3])
        assert cursor.fetchall() == [["it's"], [None]]
        with pytest.raises(errors.MissingRelation):
            cursor.execute("SELECT * FROM nowhere WHERE a = ?", [1])
        cursor.execute("SELECT COUNT(*) FROM stage.t")
        assert cursor.fetchall() == [[3]]


# --- transactions


def test_an_error_takes_back_its_statement_only(one: Any, other: Any) -> None:
    assert ask(one, "INSERT INTO stage.t VALUES (1, 'a')") == [[1]]
    with fails("22001", 8682):
        ask(one, "INSERT INTO stage.t SELECT 2, 'a' UNION ALL SELECT 3, 'eleven long'")
    with fails("42V01", 4566):
        ask(one, "SELECT * FROM nowhere")
    assert ask(one, "INSERT INTO stage.t VALUES (4, 'b')") == [[1]]
    assert _count(other) == 0
    one.commit()
    assert ask(other, "SELECT id FROM stage.t ORDER BY id") == [[1], [4]]


def test_read_committed(one: Any, other: Any) -> None:
    assert _count(one) == 0
    ask(other, "INSERT INTO stage.t VALUES (1, 'a')")
    assert (_count(one), _count(other)) == (0, 1)
    other.commit()
    ask(one, "INSERT INTO stage.t VALUES (2, 'a')")
    assert _count(one) == 2
    one.rollback()
    assert _count(one) == 1


def test_closing_rolls_back(server: VerticaServer, one: Any) -> None:
    with connected(server) as connection:
        ask(connection, "INSERT INTO stage.t VALUES (1, 'a')")
    until(lambda: server.sessions_now == 1)
    assert _count(one) == 0


def test_autocommit(server: VerticaServer, one: Any) -> None:
    with connected(server, autocommit=True) as connection:
        ask(connection, "INSERT INTO stage.t VALUES (1, 'a')")
        assert _count(one) == 1


def test_a_read_only_session(server: VerticaServer, one: Any) -> None:
    ask(one, "INSERT INTO stage.t VALUES (1, 'a')")
    ask(one, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    # The open transaction goes on as it began.
    ask(one, "INSERT INTO stage.t VALUES (2, 'b')")
    one.commit()
    for sql in ("INSERT INTO stage.t VALUES (3, 'c')", "DELETE FROM stage.t", "CREATE TABLE stage.u (a INT)"):
        with pytest.raises(errors.QueryError, match="read-only transaction") as caught:
            ask(one, sql)
        assert caught.value.sqlstate == "25006"
    assert _count(one) == 2
    assert ask(one, "SHOW transaction_read_only") == [["transaction_read_only", "true"]]
    ask(one, "TRUNCATE TABLE stage.t")
    assert _count(one) == 0
    ask(one, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
    one.rollback()
    ask(one, "INSERT INTO stage.t VALUES (3, 'c')")
    assert _count(one) == 1


def test_delete_and_update(one: Any, other: Any) -> None:
    ask(one, "INSERT INTO stage.t SELECT 1, 'a' UNION ALL SELECT 2, 'b' UNION ALL SELECT 3, 'c'")
    one.commit()
    assert ask(one, "UPDATE stage.t SET name = name || 'x' WHERE id >= 2") == [[2]]
    assert ask(one, "DELETE FROM stage.t WHERE id IN (SELECT MAX(id) FROM stage.t)") == [[1]]
    assert ask(one, "SELECT * FROM stage.t ORDER BY id") == [[1, "a"], [2, "bx"]]
    assert ask(other, "SELECT * FROM stage.t ORDER BY id") == [[1, "a"], [2, "b"], [3, "c"]]
    one.rollback()
    assert ask(one, "SELECT * FROM stage.t ORDER BY id") == [[1, "a"], [2, "b"], [3, "c"]]


@pytest.mark.parametrize(
    "sql",
    ["CREATE TABLE u (a INT)", "ALTER TABLE stage.t ADD COLUMN x INT", "DROP TABLE IF EXISTS nowhere",
     "TRUNCATE TABLE nowhere"],
)  # fmt: skip
def test_a_definition_commits_what_was_before(server: VerticaServer, one: Any, sql: str) -> None:
    server.execute("CREATE TABLE before (a INT)")
    ask(one, "INSERT INTO before VALUES (1)")
    try:
        ask(one, sql)
    except errors.MissingRelation:
        assert "TRUNCATE" in sql
    one.rollback()
    assert _count(one, "before") == 1


def test_truncate_cannot_be_rolled_back(one: Any) -> None:
    ask(one, "INSERT INTO stage.t VALUES (1, 'a')")
    ask(one, "TRUNCATE TABLE stage.t")
    one.rollback()
    assert _count(one) == 0


def test_statements_in_one_string_end_at_an_error(one: Any) -> None:
    cursor = one.cursor()
    cursor.execute("SELECT 1; SELECT * FROM nowhere; INSERT INTO stage.t VALUES (1, 'a')")
    assert cursor.fetchall() == [[1]]
    with fails("42V01"):
        cursor.nextset()
    assert _count(one) == 0


# --- locks


def test_inserts_do_not_wait_for_each_other(one: Any, other: Any) -> None:
    ask(one, "INSERT INTO stage.t VALUES (1, 'a')")
    assert load(other, "COPY stage.t FROM STDIN NO COMMIT", "2|b\n") == (1, 0)


@pytest.mark.parametrize("first", ["DELETE FROM stage.t", "INSERT INTO stage.t VALUES (1, 'a')"])
def test_a_delete_waits_and_is_waited_for(one: Any, other: Any, first: str) -> None:
    ask(one, first)
    second = "DELETE FROM stage.t" if "INSERT" in first else "INSERT INTO stage.t VALUES (2, 'b')"
    waiting = Aside(lambda: ask(other, second))
    until(lambda: ask(one, "SELECT COUNT(*) FROM v_monitor.locks WHERE lock_scope = 'REQUESTED'") == [[1]])
    assert waiting.runs
    one.commit()
    # The waiting DELETE sees what was committed while it waited.
    assert waiting.end() == [[1]]


def test_waiting_for_a_lock_ends(server: VerticaServer, one: Any, other: Any) -> None:
    ask(one, "DELETE FROM stage.t")
    ask(other, "ALTER SESSION SET LockTimeout = 0")
    with fails("55V03", 5156):
        ask(other, "INSERT INTO stage.t VALUES (1, 'a')")
    with fails("55V03"):
        ask(other, "DROP TABLE stage.t")
    assert _count(other) == 0


def test_who_asks_first_is_served_first(server: VerticaServer, one: Any, other: Any) -> None:
    with connected(server) as third:
        ask(one, "INSERT INTO stage.t VALUES (1, 'a')")
        deleting = Aside(lambda: ask(other, "DELETE FROM stage.t"))
        until(lambda: any(hold.mode == "X" for hold in server.locks.all()))
        inserting = Aside(lambda: ask(third, "INSERT INTO stage.t VALUES (2, 'b')"))
        until(lambda: sum(not hold.granted for hold in server.locks.all()) == 2)
        # Who holds the lock already does not queue.
        assert ask(one, "INSERT INTO stage.t VALUES (3, 'c')") == [[1]]
        one.commit()
        assert deleting.end() == [[2]]
        assert inserting.runs
        other.commit()
        assert inserting.end() == [[1]]


def test_an_enabled_primary_key(server: VerticaServer, one: Any, other: Any) -> None:
    server.execute("CREATE TABLE k (id INT PRIMARY KEY ENABLED); CREATE TABLE free (id INT PRIMARY KEY)")
    ask(one, "INSERT INTO k VALUES (1)")
    waiting = Aside(lambda: load(other, "COPY k FROM STDIN NO COMMIT", "1\n2\n"))
    until(lambda: ask(one, "SELECT COUNT(*) FROM v_monitor.locks WHERE lock_scope = 'REQUESTED'") == [[1]])
    one.commit()
    with fails("23505", 6745):
        waiting.end()
    with fails("23505", 6745):
        ask(one, "INSERT INTO k VALUES (1)")
    assert _count(one, "k") == 1
    assert ask(one, "INSERT INTO free SELECT 1 UNION ALL SELECT 1") == [[2]]


# --- containers


def test_containers(server: VerticaServer, one: Any) -> None:
    server.store.max_containers = 3
    for id_ in (1, 2):
        ask(one, f"INSERT INTO stage.t VALUES ({id_}, 'a')")
        ask(one, f"INSERT INTO stage.t VALUES ({id_ * 10}, 'a')")
        one.commit()
    ask(one, "DELETE FROM stage.t WHERE id = 99")
    one.commit()
    assert server.containers("stage.t") == 2
    ask(one, "DELETE FROM stage.t WHERE id = 1")
    one.commit()
    assert server.containers("stage.t") == server.most_containers == 3
    ask(one, "INSERT INTO stage.t VALUES (3, 'a')")
    with fails("53000", 5065):
        one.commit()
        one.cursor().fetchall()
    assert _count(one) == 3
    server.mergeout("stage.t")
    assert server.containers("stage.t") == 1


def test_each_partition_has_its_container(server: VerticaServer, one: Any) -> None:
    server.execute("CREATE TABLE p (a INT, d DATE) PARTITION BY d")
    ask(
        one,
        "INSERT INTO p SELECT 1, '2020-01-01'::DATE UNION ALL SELECT 2, '2020-01-02' UNION ALL SELECT 3, '2020-01-02'",
    )
    one.commit()
    assert server.containers("p") == 2


# --- sessions


def test_sessions_have_labels_and_can_be_closed(server: VerticaServer, one: Any) -> None:
    with connected(server, session_label="dwhctl:17:stage") as victim:
        ask(victim, "INSERT INTO stage.t VALUES (1, 'a')")
        ((identifier, transaction),) = ask(
            one,
            "SELECT session_id, transaction_id FROM v_monitor.sessions WHERE client_label LIKE 'dwhctl:17:%'",
        )
        assert transaction is not None
        ask(one, f"SELECT CLOSE_SESSION('{identifier}')")
        until(lambda: server.sessions_now == 1)
        assert ask(one, "SELECT COUNT(*) FROM sessions") == [[1]]
        with pytest.raises(errors.ConnectionError):
            ask(victim, "SELECT 1")
    assert ask(one, "DELETE FROM stage.t") == [[0]]
    with fails("22023", 4685):
        ask(one, f"SELECT CLOSE_SESSION('{identifier}')")


def test_closing_a_session_that_waits_for_a_lock(server: VerticaServer, one: Any) -> None:
    ask(one, "DELETE FROM stage.t")
    with connected(server, session_label="waits") as victim:
        waiting = Aside(lambda: ask(victim, "DELETE FROM stage.t"))
        sql = "SELECT session_id FROM v_monitor.sessions WHERE current_statement <> '' AND client_label = 'waits'"
        until(lambda: bool(ask(one, sql)))
        ask(one, f"SELECT CLOSE_SESSION('{ask(one, sql)[0][0]}')")
        with pytest.raises(errors.ConnectionError):
            waiting.end()
    assert ask(one, "SELECT current_session() = session_id FROM v_monitor.current_session") == [[True]]


def test_a_statement_sees_nothing_of_a_transaction_that_begins_after_it(
    server: VerticaServer, one: Any, other: Any
) -> None:
    ask(one, "INSERT INTO stage.t VALUES (1, 'old')")
    ask(one, "COMMIT")
    table = server.catalog.table(("stage", "t"))
    with server.store.statement(None) as visible:
        query = f"SELECT name FROM {table.engine_name} AS v WHERE {visible.condition('v')}"
        ask(other, "INSERT INTO stage.t VALUES (2, 'new')")
        ask(other, "DELETE FROM stage.t WHERE id = 1")
        assert server.store.connect().execute(query).fetchall() == [("old",)]
        ask(other, "COMMIT")
        assert server.store.connect().execute(query).fetchall() == [("old",)]
    assert ask(one, "SELECT name FROM stage.t") == [["new"]]
