"""Two hosts, each with its own network, processes, name and state folder; one PostgreSQL, one Vertica, one SQL Server.

One of them is stopped in the middle of publishing and loses its connections; the other takes its work over; then the
first goes on where it stood, and nothing that it does reaches the warehouse any more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer
from tests.support.faulty import Faults, held_locks, wait_until
from tests.support.machines import SERVERS, Lan, Machine, a_lan
from tests.support.projects import DAY
from tests.support.wire import Wire

LOAD = ("load", "--date", str(DAY), "--retries", "0")
LOST = "the connection is lost"


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """The machines, for all tests of this file."""
    with a_lan() as made:
        yield made


@dataclass
class Hosts:
    """The same project on both hosts; `one` is what writes it and asks its sources."""

    lan: Lan
    database: str
    dwh: VerticaServer
    one: Wire
    two: Wire

    @property
    def first(self) -> Machine:
        """The host that starts first, and is stopped."""
        return self.lan.machines[0]

    @property
    def second(self) -> Machine:
        """The host that takes over."""
        return self.lan.machines[1]

    def load_on_second(self, *arguments: str, seconds: float = 60) -> tuple[int, str]:
        """Load there; give its exit code and what it told."""
        process = self.second.dwhctl(self.two.root, *LOAD, *arguments)
        told = self.second.wait_for_end(process, seconds=seconds)
        return process.returncode, told

    def end_connection(self) -> None:
        """The sessions database ends its connection with the first host, as it does when it hears no more of it."""
        with closing(self.lan.postgres.connect(self.database)) as db, db.cursor() as cursor:
            ours = "FROM pg_stat_activity WHERE datname = %s AND client_addr = %s"
            asked = (self.database, self.first.address)
            cursor.execute(f"SELECT pg_terminate_backend(pid) {ours}", asked)
            assert cursor.rowcount == 1

            def is_gone() -> bool:
                cursor.execute(f"SELECT 1 {ours}", asked)
                return not cursor.fetchall()

            wait_until(is_gone, "the server's connection is gone")

    def rows(self) -> list[tuple[Any, ...]]:
        """What the warehouse holds, in the form of `source_rows`."""
        found = self.dwh.execute("SELECT etl_source, id, customer, amount, start_time FROM stage.orders")
        return sorted(found, key=lambda row: (row[0], row[1], row[4]))

    def everything(self) -> tuple[list[Any], ...]:
        """All that may change: rows and their origin, staging tables, who is at the warehouse; our sessions."""
        with closing(self.lan.postgres.connect(self.database)) as db, db.cursor() as cursor:
            cursor.execute("SELECT * FROM sessions ORDER BY id")
            sessions = cursor.fetchall()
        return (
            sorted(self.dwh.execute("SELECT etl_source, etl_id, hash_id, amount FROM stage.orders")),
            self.dwh.execute("SELECT table_name FROM v_catalog.tables WHERE table_name LIKE 'dwhctl%'"),
            [one.label for one in self.dwh.sessions()],
            sessions,
        )


@pytest.fixture
def hosts(lan: Lan, tmp_path: Path) -> Iterator[Hosts]:
    """Two shards, a day of rows in each, and nothing loaded."""
    source, dwh = TdsServer(databases=()), VerticaServer()
    source.host = dwh.host = SERVERS
    database = lan.postgres.make_database()
    at = f'host = "{SERVERS}"\ndatabase = "{database}"\nuser = "postgres"'
    sessions = f'type = "postgres"\n{at}\nsslmode = "disable"'
    try:
        lan.listening(lambda: (source.start(), dwh.start()))
        servers = {"mssql_0": ["abakan", "achinsk"]}
        one = Wire(tmp_path / "one", servers, sources={"mssql_0": source}, dwh=dwh, sessions=sessions)
        one.source_keys += '\nencryption = "off"'
        one.write().make_shards().fill()
        yield Hosts(lan, database, dwh, one, dataclasses.replace(one, root=tmp_path / "two").write())
    finally:
        for machine in lan.machines:
            machine.kill_all()
            lan.plug(machine)
        source.stop()
        dwh.stop()
        lan.postgres.drop_database(database)


def test_exactly_one_of_two_hosts_runs(hosts: Hosts, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log").at("stage.write", "pause")
    roots = {hosts.first: hosts.one.root, hosts.second: hosts.two.root}
    runs = [(machine, machine.dwhctl(roots[machine], *LOAD, env=faults.env())) for machine in roots]
    faults.wait_for("stage.write", seconds=60)
    wait_until(lambda: [run.poll() for _, run in runs].count(None) == 1, "one of them gave up", seconds=60)
    [(loser, refused)] = [(machine, run) for machine, run in runs if run.poll() is not None]
    [(winner, run)] = [(machine, run) for machine, run in runs if machine is not loser]
    told = loser.wait_for_end(refused)
    assert refused.returncode == 75, told
    assert f"load orders of {DAY} is being done by dwhctl, pid" in told
    assert f" on {winner.name} (since" in told
    assert hosts.rows() == []
    faults.go_on()
    told = winner.wait_for_end(run)
    assert run.returncode == 0, told
    assert hosts.rows() == hosts.one.source_rows()
    assert faults.count("run.held") == 1


def cut_cable(hosts: Hosts) -> None:
    """No packet comes through any more, and the server gives the silent client up."""
    hosts.lan.unplug(hosts.first)
    hosts.end_connection()


def end_connection(hosts: Hosts) -> None:
    """Only the server's side ends: the first host will be told, when it can listen."""
    hosts.end_connection()


Cut = Callable[[Hosts], None]
POINTS = ("publish.begin", "publish.staged", "publish.commit", "publish.fenced", "publish.committed")
#: The gate's: right before the fence, and right behind it, where only the end of its session in the warehouse helps.
#: "new": the table holds nothing of the day, nobody deletes, and two transactions could insert side by side.
GATE = {("publish.fenced", "new", end_connection)}
STOPS = [
    pytest.param(point, what, cut, marks=() if (point, what, cut) in GATE else pytest.mark.long)
    for point in POINTS
    for what in ("new", "again")
    for cut in (end_connection, cut_cable)
]


@pytest.mark.parametrize(("point", "what", "cut"), STOPS)
def test_a_host_stopped_and_cut_off_changes_nothing_any_more(
    hosts: Hosts, tmp_path: Path, point: str, what: str, cut: Cut
) -> None:
    if what == "again":
        assert hosts.load_on_second()[0] == 0
    faults = Faults(tmp_path / "log").at(point, "pause")
    stopped = hosts.first.dwhctl(hosts.one.root, *LOAD, env=faults.env())
    faults.wait_for(point, seconds=60)
    hosts.first.stop()
    cut(hosts)
    hosts.one.in_shard(
        "abakan", "UPDATE Orders SET amount = amount + 1", "DELETE FROM Orders WHERE id % 2 = 1"
    )
    code, told = hosts.load_on_second()
    assert code == 0, told
    assert "had died" in told
    assert hosts.rows() == hosts.one.source_rows()
    before = hosts.everything()
    assert before[1:3] == ([], [])

    hosts.lan.plug(hosts.first)
    faults.go_on()
    hosts.first.go_on()
    told = hosts.first.wait_for_end(stopped)
    assert stopped.returncode == 1, told
    assert LOST in told
    # Behind the fence it did send its COMMIT, to a session that was no more.
    assert faults.count("publish.committed") == (point == "publish.committed")
    assert faults.count("publish.fenced") == (point in ("publish.fenced", "publish.committed"))
    assert hosts.everything() == before
    assert held_locks(hosts.one.root / "state") == []


@pytest.mark.long
def test_a_host_that_loses_only_the_warehouse_in_mid_commit_doubles_nothing(
    hosts: Hosts, tmp_path: Path
) -> None:
    """It cannot look, and ends, while the warehouse is still at its COMMIT. The other host ends that first."""
    for project in (hosts.one, hosts.two):
        project.load_keys = 'retries = 0\nretry_delay = "0s"\ntimeout = "6s"'
        project.write()
    faults = Faults(tmp_path / "log").at("publish.fenced", "pause")
    first = hosts.first.dwhctl(hosts.one.root, *LOAD, env=faults.env())
    faults.wait_for("publish.fenced", seconds=60)
    late = hosts.dwh.faults.add(
        Fault("slow", statement="^COMMIT", application=":publish:", seconds=60, times=1)
    )
    faults.go_on()
    wait_until(lambda: late.struck, "it commits", seconds=30)
    committing = [one.label for one in hosts.dwh.sessions()]
    hosts.lan.cut_off(hosts.first, hosts.dwh.port)
    told = hosts.first.wait_for_end(first, seconds=60)
    assert first.returncode == 1, told
    assert "2 slices in doubt on warehouse: the next run checks: CommitInDoubtError" in told
    assert [one.label for one in hosts.dwh.sessions()] == committing, "the warehouse is still at it"
    assert hosts.rows() == []

    hosts.one.in_shard(
        "abakan", "UPDATE Orders SET amount = amount + 1", "DELETE FROM Orders WHERE id % 2 = 1"
    )
    code, told = hosts.load_on_second()
    assert code == 0, told
    assert "had ended with a commit in doubt: 0 of its sessions turned out loaded, 2 abandoned" in told
    expected = hosts.one.source_rows()
    wait_until(
        lambda: not hosts.dwh.sessions() or hosts.rows() != expected, "the late commit is over", seconds=70
    )
    assert hosts.rows() == expected


@pytest.mark.long
def test_a_host_that_only_stands_still_keeps_its_work(hosts: Hosts, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log").at("publish.fenced", "pause")
    stopped = hosts.first.dwhctl(hosts.one.root, *LOAD, env=faults.env())
    faults.wait_for("publish.fenced", seconds=60)
    hosts.first.stop()
    code, told = hosts.load_on_second()
    assert code == 75, told
    assert "on etl-1 (since" in told
    faults.go_on()
    hosts.first.go_on()
    told = hosts.first.wait_for_end(stopped)
    assert stopped.returncode == 0, told
    assert hosts.rows() == hosts.one.source_rows()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_host_behind_a_cut_cable_is_given_up_and_ends(hosts: Hosts, tmp_path: Path) -> None:
    """Nobody helps: the server hears nothing of the first host, which runs on and hears nothing of the server."""
    faults = Faults(tmp_path / "log").at("publish.commit", "pause")
    lost = hosts.first.dwhctl(hosts.one.root, *LOAD, env=faults.env())
    faults.wait_for("publish.commit", seconds=60)
    hosts.lan.unplug(hosts.first)
    cut = time.monotonic()
    code, told = hosts.load_on_second("--wait", "2m", seconds=150)
    taken_over = time.monotonic() - cut
    assert code == 0, told
    assert "had died" in told
    before = hosts.everything()
    faults.go_on()
    continued = time.monotonic()
    told = hosts.first.wait_for_end(lost, seconds=120)
    ended = time.monotonic() - continued
    print(f"\ntaken over {taken_over:.0f} s after the cut; the other ended {ended:.0f} s after it went on")
    assert lost.returncode == 1, told
    assert LOST in told
    assert (taken_over < 90, ended < 60) == (True, True)
    hosts.lan.plug(hosts.first)
    assert hosts.everything() == before
