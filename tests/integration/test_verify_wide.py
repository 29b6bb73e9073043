"""`verify` of more columns than PostgreSQL lists in one query when each of them takes two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, any_server
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import DAY

COLUMNS = [f"c{number}" for number in range(1000)]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with any_server() as running:
        yield running


@pytest.mark.long
def test_the_rows_that_differ_in_a_thousand_columns_are_found(server: PostgresServer, tmp_path: Path) -> None:
    declared = ", ".join(f"{name} text" for name in COLUMNS)
    sandbox = PostgresSandbox(
        tmp_path / "project",
        servers={"server_0": ["abakan"]},
        max_workers=1,
        server=server,
        create=f"CREATE SCHEMA IF NOT EXISTS stage;\nCREATE TABLE IF NOT EXISTS stage.orders (id bigint, {declared},"
        " start_time timestamp, etl_source text, etl_id bigint, hash_id bigint);\n",
        extract="SELECT * FROM orders WHERE start_time >= :start AND start_time < :end",
        load_keys=f"retries = 0\nverify_columns = {COLUMNS}",
    ).write()
    try:
        values = ", ".join("n::text" for _ in COLUMNS)
        sandbox.in_shard(
            "abakan",
            f"CREATE TABLE orders (id bigint, {declared}, start_time timestamp)",
            f"INSERT INTO orders SELECT n, {values}, TIMESTAMP '{DAY} 12:00' FROM generate_series(0, 9) AS n",
        )
        assert [failed.failure.message for failed in sandbox.load().failures] == []
        sandbox.change_warehouse("UPDATE stage.orders SET c7 = 'other' WHERE id = 3")
        found = sandbox.run("verify", "--date", str(DAY))
        assert found.returncode == 1, found.stderr
        assert "c7: 1 slice, 1 row, e.g. id=3: '3' / 'other'" in found.stdout
        changed = ", ".join(f"{name} = 'other'" for name in COLUMNS)
        sandbox.change_warehouse(f"UPDATE stage.orders SET {changed} WHERE id = 4")
        found = sandbox.run("verify", "--date", str(DAY))
        assert "c0: 1 slice, 1 row, e.g. id=4: '4' / 'other'" in found.stdout
        assert "c999: 1 slice, 1 row" in found.stdout
    finally:
        sandbox.drop()
