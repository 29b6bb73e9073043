"""The source of SQL Server, over the test server: what the contract suite does not ask of every system."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pymssql
import pytest

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
    ValueRefusedError,
)
from dwhctl.core.secrets import Secret
from dwhctl.project.query import Query
from dwhctl.systems.base.source import Source
from dwhctl.systems.base.system import SourceOptions, system_of
from dwhctl.systems.mssql import client as mssql_link
from dwhctl.systems.mssql.client import DRIVER_SETTINGS, LoginCheck
from dwhctl.systems.mssql.source import CODE_PAGES
from dwhctl.systems.mssql.system import MssqlConnection
from tests.servers.base import Fault
from tests.servers.tds import TdsServer

ROWS = "SELECT value AS i, REPLICATE('x', 50) AS v FROM GENERATE_SERIES(1, 20000)"


@pytest.fixture(scope="module")
def running() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan", "chita"), snapshot=("chita",)) as server:
        server.execute("abakan", "CREATE TABLE orders (id bigint, name nvarchar(50), moment datetime2(7))")
        server.execute("abakan", "INSERT INTO orders VALUES (1, N'ё', '2020-07-14T00:00:00')")
        # The first answer over the wire takes longer than the seconds that these tests wait.
        with opened(server, timeout=None) as source:
            assert rows_of(source, "SELECT id FROM orders") == [{"id": 1}]
        yield server


@pytest.fixture
def server(running: TdsServer) -> Iterator[TdsServer]:
    running.forget()
    yield running
    running.faults.clear()


def connection(server: TdsServer, **keys: Any) -> MssqlConnection:
    keys = {"connect_timeout": timedelta(seconds=1)} | keys
    made: MssqlConnection = server.connection(name="mssql_0").model_copy(update=keys)
    return made


def opened(server: TdsServer, database: str = "abakan", timeout: float | None = 1, **keys: Any) -> Source:
    return system_of(connection(server, **keys)).open_source(
        connection(server, **keys), database, SourceOptions("UTC", timeout)
    )


def rows_of(source: Source, sql: str, rows: int = 1000) -> list[dict[str, object]]:
    return [row for batch in source.batches(Query(sql, {}), rows) for row in batch.to_pylist()]


# Opening


def test_a_session_gives_way_and_says_who_it_is(server: TdsServer) -> None:
    with opened(server) as source:
        source.columns(Query("SELECT id FROM orders", {}))
    said = " ".join(one.sql for one in server.statements)
    assert "DEADLOCK_PRIORITY LOW" in said
    assert "LOCK_TIMEOUT 30000" in said
    assert "BEGIN TRAN" not in said
    assert {(one.application, one.database) for one in server.statements} == {("dwhctl", "abakan")}


def test_settings_and_description_are_one_batch(server: TdsServer) -> None:
    query = Query("SELECT id, name FROM orders", {})
    with opened(server, "abakan") as source:
        assert [batch.num_rows for batch in source.batches(query, 10)] == [1]
    first, second = (one.sql for one in server.statements)
    for part in (
        "TEXTSIZE 2147483647",
        "LOCK_TIMEOUT 30000",
        "sys.databases",
        "sp_describe_first_result_set",
    ):
        assert part in first
    assert second == query.sql
    assert server.traffic.logins == 1


def test_the_settings_are_those_of_the_driver(server: TdsServer) -> None:
    """pymssql 2.4.6; a new version is looked at when this fails."""
    plain = pymssql.connect(
        server=server.host, port=str(server.port), user="sa", password="Secret_123", database="abakan",
        tds_version="7.4", autocommit=True,
    )  # fmt: skip
    plain.close()
    settings, use = (one.sql for one in server.statements)
    assert {one.strip() for one in settings.split(";")} == {one.strip() for one in DRIVER_SETTINGS.split(";")}
    assert use == "use [abakan]"


@pytest.mark.parametrize("refused", ["LOCK_TIMEOUT", "snapshot_isolation_state"])
def test_a_server_that_refuses_a_part_of_the_first_batch_gets_each_part_alone(
    server: TdsServer, refused: str
) -> None:
    server.faults.add(Fault("error", statement=refused, error=(229, 14, "denied")))
    with opened(server) as source:
        assert rows_of(source, "SELECT id FROM orders") == [{"id": 1}]
    assert len(server.statements) == 6


def test_snapshot_isolation_where_the_database_allows_it(server: TdsServer) -> None:
    for database, wanted in (("chita", True), ("abakan", False)):
        server.forget()
        with opened(server, database) as source:
            assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]
        assert any("LEVEL SNAPSHOT" in one.sql for one in server.statements) is wanted


def test_a_server_that_does_not_say_whether_it_allows_snapshots_gives_none(server: TdsServer) -> None:
    server.faults.add(Fault("error", statement="snapshot_isolation_state", error=(229, 14, "denied")))
    with opened(server, "chita") as source:
        assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]
    assert not any("LEVEL SNAPSHOT" in one.sql for one in server.statements)


def test_a_query_into_a_database_without_snapshots_is_read_without_one(server: TdsServer) -> None:
    with opened(server, "chita") as source:
        assert rows_of(source, "SELECT id FROM abakan.dbo.orders") == [{"id": 1}]
    assert any("READ COMMITTED" in one.sql for one in server.statements)


def test_what_snapshot_isolation_does_not_read_is_read_without_it(server: TdsServer) -> None:
    database = server.database("chita")
    server.execute("chita", "DROP TABLE IF EXISTS hot; CREATE TABLE hot (id int); INSERT hot VALUES (7)")
    for sql, tables in (
        ("SELECT id FROM hot", {"hot"}),
        ("SELECT id FROM hot WITH (READPAST)", set()),
    ):
        server.forget()
        database.memory_optimized = set(tables)
        with opened(server, "chita") as source:
            assert rows_of(source, sql) == [{"id": 7}]
        assert any("LEVEL READ COMMITTED" in one.sql for one in server.statements)


@pytest.mark.parametrize("number", [3953, 3954, 3955, 3956, 7420])
def test_a_refusal_of_snapshot_isolation_is_followed_by_a_read_without_it(
    server: TdsServer, number: int
) -> None:
    """7420: a linked server; the others: the database is recovered, or ALTER DATABASE changes it."""
    server.faults.add(Fault("error", statement="LEVEL SNAPSHOT", error=(number, 16, "not under SNAPSHOT")))
    with opened(server, "chita") as source:
        assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]


def test_a_missing_database_is_told_from_a_refused_login_each_time(server: TdsServer) -> None:
    for _ in range(3):
        with pytest.raises(DatabaseMissingError, match=r"database nowhere .* there is no such database"):
            opened(server, "nowhere")


def test_a_refused_login_is_tried_twice_and_no_more(server: TdsServer) -> None:
    for _ in range(2):
        before = server.logins
        with pytest.raises(LoginRefusedError, match="server 127") as caught:
            opened(server, password=Secret("Wrong_789"))
        assert caught.value.connection == "mssql_0"
        assert "Wrong_789" not in str(caught.value)
        assert server.logins - before <= 2


def test_a_login_that_was_accepted_a_moment_ago_and_is_refused_twice_says_nothing_of_the_database(
    server: TdsServer,
) -> None:
    server.faults.add(Fault("refuse_login"))
    with pytest.raises(SourceBusyError, match="accepted a moment ago, was refused twice"):
        mssql_link.connect(connection(server), "abakan", None, login_known=True)


def test_a_missing_database_of_the_connections_own_is_told_from_a_refused_login(server: TdsServer) -> None:
    with pytest.raises(DatabaseMissingError, match="there is no such database"):
        mssql_link.connect(connection(server, database="gone"), "gone", None)


def test_a_refused_login_of_the_connections_own_database_is_tried_twice_at_most(server: TdsServer) -> None:
    for _ in range(2):
        before = server.logins
        with pytest.raises(LoginRefusedError):
            opened(server, "master", password=Secret("Wrong_789"))
        assert server.logins - before <= 2


def test_without_a_fresh_process_a_hidden_answer_counts_as_a_refusal(
    server: TdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    server.faults.add(Fault("refuse_login"))
    for _ in range(2):
        with pytest.raises(LoginRefusedError, match="database abakan, refused the login of sa"):
            opened(server)


@pytest.mark.parametrize("number", [18401, 18451, 17809, 10928, 17142])
def test_a_server_that_is_not_ready_is_no_refusal(server: TdsServer, number: int) -> None:
    # After refused logins the driver keeps a like message to itself.
    with pytest.raises(LoginRefusedError):
        opened(server, password=Secret("Wrong_789"))
    server.faults.add(Fault("refuse_login", error=(number, 14, "Not now.")))
    for _ in range(2):
        with pytest.raises(ConnectError, match=f"{number}: Not now") as caught:
            opened(server)
        assert caught.value.connection == "mssql_0"
        assert not caught.value.permanent


@pytest.mark.parametrize("kind", ["hang_accept", "hang_login"])
def test_a_server_that_hangs_is_left_in_time(server: TdsServer, kind: str) -> None:
    server.faults.add(Fault(kind))
    started = time.monotonic()
    with pytest.raises(ConnectError, match="no answer within 1 s"):
        opened(server)
    assert time.monotonic() - started < 4


def test_a_server_that_is_killed_and_revived() -> None:
    with TdsServer(databases=("abakan",)) as server:
        server.kill()
        with pytest.raises(ConnectError, match="refused"):
            opened(server)
        server.revive()
        with opened(server) as source:
            assert "SQL Server" in source.version()


def test_several_hosts_share_the_work_and_stand_in_for_each_other() -> None:
    with TdsServer(databases=("abakan",)) as first, TdsServer(databases=("abakan",)) as second:
        hosts = [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]
        for _ in range(6):
            with opened(first, host=None, hosts=hosts):
                pass
        assert (first.logins, second.logins) == (3, 3)
        second.kill()
        for _ in range(4):
            with opened(first, host=None, hosts=hosts):
                pass
        assert first.logins == 7
        first.kill()
        with pytest.raises(ConnectError):
            opened(first, host=None, hosts=hosts)


def test_a_refused_login_is_not_tried_on_the_other_hosts() -> None:
    with TdsServer(databases=("abakan",)) as first, TdsServer(databases=("abakan",)) as second:
        hosts = [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]
        with pytest.raises(LoginRefusedError):
            opened(first, host=None, hosts=hosts, password=Secret("Wrong_789"))
        assert first.logins + second.logins <= 2


@pytest.mark.parametrize(
    ("state", "access", "error"),
    [
        ("RECOVERING", "MULTI_USER", SourceBusyError),
        ("RESTORING", "MULTI_USER", SourceBusyError),
        ("ONLINE", "SINGLE_USER", SourceBusyError),
        ("OFFLINE", "MULTI_USER", DatabaseMissingError),
        ("SUSPECT", "MULTI_USER", DatabaseMissingError),
        ("ONLINE", "MULTI_USER", DatabaseMissingError),
        ("", "", DatabaseMissingError),
    ],
)
def test_the_state_of_a_database_that_cannot_be_opened(
    server: TdsServer, state: str, access: str, error: type[AttemptError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mssql_link, "check_database", lambda opened, name: LoginCheck(state, access))
    monkeypatch.setattr(mssql_link, "check_login", lambda *order: LoginCheck(state, access))
    server.faults.add(Fault("refuse_login", database="abakan"))
    for _ in range(2):
        with pytest.raises(error, match="abakan") as caught:
            opened(server)
        assert type(caught.value) is error


@pytest.mark.parametrize(("number", "error"), [(922, SourceBusyError), (945, DatabaseMissingError)])
def test_what_a_server_says_of_the_database_at_login(
    server: TdsServer, number: int, error: type[AttemptError]
) -> None:
    server.faults.add(Fault("refuse_login", database="abakan", error=(number, 14, "Not this one.")))
    # The first refused login of a process tells its number; after that only a fresh process does.
    with pytest.raises((error, SourceBusyError), match=r"Not this one|a moment ago"):
        opened(server)
    (address,) = mssql_link.addresses(connection(server), "abakan")
    answer = mssql_link.check_login(address, "abakan")
    assert answer is not None
    assert answer.failure is not None
    assert (answer.failure.number, answer.failure.words) == (number, "Not this one.")


def test_encryption() -> None:
    with TdsServer(databases=("abakan",), tls=True) as server:
        for encryption in ("require", "request"):
            with opened(server, encryption=encryption) as source:
                assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]
    with TdsServer(databases=("abakan",)) as server:
        with opened(server, encryption="off") as source:
            assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]
        with pytest.raises(ConnectError):
            opened(server, encryption="require")


@pytest.mark.parametrize("read_only", [True, False])
def test_read_only_is_said_at_login(server: TdsServer, read_only: bool) -> None:
    with opened(server, read_only=read_only):
        assert server.last_login is not None
        assert server.last_login.read_only is read_only


def test_connections_that_open_at_once_do_not_mix_up_their_errors(server: TdsServer) -> None:
    found: list[BaseException] = []

    def go(keys: dict[str, Any]) -> None:
        try:
            opened(server, **keys).close()
        except AttemptError as error:
            found.append(error)

    keys: list[dict[str, Any]] = [{"database": "nowhere"}, {"port": 1}, {}] * 3
    threads = [threading.Thread(target=go, args=(each,)) for each in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (
        sorted(type(error).__name__ for error in found) == ["ConnectError"] * 3 + ["DatabaseMissingError"] * 3
    )


# Queries


def test_a_column_without_a_name_is_refused_by_its_number(server: TdsServer) -> None:
    with opened(server) as source, pytest.raises(QueryError, match="column 2 of the extract has no name"):
        source.columns(Query("SELECT id, id + 1 FROM orders", {}))


def test_describing_comes_before_running(server: TdsServer) -> None:
    with opened(server) as source:
        list(source.batches(Query("SELECT id FROM orders", {}), 10))
    said = [one.sql for one in server.statements if "orders" in one.sql]
    assert "sp_describe_first_result_set" in said[0]
    assert said[1] == "SELECT id FROM orders"
    assert len(said) == 2


def test_bounds_are_texts_of_iso_8601(server: TdsServer) -> None:
    binds = {"start": datetime(2020, 7, 14), "end": datetime(2020, 7, 15, 0, 0, 0, 500_000)}  # noqa: DTZ001
    query = Query("SELECT id FROM orders WHERE moment >= :start AND moment < :end", binds, "moment")
    with opened(server) as source:
        assert [batch.to_pylist() for batch in source.batches(query, 10)] == [[{"id": 1}]]
    assert server.statements[-1].sql.endswith(
        "moment >= '2020-07-14T00:00:00' AND moment < '2020-07-15T00:00:00.500'"
    )


def test_a_second_answer_is_refused(server: TdsServer) -> None:
    with opened(server) as source, pytest.raises(QueryError, match="second answer"):
        rows_of(source, "SELECT 1 AS a SELECT 2 AS b")


def test_permission_denied(server: TdsServer) -> None:
    server.execute("abakan", "CREATE TABLE secrets (id int)")
    server.deny("abakan", "secrets")
    with opened(server) as source, pytest.raises(QueryError, match="229"):
        rows_of(source, "SELECT id FROM secrets")


def test_a_password_in_the_servers_own_words_is_masked(server: TdsServer) -> None:
    server.faults.add(Fault("error", statement="orders", error=(50000, 16, "Secret_123 is odd")))
    with opened(server) as source, pytest.raises(QueryError) as caught:
        rows_of(source, "SELECT id FROM orders")
    assert "Secret_123" not in str(caught.value)
    assert "is odd" in str(caught.value)


# Failures in mid-way


@pytest.mark.parametrize("kind", ["reset", "close", "deadlock", "hang_query"])
@pytest.mark.parametrize("after", [0, 5000])
def test_a_failure_in_the_answer_comes_after_its_rows_and_is_transient(
    server: TdsServer, kind: str, after: int
) -> None:
    server.faults.add(Fault(kind, statement="^SELECT value", after_rows=after))
    started = time.monotonic()
    seen = 0
    source = opened(server)
    with pytest.raises(SourceError) as caught:  # noqa: PT012 - the rows before it count
        for batch in source.batches(Query(ROWS, {}), 100):
            seen += batch.num_rows
    assert seen <= after
    # What is on its way when a connection is reset goes with it.
    assert seen > after - 1000 or kind == "reset"
    assert ("1205" in str(caught.value)) is (kind == "deadlock")
    source.close()
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_failure_of_the_description_is_transient(server: TdsServer, kind: str, after: int) -> None:
    # After one row: the database's, or the first column's.
    server.faults.add(Fault(kind, statement="sp_describe", after_rows=after, times=1))
    with opened(server) as source, pytest.raises(SourceError):
        source.columns(Query("SELECT id, name, moment FROM orders", {}))
    with opened(server) as source:
        assert len(source.columns(Query("SELECT id, name, moment FROM orders", {}))) == 3


@pytest.mark.parametrize("number", [1222, 701, 40501])
def test_transient_errors_by_number(server: TdsServer, number: int) -> None:
    server.faults.add(Fault("error", statement="FROM orders", error=(number, 16, "Not now.")))
    with opened(server) as source, pytest.raises(SourceError, match=f"{number}: Not now"):
        rows_of(source, "SELECT id FROM orders")


def test_a_source_that_is_closed_says_so(server: TdsServer) -> None:
    source = opened(server)
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.version()


def test_no_session_stays_behind(server: TdsServer) -> None:
    source = opened(server)
    next(iter(source.batches(Query(ROWS, {}), 10)))
    source.close()
    with suppress(AttemptError):
        opened(server, password=Secret("Wrong_789"))
    with suppress(AttemptError):
        opened(server, "nowhere")
    deadline = time.monotonic() + 5
    while server.sessions_now and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.sessions_now == 0


# Values


def test_half_a_surrogate_pair_is_refused_by_column_and_row(server: TdsServer) -> None:
    server.execute("abakan", "CREATE TABLE odd (id int, v nvarchar(20))")
    server.execute("abakan", "INSERT INTO odd VALUES (1, N'good'), (2, N'good')")
    for half in (0xD83D, 0xDE00):
        server.execute(
            "abakan", f"DELETE FROM odd WHERE id > 2 INSERT INTO odd VALUES (3, N'a' + NCHAR({half}))"
        )
        with (
            opened(server) as source,
            pytest.raises(ValueRefusedError, match="column v, row 3 of the answer"),
        ):
            rows_of(source, "SELECT id, v FROM odd ORDER BY id")


def test_code_pages(server: TdsServer) -> None:
    server.execute("abakan", "CREATE TABLE pages (v varchar(20) COLLATE Cyrillic_General_CI_AS)")
    server.execute("abakan", "INSERT INTO pages VALUES (N'ёлка'), (N'ЁЛКА')")
    with opened(server) as source:
        assert rows_of(source, "SELECT v FROM pages") == [{"v": "ёлка"}, {"v": "ЁЛКА"}]


def test_a_code_page_that_this_machine_cannot_read_is_refused(
    server: TdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwhctl.systems.mssql.source.can_read", lambda page: page != 1251)
    monkeypatch.setitem(CODE_PAGES, "Cyrillic_General_CI_AS", 1251)
    sql = "SELECT CAST('a' AS varchar(5)) COLLATE Cyrillic_General_CI_AS AS v"
    with opened(server) as source, pytest.raises(QueryError, match=r"column v: .* code page 1251"):
        source.columns(Query(sql, {}))
    with opened(server) as source:
        assert len(source.columns(Query("SELECT N'a' AS v", {}))) == 1
