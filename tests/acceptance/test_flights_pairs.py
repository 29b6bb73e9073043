"""The flights from every kind of source into every kind of target, value by value; the loads make their tables."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.support.flights import assert_same, csv_rows, row_key, rows_of, shard_name, shards
from tests.support.flights_wire import SOURCES, TARGETS, FlightsWire, by_shard, flights_wire, needs_chdb
from tests.support.projects import days_from

#: ClickHouse has a run of its own: it can be skipped.
TARGETS_AT_ONCE = [
    pytest.param(tuple(target for target in TARGETS if target != "clickhouse"), id="others"),
    pytest.param(("clickhouse",), id="clickhouse", marks=needs_chdb),
]
PAIRS = [
    pytest.param(source, target, id=f"{source}-{target}", marks=needs_chdb if target == "clickhouse" else ())
    for source in SOURCES
    for target in TARGETS
]
#: A week with a snow storm and a shard of each airport, some of whose flights were cancelled.
WEEK = days_from(date(2013, 2, 7), 7)
WEEK_SHARDS = ("ewr_aa", "jfk_us", "lga_f9")
AROUND_WEEK = days_from(date(2013, 2, 6), 9)
YEAR = days_from(date(2013, 1, 1), 365)


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[FlightsWire]:
    """All 35 shards with all their rows in every kind of source."""
    rows = by_shard([shard_name(*each) for each in shards()])
    targets = [target for target in TARGETS if target != "clickhouse" or find_spec("chdb")]
    with flights_wire(tmp_path_factory.mktemp("year"), postgres_server, rows, targets) as wire:
        yield wire


def carry(wire: FlightsWire, days: Sequence[date], *loads: str, timeout: float) -> None:
    """Load the days and verify them, by the commands: every slice is equal."""
    first, last = str(days[0]), str(days[-1])
    done = wire.run("load", *loads, "--date", last, "--lookback", str(len(days) - 1), timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded_at = time.monotonic()
    found = wire.run("verify", *loads, "-s", first, "-e", last, timeout=timeout)
    assert found.returncode == 0, found.stdout + found.stderr
    print(f"{done.stdout}\nverify, {time.monotonic() - loaded_at:.1f} s: {found.stdout}")
    equal = re.search(r"(\d[\d ,]*) equal", found.stdout)
    assert equal is not None, found.stdout
    assert int(re.sub(r"\D", "", equal[1])) == len(days) * len(loads) * len(wire.shards())


@pytest.mark.parametrize("targets", TARGETS_AT_ONCE)
@pytest.mark.parametrize(
    "sql_keys",
    ["", pytest.param('split = 3\nsplit_by = "flight"', marks=pytest.mark.long)],
    ids=["whole", "in_parts"],
)
def test_a_week_of_every_pair(
    tmp_path: Path, postgres_server: PostgresServer, targets: tuple[str, ...], sql_keys: str
) -> None:
    pairs = [(source, target) for source in SOURCES for target in targets]
    rows = by_shard(WEEK_SHARDS, AROUND_WEEK)
    with flights_wire(tmp_path, postgres_server, rows, targets, sql_keys) as wire:
        carry(wire, WEEK, *map("_".join, pairs), timeout=100)
        wanted = [row for row in rows_of(WEEK) if row[0] in WEEK_SHARDS]
        assert sum(value is None for row in wanted for value in row) > 100
        for pair in pairs:
            assert_same(wire.held(*pair), wanted)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_year_of_every_pair(year: FlightsWire, source: str, target: str) -> None:
    carry(year, YEAR, f"{source}_{target}", timeout=7000)
    assert_same(year.held(source, target), sorted(csv_rows(), key=row_key))
