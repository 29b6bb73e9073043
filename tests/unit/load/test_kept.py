"""The slots of connections that workers keep: every open connection has one, and whoever waits for one gets it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.load import staging, workers
from dwhctl.load.attempts import SliceAttempt, SliceStarter
from dwhctl.load.parts import Parts
from dwhctl.load.ready import ReadyCheck
from dwhctl.load.workers import KeptSlots, Worker, WorkerPool
from dwhctl.runtime.messages import StageOrder, StageResult, TargetTable
from dwhctl.runtime.slots import WORKERS, Slots
from dwhctl.sessions.values import NewSession, State
from dwhctl.systems.base.staging import Publication
from dwhctl.systems.base.system import KEPT
from dwhctl.systems.base.target import StagingGroup
from tests.support.faulty import held_locks
from tests.support.projects import days_from
from tests.unit.dispatch_kit import AcceptingTarget, Bench, fake_stage, read_log, ready_server
from tests.unit.runs_kit import DAY


class Connection:
    """A connection that says in the log when it is opened and closed."""

    def __init__(self, state: Path, name: str) -> None:
        self._state = state
        self.name = name
        self._note("open")

    def _note(self, what: str) -> None:
        with (self._state / "connections").open("a") as file:
            line = {"what": what, "name": self.name, "at": time.monotonic(), "pid": os.getpid()}
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close it."""
        self._note("close")


def keeping_stage(order: StageOrder) -> StageResult:
    """Stage as `fake_stage` does, over connections that are kept where the order says so."""
    state = order.table.state_dir
    used = []
    for target, name in enumerate((order.shard.connection, "dwh")):
        kept = KEPT.take(name, Connection, target=bool(target))
        used.append(kept or Connection(state, name))
    result = fake_stage(order)
    for target, connection in enumerate(used):
        if order.keep[target] and result.failure is None:
            KEPT.put(connection.name, connection, target=bool(target))
        else:
            connection.close()
    return StageResult(order.token, rows=result.rows, failure=result.failure, kept=KEPT.kept)


class CountingTarget(AcceptingTarget):
    """A warehouse that the parent connects to for a moment."""

    state = Path()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect."""
        connection = Connection(self.state, "dwh")
        time.sleep(0.01)
        try:
            yield
        finally:
            connection.close()

    def open_group(self, group: StagingGroup) -> None:
        with self.connected():
            super().open_group(group)

    def drop_group(self, group: StagingGroup) -> None:
        with self.connected():
            super().drop_group(group)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        with self.connected(), super().publication(table, slice_by, timeout) as publication:
            yield publication


def a_bench(tmp_path: Path, connections: int, shards: int = 6, **keys: object) -> Bench:
    """Make a run of so many slices of each connection on each of its days."""
    todo = {f"server_{n}/shard_{n}_{m}": ["ok 0.01"] for n in range(connections) for m in range(shards)}
    bench = Bench(tmp_path, todo, stage=keeping_stage, **keys)  # type: ignore[arg-type]
    bench.target = CountingTarget()
    bench.target.state = bench.state
    bench.store.target = bench.target
    return bench


def most_open(bench: Bench) -> Counter[str]:
    """Return the most connections of each name that were open at once. None is open now.

    The end of the run kills a worker that is not done with closing its own: it does not say so, but has ended.
    """
    now: Counter[tuple[str, int]] = Counter()
    most: Counter[str] = Counter()
    for line in sorted(log(bench), key=lambda line: line["at"]):
        name = line["name"]
        now[name, line["pid"]] += 1 if line["what"] == "open" else -1
        most[name] = max(most[name], sum(count for (one, _), count in now.items() if one == name))
    left = {(name, pid) for (name, pid), count in now.items() if count}
    assert not [pid for _, pid in left if is_running(pid)], left
    return most


def is_running(pid: int) -> bool:
    """Return whether a process has not ended: its parent need not have noticed the end."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def log(bench: Bench) -> list[dict[str, Any]]:
    """Read what the connections have said."""
    return [json.loads(line) for line in (bench.state / "connections").read_text().splitlines()]


def opened(bench: Bench, name: str) -> int:
    """Count the times that a connection was opened."""
    return sum(line["what"] == "open" and line["name"] == name for line in log(bench))


def test_a_worker_connects_once_to_the_source_of_all_slices(tmp_path: Path) -> None:
    bench = a_bench(tmp_path, 1, jobs=1).run()
    assert bench.count(State.LOADED) == 6
    assert opened(bench, "server_0") <= 2
    assert most_open(bench)["server_0"] == 1


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_every_open_connection_has_a_slot(tmp_path: Path, connections: int, limit: int) -> None:
    limits = {"server_0": limit, "server_1": 1, "dwh": limit}
    bench = a_bench(tmp_path, connections, jobs=3, limits=limits, days=days_from(DAY, 2)).run()
    assert bench.count(State.LOADED) == 12 * connections
    most = most_open(bench)
    assert all(most[name] <= limits[name] for name in most), most
    assert held_locks(bench.state) == []


def test_a_slice_without_an_order_leaves_its_worker_no_connection_without_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = a_bench(tmp_path, 1, jobs=3, limits={"server_0": 1, "dwh": 1}, days=days_from(DAY, 2))
    parts = SliceStarter.parts

    def some(starter: SliceStarter, attempt: SliceAttempt, table: TargetTable) -> Parts:
        if attempt.job.shard == "shard_0_3":
            raise ConfigError("its extract cannot be rendered")
        return parts(starter, attempt, table)

    monkeypatch.setattr(SliceStarter, "parts", some)
    bench.run()
    assert (bench.count(State.LOADED), bench.count(State.FAILED)) == (10, 2)
    assert max(most_open(bench).values()) == 1
    assert held_locks(bench.state) == []


def test_another_run_gets_a_slot_at_the_end_of_the_slice(tmp_path: Path) -> None:
    bench = a_bench(tmp_path, 1, shards=60, jobs=1, limits={"server_0": 1, "dwh": 2})
    waited: list[int] = []

    def other_run() -> None:
        while not read_log(bench.state, "end"):
            time.sleep(0.01)
        slots = Slots(bench.state, {"server_0": 1})
        assert slots.try_take("server_0") is None
        began = len(read_log(bench.state, "end"))
        while (slot := slots.try_take("server_0")) is None:
            time.sleep(0.01)
        waited.append(len(read_log(bench.state, "end")) - began)
        connection = Connection(bench.state, "server_0")
        time.sleep(0.1)
        connection.close()
        slot.release()

    other = threading.Thread(target=other_run)
    other.start()
    bench.run()
    other.join()
    assert waited[0] <= 1, "the slice that began before it waited"
    assert most_open(bench)["server_0"] == 1
    assert bench.count(State.LOADED) == 60


class Silent(Worker):
    """A worker that never answers."""

    is_alive = keeps = True

    def submit(self, function: object, task: object) -> Future[object]:
        self.answer: Future[object] = Future()
        return self.answer

    def kill(self) -> None:
        self.is_alive = False
        self.answer.set_exception(RuntimeError("killed"))


def pool_with_kept(
    folder: Path, make: Callable[[], Worker | None] = Silent
) -> tuple[Slots, WorkerPool, Worker]:
    """Give a pool whose only worker keeps a connection to server_0, which has one slot."""
    slots = Slots(folder, {"server_0": 1, WORKERS: 1})
    pool = WorkerPool(1, make, slots)
    worker = pool.take()
    assert worker is not None
    pool._kept[worker] = KeptSlots(("server_0", "dwh"), (slots.try_take("server_0"), None))
    return slots, pool, worker


def test_a_worker_that_does_not_close_its_connections_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, pool, worker = pool_with_kept(tmp_path)
    assert pool.close_kept(worker)
    assert pool.take() is None, "it is at it"
    assert slots.try_take("server_0") is None
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.0)
    pool.close_idle()
    after = pool.take()
    assert after is not None
    assert after is not worker
    assert slots.try_take("server_0") is not None


def test_a_worker_that_closes_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, pool, worker = pool_with_kept(tmp_path)
    assert isinstance(worker, Silent)
    assert pool.close_kept(worker)

    def too_late() -> float:
        worker.answer.set_result(None)  # in the thread that receives it
        return inf

    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=too_late))
    pool.close_idle()
    monkeypatch.undo()
    assert pool.take() is worker
    assert worker.is_alive
    assert slots.try_take("server_0") is not None


def test_a_worker_that_is_ended_while_its_answer_comes_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer's thread had taken it off the list of those that close; then the run ended with a KeyError."""
    _, pool, worker = pool_with_kept(tmp_path)
    assert isinstance(worker, Silent)
    pool.close_kept(worker)
    ended = worker.kill
    # As when the answer's thread is in the middle of its work.
    monkeypatch.setattr(worker, "kill", lambda: (pool._closing.setdefault(worker, 0.0), ended())[0])
    pool.dismiss(worker)
    after = pool.take()
    assert after is not None
    assert after is not worker


def test_the_slots_of_a_worker_that_ends_are_released_after_it(tmp_path: Path) -> None:
    slots, pool, worker = pool_with_kept(tmp_path, ready_server().fork)
    pool.dismiss(worker)
    assert slots.try_take("server_0") is not None
    pool.dismiss_all()


def test_a_group_that_takes_no_more_while_a_slice_starts_is_not_made_beside_a_kept_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age passes while the sessions of the slice are opened."""
    monkeypatch.setattr(staging, "MAX_AGE_SECONDS", 0.07)
    bench = a_bench(tmp_path, 1, jobs=1, limits={"dwh": 1}, days=days_from(DAY, 2))
    opened_at_once = bench.store.open

    def open_slowly(sessions: Sequence[NewSession]) -> list[int]:
        time.sleep(0.06)
        return opened_at_once(sessions)

    monkeypatch.setattr(bench.store, "open", open_slowly)
    bench.run()
    assert bench.count(State.LOADED) == 12
    assert most_open(bench)["dwh"] == 1


def test_a_shard_that_is_not_ready_is_checked_between_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check needs a slot of the connection that the worker keeps."""
    (tmp_path / "ready.sql").write_text("SELECT 1")
    keys = {"ready": tmp_path / "ready.sql", "ready_interval": timedelta(seconds=0.05)}
    bench = a_bench(tmp_path, 1, jobs=1, limits={"server_0": 1}, keys=keys, days=days_from(DAY, 4))
    checked: set[tuple[str, date]] = set()
    started: list[int] = []

    def check(one: ReadyCheck, *_: object) -> bool:
        slice_ = one.job.planned.shard.name, one.job.day
        if slice_ in checked:
            started.append(len(read_log(bench.state, "start")))
        checked.add(slice_)
        return slice_[0] != "shard_0_5" or bool(started)

    monkeypatch.setattr(ReadyCheck, "run", check)
    bench.run()
    assert bench.count(State.LOADED) == 24
    assert started[0] < 19, "the slices of the other shards, and the last of them keeps no connection"
    assert most_open(bench)["server_0"] == 1
