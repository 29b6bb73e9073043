"""The dispatch loop: opens sessions, gives slices to workers, collects what comes of them, retries, and hands what
is staged to the publisher.

It runs in the parent's main thread and waits in one place, for one queue: workers' results, the publisher's
events and signals all arrive there. It alone writes to the sessions table.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    AttemptError,
    ConfigError,
    ExitCode,
    InternalError,
    InterruptedAttemptError,
    ParkedError,
    QueryError,
    SessionsError,
    StateDirError,
    TimedOutError,
)
from dwhctl.load.publisher import ColumnsAdded, GroupPublished, Looked, PublisherEvent
from dwhctl.load.results import Doubt, Doubts
from dwhctl.load.staging import MAX_SLICES, GroupOpened
from dwhctl.load.workers import stage_in_worker
from dwhctl.runtime.circuit_breaker import CircuitBreaker, Probed
from dwhctl.runtime.events import Notice
from dwhctl.runtime.messages import Failure, StageOrder, StageResult, TargetTable, retry_seconds
from dwhctl.sessions.values import State
from dwhctl.systems.base.target import StagedSlice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dwhctl.load.attempts import SliceAttempt, Starter
    from dwhctl.load.publish import Published
    from dwhctl.load.publisher import Publisher
    from dwhctl.load.queue import JobQueue, SliceJob
    from dwhctl.load.results import Closer
    from dwhctl.load.staging import Groups, PublishGroup
    from dwhctl.load.workers import WorkerPool
    from dwhctl.runtime.circuit_breaker import Prober
    from dwhctl.sessions.store import SessionStore

_SLOT_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0
#: A worker that is not up by then will not come up: its attempt's time runs from then on.
_START_UP_SECONDS = 60.0
#: Workers with nothing to do for longer than this are sent home: another run may want their slots.
_LONG_PAUSE_SECONDS = 3.0
_MOST_STAGED = 4 * MAX_SLICES
_MAX_ADDITIONS = 5


@dataclass(frozen=True, slots=True)
class Staged:
    """A worker has finished an attempt."""

    flight: SliceAttempt
    future: Future[object]


Happening = Staged | PublisherEvent | GroupOpened | Probed | ExitCode


class Dispatcher:
    """One run's loop. Its parts do the rest: queue, pool, slots, breaker, groups, publisher, closer."""

    def __init__(
        self,
        starter: Starter,
        tables: Mapping[str, TargetTable],
        *,
        jobs: JobQueue,
        pool: WorkerPool,
        breaker: CircuitBreaker,
        groups: Groups,
        publisher: Publisher,
        prober: Prober,
        closer: Closer,
        store: SessionStore,
        happenings: queue.SimpleQueue[Happening],
        stage: Callable[[StageOrder], StageResult] = stage_in_worker,
    ) -> None:
        self._starter = starter
        self._tables = dict(tables)
        self._jobs = jobs
        self._pool = pool
        self._breaker = breaker
        self._groups = groups
        self._publisher = publisher
        self._prober = prober
        self._closer = closer
        self._store = store
        self._happenings = happenings
        self._stage = stage
        self._flying: dict[str, SliceAttempt] = {}
        self._boarding: dict[str, tuple[SliceAttempt, StageOrder]] = {}
        self._staged: dict[str, SliceAttempt] = {}
        self._adding: list[SliceJob] = []
        self._doubts = Doubts(closer, publisher.look, self._decided)

    def run(self) -> ExitCode | None:
        """Load every slice of the queue. Gives the exit code of the signal that stopped it, if one did."""
        while self._is_busy():
            self._step(time.monotonic())
            try:
                # After the last step nothing will happen any more.
                happening = self._happenings.get(timeout=self._timeout() if self._is_busy() else 0.0)
            except queue.Empty:
                continue
            if isinstance(happening, ExitCode):
                return happening
            self._handle(happening)
        self._closer.flush()
        return None

    def _is_busy(self) -> bool:
        waiting = self._jobs or self._flying or self._staged or self._adding or self._doubts
        return bool(waiting or self._groups.busy)

    def _step(self, now: float) -> None:
        self._expire(now)
        self._jobs.wake(now)
        self._give_up_parked()
        for name in self._breaker.to_probe(self._jobs.connections(), now):
            self._prober.probe(name)
        self._start(now)
        self._publish_due(now)
        self._doubts.look_up(now)
        self._closer.flush()
        self._starter.note_waits(self._flying.values())
        if not self._starter.blocked and self._next_start() > now + _LONG_PAUSE_SECONDS:
            self._pool.dismiss_idle()

    def _timeout(self) -> float:
        """Give the seconds after which something is to be done even if nothing happens."""
        now = time.monotonic()
        times = [flight.deadline for flight in self._flying.values()]
        times += [at for at in (self._jobs.next_retry(), self._doubts.next_look()) if at is not None]
        waits = [at - now for at in times] + [_SLOT_POLL_SECONDS if self._starter.blocked else _IDLE_SECONDS]
        if (probe := self._next_probe()) is not None:
            # One that is due waits for a worker or a slot.
            waits.append(max(probe - now, _SLOT_POLL_SECONDS))
        if (due := self._groups.next_due(now)) is not None:
            waits.append(due)
        return max(0.0, min(waits))

    def _next_start(self) -> float:
        """Give the time at which an idle worker may have something to do again."""
        times = [at for at in (self._jobs.next_retry(), self._next_probe()) if at is not None]
        return min(times, default=float("inf"))

    def _next_probe(self) -> float | None:
        probes = [self._breaker.next_probe(name) for name in self._jobs.connections()]
        return min((at for at in probes if at is not None), default=None)

    def _start(self, now: float) -> None:
        """Give slices to workers as long as there are workers and slots."""
        if len(self._staged) >= _MOST_STAGED:
            return  # the publisher is behind: what is staged and open must not grow with the plan
        for flight in self._starter.take_off(now):
            self._submit(flight)
        self._starter.prepare_ahead(now)

    def _submit(self, flight: SliceAttempt) -> None:
        self._closer.started(flight)
        self._flying[flight.token] = flight
        try:
            order = self._starter.order(flight, self._tables[flight.job.planned.load.name])
        except (AttemptError, ConfigError) as error:
            failure = Failure.of(error if isinstance(error, AttemptError) else QueryError(str(error)))
            self._turned_back(flight, failure)
            return
        if flight.group is not None and flight.group.is_open:
            self._hand_over(flight, order)
        else:
            self._boarding[flight.token] = (flight, order)

    def _hand_over(self, flight: SliceAttempt, order: StageOrder) -> None:
        future = flight.worker.submit(self._stage, order)
        future.add_done_callback(lambda done: self._happenings.put(Staged(flight, done)))

    def _turned_back(self, flight: SliceAttempt, failure: Failure) -> None:
        """Fail an attempt that its worker has not seen."""
        self._pool.give_back(flight.worker)
        self._breaker.not_asked(flight.job)
        self._landed(flight, StageResult(flight.token, failure=failure))

    def _handle(self, happening: Staged | PublisherEvent | GroupOpened | Probed) -> None:
        if isinstance(happening, Staged):
            self._collect(happening.flight, happening.future)
        elif isinstance(happening, GroupOpened):
            self._group_opened(happening.group, happening.failure)
        elif isinstance(happening, Probed):
            self._probed(happening)
        elif isinstance(happening, GroupPublished):
            self._published(happening)
        elif isinstance(happening, Looked):
            self._doubts.looked(happening.doubt, happening.outcomes)
        elif isinstance(happening, ColumnsAdded):
            self._columns_added(happening)
        else:
            if isinstance(happening.error, SessionsError | StateDirError):
                raise happening.error
            raise InternalError(f"the publisher died: {happening.error!r}") from happening.error

    def _group_opened(self, group: PublishGroup, failure: Failure | None) -> None:
        self._groups.opened(group, well=failure is None)
        waiting = [one for one in self._boarding.values() if one[0].group is group]
        if failure is not None and waiting:
            self._tell(self._breaker.target_refused(waiting[0][0].job, failure, time.monotonic()))
        for flight, order in waiting:
            del self._boarding[flight.token]
            if failure is None:
                self._hand_over(flight, order)
            else:
                self._turned_back(flight, failure)

    def _probed(self, probed: Probed) -> None:
        name, delay = probed.connection, 0.0
        if name in self._jobs.connections():
            delay = self._jobs.first(name).planned.load.retry_delay.total_seconds()
        self._tell(self._breaker.probed(name, probed.failure, time.monotonic(), delay))

    def _collect(self, flight: SliceAttempt, future: Future[object]) -> None:
        if flight.token not in self._flying:
            return  # its worker was killed at its deadline
        error = future.exception()
        result = future.result() if error is None else None
        if isinstance(result, StageResult):
            self._pool.give_back(flight.worker)
        else:
            self._pool.dismiss(flight.worker)
            result = StageResult(flight.token, failure=flight.job.killed_its_worker(error))
        now, used = time.monotonic(), result.rows > 0
        self._tell(self._breaker.finished(flight.job, result.failure, now, used_target=used))
        self._landed(flight, result)

    def _expire(self, now: float) -> None:
        """Kill the workers of attempts past their deadline: a driver's own timeout does not fire on a dead line."""
        for flight in list(self._flying.values()):
            timeout = flight.job.planned.load.timeout
            if not flight.worker.is_up and now < flight.started + _START_UP_SECONDS:
                flight.deadline = now + timeout.total_seconds()
            if now < flight.deadline:
                continue
            self._pool.dismiss(flight.worker)
            failure = Failure.of(
                TimedOutError(f"not done after the load's timeout of {timeout}; its worker was killed")
            )
            self._boarding.pop(flight.token, None)
            self._tell(self._breaker.finished(flight.job, failure, now))
            self._landed(flight, StageResult(flight.token, failure=failure))

    def _landed(self, flight: SliceAttempt, result: StageResult) -> None:
        """Take note of an attempt that no worker is busy with any more."""
        del self._flying[flight.token]
        flight.land()
        if flight.group is not None and flight.group.opening:
            flight.group.kept += flight.slots
        else:
            flight.release()
        self._closer.landed(flight, result)
        planned = flight.job.planned
        staged = None
        if result.failure is None:
            staged = StagedSlice(
                planned.slice, flight.token, flight.etl_id, result.rows, result.columns, result.filled
            )
            self._staged[flight.token] = flight
        if flight.group is not None:
            self._groups.report(flight.group, flight.token, staged, time.monotonic())
        if result.failure is not None:
            self._failed(flight, result.failure)

    def _tell(self, notices: Iterable[str]) -> None:
        for text in notices:
            self._closer.tell(Notice(text))

    def _failed(self, flight: SliceAttempt, failure: Failure) -> None:
        job = flight.job
        if failure.new_columns and job.planned.load.on_new_column == "add" and job.additions < _MAX_ADDITIONS:
            job.additions += 1
            self._adding.append(job)
            self._publisher.add_columns(job.planned.load, failure.new_columns)
            self._closer.close(flight, State.UP_FOR_RETRY, failure, timedelta(0))
            return
        if not self._may_retry(job, failure):
            self._closer.close(flight, State.FAILED, failure)
            return
        delay = self._retry_delay(job)
        self._jobs.wait(job, time.monotonic() + delay)
        self._closer.close(flight, State.UP_FOR_RETRY, failure, timedelta(seconds=delay))

    def _may_retry(self, job: SliceJob, failure: Failure) -> bool:
        """Count a failure of the job, and tell whether it is tried again."""
        job.failures += 1
        return not failure.permanent and job.failures <= self._closer.retries(job.planned.load)

    def _retry_delay(self, job: SliceJob) -> float:
        return retry_seconds(job.planned.load.retry_delay, job.failures)

    def _give_up_parked(self) -> None:
        for name in self._jobs.connections():
            reason = self._breaker.reason(name)
            if reason is None:
                continue
            retries = self._closer.retries(self._jobs.first(name).planned.load)
            if self._breaker.is_given_up(name, retries):
                failure = Failure.of(ParkedError(f"connection {name} is parked: {reason.message}"))
                failure = replace(failure, connection=name, cause=reason)
                self.fail_unstarted(self._jobs.drain(name), failure)

    def fail_unstarted(self, jobs: Sequence[SliceJob], failure: Failure) -> None:
        """Give jobs that are not started any more a session that says why."""
        for job, etl_id in zip(jobs, self._starter.open_unstarted(jobs), strict=True):
            self._closer.close_unstarted(job, etl_id, failure)

    # Publishing

    def _publish_due(self, now: float) -> None:
        for group, slices in self._groups.due(now, self._jobs.queued):
            self._publisher.publish(group, slices)
        for group in self._groups.done():
            self._publisher.drop(group)

    def _published(self, event: GroupPublished) -> None:
        event.group.publishing -= 1
        self._closer.published(event)
        # One publication is one failure of its target's connection, however many slices it costs.
        refused = next((one for one in event.outcomes if one.failure is not None), None)
        if refused is not None and refused.failure is not None:
            job = self._staged[refused.staged.token].job
            self._tell(self._breaker.target_refused(job, refused.failure, time.monotonic()))
        slices = [(self._staged.pop(one.staged.token), one) for one in event.outcomes]
        for flight, outcome in slices:
            flight.steps["publish"] = event.seconds
            if not outcome.in_doubt:
                self._decided(flight, outcome)
        if doubted := [one for one in slices if one[1].in_doubt]:
            self._doubts.take(Doubt(event.group.load, doubted))

    def _decided(self, flight: SliceAttempt, outcome: Published) -> None:
        if outcome.failure is not None:
            self._failed(flight, outcome.failure)
        else:
            self._closer.close(flight, State.LOADED if flight.rows else State.SKIPPED)

    def _columns_added(self, event: ColumnsAdded) -> None:
        if event.failure is None:
            table = self._tables[event.load.name]
            self._tables[event.load.name] = replace(table, columns=event.columns)
            self._groups.close(event.load)
        # Events come in the order of the requests: this one is the first job's of its load.
        job = next(one for one in self._adding if one.planned.load.name == event.load.name)
        self._adding.remove(job)
        if event.failure is None:
            self._jobs.put(job, first=True)
        elif self._may_retry(job, event.failure):
            self._jobs.wait(job, time.monotonic() + self._retry_delay(job))
        else:
            self.fail_unstarted([job], event.failure)

    def let_go(self) -> None:
        """Give back every slot, whatever ended the loop."""
        for flight in (*self._flying.values(), *self._staged.values()):
            flight.release()
        self._groups.let_go()

    def stop(self) -> None:
        """Kill the workers, stop the publisher, and close as interrupted what is neither published nor in doubt."""
        self._pool.dismiss_all()
        self._publisher.stop()
        while not self._happenings.empty():
            happening = self._happenings.get()
            if isinstance(happening, GroupPublished | Looked):
                self._handle(happening)
        self._doubts.stop()
        failure = Failure.of(InterruptedAttemptError())
        for flight in self._flying.values():
            flight.land()
        for flight in (*self._flying.values(), *self._staged.values()):
            flight.release()
            self._closer.close(flight, State.FAILED, failure)
        self._closer.flush()
        self._store.fail_waiting(self._starter.run_id, failure.message)
