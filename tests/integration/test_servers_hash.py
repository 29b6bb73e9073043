"""What the test servers of SQL Server and Vertica say of hashes, octets and the forms that a fingerprint is made of.

They compute by different code: the one with Python's hashlib over octets encoded by Python, the other with DuckDB's own
functions. What is expected here is neither's: known digests, and values written down by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.integration import test_tds_server as tds
from tests.integration import vertica_kit
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer


@pytest.fixture(scope="module")
def mssql() -> Iterator[Any]:
    with TdsServer(databases=("abakan",)) as server, closing(tds.connect(server)) as connection:
        yield connection.cursor()


@pytest.fixture(scope="module")
def vertica() -> Iterator[Any]:
    with VerticaServer() as server, vertica_kit.connected(server) as connection:
        yield connection


_UTF8 = "Latin1_General_100_BIN2_UTF8"
#: T-SQL, and what it gives.
TSQL: dict[str, object] = {
    # https://stackoverflow.com/questions/27908449: the digests of è in code page 1252, in UTF-16 and in UTF-8.
    "CONVERT(varchar(32), HASHBYTES('MD5', 'è'), 2)": "785D512BE4316D578E6650613B45E934",
    "CONVERT(varchar(32), HASHBYTES('MD5', N'è'), 2)": "FAC02CD988801F0495D35611223782CF",
    f"CONVERT(varchar(32), HASHBYTES('md5', CAST(N'è' COLLATE {_UTF8} AS varchar(9))), 2)":
        "0A35E149DBBB2D10D744BF675C7744B1",
    # RFC 1321, A.5.
    "CONVERT(varchar(32), HASHBYTES('MD5', ''), 2)": "D41D8CD98F00B204E9800998ECF8427E",
    "CONVERT(varchar(32), HASHBYTES('MD5', 0x616263), 2)": "900150983CD24FB0D6963F7D28E17F72",
    "HASHBYTES('MD5', CAST(NULL AS varchar(9)))": None,
    "DATALENGTH(HASHBYTES('SHA2_256', 'a'))": 32,
    f"DATALENGTH(CAST(N'ёa' COLLATE {_UTF8} AS varchar(9)))": 3,
    "DATALENGTH(N'ёa')": 4,
    # The order of COLLATE and CAST decides: a text that went through the code page does not come back.
    f"CAST(N'ёa' COLLATE {_UTF8} AS varchar(9))": "ёa",
    f"CAST(N'ёa' AS varchar(9)) COLLATE {_UTF8}": "?a",
    "CAST(N'ёa' COLLATE Cyrillic_General_CI_AS AS varchar(9))": "ёa",
    "CAST(0x00000000000000FF AS bigint)": 255,
    "CAST(0xFFFFFFFFFFFFFFFE AS bigint)": -2,
    "CAST(0x8000000000000000 AS bigint)": -(2**63),
    "CAST(0x0102030405060708090A AS bigint)": 0x030405060708090A,
    "CAST(0xFF AS int)": 255,
    "CAST(0xFFFFFFFF AS int)": -1,
    "CAST(SUBSTRING(HASHBYTES('MD5', 'abc'), 1, 8) AS bigint) & CAST(1152921504606846975 AS bigint)":
        0x00150983CD24FB0,
    "CONVERT(varchar(27), CAST('2020-07-14T01:02:03.1234567' AS datetime2(7)), 121)": "2020-07-14 01:02:03.1234567",
    "CONVERT(varchar(27), CAST(CAST('2020-07-14T01:02:03.5' AS datetime2(1)) AS datetime2(7)), 121)":
        "2020-07-14 01:02:03.5000000",
    "CONVERT(varchar(27), CAST(CAST('2020-07-14T01:02:03.127' AS datetime) AS datetime2(3)), 121)":
        "2020-07-14 01:02:03.127",
    "CONVERT(varchar(16), CAST('01:02:03' AS time(7)), 121)": "01:02:03.0000000",
    "CONVERT(varchar(10), CAST('0001-02-03' AS date), 23)": "0001-02-03",
    "CONVERT(varchar(27), CAST(SWITCHOFFSET(CAST('2020-07-14T01:00:00+08:00' AS datetimeoffset(0)), '+00:00')"
    " AS datetime2(7)), 121)": "2020-07-13 17:00:00.0000000",
    "CONVERT(varchar(40), SWITCHOFFSET(CAST('2020-07-14T01:00:00+00:00' AS datetimeoffset(0)), '-03:30'), 121)":
        "2020-07-13 21:30:00 -03:30",
    "DATALENGTH(REPLICATE('a', 5000) + REPLICATE('b', 5000))": 8000,
    "DATALENGTH(REPLICATE(N'a', 3000) + REPLICATE(N'b', 3000))": 8000,
    "DATALENGTH(CAST('' AS varchar(max)) + REPLICATE('a', 5000) + REPLICATE('b', 5000))": 10000,
    "DATALENGTH(REPLICATE('a', 5000) + REPLICATE('b', 5000) + CAST('' AS varchar(max)))": 8000,
    "CAST(CAST(-0.50 AS decimal(9,2)) AS varchar(42))": "-0.50",
    "CAST(CAST(-0.50 AS decimal(3,3)) AS varchar(42))": "-0.500",
}  # fmt: skip


@pytest.mark.parametrize("sql", TSQL)
def test_tsql(mssql: Any, sql: str) -> None:
    assert tds.ask(mssql, f"SELECT {sql} AS v") == [(TSQL[sql],)]


def test_tsql_extremes_go_by_the_collation(mssql: Any) -> None:
    values = "(VALUES ('b'), ('A'), ('a '), ('B')) AS t(v)"
    assert tds.ask(mssql, f"SELECT MAX(v) AS v FROM {values}")[0][0].lower() == "b"
    binary = f"SELECT MIN(v COLLATE {_UTF8}) AS least, MAX(v COLLATE {_UTF8}) AS most FROM {values}"
    assert tds.ask(mssql, binary) == [("A", "b")]


@pytest.mark.parametrize(
    ("number", "sql"),
    [
        (448, "SELECT 'a' COLLATE Nowhere_UTF8 AS v"),
        (8116, "SELECT HASHBYTES('MD5', 1) AS v"),
        (8116, "SELECT SWITCHOFFSET(CAST('2020-07-14' AS date), '+00:00') AS v"),
        (174, "SELECT HASHBYTES('MD5') AS v"),
    ],
)
def test_tsql_errors(mssql: Any, number: int, sql: str) -> None:
    assert tds.refused(mssql, sql) == number


#: Vertica's SQL, and what it gives.
VSQL: dict[str, object] = {
    # https://www.vertica.com/docs/10.1.x/HTML/Content/Authoring/SQLReferenceManual/Functions/String/MD5.htm
    "MD5('123')": "202cb962ac59075b964b07152d234b70",
    "MD5('è')": "0a35e149dbbb2d10d744bf675c7744b1",
    "MD5('')": "d41d8cd98f00b204e9800998ecf8427e",
    "MD5(NULL)": None,
    "HEX_TO_INTEGER('ff')": 255,
    "HEX_TO_INTEGER('0x09')": 9,
    "HEX_TO_INTEGER(SUBSTR(MD5('abc'), 2, 15))": 0x00150983CD24FB0,
    "OCTET_LENGTH('ёa')": 3,
    "RTRIM(RTRIM('10.500', '0'), '.')": "10.5",
    "CAST(CAST('-0.50' AS NUMERIC(9,2)) AS VARCHAR(80))": "-0.50",
    "CAST(CAST('-0.50' AS NUMERIC(3,3)) AS VARCHAR(80))": "-0.500",
    "TO_CHAR(TIMESTAMP '2020-07-14 01:02:03.5', 'YYYY-MM-DD HH24:MI:SS.US')": "2020-07-14 01:02:03.500000",
    "TO_CHAR(CAST('0001-02-03' AS DATE), 'YYYY-MM-DD')": "0001-02-03",
    "TO_CHAR(CAST(CAST('01:02:03.000007' AS TIME) AS TIMESTAMP), 'HH24:MI:SS.US')": "01:02:03.000007",
    "TO_CHAR(CAST('2020-07-14 01:00:00+08' AS TIMESTAMPTZ) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')":
        "2020-07-13 17:00:00.000000",
    "'ёлка'::VARCHAR(7)": "ёлк",
    "'\U0001f600x'::VARCHAR(3)": "",
    "(SELECT CAST(SUM(CAST(n AS NUMERIC(38, 0))) AS VARCHAR(40)) FROM (SELECT 1152921504606846975 AS n"
    " UNION ALL SELECT 1152921504606846975) q)": "2305843009213693950",
}  # fmt: skip


@pytest.mark.parametrize("sql", VSQL)
def test_vertica(vertica: Any, sql: str) -> None:
    assert vertica_kit.ask(vertica, f"SELECT {sql}") == [[VSQL[sql]]]


def test_vertica_takes_the_binary_locale(vertica: Any) -> None:
    vertica_kit.ask(vertica, "SET LOCALE TO 'en_US@collation=binary'")
