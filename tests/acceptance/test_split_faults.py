"""Lines of the fault table with slices in parts: what strikes one part strikes its slice, and no other one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwhctl.sessions import State
from tests.acceptance import test_fault_table as table
from tests.acceptance.test_fault_table import ROWS_OF_EXTRACT, SHARD, WAREHOUSE, Line
from tests.servers.base import Fault
from tests.support.cluster import a_cluster
from tests.support.faulty import wait_until
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = needs_faults

#: More than 300 in each of three parts: that many are sent before a fault in the middle.
ROWS = 1200
SPLITS = {"time": "split = 2", "range": 'split = 3\nsplit_by = "id"'}
#: In the gate: an error in the middle of a part, a part that hangs, and one whose COPY is cut off.
OF_THE_GATE = {
    ("time", "middle: reset"),
    ("range", "first row: hangs"),
    ("time", "copy: reset in the middle"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with a_wire(
        tmp_path_factory.mktemp("faults"),
        table.SERVERS,
        source_keys='max_connections = 2\nconnect_timeout = "1s"',
        warehouse_keys='max_connections = 4\nconnect_timeout = "1s"',
    ) as wire:
        yield wire.fill(ROWS)


@pytest.fixture
def wire(servers: Wire, tmp_path: Path) -> Iterator[Wire]:
    yield from table.prepare(servers, tmp_path)


def lines(some: tuple[Line, ...], *, once: bool = False) -> list[Any]:
    """The lines with each split."""
    return [
        pytest.param(
            line,
            keys,
            id=f"{name}-{line.name}",
            marks=() if (name, line.name) in OF_THE_GATE and once else pytest.mark.long,
        )
        for line in some
        if line.passes or not once
        for name, keys in SPLITS.items()
    ]


def split(wire: Wire, keys: str) -> None:
    wire.load_keys = f"{wire.load_keys}\n{keys}"
    wire.write()


@pytest.mark.parametrize(("line", "keys"), lines(SHARD, once=True))
def test_once_at_one_shard(wire: Wire, line: Line, keys: str) -> None:
    split(wire, keys)
    table.striking_once(wire, line, table.mssql_0(wire).faults.add, database="abakan")
    limits(wire)


@pytest.mark.parametrize(("line", "keys"), lines(WAREHOUSE, once=True))
def test_once_at_the_warehouse(wire: Wire, line: Line, keys: str) -> None:
    assert wire.dwh is not None
    split(wire, keys)
    table.striking_once(wire, line, wire.dwh.faults.add)
    limits(wire)


@pytest.mark.parametrize(("line", "keys"), lines(SHARD))
def test_at_one_shard(wire: Wire, line: Line, keys: str) -> None:
    split(wire, keys)
    table.staying(wire, line, table.mssql_0(wire).faults.add, database="abakan")


@pytest.mark.parametrize(("line", "keys"), lines(WAREHOUSE))
def test_at_the_warehouse(wire: Wire, line: Line, keys: str) -> None:
    assert wire.dwh is not None
    split(wire, keys)
    table.staying(wire, line, wire.dwh.faults.add)


def limits(wire: Wire) -> None:
    """No server had more sessions at once than its connection allows."""
    assert wire.dwh is not None
    assert max(server.sessions_most for server in wire.own_sources.values()) <= 2
    # One more is the test's own.
    assert wire.dwh.sessions_most <= 4 + 1


@pytest.mark.parametrize("keys", SPLITS.values(), ids=SPLITS)
def test_one_part_with_an_error_leaves_the_slice_as_it_was(wire: Wire, keys: str) -> None:
    split(wire, keys)
    before = wire.target_rows()
    fault = table.mssql_0(wire).faults.add(
        Fault(
            "error",
            database="abakan",
            statement=ROWS_OF_EXTRACT,
            after_rows=100,
            error=(8134, 16, "Divide"),
            times=1,
        )
    )
    report = wire.load(jobs=2)
    assert fault.struck == 1
    assert [one.shard for one in report.failures] == ["abakan"]
    table.check_after(wire, before, ("abakan",))
    (failed,) = [one for one in wire.sessions_newest_first(3) if one.state is State.FAILED]
    assert failed.attempt == 1
    table.load_well(wire)


def test_a_wrong_password_costs_one_login_not_one_for_each_part(wire: Wire) -> None:
    split(wire, "split = 8")
    server = table.mssql_0(wire)
    server.forget()
    logins = server.logins
    server.faults.add(Fault("refuse_login"))
    wire.load(inline=False, jobs=2)
    assert server.logins - logins <= 4


@pytest.mark.long
@pytest.mark.parametrize("keys", SPLITS.values(), ids=SPLITS)
def test_parts_on_a_cluster(servers: Wire, tmp_path: Path, keys: str) -> None:
    """Each part is a task of its own; a worker that dies with one of them costs an attempt of the slice."""
    (tmp_path / "cluster").mkdir()
    with a_cluster(tmp_path / "cluster") as cluster:
        servers.warehouse(f"DROP SCHEMA IF EXISTS {servers.schema} CASCADE")
        servers.root, servers.executor = tmp_path / "project", cluster.toml
        servers.load_keys = f'retries = 2\nretry_delay = "1s"\ntimeout = "1m"\n{keys}'
        for server in servers.own_servers:
            server.forget()
        servers.write()
        try:
            report = servers.load(inline=False)
            assert (report.failed, report.loaded) == (0, 3), report.failures
            assert servers.target_rows() == servers.source_rows()
            limits(servers)
            fault = table.mssql_0(servers).faults.add(
                Fault("hang_query", database="abakan", statement=ROWS_OF_EXTRACT, after_rows=100, times=1)
            )

            def kill() -> None:
                wait_until(lambda: fault.struck, "a part hangs", seconds=40)
                cluster.worker_of(table.mssql_0(servers).port).kill()

            killing = threading.Thread(target=kill)
            killing.start()
            report = servers.load(inline=False)
            killing.join()
            assert (report.failed, report.retried) == (0, 1), report.failures
            assert servers.target_rows() == servers.source_rows()
        finally:
            servers.executor = ""
            table.mssql_0(servers).faults.clear()
