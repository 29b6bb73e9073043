"""The reference outage over the wire: 150 shards and 13 days are filled, the run is killed on its way, and goes on."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwhctl.sessions import State
from tests.acceptance.test_reference_case import CITIES, sessions_in
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, held_locks, wait_for_end
from tests.support.projects import DAY, days_from
from tests.support.wire import Wire, a_wire, needs_faults

DAYS = days_from(DAY, 13)
BACKFILL = ("backfill", "-s", str(DAYS[0]), "-e", str(DAYS[-1]))

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600), needs_faults]


@pytest.fixture
def wire(tmp_path: Path, postgres_server: PostgresServer, postgres_database: str) -> Iterator[Wire]:
    """150 cities with twenty orders on each of the days, sessions in PostgreSQL."""
    sessions = sessions_in(postgres_server, postgres_database)
    with a_wire(tmp_path / "project", CITIES, sessions=sessions, max_workers=4) as wire:
        yield wire.fill(20, DAYS)


def test_the_whole_reference_case(wire: Wire, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log")
    killed = wire.start(*BACKFILL, env=faults.env())
    # 13 days of 150 slices in groups of 64 at most: on its way, wherever that is.
    faults.wait_for("publish.committed", nth=12, seconds=600)
    os.killpg(killed.pid, signal.SIGKILL)
    _, told = wait_for_end(killed)
    print(told)
    before = [one for one in wire.sessions_newest_first() if one.state is State.LOADED]
    assert 0 < len(before) < len(DAYS) * 150

    done = wire.run(*BACKFILL, "--only-missing", timeout=1200)
    print(done.stderr, done.stdout, sep="\n")
    assert done.returncode == 0, done.stderr
    assert (
        f"plan: {len(DAYS) * 150 - len(before):,} slices; left out: {len(before):,} complete" in done.stderr
    )
    assert wire.target_rows() == wire.source_rows()
    loaded = Counter(
        (one.shard, one.day) for one in wire.sessions_newest_first() if one.state is State.LOADED
    )
    assert len(loaded) == len(DAYS) * 150
    assert set(loaded.values()) == {1}
    assert wire.staging_tables() == []
    assert held_locks(wire.root / "state") == []
    print(wire.run(*BACKFILL, "--only-missing", "--dry-run").stdout)
