"""Ask many systems at once: each question in a thread of its own, under a slot of its connection.

For work that the systems do themselves, and that changes nothing: a thread waits for an answer of a few rows. A
question that gives no sign of life for its time is given up, with its thread; nobody waits for it any more.
"""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    InternalError,
    LoginRefusedError,
    TargetBusyError,
    TimedOutError,
)
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dwhctl.runtime.slots import Slot, Slots

_POLL_SECONDS = 0.05
_FAILURES_IN_A_ROW = 3
_LAST_SECONDS = 2.0


class Question(ABC):
    """Something to ask over one connection."""

    connection: str
    #: How long it may be silent.
    seconds: float
    #: Whether its connection takes one question at a time.
    alone: bool = False

    @abstractmethod
    def ask(self, alive: Callable[[], None]) -> None:
        """Ask, in a thread. `alive` is called once the connection is made, and with each answer.

        Raise AttemptError; ConnectError and LoginRefusedError speak of the connection, any other of the question.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """From another thread, for good: make `ask` end soon, where that is possible."""

    def give_up(self) -> None:
        """From another thread: end what this question alone waits for, where that is possible."""
        self.interrupt()

    @abstractmethod
    def fail(self, error: AttemptError) -> None:
        """Take note that what was not answered so far will not be."""


@dataclass(slots=True)
class _Connection:
    waiting: deque[Question]
    works: bool = False
    running: int = 0
    failures: int = 0
    starved_since: float | None = None
    wait: Wait = field(default_factory=Wait)


@dataclass(slots=True)
class _Running:
    slot: Slot
    thread: threading.Thread
    sign_at: float


#: A question, whether it is done, and what it failed with.
_Event = tuple[Question, bool, AttemptError | None]


class Asker:
    """Asks questions, `jobs` at a time.

    A connection that has not yet shown to work is asked one question at a time; after a refused login, or three
    failures in a row to connect, its other questions fail with that reason.
    """

    def __init__(self, slots: Slots, jobs: int) -> None:
        self._slots = slots
        self._jobs = jobs
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._running: dict[Question, _Running] = {}
        self._connections: dict[str, _Connection] = {}
        self._left: list[threading.Thread] = []

    def run(self, questions: Iterable[Question]) -> None:
        """Ask them all, and come back when each is answered, has failed or is given up."""
        for one in questions:
            self._connections.setdefault(one.connection, _Connection(deque())).waiting.append(one)
        try:
            while self._running or any(one.waiting for one in self._connections.values()):
                self._start()
                self._handle()
                self._give_up_the_silent()
        except BaseException:
            self._interrupt()
            raise

    def _interrupt(self) -> None:
        """End what runs, and wait for it: the process must not end in the middle of an engine's work."""
        for question, running in self._running.items():
            question.interrupt()
            self._left.append(running.thread)
        self.wait_for_the_rest()

    def wait_for_the_rest(self) -> None:
        """Wait a little for the threads that were given up; those that still do not end do so with the process."""
        until = time.monotonic() + _LAST_SECONDS
        for thread in self._left:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        """Begin what may begin now; the connections take turns."""
        turns = deque(self._connections.items())
        while turns and len(self._running) < self._jobs:
            name, connection = turns.popleft()
            if not self._may_start(connection):
                continue
            slot = self._slots.try_take(name)
            if slot is None:
                self._starve(name, connection)
                continue
            connection.starved_since = None
            connection.wait.end()
            self._begin(connection.waiting.popleft(), slot)
            connection.running += 1
            turns.append((name, connection))

    def _starve(self, name: str, connection: _Connection) -> None:
        """Take note that other runs hold all slots; that too is waited for only so long."""
        now = time.monotonic()
        if connection.running:
            return
        connection.starved_since = connection.starved_since or now
        connection.wait.note(partial(self._slots.wanted, name))
        if now - connection.starved_since > connection.waiting[0].seconds:
            connection.wait.end()
            busy = TargetBusyError(self._slots.all_taken(name))
            while connection.waiting:
                connection.waiting.popleft().fail(busy)

    @staticmethod
    def _may_start(connection: _Connection) -> bool:
        if not connection.waiting:
            return False
        return not connection.running or (connection.works and not connection.waiting[0].alone)

    def _begin(self, question: Question, slot: Slot) -> None:
        thread = threading.Thread(target=self._ask, args=(question,), name="asker", daemon=True)
        self._running[question] = _Running(slot, thread, time.monotonic())
        thread.start()

    def _ask(self, question: Question) -> None:
        failure: AttemptError | None = None
        try:
            question.ask(lambda: self._events.put((question, False, None)))
        except AttemptError as error:
            failure = error
        except Exception as error:
            failure = InternalError(mask(f"{type(error).__name__}: {error}"))
        self._events.put((question, True, failure))

    def _handle(self) -> None:
        try:
            event = self._events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        question, done, failure = event
        if question not in self._running:
            return  # given up before
        self._running[question].sign_at = time.monotonic()
        connection = self._connections[question.connection]
        if not isinstance(failure, ConnectError | LoginRefusedError):
            connection.works, connection.failures = True, 0
        if done:
            self._end(question, failure)

    def _end(self, question: Question, failure: AttemptError | None) -> None:
        connection = self._connections[question.connection]
        self._running.pop(question).slot.release()
        connection.running -= 1
        if failure is None:
            return
        question.fail(failure)
        if isinstance(failure, ConnectError | LoginRefusedError):
            connection.works = False
            connection.failures += 1
            if failure.permanent or connection.failures >= _FAILURES_IN_A_ROW:
                while connection.waiting:
                    connection.waiting.popleft().fail(failure)

    def _give_up_the_silent(self) -> None:
        now = time.monotonic()
        for question, running in list(self._running.items()):
            if now - running.sign_at > question.seconds:
                self._left.append(running.thread)
                question.give_up()
                self._end(question, TimedOutError(f"no answer within {question.seconds:g} s"))
