"""Worker processes: their server, how many a run has, and workers of two runs over one number of places."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import pytest

from dwhctl.core import files
from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import WorkersError
from dwhctl.load import extract, worker_process, worker_server
from dwhctl.load import workers as module
from dwhctl.load.worker_process import modules_of
from dwhctl.load.worker_server import ProcessWorker, WorkerServer
from dwhctl.load.workers import Demand, Worker, WorkerPool
from dwhctl.project.connections import SYSTEMS, types_for
from dwhctl.runtime.messages import StageResult, TargetTable
from dwhctl.runtime.slots import WORKERS, Slots
from dwhctl.systems.sqlite.system import SqliteConnection
from tests.support.faulty import wait_until
from tests.unit.dispatch_kit import ready_server


class Nobody(Worker):
    """A worker that does nothing."""

    killed = False
    is_alive = True

    def submit(self, function: Callable[..., object], *arguments: Any) -> Future[object]:
        raise AssertionError

    def kill(self) -> None:
        self.killed = True


class Clock:
    """Time as the test wants it."""

    now = 1000.0

    def monotonic(self) -> float:
        """Tell it."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The pool's clock."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def a_crew(folder: Path, places: int) -> WorkerPool:
    return WorkerPool(places, Nobody, Slots(folder, {WORKERS: places}))


def all_of(pool: WorkerPool) -> list[Worker]:
    found = []
    while (worker := pool.take()) is not None:
        found.append(worker)
    return found


def test_a_run_with_several_workers_leaves_one_to_a_run_with_none(tmp_path: Path, clock: Clock) -> None:
    large, small = a_crew(tmp_path, 3), a_crew(tmp_path, 3)
    first, second, _third = all_of(large)
    assert small.take() is None
    clock.now += 2
    large.give_back(first)
    assert getattr(first, "killed", False)
    large.give_back(second)
    assert not getattr(second, "killed", True), "one at a time"
    assert len(all_of(small)) == 1


def test_nobody_waits_nobody_is_sent_home(tmp_path: Path, clock: Clock) -> None:
    pool = a_crew(tmp_path, 2)
    workers = all_of(pool)
    clock.now += 100
    for worker in workers:
        pool.give_back(worker)
    assert set(all_of(pool)) == set(workers)


def test_the_only_worker_goes_when_it_had_its_turn(tmp_path: Path, clock: Clock) -> None:
    large, small = a_crew(tmp_path, 1), a_crew(tmp_path, 1)
    (only,) = all_of(large)
    clock.now += module._TURN_SECONDS - 1
    assert small.take() is None
    large.give_back(only)
    assert all_of(large) == [only]
    clock.now += 2
    assert small.take() is None
    large.give_back(only)
    assert len(all_of(small)) == 1


# How many workers a queue is worth


def test_a_run_begins_with_one_worker_and_few_tiny_slices_get_no_more() -> None:
    demand = Demand()
    assert demand.workers(12, [], 0.0) == 1
    demand.finished(0.01, 0.1)
    assert demand.workers(11, [0.1], 0.1) <= 2


def test_many_slices_or_long_ones_get_more_workers_after_the_first_result() -> None:
    demand = Demand()
    demand.workers(150, [], 0.0)
    demand.finished(0.1, 0.1)
    assert 10 <= demand.workers(149, [0.1], 0.1) <= 20
    demand.finished(30.0, 30.0)
    assert demand.workers(148, [], 30.0) >= 100


def test_without_a_result_the_slices_that_wait_get_all_workers() -> None:
    demand = Demand()
    assert demand.workers(50, [], 7.0) == 1
    assert demand.workers(49, [7.0], 7.2) == 1
    assert demand.stalled_at() == pytest.approx(7.3)
    assert demand.workers(49, [7.0], 7.31) == 50


def test_a_hung_slice_does_not_count_as_a_worker_of_the_others() -> None:
    demand = Demand()
    demand.workers(2, [], 0.0)
    for number in range(1, 20):
        demand.finished(0.01, number / 10)
    assert demand.workers(20, [], 1.9) == 2
    assert demand.workers(20, [0.0], 1.9) == 3


# The server process


@pytest.fixture
def server() -> Iterator[WorkerServer]:
    """A server that is not started."""
    server = WorkerServer()
    yield server
    server.close()


def forked(server: WorkerServer) -> ProcessWorker:
    while (worker := server.fork()) is None:
        time.sleep(0.02)
    assert isinstance(worker, ProcessWorker)
    return worker


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def every_system() -> list[str]:
    return modules_of(types_for("is_source"), types_for("is_target"))


def test_what_the_server_imports_starts_no_thread_and_opens_nothing(server: WorkerServer) -> None:
    server.start(every_system())
    worker = forked(server)
    process = psutil.Process(worker.pid).parent()
    assert process is not None
    assert process.num_threads() == 1
    links = [path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert sum(str(link).startswith("socket:") for link in links) == 1
    assert [str(link) for link in links if "anon_inode" in str(link)] == []
    assert {"dwhctl.systems.mssql.source", "dwhctl.systems.vertica.staging"} <= imported_in(worker)


def test_a_worker_imports_no_driver_that_its_run_has_no_use_for(server: WorkerServer) -> None:
    server.start(modules_of(["duckdb"], ["duckdb"]))
    imported = imported_in(forked(server))
    assert {"pyarrow", "duckdb"} <= imported
    assert {
        "pandas",
        "jinja2",
        "numpy.ma",
        "pymssql",
        "psycopg2",
        "vertica_python",
        "clickhouse_connect",
    } & imported == set()


def test_a_worker_finds_imported_what_an_order_is_made_of(server: WorkerServer) -> None:
    server.start(modules_of(["duckdb"], ["duckdb"]))
    assert {"dwhctl.project.loads", "dwhctl.systems.duckdb.system"} <= imported_in(forked(server))


def test_a_worker_stages_a_slice_without_pandas(server: WorkerServer) -> None:
    server.start(modules_of(["duckdb"], ["duckdb"]))
    worker = forked(server)
    made = "__import__('pyarrow').array([1, None]).to_pylist()"
    assert worker.submit(eval, made).result(60) == [1, None]
    hashed = "__import__('dwhctl.load.hash_ids').load.hash_ids._hash_of_shard('ё')"
    assert isinstance(worker.submit(eval, hashed).result(60), int)
    assert "pandas" not in imported_in(worker)


def test_a_system_of_another_package_finds_pandas(
    server: WorkerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(SYSTEMS["duckdb"]), "__module__", "another_package.system")
    server.start(modules_of(["duckdb"], []))
    worker = forked(server)
    series = "__import__('pyarrow').array(__import__('pandas').Series([1, None], dtype='Int64')).to_pylist()"
    assert worker.submit(eval, series).result(60) == [1, None]


def imported_in(worker: ProcessWorker) -> set[str]:
    """Ask by a function of Python's own: one of this file would import what the tests need."""
    return set(cast("list[str]", worker.submit(eval, "list(__import__('sys').modules)").result(60)))


def test_where_an_import_starts_a_thread_the_workers_import_it_themselves(
    server: WorkerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busy_driver.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    server.start(["busy_driver", "dwhctl.systems.duckdb.source"])
    worker = forked(server)
    assert "busy_driver" not in imported_in(worker)
    parent = psutil.Process(worker.pid).parent()
    assert parent is not None
    assert parent.num_threads() == 1


def test_results_and_errors_come_back_and_a_result_that_cannot_be_pickled_is_an_error() -> None:
    worker = forked(ready_server())
    assert worker.submit(len, "abc").result(60) == 3
    with pytest.raises(ZeroDivisionError):
        worker.submit(divide, 0).result(60)
    with pytest.raises(RuntimeError, match="pickle"):
        worker.submit(a_lock, "").result(60)
    assert worker.submit(len, "x" * 5_000_000).result(60) == 5_000_000
    worker.kill()
    wait_until(lambda: not worker.is_alive, "it is killed")


def test_a_killed_worker_has_ended_when_its_slot_is_free(server: WorkerServer) -> None:
    server.start()
    for _ in range(10):
        worker = forked(server)
        process = psutil.Process(worker.pid)
        worker.submit(time.sleep, 60)
        worker.kill()
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def divide(number: int) -> float:
    return 1 / number


def a_lock(_text: str) -> object:
    return threading.Lock()


class _Switch:
    """A lock: after its first release in this thread something happens meanwhile."""

    def __init__(self, lock: Any, meanwhile: Callable[[], None]) -> None:
        self._lock = lock
        self._meanwhile: Callable[[], None] | None = meanwhile
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._thread and (meanwhile := self._meanwhile) is not None:
            self._meanwhile = None
            meanwhile()


def test_a_worker_may_die_while_it_is_given_its_task(server: WorkerServer) -> None:
    """The thread that receives found the death between two steps of `submit`: the run ended with a traceback."""
    worker = forked(server)

    def die() -> None:
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: worker._future is None and not worker.is_alive, "its death is known")

    worker._lock = cast(Any, _Switch(worker._lock, die))
    future = worker.submit(abs, -3)
    assert isinstance(future.exception(5), BrokenExecutor)


def test_a_worker_that_dies_idle_is_replaced_at_the_next_slice(tmp_path: Path) -> None:
    pool = WorkerPool(1, ready_server().fork, Slots(tmp_path, {WORKERS: 1}))
    first = pool.take()
    assert isinstance(first, ProcessWorker)
    pool.give_back(first)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not first.is_alive, "it is dead")
    second = pool.take()
    assert isinstance(second, ProcessWorker)
    os.kill(second.pid, signal.SIGKILL)
    wait_until(lambda: not second.is_alive, "it is dead")
    third = pool.replace_dead(second)
    assert third is not second
    assert third.submit(len, "abc").result(60) == 3
    assert pool.number(third) == 1
    pool.dismiss_all()


def test_a_server_that_is_killed_costs_its_workers_and_is_started_again(server: WorkerServer) -> None:
    worker = forked(server)
    sleeps = worker.submit(time.sleep, 60)
    process = psutil.Process(worker.pid).parent()
    assert process is not None
    process.kill()
    with pytest.raises(BrokenExecutor):
        sleeps.result(60)
    assert forked(server).submit(len, "abc").result(60) == 3
    for _ in range(worker_server._MAX_RESTARTS):
        again = psutil.Process(forked(server).pid).parent()
        assert again is not None
        again.kill()
        again.wait(60)
    with pytest.raises(WorkersError, match="was killed 4 times"):
        server.fork()


def test_a_server_that_is_started_early_gets_modules_and_umask_later(
    server: WorkerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start_early()
    first = server._process
    monkeypatch.setattr(files, "_umask", 0o007)
    server.start(modules_of(["duckdb"], ["duckdb"]))
    worker = forked(server)
    assert server._process is first
    assert {"dwhctl.systems.duckdb.source", "pyarrow"} <= imported_in(worker)
    assert "pandas" not in imported_in(worker)
    assert worker.submit(eval, "__import__('os').umask(0)").result(60) == 0o007


def test_a_server_that_is_started_early_ends_at_once_with_its_run(server: WorkerServer) -> None:
    server.start_early()
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    began = time.monotonic()
    server.close()
    assert not process.is_running()
    assert time.monotonic() - began < 1.0
    program = (
        "import os, signal\nfrom dwhctl.load.worker_server import WorkerServer\nserver = WorkerServer()\n"
        "server.start_early()\nprint(server._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # It holds stdout until it ends, too.
    killed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: ended(int(killed.stdout)), "it ends with the run that was killed")


def test_a_server_that_cannot_be_started_early_is_started_when_it_is_needed(
    server: WorkerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        server.start_early()
    assert forked(server).submit(len, "abc").result(60) == 3


def test_a_server_that_cannot_import_is_said_in_words(
    server: WorkerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_server, "_PROGRAM", "raise SystemExit(1)")
    with pytest.raises(WorkersError, match="ended with exit code 1 before it was ready"):
        forked(server)


def test_a_server_that_is_killed_before_it_is_ready_is_started_again(server: WorkerServer) -> None:
    """One killed process ended the whole run, with nothing loaded."""
    for kills in range(worker_server._MAX_RESTARTS):
        if kills == 0:
            server.start(["pyarrow"])
        assert server._process is not None
        server._process.kill()
        wait_until(lambda: server._is_ready is not None, "the run hears of it")
        assert server.fork() is None
    assert forked(server).submit(len, "abc").result(60) == 3


def test_a_fork_that_is_refused_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=worker_process._Server(theirs).run)
    thread.start()
    server = WorkerServer()
    server._control, server._modules, server._is_ready = ours, [], True
    monkeypatch.setattr(server, "_process", object())
    with pytest.raises(WorkersError, match=r"Resource temporarily unavailable; raise the limit of processes"):
        server.fork()
    monkeypatch.setattr(server, "_process", None)
    ours.close()
    thread.join(60)
    theirs.close()


def test_the_end_of_a_server_is_the_end_of_its_workers(server: WorkerServer) -> None:
    workers = [forked(server) for _ in range(3)]
    workers[0].submit(time.sleep, 60)
    server.close()
    assert all(ended(worker.pid) for worker in workers)


def test_a_worker_does_not_look_for_garbage_among_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def staged(order: Any) -> StageResult:
        gc.collect()
        looked.clear()
        for _ in range(10):
            rows = [(number, "text") for number in range(extract.READ_ROWS)]
            list(zip(*rows, strict=True))
        return StageResult(order.token)

    def look(_phase: str, found: dict[str, int]) -> None:
        looked.append(found["generation"])

    monkeypatch.setattr(extract, "stage_slice", staged)
    before = gc.get_threshold()
    gc.callbacks.append(look)
    try:
        worker_process.stage_in_worker(cast("Any", type("Order", (), {"token": "t"})()))
        assert not looked
        assert gc.isenabled()
    finally:
        gc.callbacks.remove(look)
        gc.set_threshold(*before)


def test_the_table_of_many_orders_is_unpickled_once() -> None:
    connection = SqliteConnection(name="dwh", path=Path("dwh.sqlite"))
    table = TargetTable(
        connection, "orders", (Column("id", Kind.INTEGER, pa.int64(), "BIGINT"),), Path("state")
    )
    first, second = (pickle.loads(pickle.dumps(("order", number, table))) for number in range(2))
    assert first[2] is second[2]
    assert first[2] == table
    assert first[2].columns == table.columns
    wider = dataclasses.replace(
        table, columns=(*table.columns, Column("name", Kind.TEXT, pa.string(), "VARCHAR"))
    )
    assert pickle.loads(pickle.dumps(wider)) == wider != table
