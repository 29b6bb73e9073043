"""Loads whose attempts run on a Dask cluster: a real scheduler and three real workers on loopback, with TLS.

Whatever dies, nothing is lost, nothing is doubled, and the limits hold over the cluster.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dwhctl.core.errors import SessionsError
from dwhctl.load.cluster_client import cluster_problem
from dwhctl.runtime.events import RunResult
from dwhctl.sessions import Session, State
from tests.acceptance import test_fault_table as fault_table
from tests.acceptance.test_fault_table import ROWS_OF_EXTRACT, SERVER, SHARD, WAREHOUSE, Line
from tests.servers.base import Fault
from tests.support.cluster import Cluster, a_cluster
from tests.support.faulty import wait_for_end, wait_until
from tests.support.projects import DAY
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = needs_faults

SERVERS = {"mssql_0": ["abakan", "achinsk", "chita"], "mssql_1": ["kyzyl", "moscow", "omsk", "perm"]}
ROWS = 300
LOAD = ("load", "--date", str(DAY))
KEYS = 'retries = 1\nretry_delay = "1s"\ntimeout = "{}"'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with a_wire(
        tmp_path_factory.mktemp("wire"),
        SERVERS,
        max_workers=6,
        source_keys='max_connections = 2\nconnect_timeout = "1s"',
        warehouse_keys='max_connections = 4\nconnect_timeout = "1s"',
    ) as wire:
        yield wire.fill(ROWS)


@pytest.fixture
def wire(servers: Wire, cluster: Cluster, tmp_path: Path) -> Iterator[Wire]:
    """A project over the servers and the cluster, with an empty warehouse."""
    wait_until(lambda: len(cluster.workers()) == 3, "every worker is up again")
    servers.warehouse(f"DROP SCHEMA IF EXISTS {servers.schema} CASCADE")
    servers.root = tmp_path / "project"
    servers.executor, servers.load_keys = cluster.toml, KEYS.format("1m")
    for server in servers.own_servers:
        server.forget()
    yield servers.write()
    check_nothing_left(cluster)
    for server in servers.own_servers:
        server.faults.clear()


def check_loaded(wire: Wire, report: RunResult | None = None) -> None:
    if report is not None:
        assert (report.failed, report.stopped) == (0, None), (report.failures, report.stopped)
    assert wire.target_rows() == wire.source_rows()
    assert wire.staging_tables() == []


def check_nothing_left(cluster: Cluster) -> None:
    """The runs of this process have left no thread, no connection to the scheduler, and no task of an event loop."""
    assert [thread.name for thread in threading.enumerate() if thread.name in ("dask", "IO loop")] == []
    links = psutil.Process().net_connections("tcp")
    assert [link for link in links if link.raddr and link.raddr.port == cluster.port] == []
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
    assert tasks == []


def check_limits(wire: Wire) -> None:
    """No server had more sessions at once than its connection allows."""
    assert wire.dwh is not None
    assert max(server.sessions_most for server in wire.own_sources.values()) <= 2
    assert wire.dwh.sessions_most <= 4


def retried(wire: Wire) -> list[Session]:
    return [session for session in wire.sessions_newest_first() if session.state is State.UP_FOR_RETRY]


def hang(wire: Wire) -> Fault:
    """The first extract of a shard hangs, once."""
    server = wire.own_sources["mssql_0"]
    return server.faults.add(Fault("hang_query", database="abakan", statement=ROWS_OF_EXTRACT, times=1))


def in_the_middle(wire: Wire, cluster: Cluster, fault: Fault, others: int = 6) -> psutil.Process:
    """Wait until only the hanging attempt is left, and give the worker that works on it."""
    wait_until(lambda: fault.struck, "an attempt hangs", seconds=40)
    wait_until(
        lambda: sum(one.state is State.LOADED for one in wire.sessions_newest_first()) == others,
        "all others are loaded",
        seconds=40,
    )
    return cluster.worker_of(wire.own_sources["mssql_0"].port)


def later(action: Callable[[], object]) -> threading.Thread:
    """Do something while the load runs in this thread."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_load_over_the_cluster_is_what_a_load_is(
    wire: Wire, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, within the limits; the secrets are the parent's, and Dask shows none."""
    path = wire.root / "config/dwhctl.toml"
    text = path.read_text()
    passwords = sorted(set(re.findall(r'^password = "(.+)"$', text, re.MULTILINE)))
    for number, password in enumerate(passwords):
        monkeypatch.setenv(f"ONLY_OF_THE_PARENT_{number}", password)
        text = text.replace(f'"{password}"', f'{{ env = "ONLY_OF_THE_PARENT_{number}" }}')
    assert "ONLY_OF_THE_PARENT" in text.partition("[connections.warehouse]")[2].partition("\n[")[0]
    assert text.count("ONLY_OF_THE_PARENT") == 1 + len(wire.own_sources)
    path.write_text(text)
    assert cluster_problem(wire.project().executor) is None
    busy = wire.own_sources["mssql_1"]
    busy.faults.add(Fault("slow", statement=ROWS_OF_EXTRACT, seconds=0.3, times=3))
    check_loaded(wire, wire.load(inline=False))
    check_limits(wire)
    assert busy.sessions_most == 2, "three workers would have had three"
    sessions = wire.sessions_newest_first()
    assert {session.worker for session in sessions} <= {1, 2, 3}, "max_workers is six, the cluster has three"
    assert not [password for password in passwords if password in cluster.log()]
    assert "query" not in cluster.log()


def test_a_dead_worker_costs_a_retry(wire: Wire, cluster: Cluster) -> None:
    fault = hang(wire)
    killing = later(lambda: in_the_middle(wire, cluster, fault).kill())
    check_loaded(wire, wire.load(inline=False))
    killing.join()
    check_limits(wire)
    [session] = [session for session in retried(wire) if session.shard == "abakan"]
    assert session.error_class == "WorkerDiedError"
    assert "gone from the Dask cluster" in str(session.comment)


def test_a_deadline_ends_the_attempt(wire: Wire, cluster: Cluster) -> None:
    wire.load_keys = KEYS.format("4s").replace("retries = 1", "retries = 3")
    hang(wire.write())
    before = {worker.pid for worker in cluster.workers()}
    check_loaded(wire, wire.load(inline=False))
    check_limits(wire)
    assert ("abakan", "TimedOutError") in [(session.shard, session.error_class) for session in retried(wire)]
    assert before - {worker.pid for worker in cluster.workers()}, "its worker was restarted"


@pytest.mark.long
def test_a_signal_ends_the_run_and_its_attempts_within_seconds(wire: Wire, cluster: Cluster) -> None:
    fault = hang(wire)
    process = wire.start(*LOAD)
    worker = in_the_middle(wire, cluster, fault)
    others = {each.pid for each in cluster.workers()} - {worker.pid}
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = wait_for_end(process, seconds=30)
    assert process.returncode == 143, err
    assert time.monotonic() - began < 10
    assert not worker.is_running()
    assert others <= {each.pid for each in cluster.workers()}, "only the worker of the attempt is restarted"
    wait_until(lambda: wire.own_sources["mssql_0"].sessions_now == 0, "the query has ended", seconds=1)
    check_loaded(wire, wire.load(inline=False, only_missing=True))


@pytest.mark.long
def test_what_a_killed_parent_leaves_ends_and_publishes_nothing(wire: Wire, cluster: Cluster) -> None:
    fault = hang(wire)
    process = wire.start(*LOAD)
    worker = in_the_middle(wire, cluster, fault)
    process.kill()
    wait_for_end(process)
    report = wire.load(inline=False)
    assert not worker.is_running()
    check_loaded(wire, report)
    check_limits(wire)


@pytest.mark.long
def test_the_limit_holds_while_the_next_run_meets_what_a_killed_parent_left(
    wire: Wire, cluster: Cluster
) -> None:
    """Both connections of the server are in use when the parent dies, and the next run starts at once."""
    server = wire.own_sources["mssql_0"]
    fault = server.faults.add(Fault("hang_query", statement=ROWS_OF_EXTRACT, times=2))
    process = wire.start(*LOAD)
    wait_until(lambda: fault.struck == 2, "two attempts hang", seconds=40)
    process.kill()
    wait_for_end(process)
    check_loaded(wire, wire.load(inline=False))
    check_limits(wire)


def opened(wire: Wire) -> int:
    try:
        return len(wire.sessions_newest_first())
    except SessionsError:
        return 0  # the run has not made the table yet


@pytest.mark.long
def test_an_order_whose_parent_died_before_it_began_is_never_begun(wire: Wire, cluster: Cluster) -> None:
    """It waits for a worker that is stopped, while the parent dies."""
    workers = cluster.workers()
    for worker in workers:
        worker.suspend()
    process = wire.start(*LOAD)
    try:
        wait_until(lambda: opened(wire) >= 3, "the attempts have their sessions", seconds=60)
        time.sleep(1)
    finally:
        process.kill()
        wait_for_end(process)
        for worker in workers:
            worker.resume()
    time.sleep(3)
    assert all(server.sessions_most == 0 for server in wire.own_sources.values())
    check_loaded(wire, wire.load(inline=False))
    check_limits(wire)


@pytest.mark.long
def test_workers_that_die_between_result_and_publish_cost_nothing(wire: Wire, cluster: Cluster) -> None:
    assert wire.dwh is not None
    fault = wire.dwh.faults.add(Fault("slow", statement="^INSERT INTO", seconds=8.0, times=1))

    def kill() -> None:
        sources = wire.own_sources.values()
        wait_until(lambda: fault.struck > 0, "a group is being published", seconds=40)
        wait_until(lambda: not any(each.sessions_now for each in sources), "all is staged", seconds=5)
        time.sleep(1)
        assert not any(each.sessions_now for each in sources)
        for worker in cluster.workers():
            worker.kill()

    killing = later(kill)
    check_loaded(wire, wire.load(inline=False))
    killing.join()
    check_limits(wire)
    assert retried(wire) == []


@pytest.mark.long
def test_nothing_that_dask_shows_or_dumps_has_a_secret(wire: Wire, cluster: Cluster, tmp_path: Path) -> None:
    """While an attempt runs: its state on scheduler and workers, logs, and the dump that people attach to issues."""
    from distributed import Client, Security

    # The cluster has no package of tests.
    importlib.import_module("cloudpickle").register_pickle_by_value(sys.modules[__name__])
    fault = hang(wire)
    passwords = [getattr(each, "password", None) for each in wire.project().connections.values()]
    secrets = {password.reveal() for password in passwords if password is not None}
    assert secrets
    shown: list[str] = []

    def look() -> None:
        in_the_middle(wire, cluster, fault)
        files = cluster.files
        security: Any = Security(  # type: ignore[no-untyped-call]
            tls_ca_file=files["ca"], tls_client_cert=files["cert"], tls_client_key=files["key"]
        )
        make: Any = Client
        with make(cluster.address, security=security, set_as_default=False) as client:
            client.dump_cluster_state(str(tmp_path / "dump"), format="yaml")
            shown.append((tmp_path / "dump.yaml").read_text())
            shown.append(str(client.run_on_scheduler(_spoken)))
            shown.extend(str(each) for each in client.run(_spoken_of_worker).values())
            shown.append(f"{client.scheduler_info()} {client.processing()} {client.call_stack()}")
            shown.append(f"{client.get_scheduler_logs()} {client.get_worker_logs()} {client.get_events()}")
        shown.append(cluster.log())
        in_the_middle(wire, cluster, fault).kill()

    looking = later(look)
    check_loaded(wire, wire.load(inline=False))
    looking.join()
    shown.append(cluster.log())
    assert any("-abakan-" in each for each in shown), "the task is shown"
    assert [each for each in shown if any(secret in each for secret in secrets)] == []
    assert not any("FROM dbo.Orders" in each for each in shown)


def _spoken(dask_scheduler: Any) -> str:
    """What pages and messages of the scheduler are made of."""
    tasks = dask_scheduler.tasks.values()
    return " ".join(
        f"{task!r} {task.key} {task.run_spec!r} {task.annotations} {task.metadata}" for task in tasks
    )


def _spoken_of_worker(dask_worker: Any) -> str:
    tasks = dask_worker.state.tasks.values()
    return " ".join(f"{task!r} {task.key} {task.run_spec!r} {task.annotations}" for task in tasks)


@pytest.mark.long
def test_a_stopped_worker_is_ended_at_the_deadline(wire: Wire, cluster: Cluster) -> None:
    wire.load_keys = KEYS.format("8s")
    fault = hang(wire.write())
    stopped: list[psutil.Process] = []

    def stop() -> None:
        stopped.append(in_the_middle(wire, cluster, fault))
        stopped[0].suspend()

    stopping = later(stop)
    check_loaded(wire, wire.load(inline=False))
    stopping.join()
    assert not stopped[0].is_running()
    assert [session.error_class for session in retried(wire)] == ["TimedOutError"]
    check_limits(wire)


@pytest.mark.long
def test_a_worker_that_was_stopped_before_costs_no_attempt(wire: Wire, cluster: Cluster) -> None:
    wire.load_keys = KEYS.format("30s")
    stopped = cluster.workers()[0]
    stopped.suspend()
    try:
        began = time.monotonic()
        check_loaded(wire.write(), wire.load(inline=False))
        seconds = time.monotonic() - began
        assert retried(wire) == []
        assert seconds < 60, "neither the timeout nor the minute that an attempt may wait for its worker"
    finally:
        stopped.resume()
    check_limits(wire)


@pytest.mark.long
def test_the_scheduler_is_killed_and_comes_back(wire: Wire, tmp_path: Path) -> None:
    """The workers end with it, as `dask worker` does; a service manager starts them again."""
    with a_cluster(tmp_path, workers=0) as cluster:
        wire.executor = cluster.toml.replace("20s", "40s")
        fault = hang(wire.write())
        scheduler = cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker()
        gone: list[psutil.Process] = []

        def restart() -> None:
            gone.append(in_the_middle(wire, cluster, fault))
            scheduler.kill()
            scheduler.wait()
            wait_until(lambda: not gone[0].is_running(), "the attempt ends with its scheduler", seconds=20)
            cluster.start_scheduler()
            cluster.start_worker()

        restarting = later(restart)
        check_loaded(wire, wire.load(inline=False))
        restarting.join()
        assert not gone[0].is_running()
        assert "the connection to the Dask scheduler was lost" in str(retried(wire)[0].comment)
        check_limits(wire)


@pytest.mark.long
def test_the_scheduler_is_killed_and_stays_away(wire: Wire, tmp_path: Path) -> None:
    with a_cluster(tmp_path, workers=2) as cluster:
        wire.executor = cluster.toml.replace("20s", "3s")
        fault = hang(wire.write())

        def kill() -> None:
            in_the_middle(wire, cluster, fault)
            cluster.stop()

        killing = later(kill)
        report = wire.load(inline=False)
        killing.join()
        assert "did not answer within 3s" in str(report.stopped)
        assert report.exit_code == 1
    wire.executor = ""
    check_loaded(wire.write(), wire.load(inline=False, only_missing=True))


@pytest.fixture(scope="module")
def table_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with a_wire(
        tmp_path_factory.mktemp("table"),
        fault_table.SERVERS,
        max_workers=3,
        source_keys='max_connections = 2\nconnect_timeout = "1s"',
        warehouse_keys='max_connections = 4\nconnect_timeout = "1s"',
    ) as wire:
        yield wire.fill(fault_table.ROWS)


@pytest.fixture
def table(
    table_servers: Wire, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wire]:
    """The project of the fault table, whose loads run over the cluster."""
    wait_until(lambda: len(cluster.workers()) == 3, "every worker is up again")
    table_servers.executor = cluster.toml
    monkeypatch.setattr(fault_table, "load", lambda wire, line=None: wire.load(inline=False))
    yield from fault_table.prepare(table_servers, tmp_path)
    check_nothing_left(cluster)


def each(lines: tuple[Line, ...]) -> list[Any]:
    """The lines of the fault table as parameters: one is in the gate, where the local executor has the others."""
    marks = {"middle: reset": ()}
    return [pytest.param(line, id=line.name, marks=marks.get(line.name, pytest.mark.long)) for line in lines]


@pytest.mark.parametrize("line", each(SHARD))
def test_the_fault_table_at_one_shard(table: Wire, line: Line) -> None:
    fault_table.staying(table, line, fault_table.mssql_0(table).faults.add, database="abakan")


@pytest.mark.long
@pytest.mark.parametrize("line", each(tuple(line for line in SHARD if line.passes)))
def test_the_fault_table_once_at_one_shard(table: Wire, line: Line) -> None:
    fault_table.striking_once(table, line, fault_table.mssql_0(table).faults.add, database="abakan")


@pytest.mark.parametrize("line", each(SERVER))
def test_the_fault_table_at_one_server(table: Wire, line: Line) -> None:
    fault_table.staying(table, line, fault_table.mssql_0(table).faults.add)


@pytest.mark.parametrize("line", each(WAREHOUSE))
def test_the_fault_table_at_the_warehouse(table: Wire, line: Line) -> None:
    assert table.dwh is not None
    fault_table.staying(table, line, table.dwh.faults.add)


@pytest.mark.long
@pytest.mark.parametrize("line", each(tuple(line for line in WAREHOUSE if line.passes)))
def test_the_fault_table_once_at_the_warehouse(table: Wire, line: Line) -> None:
    assert table.dwh is not None
    fault_table.striking_once(table, line, table.dwh.faults.add)


@pytest.mark.long
@pytest.mark.parametrize("what", ["source", "warehouse"])
def test_the_fault_table_a_killed_server(table: Wire, what: str) -> None:
    fault_table.test_a_server_that_is_killed_and_comes_back(table, what)


@pytest.mark.long
def test_the_fault_table_a_lost_commit_and_a_wrong_password(table: Wire) -> None:
    fault_table.test_a_commit_whose_answer_is_lost_is_decided_by_looking(table)
    assert table.dwh is not None
    table.dwh.faults.clear()
    fault_table.test_a_wrong_password_costs_one_attempt_not_fifty(table)
