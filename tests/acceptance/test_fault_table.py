"""The fault table over the wire: every fault at every stage, on a shard, a server, the warehouse.

Each line says what goes wrong, what the message must name, and whom it costs. A fault that stays fails those slices,
and the next run, without it, puts them right; a fault that strikes once costs a retry. The others always finish, and
at no time is anything lost, doubled or half there.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dwhctl.runtime.events import RunResult
from dwhctl.sessions import State
from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.support.faulty import wait_for_end, wait_until
from tests.support.projects import DAY
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = needs_faults

EVERYONE = ("abakan", "achinsk", "chita")
SERVERS = {"mssql_0": ["abakan", "achinsk"], "mssql_1": ["chita"]}
ROWS = 800


@dataclass(frozen=True)
class Line:
    """One line: a fault at the source (of a shard, or its server) or at the warehouse."""

    name: str
    fault: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    costs: tuple[str, ...] = ("abakan",)
    passes: bool = True

    @property
    def hangs(self) -> bool:
        """Only the end of its worker ends it: the driver of SQL Server waits without end."""
        return self.costs != EVERYONE and self.fault["kind"] in ("hang_query", "slow")


def at(kind: str, statement: str | None = None, **keys: Any) -> dict[str, Any]:
    """A fault, at a statement."""
    return {"kind": kind, "statement": statement, **keys}


DESCRIBE = "sp_describe_first_result_set"
ROWS_OF_EXTRACT = r"^(?!.*sp_describe).*FROM dbo\.Orders"
SERVER_0 = ("abakan", "achinsk")

#: At one shard: the others of its server go on.
SHARD = (
    Line("login refused", at("refuse_login"), "abakan", passes=False),
    Line("describe: hangs", at("hang_query", DESCRIBE), "timeout"),
    Line("describe: error", at("error", DESCRIBE, error=(208, 16, "Invalid object name")), "208", passes=False),
    Line("describe: reset", at("reset", DESCRIBE), ""),
    Line("first row: error", at("error", ROWS_OF_EXTRACT, error=(229, 14, "permission denied")), "229", passes=False),
    Line("first row: hangs", at("hang_query", ROWS_OF_EXTRACT), "timeout"),
    Line("first row: closed", at("close", ROWS_OF_EXTRACT), ""),
    Line("middle: reset", at("reset", ROWS_OF_EXTRACT, after_rows=300), ""),
    Line("middle: closed", at("close", ROWS_OF_EXTRACT, after_rows=300), ""),
    Line("middle: deadlock", at("deadlock", ROWS_OF_EXTRACT, after_rows=300), "1205"),
    Line("middle: hangs", at("hang_query", ROWS_OF_EXTRACT, after_rows=300), "timeout"),
    Line("middle: error", at("error", ROWS_OF_EXTRACT, after_rows=300, error=(8134, 16, "Divide by zero")), "8134",
         passes=False),
    Line("slow beyond the timeout", at("slow", ROWS_OF_EXTRACT, after_rows=300, seconds=4.0), "timeout"),
)  # fmt: skip

#: At one server: its shards are lost, the other server's are not.
SERVER = (
    Line("hangs at accept", at("hang_accept"), "mssql_0", SERVER_0),
    Line("hangs at login", at("hang_login"), "mssql_0", SERVER_0),
    Line("every login refused", at("refuse_login"), "mssql_0", SERVER_0, passes=False),
)

#: At the warehouse: it costs everyone, and leaves what was there.
WAREHOUSE = (
    Line("hangs at accept", at("hang_accept"), "warehouse", EVERYONE),
    Line("hangs at login", at("hang_login"), "warehouse", EVERYONE),
    Line("login refused", at("refuse_login"), "warehouse", EVERYONE, passes=False),
    Line("create: error", at("error", "CREATE TABLE IF NOT EXISTS stage.orders", error=("42501", 4367, "denied")),
         "denied", EVERYONE, passes=False),
    Line("staging: no privilege", at("error", "CREATE TABLE.*dwhctl_", error=("42501", 4367, "no privilege")),
         "no privilege", EVERYONE, passes=False),
    Line("staging: hangs", at("hang_query", "CREATE TABLE.*dwhctl_"), "", EVERYONE),
    Line("publish: an insert that outlives its client", at("slow", "^INSERT INTO", seconds=8.0), "", EVERYONE),
    Line("staging: reset", at("reset", "CREATE TABLE.*dwhctl_"), "", EVERYONE),
    Line("copy: error", at("error", "^COPY", error=("53000", 3587, "Insufficient memory")), "Insufficient",
         EVERYONE),
    Line("copy: reset in the middle", at("reset", "^COPY", after_bytes=20_000), "", EVERYONE),
    Line("copy: hangs", at("hang_query", "^COPY"), "timeout|no answer from warehouse for 3 s", EVERYONE),
    Line("stage: lost before its commit", at("lost_before_commit", application=":stage:"), "", EVERYONE),
    Line("stage: lost after its commit", at("lost_after_commit", application=":stage:"), "", EVERYONE),
    Line("publish: error at the count", at("error", "GROUP BY etl_source", error=("53000", 3587, "no memory")),
         "no memory", EVERYONE),
    Line("publish: lock time-out", at("error", "^DELETE", error=("55V03", 5157, "Unavailable: X lock")), "X lock",
         EVERYONE),
    Line("publish: reset at the insert", at("reset", "^INSERT INTO"), "", EVERYONE),
    Line("publish: hangs at the insert", at("hang_query", "^INSERT INTO"), "", EVERYONE),
    Line("publish: lost before the commit", at("lost_before_commit", application=":publish"), "", EVERYONE),
)  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Two servers, three shards, a warehouse."""
    keys = 'retries = 0\nretry_delay = "1s"\ntimeout = "3s"'
    with a_wire(
        tmp_path_factory.mktemp("faults"),
        SERVERS,
        load_keys=keys,
        source_keys='max_connections = 2\nconnect_timeout = "1s"',
        warehouse_keys='max_connections = 4\nconnect_timeout = "1s"',
    ) as wire:
        yield wire.fill(ROWS)


@pytest.fixture
def wire(servers: Wire, tmp_path: Path) -> Iterator[Wire]:
    """A project over them whose slices were loaded once, with other rows than the sources have now."""
    yield from prepare(servers, tmp_path)


def prepare(servers: Wire, root: Path) -> Iterator[Wire]:
    """The project of the fixture, in this folder; other executors run the same lines."""
    for server in servers.own_servers:
        server.faults.clear()
    servers.root = root
    servers.load_keys = 'retries = 0\nretry_delay = "1s"\ntimeout = "3s"'
    servers.warehouse(f"DROP SCHEMA IF EXISTS {servers.schema} CASCADE")
    servers.write()
    load_well(servers)
    for shard in servers.shards():
        servers.in_shard(shard, "UPDATE dbo.Orders SET amount = amount + 1")
    for server in servers.own_servers:
        server.forget()
    yield servers
    for server in servers.own_servers:
        server.faults.clear()


def load(wire: Wire, line: Line | None = None) -> RunResult:
    """Load the day, with worker processes where the line needs them: to start them takes the most time here."""
    return wire.load(inline=not (line and line.hangs), jobs=2)


def load_well(wire: Wire, line: Line | None = None) -> None:
    """Load, and find everything as it should be."""
    report = load(wire, line)
    assert (report.failed, report.stopped) == (0, None), report.failures
    assert wire.target_rows() == wire.source_rows()
    assert wire.staging_tables() == []


def check_after(wire: Wire, before: list[tuple[Any, ...]], costs: tuple[str, ...]) -> None:
    """Each slice is what it was, or what it should be, whole; those that the fault does not cost are new."""
    now, wanted = wire.target_rows(), wire.source_rows()
    for shard in wire.shards():
        found = [row for row in now if row[0] == shard]
        old, new = ([row for row in rows if row[0] == shard] for rows in (before, wanted))
        assert found in (old, new), f"{shard}: {len(found)} rows"
        assert found == (old if shard in costs else new), (
            f"{shard} should {'not ' if shard in costs else ''}be new"
        )


def staying(wire: Wire, line: Line, switch_on: Callable[[Fault], object], **keys: Any) -> None:
    """The fault stays: it costs those slices, and the next run without it puts them right."""
    before = wire.target_rows()
    fault = Fault(**{**line.fault, **keys})
    switch_on(fault)
    report = load(wire, line)
    assert fault.struck > 0, "the fault was never met"
    for server in wire.own_servers:
        server.faults.clear()
    assert sorted(one.shard for one in report.failures) == sorted(line.costs)
    for one in report.failures:
        assert re.search(line.says, one.failure.message), one.failure
        assert "Traceback" not in one.failure.message
        assert "Secret" not in one.failure.message
    check_after(wire, before, line.costs)
    load_well(wire)


def striking_once(wire: Wire, line: Line, switch_on: Callable[[Fault], object], **keys: Any) -> None:
    """The fault strikes once: a retry in the same run puts it right."""
    wire.load_keys = wire.load_keys.replace("retries = 0", "retries = 2")
    wire.write()
    fault = Fault(**{**line.fault, **keys}, times=1)
    switch_on(fault)
    load_well(wire, line)
    assert fault.struck == 1
    states = [one.state for one in wire.sessions_newest_first()]
    assert State.FAILED not in states


#: Of the lines that hang, which wait for their time-outs, the gate's run has these; the others are `-m long`.
HANGS_OF_THE_GATE = {"first row: hangs", "copy: hangs"}


def named(lines: tuple[Line, ...]) -> list[Any]:
    """The lines as parameters; every second of those that do not hang is `-m long` as well."""
    short = [line for line in lines if not line.hangs][::2]
    return [
        pytest.param(
            line,
            id=line.name,
            marks=() if line in short or line.name in HANGS_OF_THE_GATE else pytest.mark.long,
        )
        for line in lines
    ]


def passing(lines: tuple[Line, ...]) -> list[Any]:
    """Those that a retry gets over: all but one are `-m long`."""
    found = [line for line in lines if line.passes]
    short = [line for line in found if line.name in ("middle: deadlock", "copy: reset in the middle")]
    return [
        pytest.param(line, id=line.name, marks=() if line in short else pytest.mark.long) for line in found
    ]


def mssql_0(wire: Wire) -> TdsServer:
    """The server of two shards."""
    return wire.own_sources["mssql_0"]


@pytest.mark.parametrize("line", named(SHARD))
def test_at_one_shard(wire: Wire, line: Line) -> None:
    staying(wire, line, mssql_0(wire).faults.add, database="abakan")


@pytest.mark.parametrize("line", passing(SHARD))
def test_once_at_one_shard(wire: Wire, line: Line) -> None:
    striking_once(wire, line, mssql_0(wire).faults.add, database="abakan")


@pytest.mark.parametrize("line", named(SERVER))
def test_at_one_server(wire: Wire, line: Line) -> None:
    staying(wire, line, mssql_0(wire).faults.add)


@pytest.mark.parametrize("line", named(WAREHOUSE))
def test_at_the_warehouse(wire: Wire, line: Line) -> None:
    assert wire.dwh is not None
    staying(wire, line, wire.dwh.faults.add)


@pytest.mark.parametrize("line", passing(WAREHOUSE))
def test_once_at_the_warehouse(wire: Wire, line: Line) -> None:
    assert wire.dwh is not None
    striking_once(wire, line, wire.dwh.faults.add)


def test_a_commit_whose_answer_is_lost_is_decided_by_looking(wire: Wire) -> None:
    assert wire.dwh is not None
    fault = wire.dwh.faults.add(Fault("lost_after_commit", application=":publish"))
    report = load(wire)
    assert fault.struck > 0
    assert (report.failed, report.retried, report.loaded) == (0, 0, 3)
    assert wire.target_rows() == wire.source_rows()
    stamped = wire.warehouse(f"SELECT DISTINCT etl_id FROM {wire.schema}.orders")
    newest = wire.sessions_newest_first(3)
    assert {etl_id for (etl_id,) in stamped} == {one.id for one in newest}


def test_a_wrong_password_costs_one_attempt_not_fifty(wire: Wire) -> None:
    mssql_0(wire).forget()
    logins = mssql_0(wire).logins
    mssql_0(wire).faults.add(Fault("refuse_login"))
    load(wire)
    # The attempt, and one look whether the login or the database is what was refused; again for each probe.
    assert mssql_0(wire).logins - logins <= 4


@pytest.mark.parametrize("what", ["source", "warehouse"])
def test_a_server_that_is_killed_and_comes_back(wire: Wire, what: str) -> None:
    before = wire.target_rows()
    server = mssql_0(wire) if what == "source" else wire.dwh
    assert server is not None
    server.kill()
    report = load(wire)
    server.revive()
    lost = SERVER_0 if what == "source" else EVERYONE
    assert sorted(one.shard for one in report.failures) == sorted(lost)
    name = "mssql_0" if what == "source" else "warehouse"
    assert all(name in one.failure.message for one in report.failures)
    check_after(wire, before, lost)
    load_well(wire)


@pytest.mark.parametrize(
    "statement",
    [
        "^COPY",
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in ("CREATE TABLE.*dwhctl_", "^INSERT", "^DROP TABLE")
        ),
    ],
)
def test_a_signal_ends_it_within_seconds_wherever_the_warehouse_hangs(wire: Wire, statement: str) -> None:
    assert wire.dwh is not None
    wire.load_keys = wire.load_keys.replace('timeout = "3s"', 'timeout = "5m"')
    wire.write()
    fault = wire.dwh.faults.add(Fault("hang_query", statement=statement))
    process = wire.start("load", "--date", str(DAY))
    wait_until(lambda: fault.struck > 0, "the fault is met", seconds=30)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_for_end(process, seconds=30)
    assert time.monotonic() - started < 10
    # Where all was published before, only the staging was left to be dropped.
    assert process.returncode in ((0, 143) if statement == "^DROP TABLE" else (143,))
    wire.dwh.faults.clear()
    load_well(wire)


def test_a_full_house_is_waited_for(wire: Wire) -> None:
    """The session limit of the warehouse is a failure that passes."""
    assert wire.dwh is not None
    wire.load_keys = wire.load_keys.replace("retries = 0", "retries = 3")
    wire.write()
    held = wire.dwh.max_sessions
    wire.dwh.max_sessions = 0
    started = time.monotonic()
    try:
        threading.Timer(1.5, lambda: setattr(wire.dwh, "max_sessions", held)).start()
        load_well(wire)
    finally:
        wire.dwh.max_sessions = held
    assert time.monotonic() - started > 1
