"""One dead server with fifty databases: what it costs the hundred others, in time. A backlog: what it costs Vertica."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.support.faulty import wait_for_end
from tests.support.projects import DAY, days_from
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = [needs_faults, pytest.mark.timeout(600)]

CITIES = {f"mssql_{server}": [f"city_{server}_{n:02}" for n in range(50)] for server in range(3)}
OTHERS = "city_[12]_*"
#: How dead a server can be.
DEATHS: dict[str, Callable[[TdsServer], object]] = {
    "refuses connections": lambda server: server.kill(),
    "hangs at accept": lambda server: server.faults.add(Fault("hang_accept")),
    "hangs at login": lambda server: server.faults.add(Fault("hang_login")),
    "refuses logins": lambda server: server.faults.add(Fault("refuse_login")),
}


@pytest.fixture
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """150 cities of 1,500 orders."""
    keys = 'retries = 1\nretry_delay = "1s"'
    with a_wire(
        tmp_path_factory.mktemp("dead"), CITIES, load_keys=keys, source_keys='connect_timeout = "5s"'
    ) as wire:
        yield wire.fill(1_500)


def seconds_of_others(wire: Wire, *arguments: str) -> float:
    """Load; give the seconds from the start of the command until the last of the others was loaded."""
    wire.warehouse(f"DROP TABLE IF EXISTS {wire.schema}.orders CASCADE")
    started = time.time()
    process = wire.start("load", "--date", str(DAY), "--jobs", "2", "--quiet", *arguments)
    wait_for_end(process, seconds=200)
    newest = wire.sessions_newest_first(1_000)
    others = [one for one in newest if one.run_id == newest[0].run_id and "_0_" not in str(one.shard)]
    assert len(others) == 100
    assert all(one.successful for one in others)
    return max(one.finished.timestamp() for one in others if one.finished is not None) - started


@pytest.mark.long
@pytest.mark.parametrize("how", DEATHS)
def test_a_dead_server_costs_the_others_less_than_half_their_time(wire: Wire, how: str) -> None:
    alone = min(seconds_of_others(wire, "--shard", OTHERS) for _ in range(2))
    DEATHS[how](wire.own_sources["mssql_0"])
    beside = min(seconds_of_others(wire) for _ in range(2))
    print(f"{how}: the other hundred took {beside:.1f} s, alone {alone:.1f} s: {beside / alone:.2f}")
    assert beside < 1.5 * alone
    failed = [one for one in wire.sessions_newest_first(1_000) if one.successful is False]
    assert {one.shard for one in failed} == set(CITIES["mssql_0"])
    assert all("mssql_0" in (one.comment or "") for one in failed)


@pytest.mark.long
def test_a_backlog_of_thirteen_days_stays_far_from_the_container_limit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    days = days_from(DAY - timedelta(days=12), 13)
    cities = {name: shards[:4] for name, shards in CITIES.items()}
    with a_wire(tmp_path_factory.mktemp("backlog"), cities, max_workers=2) as wire:
        wire.fill(20, days)
        for day in days:
            assert wire.load(day, retries=0).failed == 0
        assert wire.target_rows() == wire.source_rows()
        assert wire.dwh is not None
        # One publication a day, and the containers of a group's staging table: the limit is 1,024.
        assert wire.dwh.containers(f"{wire.schema}.orders") <= 2 * len(days)
        assert wire.dwh.most_containers < 100
