"""A backfill of 12 shards and 4 days over the wire is killed, and `backfill --only-missing` does the rest.

The rows of an earlier time stand in the warehouse, and its sessions are lost: every slice is missing, and every
publication replaces. In the gate one backfill dies three times over; every point, and random moments, are `long`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwhctl.sessions import State
from tests.acceptance.test_killed import (
    ALONE,
    GROUP,
    ONCE,
    PREPARING,
    PUBLISH,
    REAPING,
    SESSIONS,
    STAGE,
    Death,
    deaths,
)
from tests.support.faulty import Faults, held_locks, wait_for_end
from tests.support.projects import DAY, days_from
from tests.support.wire import Wire, a_wire, needs_faults

SHARDS = {f"mssql_{server}": [f"city_{server}_{n}" for n in range(4)] for server in range(3)}
DAYS = days_from(DAY, 4)
SLICES = 12 * 4
BACKFILL = ("backfill", "-s", str(DAYS[0]), "-e", str(DAYS[-1]), "--jobs", "2")
REST = (*BACKFILL, "--only-missing")

pytestmark = needs_faults


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Twelve shards on three servers, their orders loaded once."""
    with a_wire(tmp_path_factory.mktemp("killed"), SHARDS) as wire:
        wire.fill(3, [*DAYS, DAYS[0].replace(day=1)])
        wire.load(*DAYS)
        yield wire


@pytest.fixture
def wire(servers: Wire, tmp_path: Path) -> Wire:
    """A project without sessions over those servers, whose rows have changed since they were loaded."""
    for number, shard in enumerate(servers.shards()):
        servers.in_shard(
            shard,
            "UPDATE dbo.Orders SET amount = amount + 1",
            f"INSERT INTO dbo.Orders VALUES ({time.time_ns() // 1000}, 'new', 1.5, '{DAYS[number % 4]} 23:59:59.999')",
        )
    servers.root = tmp_path / "project"
    servers.load_keys = 'retries = 1\nretry_delay = "1s"'
    return servers.write()


def die(wire: Wire, command: tuple[str, ...], faults: Faults) -> None:
    """Run a backfill that is killed, and look that nothing of it lives on."""
    process = wire.start(*command, env=faults.env())
    wait_for_end(process, seconds=100)
    assert process.returncode == -9, f"it never came to {faults.rules}"
    assert held_locks(wire.root / "state") == []


def finish(wire: Wire) -> None:
    """Do the rest, and check everything that must be right after it."""
    done = wire.run(*REST, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    check_equal(wire)
    check_each_slice_was_loaded_once(wire)
    assert wire.staging_tables() == []
    assert held_locks(wire.root / "state") == []


def check_equal(wire: Wire) -> None:
    """Compare the rows in the sources and in the warehouse, read from both without dwhctl, then by `verify`."""
    assert wire.target_rows() == wire.source_rows(DAYS)
    verified = wire.run("verify", "-s", str(min(DAYS)), "-e", str(max(DAYS)), "--format", "json", timeout=120)
    assert (verified.returncode, json.loads(verified.stdout)) == (0, []), verified.stderr


def check_each_slice_was_loaded_once(wire: Wire) -> None:
    """Check that no slice was tried again once it was complete, and that its rows are those of its one session."""
    states = defaultdict(list)
    for one in reversed(wire.sessions_newest_first()):
        states[one.shard, one.day].append((one.state, one.id))
    assert len(states) == SLICES
    for name, tried in states.items():
        *failed, (last, _) = tried
        assert last is State.LOADED, (name, tried)
        assert State.LOADED not in [state for state, _ in failed], (name, tried)
    stand = wire.warehouse(
        f"SELECT etl_source, CAST(start_time AS DATE), etl_id FROM {wire.schema}.orders GROUP BY 1, 2, 3"
    )
    assert {(shard, day): etl_id for shard, day, etl_id in stand} == {
        name: tried[-1][1] for name, tried in states.items()
    }


# In the gate

SIX = [
    Death("prepare.create", 1, GROUP),
    Death("stage.write", 5, ALONE),
    Death("publish.commit", 1, GROUP),
    Death("publish.committed", 1, ALONE),
    Death("sessions.close.begin", 1, GROUP),
    Death("sessions.open.done", 4, ALONE),
]


@pytest.mark.parametrize("times", [3, pytest.param(6, marks=pytest.mark.long)])
def test_one_backfill_dies_again_and_again(wire: Wire, tmp_path: Path, times: int) -> None:
    for number, death in enumerate(SIX[-times:]):
        faults = Faults(tmp_path / f"log_{number}").at(death.point, death.whom, nth=death.nth)
        die(wire, REST if number else BACKFILL, faults)
    finish(wire)


# Long


@pytest.mark.long
@pytest.mark.parametrize("death", deaths(*ONCE, *STAGE, *PUBLISH, *SESSIONS, *PREPARING), ids=str)
def test_killed_at_every_point(wire: Wire, tmp_path: Path, death: Death) -> None:
    die(wire, BACKFILL, Faults(tmp_path / "log").at(death.point, death.whom, nth=death.nth))
    finish(wire)


@pytest.mark.long
@pytest.mark.parametrize("death", deaths(*REAPING), ids=str)
def test_killed_while_it_reaps_a_killed_backfill(wire: Wire, tmp_path: Path, death: Death) -> None:
    wire.load_keys = 'retries = 1\nretry_delay = "1m"'
    wire.write()
    die(
        wire,
        BACKFILL,
        Faults(tmp_path / "log").at("stage.write", "kill worker").at("publish.committed", ALONE),
    )
    die(wire, REST, Faults(tmp_path / "log_2").at(death.point, death.whom))
    finish(wire)


@pytest.mark.long
def test_killed_at_ten_random_moments(wire: Wire) -> None:
    moments = random.Random(20200714)
    killed = 0
    for number in range(10):
        process = wire.start(*(REST if number else BACKFILL))
        time.sleep(moments.uniform(0.1, 0.7))
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        wait_for_end(process)
        killed += process.returncode == -signal.SIGKILL
        assert held_locks(wire.root / "state") == []
    assert killed >= 5, "most were done before they were killed"
    finish(wire)
