"""What pymssql's own tests showed of SQL Server: application locks, dates, a table made again in a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from typing import Any

import pytest

from tests.integration.test_tds_server import connect
from tests.servers.tds import TdsServer


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan",)) as running:
        yield running


def _lock(cursor: Any, what: str) -> int:
    cursor.execute(f"DECLARE @r INT; EXEC @r = {what}; SELECT @r")
    [(code,)] = cursor.fetchall()
    return int(code)


def test_an_application_lock_is_held_by_one(server: TdsServer) -> None:
    take = "sp_getapplock @Resource = 'r', @LockMode = '{}', @LockOwner = 'Session', @LockTimeout = 0"
    free = "sp_releaseapplock @Resource = 'r', @LockOwner = 'Session'"
    with closing(connect(server)) as first, closing(connect(server)) as second:
        one, two = first.cursor(), second.cursor()
        assert _lock(one, take.format("Shared")) == 0
        assert _lock(two, take.format("Shared")) == 0
        assert _lock(two, take.format("Exclusive")) == -1
        assert _lock(one, free) == 0
        assert _lock(two, take.format("Exclusive")) == 0
        assert _lock(one, take.format("Shared")) == -1
        with pytest.raises(Exception, match="1223"):
            _lock(one, free)
    with closing(connect(server)) as third:
        assert _lock(third.cursor(), take.format("Exclusive").replace("Timeout = 0", "Timeout = 5000")) >= 0


def test_a_transactions_lock_ends_with_it(server: TdsServer) -> None:
    take = "sp_getapplock @Resource = 't', @LockMode = 'Exclusive', @LockTimeout = 0"
    with (
        closing(connect(server, autocommit=False)) as first,
        closing(connect(server, autocommit=False)) as second,
    ):
        one, two = first.cursor(), second.cursor()
        assert _lock(one, take) == 0
        assert _lock(two, take) == -1
        first.commit()
        assert _lock(two, take) == 0


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("CONVERT(DATE, CAST('2024-01-02 03:04:05.1234567' AS DATETIME2))", date(2024, 1, 2)),
        ("CAST('0001-1-1' AS DATE)", date(1, 1, 1)),
        ("CONVERT(VARCHAR(40), CAST('2024/1/2 3:4:5.6' AS DATETIME2(1)), 121)", "2024-01-02 03:04:05.6"),
        ("TRY_CAST('202401-02' AS DATE)", None),
    ],
)
def test_dates(server: TdsServer, sql: str, value: object) -> None:
    with closing(connect(server)) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT {sql}")
        assert cursor.fetchall() == [(value,)]


def test_a_table_is_dropped_and_made_again_in_a_transaction(server: TdsServer) -> None:
    server.execute("abakan", "CREATE TABLE again (a INT)")
    with closing(connect(server, autocommit=False)) as connection:
        cursor = connection.cursor()
        cursor.execute("DROP TABLE again")
        cursor.execute("CREATE TABLE again (b INT, )")
        connection.rollback()
        cursor.execute("SELECT a FROM again")
        assert cursor.fetchall() == []
        cursor.execute("DROP TABLE again")
        connection.commit()
        cursor.execute("SELECT OBJECT_ID('again')")
        assert cursor.fetchall() == [(None,)]
