"""The loop over reports. An attempt is a thread with one transaction in the warehouse; several run at once.

The loop checks what a report needs before it starts; until then the report waits without a slot.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from dwhctl.core import errors
from dwhctl.core.waiting import Wait
from dwhctl.core.words import shown_time
from dwhctl.engine.jobs import Attempt, Job
from dwhctl.engine.run import Scheduler
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.days import format_duration
from dwhctl.project.names import in_project
from dwhctl.refresh.transaction import refresh_report
from dwhctl.runtime.events import ClosedFacts, Readiness, ReportClosed, ReportStarted, ReportWaits
from dwhctl.runtime.failures import keep_report_place
from dwhctl.runtime.messages import Failure
from dwhctl.runtime.plan import LoadRequest, candidates
from dwhctl.sessions.values import State, is_complete
from dwhctl.systems.base.system import TargetOptions, system_of

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.loads import Need, Report
    from dwhctl.project.model import Project
    from dwhctl.project.names import ReportSql
    from dwhctl.runtime.slots import Slot
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Target

_NEEDS_POLL_SECONDS = 1.0
_INTERRUPT_AGAIN_SECONDS = 0.2
#: The event ReportWaits comes at once; a wait is announced after this.
_NEEDS_AGAIN_SECONDS = 60.0


class ReportJob(Job):
    """One report to refresh."""

    config: Report

    def __init__(self, report: Report, sql: ReportSql, day: date) -> None:
        super().__init__(report, "", day, (report.connection,))
        self.sql = sql
        self.found: tuple[Readiness, ...] = ()
        self.wait = Wait(first=_NEEDS_AGAIN_SECONDS)
        #: What an attempt could not end on the server.
        self.unsettled: Target | None = None
        #: The session whose commit may still happen: it stays open, and the next attempt continues it.
        self.doubted: int | None = None

    def closed(self, facts: ClosedFacts, attempt: Attempt[Any, Any] | None) -> ReportClosed:  # noqa: ARG002
        return ReportClosed(*facts, tuple(need for need in self.found if need.missing or not need.expected))


@dataclass(slots=True, eq=False)
class InThread:
    """What works on an attempt: a thread, with a connection of its own."""

    target: Target
    thread: threading.Thread | None = None
    timed_out: bool = False


ReportAttempt = Attempt[ReportJob, InThread]


class Refreshed(Struct, frozen=True):
    """The outcome of an attempt: rows, or the error. `is_settled`: the server does no more work for it."""

    attempt: ReportAttempt
    rows: int = 0
    error: BaseException | None = None
    is_settled: bool = True


class RefreshRules(Struct, frozen=True):
    """How to refresh: how many at once, when the run began (monotonic), how long to wait for needs.

    Without `wait` the configuration says how long. `blocked` says which reports may not be refreshed, and why: a dead
    run may still be at the commit of one.
    """

    at_once: int
    began: float
    wait: timedelta | None
    blocked: Mapping[str, errors.DwhctlError] = field(default_factory=dict)


class RefreshScheduler(Scheduler[ReportJob, InThread, Refreshed]):
    """The loop over reports."""

    def __init__(self, project: Project, rules: RefreshRules, *parts: Any) -> None:
        super().__init__(*parts)
        self._project = project
        self._rules = rules
        self.leaves_unsettled = False

    def advance(self, now: float) -> None:
        self.blocked, self.lacking = False, ()
        taken: list[Slot] = []

        def has_slot(job: ReportJob) -> bool:
            if (slot := self._slot(job.connection)) is not None:
                taken.append(slot)
            return slot is not None

        while len(self.running) < self._rules.at_once and (job := self.jobs.pop(has_slot)) is not None:
            slot = taken.pop()
            if not self._start(job, slot, now):
                slot.release()

    def _slot(self, connection: str) -> Slot | None:
        is_used = any(attempt.job.connection == connection for attempt in self.running.values())
        if is_used and SYSTEMS[self._project.connections[connection].type].one_writer:
            return None
        slot = self.slots.try_take(connection)
        if slot is None:
            self.blocked, self.lacking = True, (connection,)
        return slot

    def _start(self, job: ReportJob, slot: Slot, now: float) -> bool:
        if (error := self._rules.blocked.get(job.config.name)) is not None:
            self._fail(job, error)
            return False
        if not self._is_ready(job, now):
            return False
        report = job.config
        label = f"dwhctl:{self.run_id}:{report.name}"
        connection = self._project.connections[report.connection]
        options = TargetOptions(self._project.state_dir, report.timeout, label)
        target = system_of(connection).open_target(connection, options)
        expires_at = now + report.timeout.total_seconds()
        attempt = ReportAttempt(job, InThread(target), (slot,), now, expires_at)
        if job.doubted is None:
            self.attempts.open([attempt])
        else:
            attempt.etl_id = job.doubted
        self.running[attempt.token] = attempt
        self.attempts.listen(ReportStarted(*job.names, attempt.etl_id))
        thread = threading.Thread(target=self._refresh, args=(attempt,), name=f"refresh {report.name}")
        attempt.runner.thread = thread
        thread.start()
        return True

    def _fail(self, job: ReportJob, error: errors.DwhctlError) -> None:
        self.attempts.fail_unstarted([job], Failure.of(error), self.began)

    def _is_ready(self, job: ReportJob, now: float) -> bool:
        """Return whether the job's needs are met; a job that is not ready in time fails."""
        if not job.config.needs:
            return True
        job.found = readiness(self._project, self.attempts.store, job.config, job.day)
        if all(need.is_met for need in job.found):
            job.wait.end()
            return True
        waits = self.wait_until_ready(
            self.jobs,
            job,
            now,
            until=self._rules.began + _longest_wait(self._project, job.config, self._rules.wait),
            pause=_NEEDS_POLL_SECONDS,
            event=ReportWaits(job.config.name, job.day, job.found),
            error=lambda: errors.NotReady(_not_met(job.found, job.day, self._project.place)),
        )
        if waits:
            job.wait.note(lambda: f"what report {job.config.name} needs: {_lacking(job.found)}")
        else:
            job.wait.end()
        return False

    def _refresh(self, attempt: ReportAttempt) -> None:
        job, target = attempt.job, attempt.runner.target
        try:
            if job.unsettled is not None:
                job.unsettled.settle()
                job.unsettled = job.doubted = None
            rows = refresh_report(target, job.config, job.sql, self.attempts.store.check_alive)
        except BaseException as error:
            self.events.put(Refreshed(attempt, error=error, is_settled=_settled(target)))
        else:
            self.events.put(Refreshed(attempt, rows))

    def expire(self, attempt: ReportAttempt, now: float) -> None:
        # Repeated until it ends: it may be between two statements, and begin the next.
        attempt.runner.timed_out = True
        attempt.runner.target.interrupt()
        attempt.expires_at = now + _INTERRUPT_AGAIN_SECONDS

    def handle(self, event: Refreshed) -> None:
        attempt = event.attempt
        self._ended(event)
        if isinstance(event.error, errors.SessionsError | errors.StateDirError):
            raise event.error
        if event.error is None:
            self.close(attempt, State.LOADED)
        else:
            self.retry_or_fail(attempt, self._failure(attempt, event.error, is_settled=event.is_settled))
        self.attempts.flush()

    def close(
        self,
        attempt: ReportAttempt,
        state: State,
        failure: Failure | None = None,
        retry_in: float | None = None,
    ) -> None:
        """Close the session of an attempt, or leave it running while its commit may still happen."""
        is_open = failure is not None and attempt.job.doubted is not None
        super().close(attempt, State.RUNNING if is_open else state, failure, retry_in)

    def _failure(self, attempt: ReportAttempt, error: BaseException, *, is_settled: bool) -> Failure:
        """Return why an attempt failed, and record whether its commit may still happen."""
        job = attempt.job
        if attempt.runner.timed_out and not isinstance(error, errors.CommitInDoubtError):
            error = errors.TimedOutError(
                f"not done after the report's timeout of {format_duration(job.config.timeout)}; its statement was ended"
            )
        keep_report_place(self._project, job.config, job.sql, job.day, error)
        if isinstance(error, errors.CommitInDoubtError):
            job.doubted = None if is_settled else attempt.etl_id
        elif job.doubted is not None:
            found = Failure.of(error)
            doubt = errors.CommitInDoubtError(
                f"a commit is in doubt, and the warehouse cannot be asked: {found.message}"
            )
            return dataclasses.replace(Failure.of(doubt), permanent=found.permanent)
        return Failure.of(error)

    def _ended(self, event: Refreshed) -> None:
        """Release what an attempt held, and keep what it could not end on the server."""
        attempt = event.attempt
        del self.running[attempt.token]
        attempt.rows = event.rows
        attempt.release()
        if attempt.runner.thread is not None:
            attempt.runner.thread.join()
        if not event.is_settled:
            attempt.job.unsettled = attempt.runner.target
            self.leaves_unsettled = True

    def stop(self) -> None:
        failure = Failure.of(errors.InterruptedAttemptError())
        for event in self._end_all():
            if event.error is None:
                self.close(event.attempt, State.LOADED)
                continue
            found = self._failure(event.attempt, event.error, is_settled=event.is_settled)
            is_doubt = found.is_a(errors.CommitInDoubtError)
            self.close(event.attempt, State.FAILED, found if is_doubt else failure)
        self.stopped(failure)

    def end(self) -> None:
        self._end_all()

    def _end_all(self) -> list[Refreshed]:
        """Interrupt every attempt until its thread has ended, and return their outcomes."""
        found: list[Refreshed] = []
        while self.running:
            for attempt in self.running.values():
                attempt.runner.target.interrupt()
            try:
                event = self.events.get(timeout=_INTERRUPT_AGAIN_SECONDS)
            except queue.Empty:
                continue
            if isinstance(event, Refreshed):
                self._ended(event)
                found.append(event)
        return found


def _settled(target: Target) -> bool:
    """End what the server may still do; return whether that is sure."""
    try:
        target.settle()
    except errors.AttemptError:
        return False
    return True


def readiness(
    project: Project, store: SessionStore | None, report: Report, day: date
) -> tuple[Readiness, ...]:
    """Return how far the loads are that a report needs; without a sessions table nothing is complete."""
    return tuple(_readiness(project, store, need, day) for need in report.needs)


def _readiness(project: Project, store: SessionStore | None, need: Need, day: date) -> Readiness:
    plan = candidates(project, LoadRequest(days=(day,), loads=(need.load,)))
    found = store.last_sessions(need.load, day, day) if store is not None else []
    last = {session.shard: session for session in found}
    missing = [
        planned
        for planned in plan.slices
        if not is_complete(last.get(planned.shard.name), planned.slice.end_at)
    ]
    ends = [end for planned in missing if (end := planned.slice.end_at) is not None]
    over_at = max(ends, default=None)
    return Readiness(
        need.load,
        need.at_least,
        len(plan.slices),
        tuple(planned.shard.name for planned in missing),
        over_at if over_at is not None and over_at > datetime.now(UTC) else None,
    )


def _not_met(found: Sequence[Readiness], day: date, place: Path | None) -> str:
    """Return which needs are not met, and what to do about it. `place` is the project's, for the command."""
    unmet = [need for need in found if not need.is_met]
    words = "; ".join(
        f"{need}{f' (at_least = {need.at_least:g})' if need.at_least < 1 else ''}" for need in unmet
    )
    loads = " ".join(need.load for need in unmet)
    if ends := [need.over_at for need in unmet if need.over_at is not None]:
        return (
            f"{words}. A slice is complete when it was loaded after its end, and {day} ends at"
            f" {shown_time(max(ends))}: load and refresh it then"
        )
    command = in_project(f"dwhctl load {loads} --date {day} --only-missing", place)
    return (
        f"{words}. A slice is complete when it was loaded after its end: {command}; or wait longer (--wait, or wait"
        " in the configuration)"
    )


def _lacking(found: Sequence[Readiness]) -> str:
    """Return the needs that are not met, in words."""
    return "; ".join(str(need) for need in found if not need.is_met)


def _longest_wait(project: Project, report: Report, asked: timedelta | None) -> float:
    """Return for how many seconds a report waits for its needs: `asked` (--wait) wins, then its own key."""
    waits = (asked, report.wait, project.refreshing.wait)
    return next(wait for wait in waits if wait is not None).total_seconds()
