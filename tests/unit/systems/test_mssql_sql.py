"""The extract's SQL for SQL Server."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from dwhctl.core.columns import Kind
from dwhctl.core.errors import QueryError
from dwhctl.project.days import start_of_day
from dwhctl.project.query import Query
from dwhctl.systems.mssql.sql import one_select, with_bounds, wrapped


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders",
        "select id from orders;",
        "-- a word: DELETE\nWITH x AS (SELECT 1 AS id) SELECT id FROM x /* DROP */",
        "(SELECT 1 AS id) UNION ALL (SELECT 2)",
        "SELECT [update], \"delete\", 'DROP TABLE t' AS v, deleted, updates, @into, #set FROM t",
        "SELECT a.id FROM a INNER MERGE JOIN b ON a.id = b.id ORDER BY id OFFSET 3 ROWS OPTION (MERGE JOIN)",
        "SELECT 0xADBCC AS b, $1.5 AS m, 1e5 AS n, $action, a1.id /* /* DROP */ UPDATE */ FROM t2 AS a1 -- 1DELETE",
    ],
)
def test_one_select(sql: str) -> None:
    assert one_select(sql) == sql.rstrip(";")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "0 statements"),
        ("SELECT 1 AS a; SELECT 2 AS b", "2 statements"),
        ("SELECT 1 AS a DELETE FROM orders", "DELETE"),
        ("SELECT id INTO other FROM orders", "INTO"),
        ("WITH x AS (SELECT 1 AS id) DELETE FROM x OUTPUT deleted.id", "DELETE"),
        ("EXEC sp_who", "one SELECT"),
        ("DELETE FROM orders", "one SELECT"),
        ("SELECT 1 AS a\nEXEC sp_who", "EXEC"),
        ("SELECT 'a\0b' AS v", "NUL"),
        ("SELECT 1 /* /* */ ' */ EXEC xp_cmdshell 'dir' --'", "EXEC"),
        ("SELECT 1DELETE FROM orders", "DELETE"),
        ("SELECT 1e1EXEC xp_cmdshell 'dir'", "EXEC"),
        ("SELECT 0xTRUNCATE TABLE orders", "TRUNCATE"),
        ("SELECT $1DROP TABLE orders", "DROP"),
    ],
)
def test_what_is_not_one_select(sql: str, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        one_select(sql)


def bound(moment: datetime, zone: str | None = None, kind: Kind | None = None) -> str:
    at = start_of_day(moment.date(), ZoneInfo(zone)) if zone else moment.replace(tzinfo=UTC)
    query = Query("SELECT :start", {"start": moment}, instants={"start": at})
    kind = Kind.TIMESTAMPTZ if zone else kind
    return with_bounds(query, query.sql, kind, ZoneInfo(zone) if zone else None).removeprefix("SELECT ")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2020-07-14", "'2020-07-14'"),
        # Moscow's midnight in UTC: the dates from the 14th on are not before it.
        ("2020-07-13T21:00:00", "'2020-07-14'"),
        ("2020-07-14T00:00:00.000001", "'2020-07-15'"),
    ],
)
def test_a_bound_that_meets_dates_is_the_first_date_not_before_it(text: str, written: str) -> None:
    assert bound(datetime.fromisoformat(text), kind=Kind.DATE) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2020-07-14", "'2020-07-14T00:00:00'"),
        ("2020-07-14T01:02:03.5", "'2020-07-14T01:02:03.500'"),
        ("2020-07-14T01:02:03.000001", "'2020-07-14T01:02:03.000001'"),
        ("0001-01-01", "'0001-01-01T00:00:00'"),
    ],
)
def test_a_bound_is_an_iso_text(text: str, written: str) -> None:
    assert bound(datetime.fromisoformat(text)) == written


@pytest.mark.parametrize(
    ("text", "zone", "written"),
    [
        ("2020-07-14", "Europe/Moscow", "'2020-07-14T00:00:00+03:00'"),
        ("2020-07-14", "UTC", "'2020-07-14T00:00:00+00:00'"),
        ("2020-07-14", "Asia/Kathmandu", "'2020-07-14T00:00:00+05:45'"),
        ("2020-01-14", "Europe/Berlin", "'2020-01-14T00:00:00+01:00'"),
        ("2020-07-14", "Europe/Berlin", "'2020-07-14T00:00:00+02:00'"),
        # Midnight is skipped: the day begins at one.
        ("2018-11-04", "America/Sao_Paulo", "'2018-11-04T01:00:00-02:00'"),
        # Midnight comes twice: the first one counts.
        ("2018-02-18", "America/Sao_Paulo", "'2018-02-18T00:00:00-03:00'"),
        ("2020-10-31", "America/Havana", "'2020-10-31T00:00:00-04:00'"),
        # Moscow was 2:30:17 ahead then.
        ("1900-01-01", "Europe/Moscow", "'1899-12-31T21:29:43+00:00'"),
    ],
)
def test_a_bound_that_meets_instants_has_the_zones_offset(text: str, zone: str, written: str) -> None:
    assert bound(datetime.fromisoformat(text), zone) == written


def test_only_binds_are_replaced() -> None:
    query = Query("SELECT ':start' AS v, a::int -- :end\nFROM t WHERE v >= :start AND v < :other", {})
    assert with_bounds(query, query.sql) == query.sql


@pytest.mark.parametrize(
    ("sql", "inside"),
    [
        ("SELECT id FROM t", "COUNT (SELECT id FROM t\n)\n"),
        ("SELECT id FROM t -- all of it", "COUNT (SELECT id FROM t -- all of it\n)\n"),
        ("WITH x AS (SELECT 1 AS id) SELECT id FROM x", "WITH x AS (SELECT 1 AS id) COUNT (SELECT id FROM x\n)\n"),
        ("SELECT id FROM t ORDER BY id", "COUNT (SELECT id FROM t ORDER BY id\nOFFSET 0 ROWS\n)\n"),
        ("SELECT TOP 5 id FROM t ORDER BY id", "COUNT (SELECT TOP 5 id FROM t ORDER BY id\n)\n"),
        ("SELECT id FROM t ORDER BY id OFFSET 3 ROWS", "COUNT (SELECT id FROM t ORDER BY id OFFSET 3 ROWS\n)\n"),
        ("SELECT id, RANK() OVER (ORDER BY id) AS r FROM t",
         "COUNT (SELECT id, RANK() OVER (ORDER BY id) AS r FROM t\n)\n"),
        ("SELECT [order] FROM t OPTION (MAXDOP 1)", "COUNT (SELECT [order] FROM t \n)\nOPTION (MAXDOP 1)"),
        ("with x as (select 1 as id) select id from x order by id option (recompile)",
         "with x as (select 1 as id) COUNT (select id from x order by id \nOFFSET 0 ROWS\n)\noption (recompile)"),
    ],
)  # fmt: skip
def test_a_select_is_put_inside_another(sql: str, inside: str) -> None:
    assert wrapped(sql, lambda source: f"COUNT {source}") == inside.rstrip()
