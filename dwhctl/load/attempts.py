"""Attempts at slices: start them, and keep those whose commit is in doubt.

`SliceStarter` finds a slice that may start, takes its slots, opens its session and writes the worker's order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field, structs

from dwhctl.core.errors import QuarantinedError, WorkerDiedError
from dwhctl.core.waiting import Wait, retry_seconds
from dwhctl.engine.jobs import Attempt, Attempts, Job
from dwhctl.load.parts import Parts
from dwhctl.load.worker_process import stage_in_worker
from dwhctl.load.workers import Demand, Worker, WorkerLostError, WorkerPool
from dwhctl.project.parts import check_split, time_parts
from dwhctl.project.templates import render_extract
from dwhctl.runtime.events import ClosedFacts, SliceClosed
from dwhctl.runtime.messages import (
    Delivered,
    Failure,
    StageOrder,
    StageResult,
    Step,
    TargetTable,
)
from dwhctl.runtime.slots import WORKERS, Slot
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from dwhctl.engine.run import Scheduler
    from dwhctl.load.direct import DirectPublication
    from dwhctl.load.publish import Published, Publisher
    from dwhctl.load.staging import Groups, PublishGroup, StagingCreator
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.circuit_breaker import CircuitBreaker, Prober
    from dwhctl.runtime.plan import Plan, PlannedSlice
    from dwhctl.runtime.prepare import DeliveredColumns
    from dwhctl.systems.base.target import Target

#: A wait for workers to start is announced after the first. An attempt's timeout begins no later than after the second,
#: if its worker on a cluster has not begun with it.
_SLOW_START_SECONDS, _MOST_QUEUED_SECONDS = 5.0, 60.0
_MAX_DEATHS = 2


class SliceJob(Job):
    """One slice to load. `deaths` counts workers that died at work on it, `additions` the columns added for it.

    `direct`: its worker writes into the table itself. `parts` are read and staged at once, where there are workers.
    """

    config: Load
    connections: tuple[str, str]

    def __init__(self, planned: PlannedSlice, *, direct: bool = False, parts: int = 1) -> None:
        connections = planned.shard.connection, planned.load.target
        super().__init__(planned.load, planned.shard.name, planned.slice.day, connections)
        self.planned = planned
        self.direct = direct
        self.parts = parts
        self.deaths = 0
        self.additions = 0
        self.slots_wanted: float | None = None

    def closed(self, facts: ClosedFacts, attempt: Attempt[Any, Any] | None) -> SliceClosed:
        return SliceClosed(*facts, *((attempt.steps, attempt.runner.failed_in) if attempt else ()))

    def seconds_waited(self, now: float) -> float:
        """Return how long it waited for slots, now that it has them."""
        wanted, self.slots_wanted = self.slots_wanted, None
        return 0.0 if wanted is None else now - wanted

    def killed_its_worker(self, error: BaseException | None) -> Failure:
        """Count a worker that died while it worked on the job, and return the failure of the attempt."""
        self.deaths += 1
        if self.deaths >= _MAX_DEATHS:
            return Failure.of(QuarantinedError())
        killed = error is None or isinstance(error, BrokenExecutor)
        why = "killed, out of memory, or crashed" if killed else f"{type(error).__name__}: {error}"
        why += f" ({error})" if isinstance(error, WorkerLostError) else ""
        return Failure.of(WorkerDiedError(f"the worker process died: {why}"))


class InWorker(Struct, eq=False):
    """What works on an attempt: a worker process; then its rows wait in a group to be published.

    The worker and the slots of a `direct` attempt are busy until then. `given` is when the worker was given the order.
    The slice may be cut into parts: `at_work` are the workers that have an order of it now, with their slots.
    `answered`: its source works. `put_off`: it was ended because its source did not answer while others waited.
    `ended_before` counts the orders carried out before it was given.
    """

    worker: Worker
    parts: Parts | None = None
    at_work: dict[Worker, tuple[Slot, ...]] = field(default_factory=dict)
    slots_waited: float = 0.0
    given: float | None = None
    ended_before: int = 0
    answered: bool = False
    put_off: bool = False
    group: PublishGroup | None = None
    filled: Mapping[str, str] = field(default_factory=dict)
    failed_in: str | None = None
    direct: DirectPublication | None = None
    kept: tuple[bool, bool] = (False, False)


SliceAttempt = Attempt[SliceJob, InWorker]


def slice_jobs(plan: Plan, targets: Mapping[str, Target], *, local: bool) -> list[SliceJob]:
    """Return the jobs of a plan: a slice that is the only one of its load is written directly where the target can.

    Only by a `local` worker, which keeps its process until the publication.
    """
    slices = Counter(planned.load.name for planned in plan.slices)

    def is_direct(load: Load) -> bool:
        is_alone = local and slices[load.name] == 1
        return is_alone and load.can_be_direct and targets[load.target].writes_directly

    return [
        SliceJob(planned, direct=is_direct(planned.load), parts=planned.load.split) for planned in plan.slices
    ]


class Doubt(Struct, eq=False):
    """The attempts of one commit, each with its outcome. `look_at` is a monotonic time; None during a look-up."""

    load: Load
    slices: list[tuple[SliceAttempt, Published]]
    looks: int = 0
    look_at: float | None = None

    @property
    def outcomes(self) -> list[Published]:
        """Return the outcomes of the slices as far as they are known."""
        return [outcome for _, outcome in self.slices]


class Doubts:
    """The commits in doubt of one run.

    `request` makes the publisher look one up. `decided` is called with each attempt whose outcome is then known.
    """

    def __init__(
        self,
        attempts: Attempts,
        request: Callable[[Doubt], None],
        decided: Callable[[SliceAttempt, Published], None],
    ) -> None:
        self._attempts = attempts
        self._request = request
        self._decided = decided
        self._open: list[Doubt] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(self, doubt: Doubt) -> None:
        """Take a commit in doubt: it is looked up later, or by the next run."""
        refused = any(outcome.failure and outcome.failure.permanent for outcome in doubt.outcomes)
        if refused or doubt.looks >= self._attempts.retries(doubt.load):
            self._leave(doubt)
        else:
            doubt.look_at = time.monotonic() + retry_seconds(doubt.load.retry_delay, doubt.looks + 1)
            self._open.append(doubt)

    def look_up(self, now: float) -> None:
        """Request the look-ups that are due."""
        for doubt in self._open:
            if doubt.look_at is not None and doubt.look_at <= now:
                doubt.look_at = None
                doubt.looks += 1
                self._request(doubt)

    def next_look(self) -> float | None:
        """Return the time of the next look-up."""
        return min((doubt.look_at for doubt in self._open if doubt.look_at is not None), default=None)

    def looked_up(self, doubt: Doubt, outcomes: Sequence[Published]) -> None:
        """Take what a look-up found."""
        self._open.remove(doubt)
        doubt.slices = [(attempt, found) for (attempt, _), found in zip(doubt.slices, outcomes, strict=True)]
        if any(outcome.in_doubt for outcome in outcomes):
            self.take(doubt)
            return
        for attempt, outcome in doubt.slices:
            self._decided(attempt, outcome)

    def stop(self) -> None:
        """Leave all of them to the next run."""
        for doubt in self._open:
            self._leave(doubt)
        self._open.clear()

    def _leave(self, doubt: Doubt) -> None:
        for attempt, outcome in doubt.slices:
            self._attempts.close(attempt, State.RUNNING, outcome.failure)


class SliceParts(Struct, frozen=True):
    """The parts that the loop over slices uses."""

    pool: WorkerPool
    breaker: CircuitBreaker
    prober: Prober
    groups: Groups
    creator: StagingCreator
    publisher: Publisher
    delivered: DeliveredColumns
    demand: Demand = field(default_factory=Demand)
    stage: Callable[[StageOrder], StageResult] = stage_in_worker


class SliceStarter:
    """Turns jobs of a loop into attempts, and sets its `blocked` and `lacking`. A `wanted` connection is not kept."""

    def __init__(self, project: Project, parts: SliceParts, loop: Scheduler[SliceJob, InWorker, Any]) -> None:
        self.wanted: Collection[str] = ()
        self._start_wait = Wait(first=_SLOW_START_SECONDS)
        self._project = project
        self._loop = loop
        self._jobs = loop.jobs
        self._slots = loop.slots
        self._pool = parts.pool
        self._breaker = parts.breaker
        self._groups = parts.groups
        self._publisher = parts.publisher
        self._delivered = parts.delivered

    def start(self, now: float) -> Iterator[SliceAttempt]:
        """Yield attempts at as many jobs as there are workers and slots for, with their sessions.

        Processes begin while these are being written: only this thread tells the publisher what they staged.
        """
        loop = self._loop
        loop.blocked, loop.lacking = False, ()
        started: list[SliceAttempt] = []
        while self._jobs.has_queued and (worker := self._pool.take()) is not None:
            attempt = self._next(worker, now)
            if attempt is not None:
                started.append(attempt)
            elif not self._pool.close_kept(worker):
                self._pool.give_back(worker)
                break
        self._pool.close_idle()
        # No event says that another run has released a slot: try again soon.
        if self._jobs.has_queued and self._pool.may_grow and not self._pool.is_starting:
            loop.blocked, loop.lacking = True, loop.lacking or (WORKERS,)
        loop.blocked &= self._jobs.has_queued
        if started:
            workers = [attempt.runner.worker for attempt in started]
            beside = started if all(worker.keeps for worker in workers) else []
            with loop.attempts.opening(started, map(self._pool.number, workers)):
                yield from beside
            yield from started[len(beside) :]

    def note_start(self) -> None:
        """Announce that the run waits for its first worker."""
        if self._jobs.has_queued and self._pool.is_starting:
            self._start_wait.note(lambda: "the worker processes to start")
        else:
            self._start_wait.end()

    def prepare_ahead(self, now: float) -> None:
        """Create the staging of the slices that start next, while every worker is busy."""
        if self._pool.has_idle:
            return
        for job in self._jobs.next_of_routes():
            load = job.config
            wants = not job.direct and self._groups.wants_ahead(load, job.day, now)
            if not wants or not self._breaker.may_start(job, now) or self._publisher.waits_for == load.target:
                continue
            if (slot := self._slots.try_take(load.target)) is not None:
                self._groups.begin_ahead(load, job.day, now, slot)

    def parts(self, attempt: SliceAttempt, table: TargetTable) -> Parts:
        """Return the workers' orders. Raise ConfigError or AttemptError."""
        if attempt.job.parts == 1:
            return Parts([self.order(attempt, table)])
        load, shard, slice_ = attempt.job.config, attempt.job.planned.shard, attempt.job.planned.slice
        check_split(self._project, load, shard, slice_)
        order = structs.replace(self.order(attempt, table), parts=attempt.job.parts, split_by=load.split_by)
        keys = structs.replace(order, step=Step.KEYS)
        cut = structs.replace(order, step=Step.CUT)
        if load.split_by is not None:
            is_key = load.split_by.lower() in map(str.lower, load.key)
            return Parts((), cut, None if is_key else keys)
        orders = [
            structs.replace(
                order, slice=part, query=render_extract(self._project, load, shard, part), part=number
            )
            for number, part in enumerate(time_parts(slice_, attempt.job.parts), 1)
        ]
        # Several refused logins at once would lock an account: one worker logs in first.
        return Parts(orders, None if order.login_known else cut, keys)

    def order(self, attempt: SliceAttempt, table: TargetTable) -> StageOrder:
        """Return the order of the whole slice. Raise ConfigError or AttemptError."""
        planned, group = attempt.job.planned, attempt.runner.group
        assert group is not None
        load, shard = planned.load, planned.shard.name
        fills = load.on_new_column == "add"
        return StageOrder(
            slice=planned.slice,
            shard=planned.shard,
            source=self._project.connections[planned.shard.connection],
            query=render_extract(self._project, load, planned.shard, planned.slice),
            key=load.key,
            slice_by=load.slice_by,
            table=table,
            group=group.staging,
            token=attempt.token,
            etl_id=attempt.etl_id,
            fill_missing=fills,
            delivered=Delivered(shard, self._delivered.of(load, shard)) if fills else None,
            login_known=self._breaker.login_known(planned.shard.connection),
            direct=attempt.job.direct,
            keep=self._keep(attempt),
        )

    def _keep(self, attempt: SliceAttempt) -> tuple[bool, bool]:
        """Return whether its worker keeps the connections to source and target: if all slices that wait need them."""
        job = attempt.job
        if job.parts > 1 or not attempt.runner.worker.keeps:
            return False, False
        places = enumerate(job.connections)
        source, target = (self._jobs.all_need(at, name) and not self._is_wanted(name) for at, name in places)
        return source, target

    def _is_wanted(self, name: str) -> bool:
        return name in self.wanted or self._publisher.waits_for == name or self._slots.is_wanted(name)

    def end_direct(self, attempt: SliceAttempt) -> None:
        """Release the worker and the slots of an attempt after its publication, if it was direct."""
        runner = attempt.runner
        if runner.direct is not None:
            if runner.direct.is_ended:
                self._pool.take_back(runner.worker, attempt, runner.kept)
            else:
                self._pool.dismiss(runner.worker)
            attempt.release()

    def expires_at(self, attempt: SliceAttempt, now: float) -> float:
        """Return when the attempt is past its timeout, which begins when a worker has begun."""
        begun = any(map(self._pool.has_begun, attempt.runner.at_work or [attempt.runner.worker]))
        if not begun and now < attempt.started + _MOST_QUEUED_SECONDS:
            attempt.expires_at = now + attempt.job.config.timeout.total_seconds()
        return attempt.expires_at

    def _next(self, worker: Worker, now: float) -> SliceAttempt | None:
        taken: list[Slot] = []
        kept = self._pool.kept(worker)

        def has_slots(job: SliceJob) -> bool:
            waits = self._publisher.waits_for == job.connections[1]
            slots = None if waits else kept.taken(job.connections, self._slots)
            if slots is None:
                self._loop.blocked, self._loop.lacking = True, job.connections
            if job.slots_wanted is None:
                job.slots_wanted = now
            taken.extend(slots or ())
            return slots is not None

        def may_start(job: SliceJob, is_next: Callable[[SliceJob, float], bool]) -> bool:
            # The staging of a group is made under the slot of the slice that begins it.
            begins = kept.slots[1] and not job.direct and self._groups.lacks(job.config, job.day, now)
            if begins or (kept and job.parts > 1) or not kept.fits(job.connections, self._is_wanted):
                return False
            return self._breaker.may_start(job, now) and is_next(job, now) and has_slots(job)

        job = self._jobs.pop(lambda job: may_start(job, self._breaker.is_first_choice))
        job = job or self._jobs.pop(lambda job: may_start(job, self._has_waited))
        if job is None:
            return None
        self._breaker.started(job, now)
        runner = InWorker(worker, slots_waited=job.seconds_waited(now))
        timeout = job.config.timeout.total_seconds()
        attempt = SliceAttempt(job, runner, tuple(taken), now, now + timeout, bytes=0)
        # Not when its order is written: whether it begins a group must be as `may_start` found it.
        runner.group = self._groups.take(job.config, job.day, attempt.token, now, direct=job.direct)
        return attempt

    def _has_waited(self, job: SliceJob, now: float) -> bool:
        """Return whether a source that has not yet worked had the time to refuse the last attempt."""
        timeout = getattr(self._project.connections[job.connection], "connect_timeout", timedelta(0))
        waited = self._breaker.was_asked_before(job, now - timeout.total_seconds())
        self._loop.blocked |= not waited
        return waited
