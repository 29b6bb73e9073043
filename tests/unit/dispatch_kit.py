"""The dispatch loop in a run of its own: real workers, a made-up stage function, sessions in memory."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    ExitCode,
    LoginRefusedError,
    QueryError,
    SchemaDriftError,
    SourceError,
)
from dwhctl.engine.jobs import Attempts
from dwhctl.load.attempts import SliceJob, SliceParts
from dwhctl.load.publish import Publisher
from dwhctl.load.scheduler import SliceScheduler
from dwhctl.load.staging import Groups, StagingCreator
from dwhctl.load.worker_server import WorkerServer, WorkersReady
from dwhctl.load.workers import Worker, WorkerPool
from dwhctl.project.connections import Connection
from dwhctl.project.loads import Load
from dwhctl.runtime.circuit_breaker import CircuitBreaker, Prober
from dwhctl.runtime.events import Event, Notice, RunResult, SliceClosed
from dwhctl.runtime.messages import NOTES, Failure, StageOrder, StageResult, Step, TargetTable
from dwhctl.runtime.prepare import DeliveredColumns, PreparedTables
from dwhctl.runtime.slots import WORKERS, Slots
from dwhctl.sessions.schema import Schema
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import Closing, NewSession, State
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from tests.unit.projects import a_load, a_project
from tests.unit.runs_kit import DAY, FREELY, FakeTarget, planned

_ERRORS: dict[str, AttemptError] = {
    "connect": ConnectError("server_0 is down"),
    "login": LoginRefusedError("Login failed for user 'sa'"),
    "transient": SourceError("reset by peer"),
    "permanent": QueryError("no such table"),
    "new_column": SchemaDriftError("note is new", [Column("note", Kind.TEXT, None, "VARCHAR")]),
}
#: What a source does that never answers a query.
_NO_ANSWER = ("connect", "login", "kill")


def fake_stage(order: StageOrder) -> StageResult:
    """Do what the test wrote down for this shard's attempt, and keep a log of when."""
    state = order.table.state_dir
    shard = order.shard.name
    attempt = sum(line["shard"] == shard for line in read_log(state, "start"))
    write_log(state, "start", order)
    todo = json.loads((state / "todo.json").read_text()).get(shard, ["ok"])
    what, _, seconds = todo[min(attempt, len(todo) - 1)].partition(" ")
    if what not in _NO_ANSWER and not order.login_known:
        NOTES.answered()
    time.sleep(float(seconds or 0))
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill_later":
        threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if what == "raise":
        raise RuntimeError("a defect")
    write_log(state, "end", order)
    if what in _ERRORS:
        return StageResult(order.token, failure=Failure.of(_ERRORS[what]))
    # Of a slice in parts the first one has the row.
    has_row = what != "empty" and order.step is Step.STAGE and order.part <= 1
    return StageResult(order.token, rows=int(has_row), bytes=10)


def write_log(state: Path, what: str, order: StageOrder) -> None:
    """Add a line, whole."""
    line = {"what": what, "shard": order.shard.name, "connection": order.shard.connection,
            "at": time.monotonic(), "pid": os.getpid()}  # fmt: skip
    with (state / "log").open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_log(state: Path, what: str | None = None) -> list[dict[str, Any]]:
    """Give the lines, or those of one kind."""
    path = state / "log"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if what in (None, line["what"])]


@cache
def ready_server() -> WorkerServer:
    """Give the server process of all benches: its imports take longer than most of their runs."""
    is_ready = threading.Event()
    server = WorkerServer()
    server.start([__name__], is_ready.set)
    atexit.register(server.close)
    assert is_ready.wait(60)
    return server


class AcceptingTarget(FakeTarget):
    """Takes for staged whatever the workers said they had staged: one row each."""

    def accept(self, token: str, shard: str, etl_id: int) -> None:
        """Have a row staged under a token."""
        self.in_staging[token] = (shard, etl_id, 1)


class SlowToRefuse(DuckdbConnection):
    """A connection that takes time to refuse a login."""

    connect_timeout: timedelta = timedelta(minutes=5)


class MemoryStore(SessionStore):
    """Sessions in a list."""

    def __init__(self, target: AcceptingTarget) -> None:
        self.opened: list[NewSession] = []
        self.closed: dict[int, Closing] = {}
        self.target = target

    @contextmanager
    def opening(
        self, sessions: Sequence[NewSession], closings: Sequence[Closing] = ()
    ) -> Iterator[list[int]]:
        first = len(self.opened) + 1
        self.opened += sessions
        for number, one in enumerate(sessions, first):
            self.target.accept(one.staged, str(one.shard), number)
        yield list(range(first, first + len(sessions)))

    def close(self, closings: Sequence[Closing]) -> None:
        for one in closings:
            assert one.id not in self.closed, "closed twice"
            self.closed[one.id] = one

    def raise_id_floor(self, above: int) -> None:
        pass

    def delivered_columns(self, load: str) -> dict[str, dict[str, str]]:
        return {}

    def fail_waiting(self, run_id: str, comment: str | None = None) -> int:
        return 0

    def check_alive(self) -> None:
        pass

    @property
    def _schema(self) -> Schema:
        raise AssertionError("the dispatch loop makes no table")

    def _operation(self, doing: str) -> AbstractContextManager[None]:
        raise AssertionError(f"the dispatch loop does nothing else with the sessions: {doing}")

    def _begin(self) -> None:
        raise AssertionError("the dispatch loop has no transaction of its own")

    def _encode(self, value: object) -> object:
        raise AssertionError(value)


@dataclass
class Bench:
    """A run over shards `connection/shard` and days; `todo` says what each attempt at a shard does.

    The slices of the shards in `parts` are cut into so many: `todo` then says what each order does.
    """

    root: Path
    todo: Mapping[str, Sequence[str]]
    jobs: int = 2
    limits: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    stop_after: float | None = None
    days: Sequence[date] = (DAY,)
    make: Callable[[], Worker | None] | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    stage: Callable[[StageOrder], StageResult] = fake_stage
    connection: type[DuckdbConnection] = DuckdbConnection

    def __post_init__(self) -> None:
        self.state = self.root / "state"
        self.state.mkdir()
        (self.root / "extract.sql").write_text("SELECT 1 AS id WHERE :start < :end")
        shards = {name.partition("/")[2]: list(what) for name, what in self.todo.items()}
        (self.state / "todo.json").write_text(json.dumps(shards))
        self.target = AcceptingTarget()
        self.store = MemoryStore(self.target)
        self.events: list[Event] = []
        self.report = RunResult("run")
        self.signal: ExitCode | None = None

    @property
    def load(self) -> Load:
        """The load."""
        keys = {
            "retries": 1,
            "retry_delay": timedelta(seconds=0.1),
            "timeout": timedelta(seconds=60),
            **self.keys,
        }
        return a_load(extract=self.root / "extract.sql", **keys)

    def run(self) -> Bench:
        """Dispatch to the end."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        slots = Slots(self.state, {**self.limits, WORKERS: self.jobs})
        scheduler = self._scheduler(slots, events)
        if self.stop_after is not None:
            threading.Timer(self.stop_after, events.put, (ExitCode.TERMINATED,)).start()
        try:
            self.signal = scheduler.run()
            if self.signal is not None:
                scheduler.stop()
            else:
                scheduler.finish()
        finally:
            scheduler.end()
        assert len(self.store.closed) == len(self.store.opened), "a session was left open"
        return self

    def _scheduler(self, slots: Slots, events: queue.SimpleQueue[Any]) -> SliceScheduler:
        names = [name.partition("/") for name in self.todo]
        connections: dict[str, Connection] = {
            one: self.connection(name=one, path=self.root / one)
            for one in {connection for connection, _, _ in names}
        }
        warehouse = DuckdbConnection(name="dwh", path=self.root / "dwh.duckdb")
        connections |= {"dwh": warehouse, "sessions": SqliteConnection(name="sessions", path=self.root / "s")}
        project = a_project(self.root)
        object.__setattr__(project, "connections", connections)
        load = self.load
        make = self.make
        if make is None:
            ready_server().answered = events.put
            make = ready_server().fork
        creator = StagingCreator({"dwh": self.target}, events.put)
        table = TargetTable(warehouse, load.table, (), self.state)
        parts = SliceParts(
            pool=WorkerPool(self.jobs, make, slots, lambda: events.put(WorkersReady())),
            breaker=CircuitBreaker(),
            prober=Prober(connections, slots, events.put),
            groups=Groups("run", creator.open),
            creator=creator,
            publisher=Publisher({"dwh": self.target}, slots, events.put, FREELY),
            delivered=DeliveredColumns(self.store),
            stage=self.stage,
        )
        return SliceScheduler(
            project,
            PreparedTables({load.name: table}),
            parts,
            {},
            run_id="run",
            jobs=[
                SliceJob(planned(shard, connection, load, day), parts=self.parts.get(shard, 1))
                for day in self.days
                for connection, _, shard in names
            ],
            attempts=Attempts(self.store, self.report, self.events.append, None),
            slots=slots,
            events=events,
        )

    # What came of it

    def states(self) -> dict[str, list[str]]:
        """Give the states of each shard's sessions, in their order, each with its error."""
        found: dict[str, list[str]] = {}
        for number, one in enumerate(self.store.opened, 1):
            closing = self.store.closed[number]
            text = str(closing.state) + (f" {closing.error_class}" if closing.error_class else "")
            found.setdefault(str(one.shard), []).append(text)
        return found

    def count(self, state: State) -> int:
        """Count sessions in a state."""
        return Counter(one.state for one in self.store.closed.values())[state]

    def starts(self, shard: str | None = None) -> list[float]:
        """Give the times at which attempts began."""
        return [line["at"] for line in read_log(self.state, "start") if shard in (None, line["shard"])]

    def idle_seconds(self) -> float:
        """Add up how long workers had nothing to do between their first attempt and the run's last start."""
        by_worker: dict[int, list[dict[str, Any]]] = {}
        for line in read_log(self.state):
            by_worker.setdefault(line["pid"], []).append(line)
        return sum(
            float(after["at"] - before["at"])
            for lines in by_worker.values()
            for before, after in itertools.pairwise(lines)
            if before["what"] == "end"
        )

    def most_at_once(self, connection: str | None = None) -> int:
        """Give the most attempts that were under way at once."""
        now = most = 0
        for line in sorted(read_log(self.state), key=lambda line: line["at"]):
            if connection in (None, line["connection"]):
                now += 1 if line["what"] == "start" else -1
                most = max(most, now)
        return most

    def notices(self) -> list[str]:
        """Give the notices."""
        return [one.text for one in self.events if isinstance(one, Notice)]

    def closings(self) -> list[SliceClosed]:
        """Give the closed slices as the listener was told."""
        return [one for one in self.events if isinstance(one, SliceClosed)]
