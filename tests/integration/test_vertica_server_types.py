"""What vertica-python's own tests showed of Vertica: types, NULL in ORDER BY, COPY LOCAL, logins, TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import vertica_python
from dateutil.relativedelta import relativedelta  # type: ignore[import-untyped]
from dateutil.tz import tzoffset  # type: ignore[import-untyped]

from tests.integration.vertica_kit import ask, connect, connected, fails
from tests.servers.vertica import VerticaServer
from tests.support.vertica import open_vertica


@pytest.fixture(scope="module")
def server() -> Iterator[VerticaServer]:
    with VerticaServer() as running:
        yield running


@pytest.fixture
def one(server: VerticaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


_VALUES = [
    ("'1 02:03:04.0005'::INTERVAL DAY TO SECOND", relativedelta(days=1, seconds=7384, microseconds=500)),
    ("'02:03'::INTERVAL DAY TO HOUR", relativedelta(hours=2)),
    ("'-02:03'::INTERVAL HOUR TO MINUTE", relativedelta(hours=-2, minutes=-3)),
    ("'216901.024'::INTERVAL SECOND", relativedelta(days=2, hours=12, minutes=15, seconds=1, microseconds=24000)),
    ("CAST('1235 ms ago' AS INTERVAL SECOND(2))", relativedelta(seconds=-1, microseconds=-240000)),
    ("'1y 10m'::INTERVAL YEAR TO MONTH", relativedelta(years=1, months=10)),
    ("'1y 10m'::INTERVAL YEAR", relativedelta(years=1)),
    ("'22:36:33.123456+0630'::TIMETZ(3)", time(22, 36, 33, 123000, tzinfo=tzoffset(None, 23400))),
    ("'22:36:33.123956'::TIME(3)", time(22, 36, 33, 124000)),
    ("'2001-12-01 00:30:45.0876'::TIMESTAMP(3)", datetime.fromisoformat("2001-12-01 00:30:45.088")),
    ("TO_DATE('1985-10-25 BC', 'YYYY-MM-DD')", date(1985, 10, 25)),
    ("TO_TIMESTAMP('2016-5-15 01:15:17.789 PM', 'YYYY-MM-DD HH:MI:SS.MS AM')",
     datetime.fromisoformat("2016-05-15 13:15:17.789")),
    (r"'\303\261'::VARBINARY", b"\xc3\xb1"),
    ("'abc'::BINARY(5)", b"abc\0\0"),
    ("HEX_TO_BINARY('0x4210')::VARBINARY(1)", b"B"),
    ("7 / 2", Decimal("3.5")),
]  # fmt: skip


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("sql", "value"), _VALUES)
def test_a_value_comes_back(server: VerticaServer, sql: str, value: object, binary: bool) -> None:
    with connected(server, binary_transfer=binary) as connection:
        assert ask(connection, f"SELECT {sql}") == [[value]]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT 1 / 0", "22012"),
        ("SELECT 1 % 0", "22012"),
        ("SELECT 'x'::INTERVAL DAY", "22007"),
        ("SELECT '25:00'::TIMETZ", "22008"),
        ("SELECT TO_DATE('2024-13-01', 'YYYY-MM-DD')", "22008"),
        (r"SELECT '\9'::VARBINARY", "22V02"),
        ("SELECT 1::NOSUCH", "42704"),
        ("SELECT ARRAY[1]", "0A000"),
    ],
)
def test_a_value_is_refused(one: Any, sql: str, sqlstate: str) -> None:
    with fails(sqlstate):
        ask(one, sql)
    assert ask(one, "SELECT 1") == [[1]]


def test_a_date_before_christ_is_not_one_of_python(one: Any) -> None:
    with pytest.raises(vertica_python.errors.NotSupportedError, match="Before Christ"):
        ask(one, "SELECT TO_DATE('1985-10-25 BC', 'YYYY-MM-DD BC')")


def test_null_is_placed_by_type(server: VerticaServer, one: Any) -> None:
    server.execute("CREATE TABLE placed (n INT, t VARCHAR(9)); INSERT INTO placed VALUES (1, NULL)")
    server.execute("INSERT INTO placed VALUES (NULL, 'a')")
    for sql, first in [
        ("SELECT n FROM placed ORDER BY n", None),
        ("SELECT n AS m FROM placed ORDER BY m DESC", 1),
        ("SELECT t FROM placed ORDER BY 1", "a"),
        ("SELECT t FROM placed ORDER BY t DESC", None),
        ("SELECT n FROM placed ORDER BY n NULLS LAST", 1),
    ]:
        assert ask(one, sql)[0] == [first], sql


def test_copy_local(server: VerticaServer, one: Any, tmp_path: Path) -> None:
    server.execute("CREATE TABLE local (a INT, b VARCHAR(9))")
    (tmp_path / "1.txt").write_text("1,foo\nx,bla")
    (tmp_path / "2.txt").write_text("5,aaaaaaaaaa\n,baz")
    rejected, reasons = tmp_path / "rejected", tmp_path / "reasons"
    sql = (
        f"COPY local FROM LOCAL '{tmp_path}/1.txt', '{tmp_path}/2.txt' DELIMITER ',' ENFORCELENGTH "
        f"REJECTED DATA '{rejected}' EXCEPTIONS '{reasons}'"
    )
    assert ask(one, sql) == [[2]]
    assert ask(one, "SELECT a, b FROM local ORDER BY a") == [[None, "baz"], [1, "foo"]]
    assert rejected.read_text() == "x,bla\n5,aaaaaaaaaa\n"
    assert "The 10-byte value is too long for type Varchar(9), column 2 (b)" in reasons.read_text()
    with pytest.raises(OSError, match="does not exist"):
        ask(one, f"COPY local FROM LOCAL '{tmp_path}/nosuch'")
    with fails("22V04"):
        ask(one, f"COPY local FROM LOCAL '{tmp_path}/1.txt' DELIMITER ',' ABORT ON ERROR")
    assert ask(one, "SELECT count(*) FROM local") == [[2]]


def _logs_in(server: VerticaServer, user: str, password: str) -> None:
    with closing(connect(server, user=user, password=password)):
        pass


def test_passwords_and_authentication_records(server: VerticaServer) -> None:
    server.execute(
        "CREATE USER hashed IDENTIFIED BY 'first'; CREATE AUTHENTICATION net METHOD 'hash' HOST '0.0.0.0/0';"
        "GRANT AUTHENTICATION net TO hashed"
    )
    _logs_in(server, user="hashed", password="first")
    server.execute("ALTER USER hashed SECURITY_ALGORITHM 'MD5'")
    with pytest.raises(vertica_python.errors.ConnectionError, match="has expired"):
        _logs_in(server, user="hashed", password="first")
    server.execute("ALTER USER hashed IDENTIFIED BY 'second'")
    _logs_in(server, user="hashed", password="second")
    with pytest.raises(vertica_python.errors.ConnectionError, match="Invalid username or password"):
        _logs_in(server, user="hashed", password="first")
    server.execute("DROP USER hashed; DROP AUTHENTICATION net CASCADE")


def test_tls_with_certificates_of_the_server() -> None:
    with VerticaServer() as server:
        server.execute(
            "CREATE KEY k TYPE 'RSA' LENGTH 2048; CREATE CA CERTIFICATE ca SUBJECT '/CN=CA' VALID FOR 9 KEY k;"
            "CREATE CERTIFICATE c SUBJECT '/CN=server' SIGNED BY ca EXTENSIONS 'subjectAltName' = 'IP:127.0.0.1' KEY k;"
            "ALTER TLS CONFIGURATION server CERTIFICATE c TLSMODE 'ENABLE'"
        )
        [[authority]] = server.execute("SELECT certificate_text FROM certificates WHERE name = 'ca'")
        keys = {"user": server.user, "password": server.password, "host": server.host, "port": server.port}
        keys["ssl"] = ssl.create_default_context(cadata=authority)
        with closing(open_vertica(**keys)) as connection:
            state = "SELECT ssl_state FROM sessions WHERE session_id = current_session()"
            assert ask(connection, state) == [["Server"]]
        server.execute("ALTER TLS CONFIGURATION server ADD CA CERTIFICATES ca TLSMODE 'VERIFY_CA'")
        with pytest.raises((vertica_python.errors.Error, OSError)):
            open_vertica(**keys)
