"""The loop over slices: it gives them to workers, and what they have staged to the publisher."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dwhctl.core import errors
from dwhctl.engine.jobs import JobQueue
from dwhctl.engine.run import SLOT_POLL_SECONDS, Scheduler
from dwhctl.load.attempts import Doubt, Doubts, InWorker, SliceAttempt, SliceJob, SliceParts, SliceStarter
from dwhctl.load.direct import DirectPublication
from dwhctl.load.parts import PartWorkers
from dwhctl.load.publish import (
    ColumnsAdded,
    GroupPublished,
    LookedUp,
    Published,
    PublisherDied,
    PublisherEvent,
)
from dwhctl.load.ready import ReadyChecked, ReadyChecks
from dwhctl.load.staging import MAX_SLICES, GroupOpened, PublishGroup
from dwhctl.load.worker_server import SourceAnswered, WorkersReady
from dwhctl.runtime.circuit_breaker import Probed
from dwhctl.runtime.events import Notice, SlicesPublished, SliceStaged, SliceStarted, WorkerLogged
from dwhctl.runtime.messages import Failure, StageResult
from dwhctl.sessions.values import State
from dwhctl.systems.base.target import StagedSlice

if TYPE_CHECKING:
    from dwhctl.load.workers import Worker
    from dwhctl.project.model import Project
    from dwhctl.runtime.prepare import PreparedTables

#: Workers with nothing to do for longer than this are dismissed: another run may want their slots.
_LONG_PAUSE_SECONDS = 3.0
_MOST_STAGED = 4 * MAX_SLICES
_MAX_ADDITIONS = 5


class Staged(Struct, frozen=True):
    """A worker has carried out an order of an attempt."""

    attempt: SliceAttempt
    worker: Worker
    future: Future[object]


SliceEvent = Staged | WorkersReady | SourceAnswered | PublisherEvent | GroupOpened | Probed | ReadyChecked


class SliceScheduler(Scheduler[SliceJob, InWorker, SliceEvent]):
    """One run's loop over slices. `filled` takes the shards that lack a column, by load and column."""

    def __init__(
        self,
        project: Project,
        prepared: PreparedTables,
        parts: SliceParts,
        filled: dict[tuple[str, str], set[str]],
        *,
        jobs: Sequence[SliceJob],
        **base: Any,
    ) -> None:
        usable = [job for job in jobs if job.config.name in prepared.tables]
        super().__init__(jobs=[job for job in usable if job.config.ready is None], **base)
        self._unprepared = [
            ([job for job in jobs if job.config.name == load], failure)
            for load, failure in prepared.failures.items()
        ]
        self._tables = prepared.tables
        self._parts = parts
        self._pool = parts.pool
        self._breaker = parts.breaker
        self._groups = parts.groups
        self._publisher = parts.publisher
        self._filled = filled
        self._unready: JobQueue[SliceJob] = JobQueue(job for job in usable if job.config.ready is not None)
        self._ready = ReadyChecks(project, self._unready, parts.breaker, self) if self._unready else None
        self._starter = SliceStarter(project, parts, self)
        if self._ready is not None:
            self._starter.wanted = self._ready.lacking
        self._workers = PartWorkers(parts, self.slots, lambda *done: self.events.put(Staged(*done)))
        #: Attempts that wait until their group is open.
        self._unordered: dict[str, SliceAttempt] = {}
        self._staged: dict[str, SliceAttempt] = {}
        self._adding: list[SliceJob] = []
        self._doubts = Doubts(self.attempts, self._publisher.look_up, self._decided)

    def run(self) -> errors.ExitCode | None:
        self._publisher.start()
        for jobs, failure in self._unprepared:
            self.attempts.fail_unstarted(jobs, failure)
        return super().run()

    def is_busy(self) -> bool:
        rest = self._ready or self._staged or self._adding or self._doubts or self._groups.busy
        return super().is_busy() or bool(rest)

    def _connections(self) -> list[str]:
        """List the connections that some slice needs, ready or not."""
        return list(dict.fromkeys([*self.jobs.connections(), *self._unready.connections()]))

    def _first(self, connection: str) -> SliceJob:
        """Return a slice that needs one of these connections."""
        jobs = self.jobs if connection in self.jobs.connections() else self._unready
        return jobs.first(connection)

    def advance(self, now: float) -> None:
        self._give_up_parked()
        for name in self._breaker.to_probe(self._connections(), now):
            self._parts.prober.probe(name)
        if self._ready is not None:
            self._ready.start(now)
        self._start(now)
        self.blocked |= self._ready is not None and self._ready.blocked
        for due in self._groups.due(now, self.jobs.queued):
            self._publisher.publish(*due)
        for group in self._groups.done():
            self._publisher.drop(group)
        self._doubts.look_up(now)

    def note_waits(self) -> None:
        super().note_waits()
        self._starter.note_start()
        if self._ready is not None:
            self._ready.note_wait()
        if not self.blocked and self._next_start() > time.monotonic() + _LONG_PAUSE_SECONDS:
            self._pool.dismiss_idle()

    def times(self, now: float) -> Iterator[float]:
        yield from super().times(now)
        if self._ready is not None:
            yield from self._ready.times()
        if (next_look := self._doubts.next_look()) is not None:
            yield next_look
        if (probe := self._next_probe()) is not None:
            # One that is due waits for a worker or a slot.
            yield max(probe, now + SLOT_POLL_SECONDS)
        if (due := self._groups.next_due(now)) is not None:
            yield now + due
        if self._pool.may_grow_later and self.jobs.has_queued:
            yield max(self._parts.demand.stalled_at(), now + SLOT_POLL_SECONDS)
        yield from (self.expires_at(attempt, now) for attempt in self.running.values())

    def _next_start(self) -> float:
        """Return the time at which an idle worker may have something to do again."""
        times = [at for at in (self.jobs.next_waking(), self._next_probe()) if at is not None]
        return min(times, default=float("inf"))

    def _next_probe(self) -> float | None:
        probes = [self._breaker.next_probe(name) for name in self._connections()]
        return min((at for at in probes if at is not None), default=None)

    def _start(self, now: float) -> None:
        """Give slices to workers as long as there are workers and slots."""
        if len(self._staged) >= _MOST_STAGED:
            self._pool.close_idle()
            return  # the publisher is behind: what is staged and open must not grow with the plan
        began = [attempt.runner.given or attempt.started for attempt in self.running.values()]
        workers = self._parts.demand.workers(self.jobs.waiting_for_worker, began, now)
        jobs = [*self.jobs.next_of_routes(), *(attempt.job for attempt in self.running.values())]
        self._pool.limit(workers * max((job.parts for job in jobs), default=1))
        self._workers.start_waiting(self.running.values())
        for attempt in self._starter.start(now):
            self._submit(attempt)
        self._starter.prepare_ahead(now)

    def _submit(self, attempt: SliceAttempt) -> None:
        runner = attempt.runner
        self.attempts.listen(SliceStarted(*attempt.job.names, attempt.etl_id, runner.slots_waited))
        self.running[attempt.token] = attempt
        try:
            runner.parts = self._starter.parts(attempt, self._tables[attempt.job.config.name])
        except (errors.AttemptError, errors.ConfigError) as error:
            failure = Failure.of(
                error if isinstance(error, errors.AttemptError) else errors.QueryError(str(error))
            )
            self._return(attempt, failure)
            return
        if runner.group is not None and runner.group.is_open:
            self._workers.start(attempt)
        else:
            self._unordered[attempt.token] = attempt

    def _return(self, attempt: SliceAttempt, failure: Failure) -> None:
        """Fail an attempt whose order was not given to its worker."""
        worker = attempt.runner.worker
        kept = self._pool.kept(worker).slots
        attempt.slots = tuple(slot for slot in attempt.slots if slot not in kept)
        if not self._pool.close_kept(worker):
            self._pool.give_back(worker)
        self._breaker.not_asked(attempt.job)
        self._finished(attempt, StageResult(attempt.token, failure=failure))

    def handle(self, event: SliceEvent) -> None:
        match event:
            case Staged():
                self._collect(event.attempt, event.worker, event.future)
            case SourceAnswered():
                self._notify(self._workers.answered(self.running.values(), event.worker))
            case GroupOpened():
                self._group_opened(event.group, event.failure)
            case Probed():
                self._probed(event)
            case ReadyChecked() if self._ready is not None:
                self._notify(self._ready.checked(event, time.monotonic()))
            case GroupPublished():
                self._published(event)
            case LookedUp():
                self._doubts.looked_up(event.doubt, event.outcomes)
            case ColumnsAdded():
                self._columns_added(event)
            case PublisherDied():
                if isinstance(event.error, errors.SessionsError | errors.StateDirError):
                    raise event.error
                raise errors.InternalError(f"the publisher died: {event.error!r}") from event.error

    def _group_opened(self, group: PublishGroup, failure: Failure | None) -> None:
        self._groups.opened(group, ok=failure is None)
        waiting = [attempt for attempt in self._unordered.values() if attempt.runner.group is group]
        if failure is not None and waiting:
            self._notify(self._breaker.target_refused(waiting[0].job, failure, time.monotonic()))
        for attempt in waiting:
            del self._unordered[attempt.token]
            if failure is None:
                self._workers.start(attempt)
            else:
                self._return(attempt, failure)

    def _probed(self, probed: Probed) -> None:
        name, delay = probed.connection, 0.0
        if name in self._connections():
            delay = self._first(name).retry_delay.total_seconds()
        self._notify(self._breaker.probed(name, probed.failure, time.monotonic(), delay))

    def _collect(self, attempt: SliceAttempt, worker: Worker, future: Future[object]) -> None:
        if attempt.token not in self.running:
            return  # its worker was killed: the attempt took too long
        result = self._workers.collect(attempt, worker, future)
        if result is None:
            return  # it has more parts
        now, used = time.monotonic(), result.rows > 0
        self._parts.demand.finished(now - (attempt.runner.given or now), now)
        self._notify(self._breaker.finished(attempt.job, result.failure, now, used_target=used))
        self._finished(attempt, result)

    def expires_at(self, attempt: SliceAttempt, now: float) -> float:
        put_off_at = self._workers.put_off_at(attempt, self.jobs)
        return min(self._starter.expires_at(attempt, now), put_off_at)

    def expire(self, attempt: SliceAttempt, now: float) -> None:
        failure = self._workers.expire(attempt, now)
        self._unordered.pop(attempt.token, None)
        if not attempt.runner.put_off:
            self._notify(self._breaker.finished(attempt.job, failure, now))
        self._finished(attempt, StageResult(attempt.token, failure=failure))

    def _finished(self, attempt: SliceAttempt, result: StageResult) -> None:
        """Process the result of an attempt that its worker has ended."""
        job, runner, group = attempt.job, attempt.runner, attempt.runner.group
        del self.running[attempt.token]
        attempt.busy_seconds = time.monotonic() - attempt.opened
        if group is not None and group.opening:
            group.kept += attempt.slots
        elif result.held is None:
            attempt.release()
        else:
            runner.direct = DirectPublication(runner.worker, result, job.config.timeout)
        attempt.rows, attempt.bytes, attempt.steps = result.rows, result.bytes, dict(result.seconds)
        runner.filled, runner.failed_in, runner.kept = result.filled, result.failed_in, result.kept
        self.attempts.add_seconds(result.seconds)
        for message in result.logged:
            self.attempts.listen(WorkerLogged(*job.names, attempt.etl_id, message))
        staged = None
        if result.failure is None:
            self.attempts.listen(SliceStaged(*attempt.job.names, result.rows))
            facts = attempt.token, attempt.etl_id, result.rows, result.columns, result.filled
            staged = StagedSlice(job.planned.slice, *facts, direct=runner.direct)
            self._staged[attempt.token] = attempt
        if group is not None:
            self._groups.report(group, attempt.token, staged, time.monotonic())
        if result.failure is not None:
            self._failed(attempt, result.failure)

    def _notify(self, notices: Iterable[str]) -> None:
        for text in notices:
            self.attempts.listen(Notice(text))

    def _failed(self, attempt: SliceAttempt, failure: Failure) -> None:
        job = attempt.job
        if attempt.runner.put_off:
            # Last: it may be its database that does not answer, and not the server.
            self.jobs.put(job)
            self.close(attempt, State.UP_FOR_RETRY, failure, 0.0)
        elif failure.new_columns and job.config.on_new_column == "add" and job.additions < _MAX_ADDITIONS:
            job.additions += 1
            self._adding.append(job)
            self._publisher.add_columns(job.config, failure.new_columns)
            added = f"{failure.message}; on_new_column adds it to {job.config.table}, then the slice is tried again"
            self.close(attempt, State.UP_FOR_RETRY, dataclasses.replace(failure, message=added), 0.0)
        else:
            self.retry_or_fail(attempt, failure)

    def _give_up_parked(self) -> None:
        for name in self._connections():
            reason = self._breaker.reason(name)
            if reason is None:
                continue
            retries = self.attempts.retries(self._first(name).config)
            if self._breaker.is_given_up(name, retries):
                failure = Failure.of(errors.ParkedError(f"connection {name} is parked: {reason.message}"))
                failure = dataclasses.replace(failure, connection=name, cause=reason)
                jobs = [*self.jobs.drain(name), *self._unready.drain(name)]
                self.attempts.fail_unstarted(jobs, failure)

    def _published(self, event: GroupPublished) -> None:
        load, outcomes = event.group.load, event.outcomes
        event.group.publishing -= 1
        self.attempts.add_seconds({"publish": event.seconds})
        done = [outcome.staged.rows for outcome in outcomes if outcome.failure is None]
        counts = len(done), sum(done), len(outcomes) - len(done)
        self.attempts.listen(SlicesPublished(load.name, load.target, event.group.day, *counts, event.seconds))
        # One publication is one failure of its target's connection, however many slices it costs.
        refused = next((outcome for outcome in outcomes if outcome.failure), None)
        if refused and refused.failure:
            job, now = self._staged[refused.staged.token].job, time.monotonic()
            self._notify(self._breaker.target_refused(job, refused.failure, now))
        slices = [(self._staged.pop(outcome.staged.token), outcome) for outcome in outcomes]
        for attempt, outcome in slices:
            attempt.steps["publish"] = event.seconds
            self._starter.end_direct(attempt)
            if not outcome.in_doubt:
                self._decided(attempt, outcome)
        if doubted := [pair for pair in slices if pair[1].in_doubt]:
            self._doubts.take(Doubt(load, doubted))

    def _decided(self, attempt: SliceAttempt, outcome: Published) -> None:
        """Close an attempt of which it is known whether it is published."""
        if outcome.failure is not None:
            self._failed(attempt, outcome.failure)
            return
        if attempt.rows:
            for column in attempt.runner.filled:
                name = attempt.job.config.name
                self._filled.setdefault((name, column), set()).add(attempt.job.shard)
        self.close(attempt, State.LOADED if attempt.rows else State.SKIPPED)

    def _columns_added(self, event: ColumnsAdded) -> None:
        # Events come in the order of the requests: this one is the first job's of its load.
        job = next(job for job in self._adding if job.config.name == event.load.name)
        self._adding.remove(job)
        if event.failure is None:
            table = self._tables[event.load.name]
            self._tables[event.load.name] = dataclasses.replace(table, columns=event.columns)
            self._groups.close(event.load)
            self.jobs.put(job, first=True)
        elif self.may_retry(job, event.failure):
            self.jobs.wait(job, time.monotonic() + job.seconds_to_retry())
        else:
            self.attempts.fail_unstarted([job], event.failure)

    def stop(self) -> None:
        if self._ready is not None:
            self._ready.stop()
        self._pool.dismiss_all()
        self._publisher.stop()
        while not self.events.empty():
            event = self.events.get()
            if not isinstance(event, errors.ExitCode) and isinstance(event, GroupPublished | LookedUp):
                self.handle(event)
        self._doubts.stop()
        failure = Failure.of(errors.InterruptedAttemptError())
        for attempt in self.running.values():
            attempt.busy_seconds = time.monotonic() - attempt.opened
        for attempt in (*self.running.values(), *self._staged.values()):
            attempt.release()
            self.close(attempt, State.FAILED, failure)
        self.stopped(failure)

    def finish(self) -> None:
        self._publisher.finish()

    def end(self) -> None:
        if self._ready is not None:
            self._ready.stop()
        self._pool.dismiss_all()
        self._publisher.stop()
        self._parts.creator.stop()
        for attempt in (*self.running.values(), *self._staged.values()):
            attempt.release()
        self._groups.release()
