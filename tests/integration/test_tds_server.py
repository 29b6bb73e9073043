"""The TDS server of the tests, driven by the real pymssql: values, errors by number, descriptions, SQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pymssql
import pytest

from tests.servers.tds import TdsServer

at = dt.datetime.fromisoformat


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan", "chita"), snapshot=("chita",)) as running:
        yield running


@pytest.fixture
def db(server: TdsServer) -> Iterator[Any]:
    with closing(connect(server)) as connection:
        yield connection.cursor()


def connect(server: TdsServer | int, database: str = "abakan", **keys: Any) -> Any:
    given: dict[str, Any] = {
        "server": "127.0.0.1",
        "port": server if isinstance(server, int) else server.port,
        "user": "sa",
        "password": "Secret_123",
        "database": database,
        "tds_version": "7.4",
        "login_timeout": 5,
        "autocommit": True,
        **keys,
    }
    return pymssql.connect(**given)


def ask(db: Any, sql: str) -> list[tuple[Any, ...]]:
    db.execute(sql)
    return list(db.fetchall())


def number(error: BaseException) -> int:
    first = error.args[0]
    return int(first[0] if isinstance(first, tuple) else first)


def refused(db: Any, sql: str) -> int:
    with pytest.raises(pymssql.Error) as caught:
        ask(db, sql)
    return number(caught.value)


ERRORS = (
    (103, f"SELECT 1 AS {'x' * 129}"),
    (1033, "SELECT a FROM (SELECT 1 AS a ORDER BY a) AS t"),
    (1033, "WITH t AS (SELECT 1 AS a ORDER BY a) SELECT a FROM t"),
    (1033, "SELECT 1 AS a WHERE 1 IN (SELECT 1 AS a ORDER BY a)"),
    (208, "SELECT * FROM nowhere"),
    (208, "SELECT * FROM nodb.dbo.t"),
    (208, "SELECT * FROM sys.nothing"),
    (207, "SELECT nothing FROM e"),
    (4104, "SELECT z.id FROM e"),
    (209, "SELECT id FROM e a JOIN e b ON a.id = b.id"),
    (102, "SELECT * FROM e LIMIT 5"),
    (102, "SELECT a::int FROM e"),
    (102, "SELECT id || 'x' FROM e"),
    (102, "SELECT `id` FROM e"),
    (156, "SELECT (1 FROM e WHERE"),
    (102, "SELEC * FROM e"),
    (156, "SELECT id FROM e WHERE FROM"),
    (156, "SELECT id, FROM e"),
    (105, "SELECT 'abc"),
    (195, "SET NOTHING ON"),
    (195, "SELECT nothing(1) AS a"),
    (207, "SELECT id FROM e WHERE id = true"),
    (911, "USE nowhere"),
    (137, "SELECT @x AS a"),
    (245, "SELECT CAST('x' AS int) AS a"),
    (245, "SELECT id FROM e WHERE t = 5"),
    (241, "SELECT CAST('2020-13-01' AS datetime) AS a"),
    (241, "SELECT id FROM e WHERE d >= '2020-07-14T00:00:00.1234'"),
    (241, "SELECT id FROM e WHERE d >= '2020-07-14T00:00:00+03:00'"),
    (242, "SELECT CAST('1752-12-31' AS datetime) AS a"),
    (8114, "SELECT CAST('x' AS decimal(9,2)) AS a"),
    (8169, "SELECT CAST('x' AS uniqueidentifier) AS a"),
    (8115, "SELECT CAST(12345 AS decimal(3,1)) AS a"),
    (8115, "SELECT 2147483647 + 1 AS a"),
    (220, "SELECT CAST(300 AS tinyint) AS a"),
    (8134, "SELECT 1 / (id - id) AS a FROM e"),
    (8134, "SELECT 1.0 / 0 AS a"),
    (206, "SELECT CAST('2020-01-01' AS date) + 1 AS a"),
    (402, "SELECT id FROM e WHERE CAST('x' AS text) = 'x'"),
    (8117, "SELECT SUM(t) AS a FROM e"),
    (8120, "SELECT id, COUNT(*) AS n FROM e"),
    (174, "SELECT LEN() AS a"),
    (205, "SELECT 1 AS a UNION ALL SELECT 1, 2"),
    (8155, "SELECT * FROM (SELECT 1) AS q"),
    (8156, "SELECT * FROM (SELECT 1 AS a, 2 AS a) AS q"),
    (2714, "CREATE TABLE e (id int)"),
    (2705, "CREATE TABLE e2 (id int, ID int)"),
    (2715, "CREATE TABLE e2 (id nothing)"),
    (1801, "CREATE DATABASE chita"),
    (3701, "DROP TABLE nowhere"),
    (2627, "INSERT e (id) VALUES (1)"),
    (515, "INSERT e (id) VALUES (NULL)"),
    (515, "INSERT e (t) VALUES ('x')"),
    (2628, "INSERT e (id, t) VALUES (7, 'too long by far')"),
    (213, "INSERT e VALUES (1)"),
    (110, "INSERT e (id) VALUES (1, 2)"),
    (3902, "COMMIT"),
    (3903, "ROLLBACK"),
    (2812, "EXEC nothing"),
    (50000, "RAISERROR('no', 16, 1)"),
)  # fmt: skip


@pytest.fixture(scope="module")
def _errors_table(server: TdsServer) -> None:
    server.execute("abakan", "CREATE TABLE e (id int NOT NULL PRIMARY KEY, t varchar(5), d datetime)")
    server.execute("abakan", "INSERT e VALUES (1, 'a', '2020-07-14')")


@pytest.mark.usefixtures("_errors_table")
@pytest.mark.parametrize(
    ("expected", "sql"), ERRORS, ids=[f"{each[0]}-{index}" for index, each in enumerate(ERRORS)]
)
def test_what_is_wrong_has_its_number(db: Any, expected: int, sql: str) -> None:
    assert refused(db, sql) == expected
    assert ask(db, "SELECT 1 AS a") == [(1,)]


def test_a_conversion_fails_in_the_middle(server: TdsServer, db: Any) -> None:
    server.execute("abakan", "CREATE TABLE mid (i int, t varchar(10))")
    server.duckdb(
        "abakan",
        "INSERT INTO mid SELECT i, CASE WHEN i = 150000 THEN 'x' ELSE '1' END FROM range(200000) r(i)",
    )
    db.execute("SELECT i, CAST(t AS int) AS n FROM mid")
    seen, failed = 0, 0
    try:
        while rows := db.fetchmany(10_000):
            seen += len(rows)
    except pymssql.Error as error:
        failed = number(error)
    assert failed == 245
    assert seen > 50_000


def test_logins(server: TdsServer) -> None:
    before = server.logins
    for keys in ({"password": "wrong"}, {"user": "nobody"}, {"database": "nowhere"}):
        with pytest.raises(pymssql.Error) as caught:
            connect(server, **keys)
        assert number(caught.value) == 18456
    assert server.logins == before + 3
    with closing(connect(server, read_only=True, appname="dwhctl:x")) as connection:
        assert server.last_login is not None
        assert (server.last_login.read_only, server.last_login.application) == (True, "dwhctl:x")
        assert ask(connection.cursor(), "SELECT APP_NAME() AS a, DB_NAME() AS d") == [("dwhctl:x", "abakan")]


def test_no_access_and_no_permission(server: TdsServer) -> None:
    server.create_database("closed")
    server.execute("closed", "CREATE TABLE t (id int)")
    server.add_user("reader", "Secret_9", closed=("closed",))
    server.execute("chita", "CREATE TABLE secret (id int)")
    server.deny("chita", "dbo.secret")
    with closing(connect(server, "chita", user="reader", password="Secret_9")) as connection:
        db = connection.cursor()
        assert refused(db, "USE closed") == 916
        assert refused(db, "SELECT * FROM closed.dbo.t") == 916
        assert refused(db, "SELECT * FROM dbo.secret") == 229
        assert ask(
            db, "SELECT HAS_DBACCESS('closed') AS a, HAS_DBACCESS('chita') AS b, HAS_DBACCESS('no') AS c"
        ) == [(0, 1, None)]
        assert ask(db, "SELECT HAS_PERMS_BY_NAME('dbo.secret', 'OBJECT', 'SELECT') AS a") == [(0,)]
    with pytest.raises(pymssql.Error):
        connect(server, "closed", user="reader", password="Secret_9")


def describe(db: Any, sql: str) -> list[tuple[Any, ...]]:
    db.execute("EXEC sp_describe_first_result_set @tsql = N'" + sql.replace("'", "''") + "'")
    names = [each[0] for each in db.description]
    wanted = ("name", "system_type_name", "is_nullable", "max_length", "precision", "scale", "user_type_name")
    return [tuple(dict(zip(names, row, strict=True))[each] for each in wanted) for row in db.fetchall()]


def test_describe(server: TdsServer, db: Any) -> None:
    server.execute(
        "abakan",
        "CREATE TABLE dsc (id int NOT NULL, n nvarchar(50), m money, d decimal(18,2), t datetime2, o datetimeoffset(3),"
        " x varchar(max), b bit NOT NULL, h hierarchyid, r rowversion, c char(3), s sql_variant, f real, u xml)",
    )
    extra = "1, COUNT(*) OVER () AS n2, CAST(id AS varchar(9)) v, N'ёж' AS w, id + 1 AS i"
    assert describe(db, f"SELECT *, {extra} FROM dsc") == [
        ("id", "int", False, 4, 10, 0, None),
        ("n", "nvarchar(50)", True, 100, 0, 0, None),
        ("m", "money", True, 8, 19, 4, None),
        ("d", "decimal(18,2)", True, 9, 18, 2, None),
        ("t", "datetime2(7)", True, 8, 27, 7, None),
        ("o", "datetimeoffset(3)", True, 9, 30, 3, None),
        ("x", "varchar(max)", True, -1, 0, 0, None),
        ("b", "bit", False, 1, 1, 0, None),
        ("h", None, True, 892, 0, 0, "hierarchyid"),
        ("r", "timestamp", True, 8, 0, 0, None),
        ("c", "char(3)", True, 3, 0, 0, None),
        ("s", "sql_variant", True, 8016, 0, 0, None),
        ("f", "real", True, 4, 24, 0, None),
        ("u", "xml", True, -1, 0, 0, None),
        (None, "int", False, 4, 10, 0, None),
        ("n2", "int", True, 4, 10, 0, None),
        ("v", "varchar(9)", True, 9, 0, 0, None),
        ("w", "nvarchar(2)", False, 4, 0, 0, None),
        ("i", "int", False, 4, 10, 0, None),
    ]  # fmt: skip
    assert refused(db, "EXEC sp_describe_first_result_set N'SELECT * FROM nowhere'") == 208
    assert refused(db, "EXEC sp_describe_first_result_set N'SELECT 1 FROM'") == 102
    assert describe(db, "SELECT 1 / 0 AS a") == [("a", "int", False, 4, 10, 0, None)]
    assert describe(db, "DELETE FROM dsc") == []
    db.execute("EXEC sp_describe_first_result_set N'SELECT @a AS a', N'@a datetime2(3)'")
    assert db.fetchall()[0][5] == "datetime2(3)"


QUERIES: tuple[tuple[str, list[tuple[Any, ...]]], ...] = (
    ("SELECT TOP 2 id FROM q ORDER BY id DESC", [(3,), (2,)]),
    ("SELECT TOP (1) [q].[id] AS [my id] FROM [abakan].[dbo].[q] AS [q] WITH (NOLOCK) ORDER BY id", [(1,)]),
    ('SELECT "id" FROM "dbo"."q" WHERE id = 1', [(1,)]),
    ("SELECT name FROM q ORDER BY name", [(None,), ("a",), ("B",)]),
    ("SELECT id FROM q WHERE name = 'b  '", [(2,)]),
    ("SELECT id FROM q WHERE name LIKE '[a-b]' ORDER BY id", [(1,), (2,)]),
    ("SELECT id FROM q WHERE name IN ('A', 'x') OR name IS NULL ORDER BY 1", [(1,), (3,)]),
    ("SELECT id FROM q WHERE at BETWEEN '2020-07-14' AND '2020-07-14T23:59:59.997'", [(1,)]),
    ("SELECT id FROM q WHERE o >= '2020-07-13T21:00:00' AND o < '2020-07-13T21:00:01'", [(1,)]),
    ("SELECT a.id, b.id FROM q a LEFT JOIN q b ON b.id = a.id + 1 ORDER BY a.id", [(1, 2), (2, 3), (3, None)]),
    ("WITH w AS (SELECT id, ROW_NUMBER() OVER (ORDER BY id DESC) AS n FROM q) SELECT id FROM w WHERE n = 1", [(3,)]),
    ("SELECT 1 AS a UNION ALL SELECT 1 UNION ALL SELECT 2 ORDER BY a DESC", [(2,), (1,), (1,)]),
    ("SELECT CASE WHEN id > 1 THEN N'ё' ELSE 'e' END AS c FROM q WHERE id < 3 ORDER BY id", [("e",), ("ё",)]),
    ("SELECT COUNT(*) AS n, MAX(id) AS m, SUM(id) AS s, AVG(id) AS v FROM q", [(3, 3, 6, 2)]),
    ("SELECT id % 2 AS k, COUNT(*) AS n FROM q GROUP BY id % 2 HAVING COUNT(*) > 1", [(1, 2)]),
    ("SELECT id FROM q ORDER BY id OFFSET 1 ROWS FETCH NEXT 1 ROWS ONLY", [(2,)]),
    ("SELECT value FROM GENERATE_SERIES(1, 3)", [(1,), (2,), (3,)]),
    ("SELECT x, y FROM (VALUES (1, 'a'), (2, NULL)) AS v(x, y)", [(1, "a"), (2, None)]),
    ("SELECT q.id, z.n FROM q CROSS APPLY (SELECT q.id * 10 AS n) AS z WHERE q.id = 2", [(2, 20)]),
    ("SELECT 7 / 2 AS a, 7.0 / 2 AS b, 7 % 4 AS c, -7 / 2 AS d", [(3, Decimal("3.500000"), 3, -3)]),
    ("SELECT 'a' + N'b' AS a, CONCAT('a', NULL, 1) AS b, 'a' + NULL AS c", [("ab", "a1", None)]),
    ("SELECT ISNULL(NULL, 'x') AS a, COALESCE(NULL, 2) AS b, NULLIF(1, 1) AS c", [("x", 2, None)]),
    ("SELECT LEN(N'ab ') AS a, DATALENGTH(N'ab ') AS b, LEN(N'\U0001f600') AS c", [(2, 6, 2)]),
    ("SELECT REPLICATE('ab', 2) AS a, CHAR(65) AS b, NCHAR(1105) AS c, UPPER('x') AS d", [("abab", "A", "ё", "X")]),
    ("SELECT DATEADD(day, 1, CAST('2020-02-28' AS date)) AS a", [(dt.date(2020, 2, 29),)]),
    ("SELECT DATEADD(month, 1, CAST('2020-01-31' AS datetime)) AS a", [(at("2020-02-29T00:00:00"),)]),
    ("SELECT DATEDIFF(day, '2020-07-14T23:59:59', '2020-07-15') AS a, DATEDIFF(hour, '2020-07-14', '2020-07-15') AS b",
     [(1, 24)]),
    ("SELECT CONVERT(varchar(10), CAST('2020-07-14T12:34:56' AS datetime), 23) AS a", [("2020-07-14",)]),
    ("SELECT CONVERT(varchar(23), CAST('2020-07-14T12:34:56.123' AS datetime), 121) AS a",
     [("2020-07-14 12:34:56.123",)]),
    ("SELECT CONVERT(varchar(33), CAST('2020-07-14T12:34:56' AS datetime2(3)), 121) AS a",
     [("2020-07-14 12:34:56.000",)]),
    ("SELECT CONVERT(varchar(33), CAST('2020-07-14T12:34:56.5+03:00' AS datetimeoffset(1)), 126) AS a",
     [("2020-07-14T12:34:56.5+03:00",)]),
    ("SELECT CONVERT(varchar(36), CAST('6f9619ff-8b86-d011-b42d-00c04fc964ff' AS uniqueidentifier)) AS a",
     [("6F9619FF-8B86-D011-B42D-00C04FC964FF",)]),
    ("SELECT CONVERT(varchar(10), 0x00FF, 1) AS a, TRY_CAST('x' AS int) AS b", [("0x00FF", None)]),
    ("SELECT CAST(N'\U0001f600ab' AS nchar(5)) AS a, CAST(N'\U0001f600ab' AS nvarchar(3)) AS b",
     [("\U0001f600ab ", "\U0001f600a")]),
    ("SELECT CAST(COLLATIONPROPERTY('Cyrillic_General_CI_AS', 'CodePage') AS int) AS a", [(1251,)]),
    ("SELECT @@TRANCOUNT AS a, DB_NAME() AS b, ORIGINAL_LOGIN() AS c", [(0, "abakan", "sa")]),
    ("SELECT name FROM sys.tables WHERE name = 'q'", [("q",)]),
    ("SELECT TABLE_SCHEMA, TABLE_NAME FROM abakan.INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 'q'", [("dbo", "q")]),
    ("SELECT name, snapshot_isolation_state AS s FROM sys.databases WHERE name IN ('abakan', 'chita') ORDER BY name",
     [("abakan", 0), ("chita", 1)]),
    ("DECLARE @d datetime2 = '2020-07-14'; SELECT id FROM q WHERE at >= @d AND at < DATEADD(day, 1, @d)", [(1,)]),
    ("EXEC sp_executesql N'SELECT id FROM q WHERE id = @n', N'@n int', @n = 2", [(2,)]),
    ("IF EXISTS (SELECT 1 FROM q WHERE id = 2) SELECT 'yes' AS a ELSE SELECT 'no' AS a", [("yes",)]),
    ("SELECT /* a /* nested */ comment */ 1 AS a -- and more", [(1,)]),
)  # fmt: skip


@pytest.fixture(scope="module")
def _queries_table(server: TdsServer) -> None:
    server.execute(
        "abakan", "CREATE TABLE q (id int NOT NULL, name varchar(10), at datetime, o datetimeoffset)"
    )
    server.execute("abakan", "INSERT q VALUES (1, 'a', '2020-07-14T23:59:59.997', '2020-07-14T00:00:00+03:00'),"
                   " (2, 'B', '2020-07-15', NULL), (3, NULL, NULL, NULL)")  # fmt: skip


@pytest.mark.usefixtures("_queries_table")
@pytest.mark.parametrize(("sql", "rows"), QUERIES, ids=[str(index) for index in range(len(QUERIES))])
def test_queries(db: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
    assert ask(db, sql) == rows


def test_statements_that_write(server: TdsServer, db: Any) -> None:
    db.execute(
        "IF OBJECT_ID(N'dbo.w') IS NULL CREATE TABLE dbo.w (id int NOT NULL PRIMARY KEY, t nvarchar(9) DEFAULT N'ё')"
    )
    db.execute("IF OBJECT_ID(N'dbo.w') IS NULL CREATE TABLE dbo.w (id int)")
    db.execute("INSERT INTO dbo.w (id) SELECT value FROM GENERATE_SERIES(1, 10)")
    assert db.rowcount == 10
    db.execute("UPDATE w SET t = t + N'!' WHERE id > 8")
    assert db.rowcount == 2
    db.execute("DELETE FROM w WHERE id <= 5")
    db.execute("SELECT id, t INTO dbo.w2 FROM dbo.w WHERE id >= 8")
    assert ask(db, "SELECT id, t FROM w2 ORDER BY id") == [(8, "ё"), (9, "ё!"), (10, "ё!")]
    db.execute("TRUNCATE TABLE w2; DROP TABLE IF EXISTS w2; DROP TABLE IF EXISTS w2")
    assert refused(db, "SELECT * FROM w2") == 208
    db.execute("IF DB_ID(N'fresh') IS NULL CREATE DATABASE [fresh]")
    assert ask(db, "SELECT COUNT(*) AS n FROM fresh.sys.tables") == [(0,)]


def test_a_query_of_many_rows_streams(server: TdsServer, db: Any) -> None:
    db.execute("SELECT value AS a, N'text' AS b FROM GENERATE_SERIES(1, 100000)")
    total = 0
    while rows := db.fetchmany(10_000):
        total += len(rows)
    assert total == 100_000


def test_a_project_connection_names_the_server(server: TdsServer) -> None:
    connection = server.connection(read_only=True)
    assert connection.addresses == (("127.0.0.1", server.port),)
    assert (connection.max_connections, connection.read_only, connection.name) == (4, True, "mssql_0")


def test_a_name_of_a_column_counts_units_of_utf_16(db: Any) -> None:
    assert ask(db, "SELECT 1 AS [a😀]") == [(1,)]
    assert db.description[0][0] == "a😀"
