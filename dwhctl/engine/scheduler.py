"""The loop of a run: it starts attempts, waits for events, ends attempts that take too long, retries, and stops.

It runs in the main thread and waits in one place, for one queue: results of attempts, other events and signals all
arrive there. It alone uses the sessions table.
"""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from dwhctl.core.errors import ExitCode
from dwhctl.core.waiting import Wait
from dwhctl.engine.jobs import Attempt, J, JobQueue, R
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dwhctl.engine.jobs import Attempts
    from dwhctl.runtime.messages import Failure
    from dwhctl.runtime.slots import Slots

#: How often a slot that another run holds is tried.
SLOT_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0

E = TypeVar("E")


class Scheduler(ABC, Generic[J, R, E]):
    """One run's loop over jobs, their attempts and the events of these. `events` also takes the signals.

    `blocked` says that only slots of other runs keep a job from starting; `lacking` are the names of these slots.
    """

    def __init__(
        self,
        run_id: str,
        jobs: Iterable[J],
        attempts: Attempts,
        slots: Slots,
        events: queue.SimpleQueue[E | ExitCode],
    ) -> None:
        self.run_id = run_id
        self.jobs: JobQueue[J] = JobQueue(jobs)
        self.attempts = attempts
        self.slots = slots
        self.events = events
        self.running: dict[str, Attempt[J, R]] = {}
        self.blocked = False
        self.lacking: tuple[str, ...] = ()
        self._slot_wait = Wait()

    def run(self) -> ExitCode | None:
        """Work until every job has ended, or a signal comes: then return its exit code."""
        while self.is_busy():
            self._step(time.monotonic())
            try:
                # After the last step there is nothing left to wait for.
                event = self.events.get(timeout=self._timeout() if self.is_busy() else 0.0)
            except queue.Empty:
                continue
            if isinstance(event, ExitCode):
                return event
            self.handle(event)
        self.attempts.flush()
        return None

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
        """Say what the run waits for when nothing runs and only slots of other runs are missing."""
        if self.lacking and not self.running:
            self._slot_wait.note(lambda: self.slots.wanted(*self.lacking))
        else:
            self._slot_wait.end()

    def may_retry(self, job: J, failure: Failure) -> bool:
        """Count a failure of the job, and return whether it is tried again."""
        job.failures += 1
        return not failure.permanent and job.failures <= self.attempts.retries(job.config)

    def retry_or_fail(self, attempt: Attempt[J, R], failure: Failure) -> None:
        """Close a failed attempt, and queue its job for the next one if it has any left."""
        job = attempt.job
        if not self.may_retry(job, failure):
            self.close(attempt, State.FAILED, failure)
            return
        delay = job.retry_delay()
        self.jobs.wait(job, time.monotonic() + delay)
        self.close(attempt, State.UP_FOR_RETRY, failure, delay)

    def close(
        self,
        attempt: Attempt[J, R],
        state: State,
        failure: Failure | None = None,
        retry_in: float | None = None,
    ) -> None:
        """Close the session of an attempt with the next flush."""
        self.attempts.close(attempt, state, failure, retry_in)

    def expires_at(self, attempt: Attempt[J, R], now: float) -> float:  # noqa: ARG002
        """Return the time at which the attempt has taken too long."""
        return attempt.expires_at

    def stopped(self, failure: Failure) -> None:
        """Close what a signal leaves: what was closed before, and the sessions that wait for a retry."""
        self.attempts.flush()
        self.attempts.store.fail_waiting(self.run_id, failure.message)

    @abstractmethod
    def is_busy(self) -> bool:
        """Return whether any job has not ended."""

    @abstractmethod
    def advance(self, now: float) -> None:
        """Start what may start, and do what else is due."""

    @abstractmethod
    def expire(self, attempt: Attempt[J, R], now: float) -> None:
        """End an attempt whose time is over, or set another time."""

    @abstractmethod
    def handle(self, event: E) -> None:
        """Take an event."""

    @abstractmethod
    def stop(self) -> None:
        """Stop within seconds after a signal: end what runs, and close what is neither done nor in doubt."""

    def finish(self) -> None:
        """End in order, when every job has ended."""

    @abstractmethod
    def end(self) -> None:
        """Release all that the loop holds, whatever ended it."""
