"""A run of slices or reports, from its plan to its alerts, and the loop over its attempts.

plan ▶ take the locks ▶ reap dead runs ▶ loop ▶ result ▶ write the alerts ▶ release the locks ▶ send alerts and pings

The loop starts attempts, waits for events, ends attempts that take too long, and retries. It runs in the main thread
and waits in one place, for one queue: results of attempts, other events and signals all arrive there. It alone uses the
sessions table.
"""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from dwhctl.core.errors import ExitCode, InternalError, NotReady, SessionsError, StateDirError, WorkersError
from dwhctl.core.waiting import Wait, caught_signals
from dwhctl.engine.jobs import Attempt, Attempts, JobQueue, JobT, RunnerT
from dwhctl.notify import run_notifier
from dwhctl.runtime.events import Event, Listener, RunEnded, RunResult
from dwhctl.runtime.failures import group_failures
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.messages import Failure
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.run_context import RunContext, new_run_id
from dwhctl.runtime.slots import Slots, slots_of_run
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from dwhctl.alerts.digest import RunKind
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore


class Run(ABC):
    """One run: what it holds until its end, and its loop."""

    kind: ClassVar[RunKind]

    def __init__(self, project: Project, command: str, wait: float) -> None:
        self.id = new_run_id()
        self.project = project
        self.command = command
        self.result = RunResult(self.id)
        self.state = StateDir(project.state_dir)
        self.slots = slots_of_run(project)
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: The next run has something to reap, though this one ends in order.
        self.leaves_lock = False
        self._wait = wait

    @abstractmethod
    def prepare(self) -> None:
        """Make the plan. Raise ConfigError or UsageError; touch nothing."""

    @abstractmethod
    def locks(self) -> Mapping[str, str]:
        """Return the names of the locks of its work, each with what is done under it."""

    @abstractmethod
    def work(self) -> None:
        """Do the work, with the locks held: publish the start event, make the scheduler and pass it to `loop`."""

    def check(self, store: SessionStore) -> None:  # noqa: B027 - few runs have something to check
        """Refuse the run, now that its locks are held."""

    def unknown_loads(self, store: SessionStore) -> Sequence[Load]:  # noqa: ARG002
        """Return the loads whose tables may hold etl_ids that the sessions table does not have."""
        return ()

    def carry_out(
        self, listen: Listener, names: Sequence[str], *, pings: bool = True, scheduled: bool = False
    ) -> RunResult:
        """Run from the plan to the alerts; `names` are those of its loads or reports.

        Raise ConfigError or UsageError before anything is touched, LockHeldError when another run has a lock of its
        work, StateDirError, SessionsError when the sessions database cannot be used at the start, and Interrupted.
        """
        with (
            logged_run(self.project, self.id, self.command, listen) as log,
            run_notifier(
                self.project, self.command, names, log, self.kind, pings=pings, scheduled=scheduled
            ) as notifier,
        ):
            self.prepare()
            self.listen = notifier.listen
            with caught_signals() as self._signals, ExitStack() as stack:
                self._enter(stack)
                began = time.monotonic()
                self.work()
                self.result.seconds = time.monotonic() - began
                if self.result.failures:
                    self.result.groups = group_failures(self.project, self.result.failures)
                self.listen(RunEnded(self.result))
                notifier.write(self.store, self.result)
            # Its locks are free: a channel that hangs holds up no other run.
            self.result.pings = notifier.ping()
            self.result.alerts = notifier.send()
        return self.result

    def _enter(self, stack: ExitStack) -> None:
        """Take what the run holds until its end: the locks of its work, its sessions, its run lock. Reap dead runs."""
        self.targets = targets_of(self.project, f"dwhctl:{self.id}")
        context = RunContext(
            self.id,
            self.command,
            self.project,
            self.state,
            self.slots,
            self.targets,
            notify=self.listen,
            leaves_lock=self._leaves_work,
            check=self.check,
            unknown=self.unknown_loads,
        )
        self.store = context.enter(stack, self.locks(), self._wait)
        #: Why a load or report may not start: a dead run's sessions of it could not be closed.
        self.blocked = context.blocked

    def _leaves_work(self) -> bool:
        return bool(self.leaves_lock or self.result.stopped is not None or self.result.in_doubt)

    def loop(self, scheduler: Scheduler[Any, Any, Any]) -> None:
        """Run the loop to its end. From here on a signal is an event of the loop."""
        self._signals.listener = self._stop_soon
        if self._signals.received is not None:
            # What its handler raised was lost: Python ignores the errors of destructors, and so do some libraries.
            self._stop_soon(self._signals.received)
        try:
            self.result.signal = scheduler.run()
            if self.result.signal is None:
                scheduler.finish()
            else:
                scheduler.stop()
        except (SessionsError, StateDirError, WorkersError, InternalError) as error:
            self.result.stopped = str(error)
            self.result.signal = self._signals.received
        finally:
            scheduler.end()

    def _stop_soon(self, code: ExitCode) -> None:
        """Pass a signal to the loop, which may be waiting for the sessions database."""
        self.store.hurry()
        self.events.put(code)


#: How often a slot that another run holds is tried.
SLOT_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0

EventT = TypeVar("EventT")


class Scheduler(ABC, Generic[JobT, RunnerT, EventT]):
    """One run's loop over jobs, their attempts and the events of these. `events` also takes the signals.

    `blocked` says that only slots of other runs keep a job from starting; `lacking` are the names of these slots.
    """

    def __init__(
        self,
        run_id: str,
        jobs: Iterable[JobT],
        attempts: Attempts,
        slots: Slots,
        events: queue.SimpleQueue[EventT | ExitCode],
    ) -> None:
        self.run_id = run_id
        self.jobs: JobQueue[JobT] = JobQueue(jobs)
        self.attempts = attempts
        self.slots = slots
        self.events = events
        self.running: dict[str, Attempt[JobT, RunnerT]] = {}
        self.blocked = False
        self.lacking: tuple[str, ...] = ()
        #: When the jobs began to wait: the sessions of those that never start begin then.
        self.began = datetime.now(UTC)
        self._slot_wait = Wait()

    def run(self) -> ExitCode | None:
        """Work until every job has ended, or a signal comes: then return its exit code."""
        while self.is_busy():
            self._step(time.monotonic())
            # After the last step there is nothing left to wait for.
            timeout = self._timeout() if self.is_busy() else 0.0
            # What has come is handled before the next step: it opens and closes the sessions of all in one transaction.
            while (event := self._next_event(timeout)) is not None:
                if isinstance(event, ExitCode):
                    return event
                self.handle(event)
                timeout = 0.0
        self.attempts.flush()
        return None

    def _next_event(self, timeout: float) -> EventT | ExitCode | None:
        try:
            return self.events.get(timeout=timeout)
        except queue.Empty:
            return None

    def is_busy(self) -> bool:
        """Return whether any job has not ended."""
        return bool(self.jobs or self.running)

    def _step(self, now: float) -> None:
        for attempt in list(self.running.values()):
            if now >= self.expires_at(attempt, now):
                self.expire(attempt, now)
        self.jobs.wake(now)
        self.advance(now)
        self.attempts.flush()
        self.note_waits()

    def _timeout(self) -> float:
        """Return the seconds after which something is to be done even if no event comes."""
        now = time.monotonic()
        longest = SLOT_POLL_SECONDS if self.blocked else _IDLE_SECONDS
        return max(0.0, min([now + longest, *self.times(now)]) - now)

    def times(self, now: float) -> Iterator[float]:  # noqa: ARG002 - for those that override it
        """Yield the times at which something is to be done."""
        yield from (attempt.expires_at for attempt in self.running.values())
        if (waking := self.jobs.next_waking()) is not None:
            yield waking

    def note_waits(self) -> None:
        """Announce what the run waits for when nothing runs and only slots of other runs are missing."""
        if self.lacking and not self.running:
            self._slot_wait.note(lambda: self.slots.wanted(*self.lacking))
        else:
            self._slot_wait.end()

    def wait_until_ready(
        self,
        jobs: JobQueue[JobT],
        job: JobT,
        now: float,
        *,
        until: float,
        pause: float,
        event: Event,
        error: Callable[[], NotReady],
    ) -> bool:
        """Keep a job back in `jobs` that is not ready, or fail it when its time is over. Return whether it waits.

        The first time, publish the event. It waits without a slot.
        """
        if now >= until:
            self.attempts.fail_unstarted([job], Failure.of(error()), self.began)
            return False
        jobs.wait(job, min(now + pause, until))
        if not job.announced:
            job.announced = True
            self.attempts.listen(event)
        return True

    def may_retry(self, job: JobT, failure: Failure) -> bool:
        """Count a failure of the job, and return whether it is tried again."""
        job.failures += 1
        return not failure.permanent and job.failures <= self.attempts.retries(job.config)

    def retry_or_fail(self, attempt: Attempt[JobT, RunnerT], failure: Failure) -> None:
        """Close a failed attempt, and queue its job for the next one if it has any left."""
        job = attempt.job
        if not self.may_retry(job, failure):
            self.close(attempt, State.FAILED, failure)
            return
        delay = job.seconds_to_retry()
        self.jobs.wait(job, time.monotonic() + delay)
        self.close(attempt, State.UP_FOR_RETRY, failure, delay)

    def close(
        self,
        attempt: Attempt[JobT, RunnerT],
        state: State,
        failure: Failure | None = None,
        retry_in: float | None = None,
    ) -> None:
        """Close the session of an attempt with the next flush."""
        self.attempts.close(attempt, state, failure, retry_in)

    def expires_at(self, attempt: Attempt[JobT, RunnerT], now: float) -> float:  # noqa: ARG002
        """Return the time at which the attempt has taken too long."""
        return attempt.expires_at

    def stopped(self, failure: Failure) -> None:
        """Close what a signal leaves: what was closed before, and the sessions that wait for a retry."""
        self.attempts.flush()
        self.attempts.store.fail_waiting(self.run_id, failure.message)

    @abstractmethod
    def advance(self, now: float) -> None:
        """Start what may start, and do what else is due."""

    @abstractmethod
    def expire(self, attempt: Attempt[JobT, RunnerT], now: float) -> None:
        """End an attempt that is past its `expires_at`, or set a later time."""

    @abstractmethod
    def handle(self, event: EventT) -> None:
        """Process an event."""

    @abstractmethod
    def stop(self) -> None:
        """Stop within seconds after a signal: end what runs, and close what is neither done nor in doubt."""

    def finish(self) -> None:
        """End in order, when every job has ended."""

    @abstractmethod
    def end(self) -> None:
        """Release all that the loop holds, whatever ended it."""
