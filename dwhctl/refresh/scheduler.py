"""Refresh reports side by side: the loop of the parent, and a thread for each attempt.

The loop alone talks to the sessions database: it checks needs, takes slots, opens and closes sessions, ends the late.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    AttemptError,
    CommitInDoubtError,
    ExitCode,
    InterruptedAttemptError,
    NotReady,
    SessionsError,
    StateDirError,
    TimedOutError,
)
from dwhctl.core.waiting import Wait
from dwhctl.project.connections import SYSTEMS
from dwhctl.refresh.transaction import (
    Landed,
    RefreshRules,
    ReportAttempt,
    ReportJob,
    refresh_report,
)
from dwhctl.runtime.events import ReportClosed, ReportStarted, ReportWaits
from dwhctl.runtime.messages import Failure, retry_seconds
from dwhctl.runtime.plan import lacking, longest_wait, not_met, readiness
from dwhctl.runtime.prepare import keep_report_place
from dwhctl.sessions.values import Closing, NewSession, State
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.model import Project
    from dwhctl.runtime.events import RefreshListener, RefreshResult
    from dwhctl.runtime.slots import Slot, Slots
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Target

_SLOT_POLL_SECONDS = 0.05
_NEEDS_POLL_SECONDS = 1.0
_INTERRUPT_AGAIN_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


Happening = Landed | ExitCode


class Refresher:
    """Takes the jobs through their attempts. `happenings` also takes the signals."""

    def __init__(
        self,
        project: Project,
        report: RefreshResult,
        rules: RefreshRules,
        store: SessionStore,
        slots: Slots,
        listen: RefreshListener,
        happenings: queue.SimpleQueue[Happening],
    ) -> None:
        self._project = project
        self._report = report
        self._rules = rules
        self._store = store
        self._slots = slots
        self._listen = listen
        self._happenings = happenings
        self._jobs: list[ReportJob] = []
        self._flying: list[ReportAttempt] = []
        self._slot_wait = Wait()
        self._began = datetime.now(UTC)
        self.leaves_unsettled = False

    def run(self, jobs: Sequence[ReportJob]) -> ExitCode | None:
        """Refresh until every job has ended, or a signal comes: then give its exit code."""
        self._jobs = list(jobs)
        while self._jobs or self._flying:
            now = time.monotonic()
            self._expire(now)
            self._start(now)
            try:
                happening = self._happenings.get(timeout=self._pause(time.monotonic()))
            except queue.Empty:
                continue
            if isinstance(happening, ExitCode):
                return happening
            self._land(happening)
        return None

    def _pause(self, now: float) -> float:
        """Give how long nothing but a happening is to be waited for."""
        times = [
            now + _INTERRUPT_AGAIN_SECONDS if flight.timed_out else flight.deadline for flight in self._flying
        ]
        if len(self._flying) < self._rules.at_once:
            times += [max(job.start_at, now + _SLOT_POLL_SECONDS) for job in self._jobs]
        if not times:  # the last job was not ready and has failed: nothing will happen any more
            return 0.0
        return max(0.0, min([*times, now + _LONGEST_PAUSE_SECONDS]) - now)

    def _start(self, now: float) -> None:
        for job in [one for one in self._jobs if one.start_at <= now]:
            if len(self._flying) >= self._rules.at_once:
                return
            if (error := self._rules.blocked.get(job.report.name)) is not None:
                self._jobs.remove(job)
                self._fail_unstarted(job, error)
                continue
            slot = self._slot(job.report.connection)
            if slot is None:
                if not self._flying:
                    self._slot_wait.note(partial(self._slots.wanted, job.report.connection))
                continue
            self._slot_wait.end()
            with ExitStack() as unless_it_flies:
                unless_it_flies.callback(slot.release)
                if self._is_ready(job, now):
                    self._jobs.remove(job)
                    self._take_off(job, slot)
                    unless_it_flies.pop_all()

    def _slot(self, connection: str) -> Slot | None:
        """Take a slot of the warehouse if one is free; a file has one writer at all."""
        busy = {flight.job.report.connection for flight in self._flying}
        if connection in busy and SYSTEMS[self._project.connections[connection].type].one_writer:
            return None
        return self._slots.try_take(connection)

    def _is_ready(self, job: ReportJob, now: float) -> bool:
        """Look at the job's needs; one that is not ready in time fails."""
        if not job.report.needs:
            return True
        job.found = readiness(self._project, self._store, job.report, self._report.day)
        if all(one.is_met for one in job.found):
            job.wait.end()
            return True
        wait_until = self._rules.began + longest_wait(self._project, job.report, self._rules.wait)
        if now >= wait_until:
            job.wait.end()
            self._jobs.remove(job)
            self._fail_unstarted(job, NotReady(not_met(job.found, self._report.day)))
            return False
        job.start_at = min(now + _NEEDS_POLL_SECONDS, wait_until)
        job.wait.note(lambda: f"what report {job.report.name} needs: {lacking(job.found)}")
        if not job.waits:
            job.waits = True
            self._listen(ReportWaits(job.report.name, self._report.day, job.found))
        return False

    def _take_off(self, job: ReportJob, slot: Slot) -> None:
        etl_id = job.doubted
        if etl_id is None:
            job.attempt += 1
            etl_id = self._open(job, datetime.now(UTC))
        report = job.report
        connection = self._project.connections[report.connection]
        label = f"dwhctl:{self._report.run_id}:{report.name}"
        target = system_of(connection).open_target(connection, self._project.state_dir, report.timeout, label)
        flight = ReportAttempt(job, etl_id, target, slot)
        flight.thread = threading.Thread(target=self._fly, args=(flight,), name=f"refresh {report.name}")
        self._flying.append(flight)
        day = self._report.day
        self._listen(ReportStarted(report.name, report.connection, day, job.attempt, etl_id))
        flight.thread.start()

    def _open(self, job: ReportJob, started: datetime) -> int:
        name, token = job.report.name, uuid.uuid4().hex
        new = NewSession(self._report.run_id, name, None, self._report.day, job.attempt, token, started)
        return self._store.open([new])[0]

    def _fly(self, flight: ReportAttempt) -> None:
        """Make the attempt, in its thread."""
        job, target = flight.job, flight.target
        try:
            if job.unsettled is not None:
                job.unsettled.settle()
                job.unsettled = job.doubted = None
            rows = refresh_report(target, job.report, job.sql, self._store.check_alive)
        except BaseException as error:
            self._happenings.put(Landed(flight, error=error, is_settled=_settled(target)))
        else:
            self._happenings.put(Landed(flight, rows))

    def _expire(self, now: float) -> None:
        for flight in self._flying:
            if flight.timed_out or now >= flight.deadline:
                # Again and again: it may be between two statements, and begin the next.
                flight.timed_out = True
                flight.target.interrupt()

    def _land(self, landed: Landed) -> None:
        flight = landed.flight
        self._let_go(landed)
        if landed.error is None:
            self._close(flight, State.LOADED, rows=landed.rows)
            return
        if isinstance(landed.error, SessionsError | StateDirError):
            raise landed.error
        job, failure = flight.job, self._failure(landed, landed.error)
        job.failures += 1
        retries = job.report.retries if self._rules.retries is None else self._rules.retries
        if failure.permanent or job.failures > retries:
            self._close(flight, State.FAILED, failure)
            return
        delay = retry_seconds(job.report.retry_delay, job.failures)
        job.start_at = time.monotonic() + delay
        self._jobs.append(job)
        self._close(flight, State.UP_FOR_RETRY, failure, timedelta(seconds=delay))

    def _failure(self, landed: Landed, error: BaseException) -> Failure:
        """Describe what came of an attempt, and note whether its commit may still happen."""
        job, error = landed.flight.job, self._translate_error(landed.flight, error)
        keep_report_place(self._project, job.report, job.sql, self._report.day, error)
        if isinstance(error, CommitInDoubtError):
            job.doubted = None if landed.is_settled else landed.flight.etl_id
        elif job.doubted is not None:
            found = Failure.of(error)
            doubt = CommitInDoubtError(
                f"a commit is in doubt, and the warehouse cannot be asked: {found.message}"
            )
            return replace(Failure.of(doubt), permanent=found.permanent)
        return Failure.of(error)

    @staticmethod
    def _translate_error(flight: ReportAttempt, error: BaseException) -> BaseException:
        if flight.timed_out and not isinstance(error, CommitInDoubtError):
            timeout = flight.job.report.timeout
            return TimedOutError(f"not done after the report's timeout of {timeout}; its statement was ended")
        return error

    def _let_go(self, landed: Landed) -> None:
        flight = landed.flight
        self._flying.remove(flight)
        flight.slot.release()
        if flight.thread is not None:
            flight.thread.join()
        if not landed.is_settled:
            flight.job.unsettled = flight.target
            self.leaves_unsettled = True

    def _fail_unstarted(self, job: ReportJob, error: AttemptError) -> None:
        job.attempt += 1
        etl_id = self._open(job, self._began)
        self._write(
            job, etl_id, State.FAILED, Failure.of(error), (datetime.now(UTC) - self._began).total_seconds()
        )

    def _close(
        self,
        flight: ReportAttempt,
        state: State,
        failure: Failure | None = None,
        retry_in: timedelta | None = None,
        rows: int | None = None,
    ) -> None:
        """Close the session of an attempt, or leave it running while its commit may still happen."""
        seconds = time.monotonic() - flight.started
        state = State.RUNNING if failure is not None and flight.job.doubted is not None else state
        self._write(flight.job, flight.etl_id, state, failure, seconds, retry_in, rows)

    def _write(
        self,
        job: ReportJob,
        etl_id: int,
        state: State,
        failure: Failure | None,
        seconds: float,
        retry_in: timedelta | None = None,
        rows: int | None = None,
    ) -> None:
        """Close a session, then tell of it."""
        now, report = datetime.now(UTC), job.report
        closing = Closing(
            etl_id,
            state,
            None if state is State.RUNNING else now,
            loaded_rows=rows,
            error_class=failure.error_class if failure else None,
            comment=failure.message if failure else None,
        )
        self._store.close([closing])
        without = tuple(one for one in job.found if one.missing or not one.expected)
        retry_at = now + retry_in if retry_in is not None else None
        event = ReportClosed(
            report.name, report.connection, self._report.day, job.attempt, state, rows or 0, seconds, failure,
            retry_at, without, etl_id,
        )  # fmt: skip
        if retry_in is not None:
            self._report.retried += 1
        else:
            self._report.closed.append(event)
        self._listen(event)

    def stop(self) -> None:
        """Stop within seconds: end what runs, and close as interrupted what is neither committed nor in doubt."""
        failure = Failure.of(InterruptedAttemptError())
        for landed in self.end_all():
            found = self._failure(landed, landed.error) if landed.error else None
            if found is None:
                self._close(landed.flight, State.LOADED, rows=landed.rows)
            else:
                self._close(landed.flight, State.FAILED, found if found.is_a(CommitInDoubtError) else failure)
        self._store.fail_waiting(self._report.run_id, failure.message)

    def end_all(self) -> list[Landed]:
        """Interrupt every attempt until its thread has ended, and return what came of them."""
        found: list[Landed] = []
        while self._flying:
            for flight in self._flying:
                flight.target.interrupt()
            try:
                happening = self._happenings.get(timeout=_INTERRUPT_AGAIN_SECONDS)
            except queue.Empty:
                continue
            if isinstance(happening, Landed):
                self._let_go(happening)
                found.append(happening)
        return found


def _settled(target: Target) -> bool:
    """End what the server may still be at; tell whether that is sure."""
    try:
        target.settle()
    except AttemptError:
        return False
    return True
