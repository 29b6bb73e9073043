"""The reference case over the wire: three SQL Servers with fifty cities each, Vertica, sessions in PostgreSQL."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.sessions import State
from tests.postgres import PostgresServer
from tests.support.faulty import held_locks, wait_for_end
from tests.support.projects import DAY
from tests.support.wire import Wire, a_wire

CITIES = {f"mssql_{server}": [f"city_{server}_{n:02}" for n in range(50)] for server in range(3)}
LOAD = ("load", "--date", str(DAY), "--jobs", "2")
SOURCE_LIMIT, WAREHOUSE_LIMIT = 2, 3


def sessions_in(server: PostgresServer, database: str) -> str:
    """The sessions' connection, as a project writes it."""
    return (
        f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\nuser = "{server.user}"\n'
        f'database = "{database}"'
    )


@pytest.fixture(scope="module", params=[100, pytest.param(1_000, marks=pytest.mark.long)])
def rows(request: pytest.FixtureRequest) -> int:
    """The least orders of a city on the day; the most are twice as many."""
    return int(request.param)


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory, rows: int) -> Iterator[Wire]:
    """150 cities with their orders on the day, and some on its neighbours."""
    root = tmp_path_factory.mktemp("cities")
    limits = {
        "source_keys": f"max_connections = {SOURCE_LIMIT}",
        "warehouse_keys": f"max_connections = {WAREHOUSE_LIMIT}",
    }
    with a_wire(root, CITIES, **limits) as wire:
        orders = random.Random(7)
        for shard in wire.shards():
            wire.fill(orders.randint(rows, 2 * rows), shards=[shard])
            wire.fill(3, [DAY - timedelta(days=1), DAY + timedelta(days=1)], shards=[shard])
        yield wire


@pytest.fixture
def wire(cities: Wire, postgres_server: PostgresServer, postgres_database: str, tmp_path: Path) -> Wire:
    """A project of one's own over those servers, with sessions and a target table of its own."""
    cities.root = tmp_path
    cities.sessions = sessions_in(postgres_server, postgres_database)
    cities.warehouse(f"DROP TABLE IF EXISTS {cities.schema}.orders CASCADE")
    for server in cities.own_servers:
        server.forget()
    return cities.write()


def run(wire: Wire) -> None:
    """Load the day in a process of its own."""
    done = wire.run(*LOAD)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_city_is_loaded_and_a_second_run_changes_nothing_but_etl_id(wire: Wire, rows: int) -> None:
    run(wire)
    wanted = wire.source_rows([DAY])
    assert 150 * rows <= len(wanted) <= 300 * rows
    assert wire.target_rows() == wanted
    sessions = wire.sessions_newest_first()
    assert Counter(one.state for one in sessions) == {State.LOADED: 150}
    assert sum(one.loaded_rows or 0 for one in sessions) == len(wanted)
    first = stamps(wire)
    assert {etl_id for _, _, etl_id, _ in first} == {one.id for one in sessions}

    run(wire)
    assert wire.target_rows() == wanted
    second = stamps(wire)
    assert [row[:2] + row[3:] for row in second] == [row[:2] + row[3:] for row in first]
    newer = {one.id for one in wire.sessions_newest_first()} - {one.id for one in sessions}
    assert {etl_id for _, _, etl_id, _ in second} == newer
    assert wire.staging_tables() == []
    assert held_locks(wire.root / "state") == []
    check_limits(wire)


def stamps(wire: Wire) -> list[tuple[str, int, int, int]]:
    """Give etl_source, id, etl_id and hash_id of every row."""
    return sorted(
        (str(source), int(key), int(etl_id), int(hash_id))
        for source, key, etl_id, hash_id in wire.warehouse(
            f"SELECT etl_source, id, etl_id, hash_id FROM {wire.schema}.orders"
        )
    )


def check_limits(wire: Wire) -> None:
    """Check that no server ever had more sessions at once than its connection allows."""
    for name, server in wire.own_sources.items():
        assert 1 <= server.sessions_most <= SOURCE_LIMIT, name
    if wire.dwh is not None:
        assert 1 <= wire.dwh.sessions_most <= WAREHOUSE_LIMIT


def test_three_loads_in_three_processes_keep_the_limits_together(wire: Wire) -> None:
    for name in ("orders", "copies", "more_copies"):
        wire.put_load(name, name)
        wire.warehouse(f"DROP TABLE IF EXISTS {wire.schema}.{name} CASCADE")
    for server in wire.own_servers:
        server.forget()
    names = ("orders", "copies", "more_copies")
    shards = "city_?_0?"
    loads = [
        wire.start("load", name, "--date", str(DAY), "--shard", shards, "--jobs", "2", "--quiet")
        for name in names
    ]
    for process in loads:
        _, err = wait_for_end(process, seconds=100)
        assert process.returncode == 0, err
    check_limits(wire)
    chosen = [shard for shard in wire.shards() if "_0" in shard[-3:]]
    wanted = wire.source_rows([DAY], chosen)
    for name in names:
        assert wire.target_rows(name) == wanted, name
