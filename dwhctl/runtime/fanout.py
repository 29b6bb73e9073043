"""The fan-out: run checks on many systems at once, each in a thread, under a slot of its connection.

It is for read-only work that the systems do: a thread waits for an answer of a few rows. A check without a heartbeat
for its time is abandoned together with its thread.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from dwhctl.core.errors import AttemptError, DwhctlError, InternalError, TargetBusyError, TimedOutError
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Wait
from dwhctl.runtime.circuit_breaker import CircuitBreaker
from dwhctl.runtime.messages import Failure

if TYPE_CHECKING:
    from dwhctl.runtime.slots import Slot, Slots

Heartbeat = Callable[[], None]

_POLL_SECONDS = 0.05
_LAST_SECONDS = 2.0
Answer = TypeVar("Answer", covariant=True)


class RemoteCheck(Generic[Answer]):
    """Work over one connection: afterwards `answer` has its result, or `failure` the reason why there is none.

    `seconds` is the time without a heartbeat after which it is abandoned, `slot_seconds` how long it waits for a slot
    while other runs hold them all. `alone` says that its connection takes one check at a time.
    """

    #: While a breaker is open, the rest of a connection's checks fail: none waits for another attempt.
    retry_delay = timedelta(0)
    slot_seconds: float | None = None

    def __init__(
        self,
        connection: str,
        work: Callable[[Heartbeat], Answer],
        *,
        seconds: float = math.inf,
        alone: bool = False,
    ) -> None:
        self.connections = (connection, connection)
        self.seconds = seconds
        self.alone = alone
        self.answer: Answer | None = None
        self.failure: AttemptError | None = None
        self._work = work

    def run(self, heartbeat: Heartbeat) -> None:
        """Do the work, in a thread; call `heartbeat` once connected, and with each answer. Raise AttemptError."""
        self.answer = self._work(heartbeat)

    def result(self) -> Answer:
        """Return the answer, or raise the failure."""
        if self.failure is not None:
            raise self.failure
        return cast("Answer", self.answer)

    def interrupt(self) -> None:
        """Make `run` end soon, if that is possible. Called from another thread, when the fan-out ends."""

    def abandon(self) -> None:
        """End what this check alone waits for, if that is possible. Called from another thread."""
        self.interrupt()

    def fail(self, error: AttemptError) -> None:
        """Record why there is no answer."""
        self.failure = error


AnyCheck = RemoteCheck[object]


@dataclass(slots=True)
class _Queue:
    waiting: deque[AnyCheck] = field(default_factory=deque)
    running: int = 0
    starved_since: float | None = None
    wait: Wait = field(default_factory=Wait)

    def fail(self, error: AttemptError) -> None:
        while self.waiting:
            self.waiting.popleft().fail(error)


@dataclass(slots=True)
class _Running:
    slot: Slot
    thread: threading.Thread
    beat_at: float


class FanOut:
    """Runs checks, `jobs` at a time.

    A connection that has not yet worked runs one check at a time. When its circuit breaker opens, its other checks fail
    with the reason.
    """

    def __init__(self, slots: Slots, jobs: int, breaker: CircuitBreaker | None = None) -> None:
        self._slots = slots
        self._jobs = jobs
        self._breaker = breaker or CircuitBreaker()
        self._queues: dict[str, _Queue] = {}
        #: A check, whether it has ended, and its failure.
        self._events: queue.SimpleQueue[tuple[AnyCheck, bool, AttemptError | None]] = queue.SimpleQueue()
        self._running: dict[AnyCheck, _Running] = {}
        self._abandoned: list[threading.Thread] = []

    def run(self, checks: Iterable[AnyCheck]) -> None:
        """Run the checks; return when each has an answer or a failure."""
        for check in checks:
            self._queues.setdefault(check.connections[0], _Queue()).waiting.append(check)
        try:
            while self._running or any(checks.waiting for checks in self._queues.values()):
                self._start()
                self._handle()
                self._abandon_silent()
        except BaseException:
            # The process must not end while an engine works.
            for check, running in self._running.items():
                check.interrupt()
                self._abandoned.append(running.thread)
            self.join_abandoned()
            raise

    def join_abandoned(self) -> None:
        """Wait a short time for abandoned threads; those that are still running then end with the process."""
        until = time.monotonic() + _LAST_SECONDS
        for thread in self._abandoned:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        turns = deque(self._queues.items())
        while turns and len(self._running) < self._jobs:
            name, checks = turns.popleft()
            check = checks.waiting[0] if checks.waiting else None
            if check is None or (
                checks.running and (check.alone or not self._breaker.is_first_choice(check))
            ):
                continue
            slot = self._slots.try_take(name)
            if slot is None:
                self._note_starvation(name, checks)
                continue
            checks.starved_since = None
            checks.wait.end()
            checks.running += 1
            checks.waiting.popleft()
            thread = threading.Thread(target=self._run, args=(check,), name="check", daemon=True)
            self._running[check] = _Running(slot, thread, time.monotonic())
            self._breaker.started(check, time.monotonic())
            thread.start()
            turns.append((name, checks))

    def _note_starvation(self, name: str, checks: _Queue) -> None:
        """Fail the checks when other runs have held all slots for too long."""
        if checks.running:
            return
        now = time.monotonic()
        checks.starved_since = checks.starved_since or now
        checks.wait.note(partial(self._slots.wanted, name))
        first = checks.waiting[0]
        if now - checks.starved_since > (first.slot_seconds or first.seconds):
            checks.wait.end()
            checks.fail(TargetBusyError(self._slots.all_taken(name)))

    def _run(self, check: AnyCheck) -> None:
        failure: AttemptError | None = None
        try:
            check.run(lambda: self._events.put((check, False, None)))
        except AttemptError as error:
            failure = error
        except DwhctlError as error:  # such as a package that is not installed
            failure = InternalError(mask(str(error)))
        except Exception as error:
            failure = InternalError(mask(f"a defect in dwhctl: {type(error).__name__}: {error}"))
        self._events.put((check, True, failure))

    def _handle(self) -> None:
        try:
            check, has_ended, failure = self._events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        if check not in self._running:
            return  # abandoned before
        if has_ended:
            self._end(check, failure)
        else:
            self._running[check].beat_at = time.monotonic()
            self._breaker.connected(check.connections[0])

    def _end(self, check: AnyCheck, failure: AttemptError | None) -> None:
        name = check.connections[0]
        self._running.pop(check).slot.release()
        self._queues[name].running -= 1
        self._breaker.finished(check, None if failure is None else Failure.of(failure), time.monotonic())
        if failure is not None:
            check.fail(failure)
            if self._breaker.reason(name) is not None:
                self._queues[name].fail(failure)

    def _abandon_silent(self) -> None:
        now = time.monotonic()
        for check, running in list(self._running.items()):
            if now - running.beat_at > check.seconds:
                self._abandoned.append(running.thread)
                check.abandon()
                self._end(check, TimedOutError(f"no answer within {check.seconds:g} s"))
