"""dwhctl with a ClickHouse warehouse, as a user starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.clickhouse import PASSWORD, USER, ClickHouseServer
from tests.support.faulty import Faults, wait_for_end
from tests.support.projects import DAY, Sandbox

CREATE = """\
CREATE DATABASE IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.orders (
    id Int64, customer Nullable(String), amount Nullable(Decimal(18, 2)), start_time DateTime64(6),
    etl_source LowCardinality(String), etl_id Int64, hash_id Int64
) ENGINE = MergeTree PARTITION BY toDate(start_time) ORDER BY (etl_source, id);
"""
REPORT = """\
CREATE TABLE IF NOT EXISTS stage.sums (city String, orders UInt64) ENGINE = MergeTree ORDER BY city;
CREATE VIEW IF NOT EXISTS stage.sums_view AS
SELECT etl_source AS city, count() AS orders FROM stage.orders GROUP BY etl_source;
"""
#: Points at which a load dies, over all of its way in ClickHouse.
POINTS = (
    "stage.write", "stage.finished", "publish.held", "clickhouse.copy", "clickhouse.kept", "clickhouse.merge",
    "publish.fenced", "clickhouse.replace", "clickhouse.replaced", "publish.committed", "publish.drop",
)  # fmt: skip
LOAD = ("load", "--date", str(DAY))


class House(Sandbox):
    """A project whose warehouse is ClickHouse."""

    server: ClickHouseServer

    def _toml(self) -> str:
        connection = f'type = "clickhouse"\nhost = "127.0.0.1"\nport = {self.server.port}\nuser = "{USER}"\n'
        connection += 'password = { env = "CLICKHOUSE_PASSWORD" }'
        duckdb = 'type = "duckdb"\npath = "state/warehouse.duckdb"\nlock_wait = "5s"'
        return super()._toml().replace(duckdb, connection)

    def held(self) -> list[list[str | None]]:
        """The rows of the warehouse, by shard."""
        return self.server.query(
            "SELECT etl_source, count(), uniqExact(id) FROM stage.orders GROUP BY 1 ORDER BY 1"
        )


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A project with three shards of twenty orders."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    server = ClickHouseServer(tmp_path / "server").start()
    made = House(tmp_path / "project", create=CREATE, load_keys='retries = 1\nretry_delay = "1s"')
    made.server = server
    made.write().fill(20)
    made.put(
        "config/reports.toml",
        '[reports.sums]\nconnection = "warehouse"\nsource = "stage.sums_view"\ntarget = "stage.sums"\n'
        'create = "sums.sql"\n',
    )
    made.put("sql/sums.sql", REPORT)
    yield made
    server.stop()


HELD = [["abakan", "20", "20"], ["achinsk", "20", "20"], ["chita", "20", "20"]]


def test_a_day_is_loaded_and_loaded_again(house: House) -> None:
    for _ in range(2):
        result = house.load()
        assert not result.failed
        assert house.held() == HELD
    left = house.server.query("SELECT name FROM system.tables WHERE startsWith(name, 'dwhctl_')")
    assert left == []


def test_a_table_whose_partitions_are_no_days_is_refused_at_the_start(house: House) -> None:
    house.put("sql/orders/create.sql", CREATE.replace("PARTITION BY toDate(start_time) ", ""))
    result = house.load()
    assert result.failed
    assert {failed.failure.error_class for failed in result.failures} == {"TargetRefusedError"}
    assert "make the table with PARTITION BY toDate(start_time)" in result.failures[0].failure.message


@pytest.mark.long
def test_every_command_works_over_clickhouse(house: House) -> None:
    for arguments, words in (
        (("connections", "test"), "ClickHouse 2"),
        (LOAD, "3 slices loaded"),
        (("config", "check", "--online"), "the configuration is right"),
        (("verify", "--date", str(DAY)), "3 equal (60 rows)"),
        (("refresh-reports",), "1 report refreshed"),
        (("render", "orders", "--date", str(DAY), "--part", "publish"), "REPLACE PARTITION"),
        (("query", "warehouse", "SELECT sum(orders) FROM stage.sums"), "60"),
    ):
        done = house.run(*arguments, timeout=120)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert words in done.stdout, (arguments, done.stdout)
        assert PASSWORD not in done.stdout + done.stderr
    house.server.query("ALTER TABLE stage.orders DELETE WHERE id = 3 SETTINGS mutations_sync = 2")
    assert house.run("verify", "--date", str(DAY), timeout=120).returncode == 1


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_a_load_that_is_killed_is_put_right_by_a_plain_rerun(
    house: House, point: str, tmp_path: Path
) -> None:
    assert not house.load().failed
    for shard in house.shards():
        house.in_shard(shard, "UPDATE orders SET customer = 'new'")
    faults = Faults(tmp_path / "faults.log").at(point, "kill group")
    process = house.start(*LOAD, env={**faults.env(), "PYTHONUNBUFFERED": "1"})
    wait_for_end(process, seconds=90)
    assert process.returncode < 0, point
    assert house.held() == HELD
    done = house.run(*LOAD, timeout=120)
    assert done.returncode == 0, done.stderr
    assert house.held() == HELD
    assert house.server.query("SELECT DISTINCT customer FROM stage.orders") == [["new"]]
    assert house.server.query("SELECT name FROM system.tables WHERE startsWith(name, 'dwhctl_')") == []
