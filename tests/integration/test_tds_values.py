"""The TDS server of the tests, driven by the real pymssql: every type over the wire, with NULL and without."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from pymssql import _mssql

from tests.servers.tds import TdsServer, lone_surrogate

from .test_tds_server import ask, connect

at = dt.datetime.fromisoformat


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan",)) as running:
        yield running


@pytest.fixture
def db(server: TdsServer) -> Iterator[Any]:
    with closing(connect(server)) as connection:
        yield connection.cursor()


#: Declared type, a value in T-SQL, what pymssql gives for it.
VALUES: tuple[tuple[str, str, object], ...] = (
    ("tinyint", "255", 255),
    ("smallint", "-32768", -32768),
    ("int", "-2147483648", -(2**31)),
    ("bigint", "9223372036854775807", 2**63 - 1),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("bit", "1", True),
    ("decimal(9,2)", "-1234567.89", Decimal("-1234567.89")),
    ("decimal(19,4)", "123456789012345.6789", Decimal("123456789012345.6789")),
    ("decimal(38,0)", "-" + "9" * 38, Decimal("-" + "9" * 38)),
    ("numeric(38,38)", "0." + "0" * 37 + "1", Decimal("0." + "0" * 37 + "1")),
    ("money", "-922337203685477.5808", Decimal("-922337203685477.5808")),
    ("smallmoney", "214748.3647", Decimal("214748.3647")),
    ("real", "1.5", 1.5),
    ("float", "-1.7976931348623157e308", -1.7976931348623157e308),
    ("char(5)", "'ab'", "ab   "),
    ("varchar(20)", "'caf\u00e9 \u20ac'", "caf\u00e9 \u20ac"),
    ("varchar(20) COLLATE Cyrillic_General_CI_AS", "N'Ёлка'", "Ёлка"),
    ("varchar(40) COLLATE Latin1_General_100_CI_AS_SC_UTF8", "N'Ёлка \U0001f600'", "Ёлка \U0001f600"),
    ("varchar(max)", "REPLICATE(CAST('x' AS varchar(max)), 70000)", "x" * 70_000),
    ("varchar(max)", "''", ""),
    ("text", "'old'", "old"),
    ("nchar(4)", "N'ё'", "ё   "),
    ("nvarchar(50)", "N'Абакан \U0001f600 ''\"|'", "Абакан \U0001f600 '\"|"),
    ("nvarchar(50)", "N''", ""),
    ("nvarchar(max)", "REPLICATE(CAST(N'ё' AS nvarchar(max)), 70000)", "ё" * 70_000),
    ("ntext", "N'старый'", "старый"),
    ("date", "'0001-01-01'", dt.date(1, 1, 1)),
    ("date", "'9999-12-31'", dt.date(9999, 12, 31)),
    ("time(0)", "'23:59:59'", dt.time(23, 59, 59)),
    ("time(3)", "'12:34:56.789'", dt.time(12, 34, 56, 789_000)),
    ("time(7)", "'12:34:56.1234567'", dt.time(12, 34, 56, 123_456)),
    ("smalldatetime", "'2020-07-14T12:34:31'", at("2020-07-14T12:35:00")),
    ("datetime", "'2020-07-14T12:34:56.123'", at("2020-07-14T12:34:56.123000")),
    ("datetime", "'1753-01-01'", at("1753-01-01T00:00:00")),
    ("datetime", "'1899-12-31T23:59:59.997'", at("1899-12-31T23:59:59.997000")),
    ("datetime2(0)", "'2020-07-14T12:34:56'", at("2020-07-14T12:34:56")),
    ("datetime2(3)", "'0001-01-01T00:00:00.001'", at("0001-01-01T00:00:00.001000")),
    ("datetime2(6)", "'9999-12-31T23:59:59.999999'", at("9999-12-31T23:59:59.999999")),
    ("datetime2(7)", "'2020-07-14T12:34:56.1234567'", at("2020-07-14T12:34:56.123456")),
    ("datetimeoffset(3)", "'2020-07-14T12:34:56.789+03:00'", at("2020-07-14T12:34:56.789000+03:00")),
    ("datetimeoffset(7)", "'2020-07-14T12:34:56.1234567Z'", at("2020-07-14T12:34:56.123456Z")),
    ("uniqueidentifier", "'6F9619FF-8B86-D011-B42D-00C04FC964FF'", uuid.UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF")),
    ("binary(4)", "0x0102", b"\x01\x02\0\0"),
    ("varbinary(10)", "0x00FF0A5C", b"\x00\xff\x0a\x5c"),
    ("varbinary(max)", "0x" + "AB" * 9000, b"\xab" * 9000),
    ("image", "0x0001", b"\x00\x01"),
    ("xml", "'<a>ё</a>'", "<a>ё</a>"),
    ("hierarchyid", "0x58", b"\x58"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "literal", "value"), VALUES, ids=[f"{each[0]}-{at}" for at, each in enumerate(VALUES)]
)
def test_a_type_goes_over_the_wire_with_null_and_without(
    server: TdsServer, db: Any, declared: str, literal: str, value: object
) -> None:
    table = f"v{abs(hash((declared, literal)))}"
    server.execute("abakan", f"CREATE TABLE {table} (id int, a {declared} NOT NULL, b {declared} NULL)")
    server.execute("abakan", f"INSERT {table} VALUES (1, {literal}, NULL), (2, {literal}, {literal})")
    assert ask(db, f"SELECT a, b FROM {table} ORDER BY id") == [(value, None), (value, value)]


def test_what_pymssql_cannot_read_is_still_there_as_text(db: Any) -> None:
    assert ask(
        db, "SELECT CONVERT(varchar(27), CAST('9999-12-31T23:59:59.9999999' AS datetime2), 126) AS a"
    ) == [("9999-12-31T23:59:59.9999999",)]


def test_rowversion_counts_and_identity_too(server: TdsServer, db: Any) -> None:
    server.execute("abakan", "CREATE TABLE rv (id int IDENTITY(1,1) PRIMARY KEY, x int, v rowversion)")
    server.execute("abakan", "INSERT rv (x) VALUES (10), (20)")
    rows = ask(db, "SELECT id, x, v FROM rv ORDER BY id")
    assert [row[:2] for row in rows] == [(1, 10), (2, 20)]
    assert rows[0][2] < rows[1][2]
    assert len(rows[0][2]) == 8


def test_texts_that_are_odd(server: TdsServer, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver's own: dwhctl lowers it, for the whole process.
    monkeypatch.setattr(_mssql, "min_error_severity", 6)
    server.execute("abakan", "CREATE TABLE odd (id int, a nvarchar(50))")
    odd = ("a\0b", "\0", "\u2028 ", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "line\r\n\t", "\\", "'")
    for index, text in enumerate(odd):
        server.duckdb("abakan", "INSERT INTO odd VALUES (?, ?)", [index, text])
    assert ask(db, "SELECT a FROM odd ORDER BY id") == [(text,) for text in odd]
    server.duckdb("abakan", "DELETE FROM odd")
    server.duckdb("abakan", "INSERT INTO odd VALUES (1, ?)", [lone_surrogate(0xD83D) + "x"])
    assert ask(db, "SELECT DATALENGTH(a) AS n, LEN(a) AS l FROM odd") == [(4, 2)]
    # FreeTDS does not refuse half a pair.
    assert ask(db, "SELECT a FROM odd") == [("?x",)]


def test_a_code_page_has_question_marks(db: Any) -> None:
    assert ask(db, "SELECT CAST(N'ёx' AS varchar(10)) AS a") == [("?x",)]
