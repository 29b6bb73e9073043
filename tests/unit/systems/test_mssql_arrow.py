"""The source and the console of SQL Server over mssql-python: what the driver would do without dwhctl's checks."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trustme
from pydantic import ValidationError

from dwhctl.core.errors import (
    About,
    AttemptError,
    ConfigError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
    TlsError,
    ValueRefusedError,
)
from dwhctl.core.secrets import Secret
from dwhctl.project.query import Query
from dwhctl.systems.base.source import Source
from dwhctl.systems.base.system import CursorOptions, SourceOptions, system_of
from dwhctl.systems.mssql import arrow_client
from dwhctl.systems.mssql.arrow_source import ArrowReader, ArrowSource, most_rows
from dwhctl.systems.mssql.source import CODE_PAGES
from dwhctl.systems.mssql.sql import ResultColumn, declared_columns
from dwhctl.systems.mssql.system import MssqlConnection
from tests.contract.kits_mssql import RUST, skip_without_driver
from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.servers.tds.apart import TdsApart

CYRILLIC = "Cyrillic_General_CI_AS"


@pytest.fixture(scope="module")
def running() -> Iterator[TdsServer]:
    """In this process: no answer here holds a long text."""
    skip_without_driver()
    with TdsServer(databases=("abakan", "chita")) as server:
        server.execute("abakan", "CREATE TABLE orders (id bigint, name nvarchar(50))")
        server.execute("abakan", "INSERT INTO orders VALUES (1, N'ё')")
        yield server


@pytest.fixture
def server(running: TdsServer) -> Iterator[TdsServer]:
    running.forget()
    yield running
    running.faults.clear()


def connection(server: TdsServer | TdsApart, **keys: Any) -> MssqlConnection:
    return server.connection(driver="mssql-python", **keys)


def opened(server: TdsServer | TdsApart, database: str = "abakan", **keys: Any) -> Source:
    made = connection(server, **keys)
    return system_of(made).open_source(made, database, SourceOptions("UTC"))


def rows_of(source: Source, sql: str, rows: int = 1000) -> list[dict[str, object]]:
    return [row for batch in source.batches(Query(sql, {}), rows) for row in batch.to_pylist()]


# Characters


def test_half_a_surrogate_pair_is_refused_and_its_replacement_is_a_character_like_others(
    server: TdsServer,
) -> None:
    server.execute("abakan", "CREATE TABLE odd (id int, v nvarchar(20))")
    server.execute("abakan", "INSERT INTO odd VALUES (1, NCHAR(65533) + N'a' + NCHAR(65533)), (2, N'good')")
    with opened(server) as source:
        assert rows_of(source, "SELECT v FROM odd WHERE id = 1") == [{"v": "\ufffda\ufffd"}]
    for half in (0xD83D, 0xDE00):
        server.execute("abakan", "DELETE FROM odd WHERE id > 2")
        server.execute("abakan", f"INSERT INTO odd VALUES (3, N'a' + NCHAR({half}))")
        with opened(server) as source, pytest.raises(ValueRefusedError) as refused:
            rows_of(source, "SELECT id, v FROM odd ORDER BY id")
        assert "column v, row 1 of the answer or later: half of a surrogate pair" in str(refused.value)
        assert "3 characters U+FFFD arrived, the source holds 2" in str(refused.value)


@pytest.mark.parametrize("declared", ["varchar(20)", "char(5)", "varchar(max)"])
def test_a_byte_outside_its_code_page_is_refused(server: TdsServer, declared: str) -> None:
    server.execute("abakan", "DROP TABLE IF EXISTS pages")
    server.execute("abakan", f"CREATE TABLE pages (id int, v {declared} COLLATE {CYRILLIC})")
    server.execute("abakan", "INSERT INTO pages VALUES (1, N'ёж?'), (2, N'a' + NCHAR(152))")
    with opened(server) as source:
        assert str(rows_of(source, "SELECT v FROM pages WHERE id = 1")[0]["v"]).rstrip() == "ёж?"
        with pytest.raises(ValueRefusedError, match=r"column v, row 1 .*outside the column's code page"):
            rows_of(source, "SELECT v FROM pages ORDER BY id")
        found = rows_of(source, "SELECT CAST(v AS nvarchar(9)) AS v FROM pages WHERE id = 2")
        assert str(found[0]["v"]).rstrip() == "a\x98", "as the message proposes"


def test_a_code_page_of_several_bytes_is_refused(server: TdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODE_PAGES, CYRILLIC, 932)
    with opened(server) as source, pytest.raises(QueryError, match=r"column v: .* code page 932 .*nvarchar"):
        source.columns(Query(f"SELECT CAST('a' AS varchar(5)) COLLATE {CYRILLIC} AS v", {}))


def test_an_empty_image_is_no_null(server: TdsServer) -> None:
    query = Query("SELECT CAST(0x AS image) AS v", {})
    with opened(server) as source:
        if RUST:
            with pytest.raises(QueryError, match=r"column v: .*empty image.*varbinary\(max\)"):
                source.columns(query)
        else:
            assert [batch.to_pylist() for batch in source.batches(query, 5)] == [[{"v": b""}]]


# Batches


def test_the_servers_count_is_that_of_the_rows(server: TdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks is in tests/integration/test_mssql_cuts.py."""
    with opened(server) as source:
        assert isinstance(source, ArrowSource)
        ask = source._rows
        monkeypatch.setattr(source, "_rows", lambda sql: [(7,)] if "@@ROWCOUNT" in sql else ask(sql))
        with pytest.raises(SourceError, match="it sent 7 rows, and 1 arrived") as refused:
            rows_of(source, "SELECT id FROM orders")
        assert not refused.value.permanent


def test_a_connection_that_the_driver_reports_as_lost(
    server: TdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_client.ArrowCursor, "is_lost", True)
    with opened(server) as source, pytest.raises(SourceError, match="the connection was lost after 1 rows"):
        rows_of(source, "SELECT id FROM orders")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that are asked of the driver."""
    fetch = arrow_client.ArrowCursor.fetch_batch
    asked: list[int] = []

    def counted(cursor: arrow_client.ArrowCursor, rows: int) -> pa.RecordBatch:
        asked.append(rows)
        return fetch(cursor, rows)

    monkeypatch.setattr(arrow_client.ArrowCursor, "fetch_batch", counted)
    return asked


def test_several_batches_are_fetched_together(server: TdsServer, sizes: list[int]) -> None:
    sql = "SELECT value AS id FROM GENERATE_SERIES(1, 2500)"
    with opened(server) as source:
        batches = list(source.batches(Query(sql, {}), 100))
    assert [row["id"] for batch in batches for row in batch.to_pylist()] == list(range(1, 2501))
    assert max(batch.num_rows for batch in batches) == 100
    assert len(sizes) <= 5, "2,500 rows, by 800"


def test_rows_that_may_be_a_megabyte_wide_are_not_fetched_by_several_batches(sizes: list[int]) -> None:
    """The server is a process of its own: the driver holds Python's lock while it waits for a long text."""
    skip_without_driver()
    sql = "SELECT CAST(N'short until now' AS nvarchar(max)) AS v FROM GENERATE_SERIES(1, 2500)"
    with TdsApart(databases=("abakan",)) as server, opened(server) as source:
        assert len(rows_of(source, sql, rows=100)) == 2500
    assert max(sizes) == 100
    by_width = {declared: declared_columns([ResultColumn("v", declared)]) for declared in ("int", "text")}
    assert [most_rows(columns, 2048) for columns in by_width.values()] == [8 * 2048, 2048]


def test_batches_of_texts_beyond_what_one_holds_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = declared_columns([ResultColumn("v", "nvarchar(max)")])
    reader = ArrowReader(columns, frozenset())
    narrow = reader._array

    def array(column: Any, values: pa.Array) -> pa.Array:
        if len(values) > 2:
            raise pa.ArrowCapacityError("too long")
        return narrow(column, values)

    monkeypatch.setattr(reader, "_array", array)
    batch = pa.record_batch({"v": pa.array([str(n) for n in range(7)], pa.large_string())})
    batches = list(reader.batches(batch))
    assert [row["v"] for part in batches for row in part.to_pylist()] == [str(n) for n in range(7)]
    assert {part.schema.field("v").type for part in batches} == {pa.string()}
    assert max(part.num_rows for part in batches) <= 2


def test_a_value_that_is_not_the_declared_type_is_refused() -> None:
    reader = ArrowReader(declared_columns([ResultColumn("n", "smallint")]), frozenset())
    with pytest.raises(ValueRefusedError, match=r"column n, rows 1 to 2 .*smallint was declared"):
        list(reader.batches(pa.record_batch({"n": pa.array([1, 70_000])})))


def test_one_cursor_at_a_time_and_no_session_stays(server: TdsServer) -> None:
    with opened(server) as source:
        for _ in source.batches(Query("SELECT value AS i FROM GENERATE_SERIES(1, 50000)", {}), 10):
            break
        assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}], "an answer is left in the middle"
        assert server.sessions_now == 1
    deadline = time.monotonic() + 5
    while server.sessions_now and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.sessions_now == 0, "no pool keeps it"


# Errors


@pytest.mark.parametrize(
    ("sql", "words", "about"),
    [
        ("SELECT nothing FROM orders", "SQL Server 207: Invalid column name", About.SQL),
        ("SELECT id FROM missing", "SQL Server 208: Invalid object name", About.TABLE),
        ("SELECT CAST(name AS int) AS v FROM orders", "SQL Server 245: Conversion failed", About.SQL),
    ],
)
def test_a_refused_query_says_the_number(server: TdsServer, sql: str, words: str, about: About) -> None:
    with opened(server) as source, pytest.raises(QueryError, match=words) as refused:
        rows_of(source, sql)
    assert refused.value.about is about


@pytest.mark.parametrize(
    ("number", "severity", "kind"),
    [(1205, 13, SourceError), (922, 14, SourceBusyError), (229, 14, QueryError), (8645, 17, SourceError)],
)
def test_an_error_is_what_its_number_means(
    server: TdsServer, number: int, severity: int, kind: type[AttemptError]
) -> None:
    server.faults.add(Fault("error", statement="FROM orders", error=(number, severity, "words"), times=2))
    with opened(server) as source, pytest.raises(kind, match=f"SQL Server {number}: words") as raised:
        rows_of(source, "SELECT id FROM orders")
    assert type(raised.value) is kind


@pytest.mark.skipif(RUST, reason="its messages have the reason")
@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_lost_connection_is_said_with_its_reason(server: TdsServer, kind: str) -> None:
    server.faults.add(Fault(kind, statement="^SELECT id", times=1))
    with opened(server) as source, pytest.raises(SourceError, match="Connection reset by peer"):
        rows_of(source, "SELECT id FROM orders")


def test_why_a_login_failed(server: TdsServer) -> None:
    server.add_user("petya", "secret_1", closed=["chita"])
    with pytest.raises(LoginRefusedError, match="refused the login of sa") as refused:
        opened(server, password=Secret("Wrong_1")).columns(Query("SELECT 1 AS a", {}))
    assert "Wrong_1" not in str(refused.value)
    with pytest.raises(DatabaseMissingError, match="database nowhere cannot be read"):
        opened(server, "nowhere")
    with pytest.raises(DatabaseMissingError, match="database chita cannot be read"):
        opened(server, "chita", user="petya", password=Secret("secret_1"))
    with pytest.raises(ConnectError, match="Connection refused"):
        opened(server, port=1, connect_timeout=timedelta(seconds=1))


def test_a_password_of_any_characters(server: TdsServer) -> None:
    password = "a;b}c{d= '\"x"
    server.add_user("odd", password)
    with opened(server, user="odd", password=Secret(password)) as source:
        assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]


# Installation


def test_a_missing_package_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mssql_python", None)
    made = MssqlConnection(name="m", host="127.0.0.1", user="sa", driver="mssql-python")
    with pytest.raises(ConfigError, match=r"pip install 'dwhctl\[mssql-arrow\]'"):
        system_of(made).open_source(made, "abakan", SourceOptions("UTC"))


def test_missing_libraries_are_said_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_client, "_can_load", lambda library: library != "libltdl.so.7")
    assert "apt-get install libltdl7," in arrow_client._missing_libraries()


# TLS


def test_keys_that_the_driver_does_not_have_are_refused() -> None:
    keys = {"name": "m", "host": "h", "user": "sa"}
    for wanted in (
        {"encryption": "verify-full"},
        {"tls_cafile": "ca.pem"},
        {"tls_hostname": "h.example.com"},
    ):
        with pytest.raises(ValidationError, match=r'pymssql cannot check a certificate.*"mssql-python"'):
            MssqlConnection.model_validate({**keys, **wanted})
    with pytest.raises(ValidationError, match="request checks no certificate, which tls_cafile asks for"):
        MssqlConnection.model_validate(
            {**keys, "driver": "mssql-python", "encryption": "request", "tls_cafile": "ca.pem"}
        )
    checked = MssqlConnection.model_validate({**keys, "driver": "mssql-python", "tls_cafile": "ca.pem"})
    assert checked.tls == "verify-full"


def test_who_the_server_is_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_driver()
    authority, other = trustme.CA(), trustme.CA()
    files = {"own": tmp_path / "own.pem", "other": tmp_path / "other.pem"}
    authority.cert_pem.write_to_path(str(files["own"]))
    other.cert_pem.write_to_path(str(files["other"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("db.example.com").configure_cert(context)
    server = TdsServer(databases=("abakan",), tls=True)
    server.tls_context = context
    with server:
        named: dict[str, Any] = {"tls_hostname": "db.example.com", "tls_cafile": files["own"]}
        with opened(server, **named) as source:
            assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}]
        with pytest.raises(TlsError, match="certificate is for another name"):
            opened(server, tls_hostname="elsewhere.example.com", tls_cafile=files["own"])
        words = "put all authorities into one file" if RUST else "certificate is not trusted"
        with pytest.raises(TlsError, match=words):
            opened(server, tls_hostname="db.example.com", tls_cafile=files["other"])
        with opened(server, encryption="require") as source:
            assert rows_of(source, "SELECT 1 AS one") == [{"one": 1}], "require checks no certificate"


def test_a_server_without_tls_gets_no_password(server: TdsServer) -> None:
    server.last_login = None
    with pytest.raises(TlsError, match="the server offers no TLS"):
        opened(server, encryption="require")
    assert server.last_login is None


# The console


def test_a_console_reads_and_writes(server: TdsServer) -> None:
    made = connection(server)
    for write in (False, True):
        console = system_of(made).open_cursor(made, "abakan", CursorOptions(write=write))
        console.open()
        if write:
            console.begin()
            (written,) = console.execute("INSERT INTO orders VALUES (2, N'two')", 10)
            assert written.changed == 1
            console.commit()
        found = []
        for result in console.execute("SELECT id, name FROM orders ORDER BY id", 10):
            assert result.columns == ("id", "name")
            found += [tuple(row) for batch in result.batches for row in batch]
        assert found == [(1, "ё"), (2, "two")][: 1 + write]
        with pytest.raises(QueryError, match="SQL Server 208"):
            list(console.execute("SELECT * FROM nothing", 10))
        console.close()


# Dates


def test_the_language_of_the_login_changes_no_date(
    server: TdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Russian session a datetime would read '2020-07-05' as the 7th of May."""
    monkeypatch.setitem(server.languages, server.user, "russian")
    server.execute("abakan", "DROP TABLE IF EXISTS days; CREATE TABLE days (id int, at datetime)")
    server.execute("abakan", "INSERT INTO days VALUES (1, '20200507'), (2, '20200705'), (3, '20200706')")
    sql = "SELECT id, CAST(at AS date) AS day FROM days WHERE at >= :start AND at < :end"
    binds = {"start": datetime(2020, 7, 5), "end": datetime(2020, 7, 6)}  # noqa: DTZ001
    with opened(server) as source:
        query = Query(sql, binds, slice_by="day")
        assert [row["id"] for batch in source.batches(query, 1000) for row in batch.to_pylist()] == [2]
        assert rows_of(source, "SELECT id FROM days WHERE at = '2020-07-13'") == []
        assert rows_of(source, "SELECT @@DATEFIRST AS first") == [{"first": 7}]  # as with pymssql
