"""Two hundred at once, as cron starts them after a long night: one runs, the others go, and nothing of them is left."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import pytest

from dwhctl.core.errors import SessionsError
from tests.postgres import PostgresServer
from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.support.faulty import held_locks, postgres_sessions, processes_of_group, wait_until
from tests.support.projects import DAY
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = needs_faults

LOAD = ("load", "--date", str(DAY))


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """One shard, whose server answers at once as long as nobody makes it slow."""
    with a_wire(tmp_path, {"mssql_0": ["abakan"]}) as wire:
        yield wire.fill()


def slow_source(wire: Wire) -> tuple[TdsServer, Fault]:
    """Let the source say nothing in answer to the load's query."""
    [server] = wire.own_sources.values()
    return server, server.faults.add(Fault("hang_query", statement="FROM dbo.Orders"))


def start_at_once(wire: Wire, many: int) -> list[Popen[str]]:
    """Start them all; what they say is read when they have ended."""
    return [wire.start(*LOAD) for _ in range(many)]


def wait_for_one(processes: list[Popen[str]], fault: Fault) -> Popen[str]:
    """Wait until all but one have given up, and the one waits for its source."""
    wait_until(lambda: _running(processes) == 1, "one is left", seconds=400)
    wait_until(lambda: fault.struck, "it waits for its source", seconds=60)
    [winner] = [process for process in processes if process.poll() is None]
    return winner


def _running(processes: list[Popen[str]]) -> int:
    return sum(process.poll() is None for process in processes)


def check_losers(losers: list[Popen[str]], winner: Popen[str]) -> None:
    """Each ended with 75, named the winner, and left no process."""
    told = [loser.communicate()[1] for loser in losers]
    assert Counter(loser.returncode for loser in losers) == {75: len(losers)}, told
    named = f"load orders of {DAY} is being done by pid {winner.pid} on "
    assert [text for text in told if named not in text] == []
    assert processes_of_group(*(loser.pid for loser in losers)) == []


def check_end(wire: Wire) -> None:
    """The day is there once, and no lock is held or says that it was."""
    assert wire.target_rows() == wire.source_rows()
    state = wire.root / "state"
    assert held_locks(state) == []
    assert [path for path in (state / "locks").rglob("*.lock") if path.read_text().strip()] == []


def end_all(processes: list[Popen[str]]) -> None:
    """Leave nothing behind, however the test ends."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutExpired):
            process.communicate(timeout=10)


def load_at_once(wire: Wire, many: int) -> None:
    """Start them; kill the one that runs; let the next take over."""
    server, fault = slow_source(wire)
    processes = start_at_once(wire, many)
    try:
        winner = wait_for_one(processes, fault)
        check_losers([process for process in processes if process is not winner], winner)
        waiting = wire.start(*LOAD, "--wait", "60s")
        processes.append(waiting)
        time.sleep(1.0)
        assert waiting.poll() is None
        server.faults.clear()
        winner.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        _, told = waiting.communicate(timeout=60)
        seconds = time.monotonic() - killed
        assert waiting.returncode == 0, told
        assert "0 of its sessions turned out loaded, 1 abandoned" in told
        assert seconds < 15, "at once: not when some timeout or lease is over"
        wait_until(lambda: not processes_of_group(winner.pid), "its workers went with it", seconds=5)
        check_end(wire)
    finally:
        end_all(processes)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_of_two_hundred_runs_and_the_next_takes_over_when_it_is_killed(wire: Wire) -> None:
    load_at_once(wire, 200)


@pytest.mark.parametrize("many", [8, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_who_does_not_run_never_connects_to_the_sessions_database(
    wire: Wire, many: int, postgres_server: PostgresServer, postgres_database: str
) -> None:
    """A server takes a hundred connections as it is installed; here it takes two: the one's, and the next one's."""
    role = f"{postgres_database}_etl"
    postgres_server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'Secret_789' CONNECTION LIMIT 2")
    try:
        postgres_server.run(f"GRANT CREATE ON SCHEMA public TO {role}", postgres_database)
        of_role = PostgresServer(postgres_server.host, postgres_server.port, role, "Secret_789")
        wire.sessions = postgres_sessions(of_role, postgres_database)
        wire.write()
        load_at_once(wire, many)
    finally:
        postgres_server.run(f"DROP OWNED BY {role} CASCADE", postgres_database)
        postgres_server.run(f"DROP ROLE {role}")


def test_a_sessions_database_that_takes_no_more_connections_says_what_to_do(
    wire: Wire, postgres_server: PostgresServer, postgres_database: str
) -> None:
    role = f"{postgres_database}_etl"
    postgres_server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'Secret_789' CONNECTION LIMIT 0")
    try:
        of_role = PostgresServer(postgres_server.host, postgres_server.port, role, "Secret_789")
        wire.sessions = postgres_sessions(of_role, postgres_database)
        with pytest.raises(SessionsError, match=r"too many connections.*max_connections"):
            wire.write().load()
    finally:
        postgres_server.run(f"DROP ROLE {role}")
