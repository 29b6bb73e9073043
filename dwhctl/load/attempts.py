"""Start attempts: find a slice that may start, take its slots, open its session, write its order."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.waiting import Wait
from dwhctl.project.templates import render_extract
from dwhctl.runtime.messages import Delivered, StageOrder
from dwhctl.runtime.slots import WORKERS
from dwhctl.sessions.values import NewSession

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dwhctl.load.history import DeliveredColumns
    from dwhctl.load.publisher import Publisher
    from dwhctl.load.queue import JobQueue, SliceJob
    from dwhctl.load.staging import Groups, PublishGroup
    from dwhctl.load.workers import Worker, WorkerPool
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.circuit_breaker import CircuitBreaker
    from dwhctl.runtime.messages import TargetTable
    from dwhctl.runtime.slots import Slot, Slots
    from dwhctl.sessions.store import SessionStore

#: Workers that start within this are not worth a line.
_SLOW_START_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class SliceAttempt:
    """One attempt that is under way: with a worker, or staged and not yet published."""

    job: SliceJob
    etl_id: int
    token: str
    slots: tuple[Slot, Slot]
    worker: Worker
    started: float
    deadline: float
    group: PublishGroup | None = None
    rows: int = 0
    bytes: int = 0
    filled: Mapping[str, str] = field(default_factory=dict)
    opened: float = 0.0
    busy_seconds: float | None = None
    slots_waited: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    failed_in: str | None = None

    def land(self) -> None:
        """Take note that its worker is busy with it no more."""
        self.busy_seconds = time.monotonic() - self.opened

    def release(self) -> None:
        """Give back the slots of the source and the target."""
        for slot in self.slots:
            slot.release()


class Starter:
    """Turns jobs into flights. `blocked` tells that only another run's slots keep a job from starting."""

    def __init__(
        self,
        project: Project,
        run_id: str,
        *,
        jobs: JobQueue,
        pool: WorkerPool,
        slots: Slots,
        breaker: CircuitBreaker,
        groups: Groups,
        publisher: Publisher,
        store: SessionStore,
        delivered: DeliveredColumns,
    ) -> None:
        self.run_id = run_id
        self.blocked = False
        #: The names of the slots that the last job, or a worker, did not get.
        self.lacking: tuple[str, ...] = ()
        self._slot_wait = Wait()
        self._start_wait = Wait(first=_SLOW_START_SECONDS)
        self._project = project
        self._jobs = jobs
        self._pool = pool
        self._slots = slots
        self._breaker = breaker
        self._groups = groups
        self._publisher = publisher
        self._store = store
        self._delivered = delivered

    def take_off(self, now: float) -> list[SliceAttempt]:
        """Take as many jobs as there are workers and slots for, and open their sessions."""
        self.blocked, self.lacking = False, ()
        flights: list[SliceAttempt] = []
        while self._jobs.has_queued and (worker := self._pool.take()) is not None:
            flight = self._next_flight(worker, now)
            if flight is None:
                self._pool.give_back(worker)
                break
            flights.append(flight)
        # Of slots that another run gives back nobody tells: look again soon.
        if self._jobs.has_queued and self._pool.may_grow:
            self.blocked, self.lacking = True, self.lacking or (WORKERS,)
        self.blocked &= self._jobs.has_queued
        if flights:
            opened = time.monotonic()
            workers = [self._pool.number(one.worker) for one in flights]
            ids = self._open([one.job for one in flights], [one.token for one in flights], workers)
            for flight, etl_id in zip(flights, ids, strict=True):
                flight.etl_id, flight.opened = etl_id, opened
        return flights

    def note_waits(self, flying: Collection[SliceAttempt]) -> None:
        """Say what the run waits for when no slice can start, or no worker is there yet."""
        if self.lacking and not flying:
            self._slot_wait.note(lambda: self._slots.wanted(*self.lacking))
        else:
            self._slot_wait.end()
        if flying and not any(one.worker.is_up for one in flying):
            self._start_wait.note(lambda: f"{len(flying):,} worker processes to start")
        else:
            self._start_wait.end()

    def prepare_ahead(self, now: float) -> None:
        """Have the staging made for the slices that start next, as long as every worker is busy."""
        if self._pool.has_idle:
            return
        for job in self._jobs.next_ones():
            planned = job.planned
            load, day = planned.load, planned.slice.day
            if not self._groups.wants_ahead(load, day, now) or not self._breaker.may_start(job, now):
                continue
            if (
                self._publisher.waits_for == load.target
                or (slot := self._slots.try_take(load.target)) is None
            ):
                continue
            self._groups.begin_ahead(load, day, now, slot)

    def open_unstarted(self, jobs: Sequence[SliceJob]) -> list[int]:
        """Open sessions for jobs that no worker will see."""
        for job in jobs:
            job.attempt += 1
        return self._open(jobs, [uuid.uuid4().hex for _ in jobs], [None] * len(jobs))

    def order(self, flight: SliceAttempt, table: TargetTable) -> StageOrder:
        """Write the worker's order. Raise ConfigError or AttemptError."""
        planned = flight.job.planned
        load = planned.load
        query = render_extract(self._project, load, planned.shard, planned.slice)
        flight.group = self._groups.take(load, planned.slice.day, flight.token, time.monotonic())
        return StageOrder(
            slice=planned.slice,
            shard=planned.shard,
            source=self._project.connections[planned.shard.connection],
            query=query,
            key=load.key,
            slice_by=load.slice_by,
            table=table,
            group=flight.group.staging,
            token=flight.token,
            etl_id=flight.etl_id,
            fill_missing=load.on_new_column == "add",
            delivered=self._delivered_by(load, planned.shard.name),
            login_known=self._breaker.login_known(planned.shard.connection),
        )

    def _delivered_by(self, load: Load, shard: str) -> Delivered | None:
        """Give what the shard has delivered before, where its load fills missing columns."""
        if load.on_new_column != "add":
            return None
        return Delivered(shard, self._delivered.of(load, shard))

    def _next_flight(self, worker: Worker, now: float) -> SliceAttempt | None:
        taken: list[Slot] = []

        def has_slots(job: SliceJob) -> bool:
            slots = self._take_slots(job)
            if slots is None:
                self.blocked, self.lacking = True, job.connections
            job.waits_for_slots(now)
            taken.extend(slots or ())
            return slots is not None

        def at_first(job: SliceJob) -> bool:
            return self._breaker.may_start(job, now) and self._breaker.is_first_choice(job) and has_slots(job)

        def at_last(job: SliceJob) -> bool:
            return self._breaker.may_start(job, now) and self._has_waited(job, now) and has_slots(job)

        job = self._jobs.pop(at_first) or self._jobs.pop(at_last)
        if job is None:
            return None
        self._breaker.started(job, now)
        job.attempt += 1
        deadline = now + job.planned.load.timeout.total_seconds()
        flight = SliceAttempt(job, 0, uuid.uuid4().hex, (taken[0], taken[1]), worker, now, deadline)
        flight.slots_waited = job.has_slots(now)
        return flight

    def _has_waited(self, job: SliceJob, now: float) -> bool:
        """Tell whether a source that has not shown to work had the time to refuse who asked last."""
        connection = self._project.connections[job.connection]
        timeout = getattr(connection, "connect_timeout", timedelta(0))
        waited = self._breaker.was_asked_before(job, now - timeout.total_seconds())
        self.blocked |= not waited
        return waited

    def _take_slots(self, job: SliceJob) -> tuple[Slot, ...] | None:
        source, target = job.connections
        return None if self._publisher.waits_for == target else self._slots.try_take_all(source, target)

    def _open(
        self, jobs: Sequence[SliceJob], tokens: Sequence[str], workers: Sequence[int | None]
    ) -> list[int]:
        started = datetime.now(UTC)
        return self._store.open(
            [self._new_session(*one, started) for one in zip(jobs, tokens, workers, strict=True)]
        )

    def _new_session(self, job: SliceJob, token: str, worker: int | None, started: datetime) -> NewSession:
        planned = job.planned
        return NewSession(
            self.run_id,
            planned.load.name,
            planned.shard.name,
            planned.slice.day,
            job.attempt,
            token,
            started,
            worker,
        )
