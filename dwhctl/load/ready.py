"""Slices whose `ready` is not true yet: they wait without a worker or a slot, and are checked by a short query.

A check runs in a thread, under a slot of the shard's connection and behind its circuit breaker. The thread passes a
ReadyChecked to the loop; then the slice starts, waits for the next check, or fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dwhctl.core.errors import AttemptError, ConfigError, NotReady, QueryError, TimedOutError
from dwhctl.core.waiting import Wait
from dwhctl.core.words import one_line, quoted, shown_path, shown_time
from dwhctl.engine.jobs import JobQueue
from dwhctl.project.days import format_duration
from dwhctl.project.query import Query
from dwhctl.project.templates import render_ready
from dwhctl.runtime.events import SliceReady, SliceWaits
from dwhctl.runtime.failures import ready_place
from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.system import SourceOptions, system_of

if TYPE_CHECKING:
    from dwhctl.engine.run import Scheduler
    from dwhctl.load.attempts import SliceJob
    from dwhctl.project.connections import Connection
    from dwhctl.project.model import Project
    from dwhctl.runtime.circuit_breaker import CircuitBreaker
    from dwhctl.runtime.slots import Slot
    from dwhctl.systems.base.source import Source

#: A check without an answer by then is given up: it is short, and other runs may want its slot.
CHECK_SECONDS = 60.0
#: Checks at once of one run, where connections have no limit.
_MOST_CHECKS = 16
_LAST_SECONDS = 2.0
#: Progress shows the count at once; a wait is announced after this.
_FIRST_SECONDS = 60.0
_SHOWN_SLICES = 3
#: The texts that PostgreSQL takes for a boolean, and the empty text.
_TRUE = frozenset({"t", "true", "y", "yes", "on", "1"})
_FALSE = frozenset({"f", "false", "n", "no", "off", "0", ""})


def is_true(value: object) -> bool:
    """Return whether the first value of a `ready` query lets the slice start. Raise QueryError for an unclear text."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in _TRUE | _FALSE:
            raise QueryError(
                f"gives the text {quoted(one_line(value)[:40])}, which is neither true nor false; write a condition,"
                " such as CASE WHEN status = 'done' THEN 1 ELSE 0 END"
            )
        return word in _TRUE
    if isinstance(value, bool | int | float | Decimal):
        return value == value and value != 0
    return value is not None


class ReadyChecked(Struct, frozen=True):
    """The result of a check."""

    check: ReadyCheck
    is_ready: bool = False
    failure: Failure | None = None


class ReadyCheck:
    """One check of a slice: for the circuit breaker, a job that uses the source alone."""

    def __init__(self, job: SliceJob, now: float) -> None:
        self.job = job
        self.connections = (job.connection, job.connection)
        self.database = (job.connection, job.planned.shard.database)
        self.retry_delay: timedelta = job.retry_delay
        self.expires_at = now + CHECK_SECONDS
        self.slot: Slot | None = None
        self.thread: threading.Thread | None = None
        self._source: Source | None = None

    def run(self, connection: Connection, query: Query, login_known: bool | None, state_dir: Path) -> bool:
        """Run the query, in a thread, and return whether its first value is true. Raise AttemptError."""
        planned = self.job.planned
        with system_of(connection).open_source(
            connection,
            planned.shard.database,
            SourceOptions(planned.slice.zone, CHECK_SECONDS, login_known, state_dir),
        ) as source:
            self._source = source
            return is_true(source.first_value(query))

    def interrupt(self) -> None:
        """Make `run` end soon, where the driver can."""
        if self._source is not None:
            self._source.interrupt()

    def release(self) -> None:
        """Release the slot. Idempotent."""
        if self.slot is not None:
            self.slot.release()


class ReadyChecks:
    """The slices of a loop that are not known to be ready, and the checks of them; those that are go to its jobs.

    `blocked` says that only slots of other runs, or a source that has not yet worked, keep a check from starting.
    """

    def __init__(
        self,
        project: Project,
        jobs: JobQueue[SliceJob],
        breaker: CircuitBreaker,
        loop: Scheduler[SliceJob, Any, Any],
    ) -> None:
        self.jobs = jobs
        self.blocked = False
        #: The connections of which a check lacks a slot: workers that keep some leave them to it.
        self.lacking: set[str] = set()
        self._project = project
        self._breaker = breaker
        self._loop = loop
        self._notify = loop.events.put
        self._running: dict[ReadyCheck, None] = {}
        self._abandoned: list[ReadyCheck] = []
        self._wait = Wait(first=_FIRST_SECONDS)

    def __len__(self) -> int:
        return len(self.jobs) + len(self._running)

    def start(self, now: float) -> None:
        """Start the checks that are due, as far as there are slots, and give up those that take too long."""
        self._expire(now)
        self.jobs.wake(now, first=False)
        self.blocked = False
        self.lacking.clear()
        taken: list[ReadyCheck] = []

        def may_start(job: SliceJob) -> bool:
            check = ReadyCheck(job, now)
            if check.database in (running.database for running in self._running):
                return False  # an embedded engine opens a file once in a process
            if not self._breaker.may_start(check, now) or not self._has_room(check, now):
                return False
            check.slot = self._loop.slots.try_take(job.connection)
            if check.slot is None:
                self.blocked = True
                self.lacking.add(job.connection)
                return False
            taken.append(check)
            return True

        while len(self._running) < _MOST_CHECKS and self.jobs.pop(may_start) is not None:
            self._start(taken.pop(), now)

    def _has_room(self, check: ReadyCheck, now: float) -> bool:
        """Return whether the source has worked, or had the time to refuse what it was asked last."""
        connection = self._project.connections[check.job.connection]
        timeout: timedelta = getattr(connection, "connect_timeout", timedelta(0))
        has_room = self._breaker.is_first_choice(check, now) or self._breaker.was_asked_before(
            check, now - timeout.total_seconds()
        )
        self.blocked |= not has_room
        return has_room

    def _start(self, check: ReadyCheck, now: float) -> None:
        self._breaker.started(check, now)
        self._running[check] = None
        planned, connection = check.job.planned, self._project.connections[check.job.connection]
        try:
            query = render_ready(self._project, planned.load, planned.shard, planned.slice)
        except ConfigError as error:
            self._notify(ReadyChecked(check, failure=Failure.of(QueryError(str(error)))))
            return
        known = self._breaker.login_known(check.job.connection)

        def run() -> None:
            try:
                answer = ReadyChecked(check, check.run(connection, query, known, self._project.state_dir))
            except Exception as error:
                # Whatever it was: the loop would wait for a check without a result until its time is over.
                answer = ReadyChecked(check, failure=self._failure(check, error))
            self._notify(answer)

        check.thread = threading.Thread(target=run, name="ready check", daemon=True)
        check.thread.start()

    def _failure(self, check: ReadyCheck, error: Exception) -> Failure:
        """Describe the error of a check; set the place of one that the query is to blame for."""
        if isinstance(error, QueryError):
            error.place = ready_place(self._project, check.job.planned, error.line)
            error.args = (f"{self._shown(check.job)}: {error}",)
        return Failure.of(error)

    def _shown(self, job: SliceJob) -> str:
        path = job.config.ready
        return shown_path(path, self._project.root) if path else ""

    def _expire(self, now: float) -> None:
        for check in [check for check in self._running if now >= check.expires_at]:
            check.interrupt()
            self._abandoned.append(check)
            error: AttemptError = TimedOutError(
                f"{self._shown(check.job)} gave no answer within {CHECK_SECONDS:g} s"
            )
            self._notify(ReadyChecked(check, failure=Failure.of(error)))
            check.expires_at = float("inf")

    def checked(self, event: ReadyChecked, now: float) -> list[str]:
        """Take the result of a check. Return messages about the circuit breaker."""
        job, check, loop = event.check.job, event.check, self._loop
        check.release()
        if check not in self._running:
            return []  # it was given up before
        del self._running[check]
        since = now - (datetime.now(UTC) - loop.began).total_seconds()
        until = since + job.config.ready_timeout.total_seconds()
        if event.failure is not None:
            self._failed(job, event.failure, now, until)
        elif event.is_ready:
            if job.announced:
                loop.attempts.listen(SliceReady(*job.names, now - since))
            loop.jobs.put(job)
        else:
            # After a failure it waits anew: progress shows it again.
            job.announced &= not job.failures
            job.failures = 0
            self._wait_on(job, now, until)
        return self._breaker.finished(check, event.failure, now)

    def _failed(self, job: SliceJob, failure: Failure, now: float, until: float) -> None:
        """Check again after a failure, or fail the slice; retries do not prolong the wait."""
        retries = self._loop.may_retry(job, failure) and now < until
        delay = min(job.seconds_to_retry(), until - now) if retries else None
        if delay is not None:
            self.jobs.wait(job, now + delay)
        self._loop.attempts.fail_unstarted([job], failure, retry_in=delay)

    def _wait_on(self, job: SliceJob, now: float, until: float) -> None:
        load, loop = job.config, self._loop
        query, since = self._shown(job), shown_time(loop.began, self._project.zone)
        loop.wait_until_ready(
            self.jobs,
            job,
            now,
            until=until,
            pause=load.ready_interval.total_seconds(),
            event=SliceWaits(*job.names, query, loop.began + load.ready_timeout),
            error=lambda: NotReady(
                f"{query} was not true since {since}, for the load's ready_timeout of"
                f" {format_duration(load.ready_timeout)}"
            ),
        )

    def note_wait(self) -> None:
        """Say that the run waits for shards that are not ready."""
        waiting = [job for job in self.jobs if job.announced]
        if not waiting:
            self._wait.end()
            return
        names = [" ".join((job.config.name, job.shard, str(job.day))) for job in waiting[:_SHOWN_SLICES]]
        more = f" and {len(waiting) - len(names):,} more" if len(waiting) > len(names) else ""
        self._wait.note(lambda: f"shards that are not ready: {', '.join(names)}{more}")

    def times(self) -> Iterator[float]:
        """Yield the times at which something is to be done."""
        yield from (check.expires_at for check in self._running)
        if (waking := self.jobs.next_waking()) is not None:
            yield waking

    def stop(self) -> None:
        """Interrupt the checks, and wait a short time for their threads: an engine may still work in one."""
        until = time.monotonic() + _LAST_SECONDS
        checks = [*self._running, *self._abandoned]
        for check in checks:
            check.interrupt()
        for check in checks:
            if check.thread is not None:
                check.thread.join(max(0.0, until - time.monotonic()))
            check.release()
        self._wait.end()
