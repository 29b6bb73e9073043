"""The engine's loop over events."""

from __future__ import annotations

import queue
import signal
from contextlib import suppress
from typing import Any

from dwhctl.alerts.digest import RunKind
from dwhctl.core.errors import ExitCode, Interrupted
from dwhctl.core.waiting import Signals, caught_signals
from dwhctl.engine.jobs import Attempt, Attempts, Job
from dwhctl.engine.run import Run, Scheduler
from dwhctl.runtime.events import RunResult
from dwhctl.sessions.store import SessionStore
from tests.unit.runs_kit import anything


class Counting(Scheduler[Job, None, str]):
    """Counts what it does until it has handled so many events."""

    def __init__(self, *events: str | ExitCode, busy_until: int) -> None:
        waiting: queue.SimpleQueue[str | ExitCode] = queue.SimpleQueue()
        for event in events:
            waiting.put(event)
        store: SessionStore = anything()
        attempts = Attempts(store, RunResult("run"), lambda _event: None, None)
        super().__init__("run", [], attempts, anything(), waiting)
        self.done: list[str] = []
        self._left = busy_until

    def is_busy(self) -> bool:
        return self._left > 0

    def advance(self, now: float) -> None:
        self.done.append("step")

    def handle(self, event: str) -> None:
        self._left -= 1
        self.done.append(event)

    def expire(self, attempt: Attempt[Any, Any], now: float) -> None:
        raise AssertionError

    def stop(self) -> None:
        raise AssertionError

    def end(self) -> None:
        raise AssertionError


def test_events_that_came_together_are_handled_together() -> None:
    loop = Counting("first", "second", "third", busy_until=3)
    assert loop.run() is None
    assert loop.done == ["step", "first", "second", "third"]


def test_a_signal_ends_the_loop_before_what_came_after_it() -> None:
    loop = Counting("first", ExitCode.TERMINATED, "never", busy_until=3)
    assert loop.run() is ExitCode.TERMINATED
    assert loop.done == ["step", "first"]


class Stopped(Counting):
    """Is stopped by a signal, and then ended."""

    def stop(self) -> None:
        self.done.append("stop")

    def end(self) -> None:
        self.done.append("end")


class Looping(Run):
    """A run that is at its loop."""

    kind = RunKind.LOAD

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.store = anything(hurry=lambda _: None)
        self.result = RunResult("run")
        self.events = queue.SimpleQueue()

    def prepare(self) -> None: ...

    def locks(self) -> dict[str, str]:
        return {}

    def work(self) -> None:
        scheduler = Stopped("first", "second", busy_until=2)
        self.events = scheduler.events
        self.loop(scheduler)
        self.done = scheduler.done


def test_a_signal_whose_error_was_lost_stops_the_run_at_its_loop() -> None:
    """An import, a destructor or a library may swallow what the handler raises."""
    with caught_signals() as signals:
        with suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        run = Looping(signals)
        run.work()
    assert run.result.signal is ExitCode.TERMINATED
    assert run.done[-2:] == ["stop", "end"]
