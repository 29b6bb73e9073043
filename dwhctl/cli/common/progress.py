"""The progress of a run: the counts of its events, and plain lines on stderr where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Self

from dwhctl.cli.common.output import about, tell
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import counted, first_of, one_line, shown_seconds, shown_time
from dwhctl.runtime.events import (
    Event,
    Listener,
    Notice,
    ReportClosed,
    RunStarted,
    SliceClosed,
    SliceReady,
    SliceStaged,
    SliceStarted,
    SliceWaits,
)
from dwhctl.runtime.failures import reason_of
from dwhctl.runtime.messages import Failure
from dwhctl.runtime.plan import Plan
from dwhctl.sessions.values import State

Key = tuple[str, str, date]
SliceEvent = SliceWaits | SliceReady | SliceStarted | SliceStaged | SliceClosed

#: What a slice may be between its start and its end: with a worker, not yet published, between two attempts.
_RUNNING, _STAGED, _RETRY, _NOT_READY = "running", "staged", "waiting for a retry", "waiting until ready"
#: Workers take a second or two to start: before that the speed means nothing.
_FIRST_GUESS_SECONDS = 5.0
_LEAST_SECONDS = 0.001
#: A shorter run has no rate: most of its time is the start of its workers.
_LEAST_RATED_SECONDS = 10.0


@dataclass(slots=True)
class Server:
    """The counts of the slices of one connection."""

    connection: str
    total: int = 0
    done: int = 0
    failed: int = 0
    rows: int = 0
    #: Seconds that its slices took recently: of those to come, and of those that are done.
    seconds_left: float = 0.0
    seconds_done: float = 0.0
    #: What the slices that are neither new nor done are, in the order in which they became that.
    states: dict[Key, str] = field(default_factory=dict)


def rate_of(rows: int, seconds: float) -> int | None:
    """Return rows per second; None for a run that is too short."""
    return round(rows / seconds) if seconds >= _LEAST_RATED_SECONDS else None


def state_in_words(server: Server) -> str:
    """Return how many slices are running, staged, and waiting; empty when none is."""
    counts = Counter(server.states.values())
    states = (_RUNNING, _STAGED, _RETRY, _NOT_READY)
    return ", ".join(f"{counts[state]:,} {state}" for state in states if counts[state])


def running_shards(server: Server, most: int) -> str:
    """Return the first shards that are running; empty when none is."""
    running = (shard for (_, shard, _), state in server.states.items() if state == _RUNNING)
    return first_of(list(dict.fromkeys(running)), most)


class Tally:
    """Count events. Another thread may read meanwhile: hold `lock` for more than one read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.servers: dict[str, Server] = {}
        self._clock = clock
        self._began = self._last = clock()
        self._past: Mapping[tuple[str, str], float] = {}
        self._usual = 1.0

    def take(self, event: Event) -> None:
        with self.lock:
            match event:
                case RunStarted():
                    self._begin(event)
                case SliceWaits():
                    self._set(event, _NOT_READY)
                case SliceReady():
                    self._set(event, None)
                case SliceStarted():
                    self._set(event, _RUNNING)
                case SliceStaged():
                    self._set(event, _STAGED)
                case SliceClosed():
                    self._close(event)

    def _set(self, event: SliceEvent, state: str | None) -> Server:
        server, key = self._server(event.connection), (event.load, event.shard, event.day)
        server.states.pop(key, None)
        if state is not None:
            server.states[key] = state
        return server

    def _begin(self, event: RunStarted) -> None:
        self._began = self._clock()
        self._past = event.seconds
        # A task that was never loaded counts as the average.
        self._usual = sum(event.seconds.values()) / len(event.seconds) if event.seconds else 1.0
        for planned in sorted(event.plan.slices, key=lambda planned: planned.shard.connection):
            server = self._server(planned.shard.connection)
            server.total += 1
            server.seconds_left += self._weight(planned.load.name, planned.shard.name)

    def _weight(self, load: str, shard: str) -> float:
        return max(self._past.get((load, shard), self._usual), _LEAST_SECONDS)

    def _close(self, event: SliceClosed) -> None:
        if event.state is State.UP_FOR_RETRY:
            self._set(event, _RETRY)
            return
        server = self._set(event, None)
        server.done += 1
        self._last = self._clock()
        weight = self._weight(event.load, event.shard)
        server.seconds_left -= weight
        if event.state in (State.LOADED, State.SKIPPED):
            server.rows += event.rows if event.state is State.LOADED else 0
            server.seconds_done += weight
        else:
            server.failed += 1

    def _server(self, connection: str) -> Server:
        return self.servers.setdefault(connection, Server(connection))

    def seconds(self) -> float:
        """Return how long the run has taken so far, without what follows its last slice: alerts and pings."""
        every = self.all()
        is_done = every.total and every.done >= every.total
        return (self._last if is_done else self._clock()) - self._began

    def rate(self, rows: int) -> int | None:
        return rate_of(rows, self.seconds())

    def remaining(self) -> float | None:
        """Return the seconds that are left, estimated by the speed so far; None while that means nothing.

        The weight of a slice is the time that it took recently. A failed slice is neither left nor done: fifty failures
        of a dead server are no speed.
        """
        every = self.all()
        seconds = self.seconds()
        if every.seconds_done <= 0 or every.done >= every.total or seconds < _FIRST_GUESS_SECONDS:
            return None
        return seconds * max(every.seconds_left, 0.0) / every.seconds_done

    def all(self) -> Server:
        with self.lock:
            every = Server("all")
            for server in self.servers.values():
                for name in ("total", "done", "failed", "rows", "seconds_left", "seconds_done"):
                    setattr(every, name, getattr(every, name) + getattr(server, name))
                every.states |= server.states
            return every


HEARTBEAT_SECONDS = 30.0
_NAMED_SHARDS = 3


class RunWatcher:
    """Keep when a run began and what its plan was, and pass its events on."""

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self.began = datetime.now(UTC)
        self.plan = Plan(())

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.plan = event.plan
        self._listen(event)


class PlainProgress:
    """Timestamped lines: the start, failures and retries, the state every 30 seconds, the end."""

    def __init__(
        self, *, verbose: bool = False, write: Callable[[str], None] = tell, every: float = HEARTBEAT_SECONDS
    ) -> None:
        self._verbose = verbose
        self._write = write
        self._every = every
        self._tally = Tally()
        self._started = False
        self._shown: Counter[tuple[object, ...]] = Counter()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self._ended.set()
        self._heart.join()
        if kind is None and self._started:
            every = self._tally.all()
            self._line(f"{'finished' if every.done >= every.total else 'ended early'}: {self._state()}")

    def __call__(self, event: Event) -> None:
        self._tally.take(event)
        if isinstance(event, RunStarted):
            self._started = bool(event.plan.slices)
            if self._started:
                self._line(_start_line(event))
        elif isinstance(event, Notice | Waiting) and event.text:
            self._line(one_line(event.text))
        elif isinstance(event, SliceClosed) and self._is_shown(event):
            self._line(closed_line(event))

    def _is_shown(self, event: SliceClosed) -> bool:
        """Return whether an end has a line: without --verbose only the first failure of each reason."""
        if self._verbose or event.failure is None:
            return self._verbose
        key = (*reason_of(event, event.connection), event.state, event.attempt)
        self._shown[key] += 1
        return self._shown[key] == 1

    def _more(self) -> str:
        hidden = sum(count - 1 for key, count in list(self._shown.items()) if State.UP_FOR_RETRY not in key)
        return f" ({hidden:,} more like those above; -v shows each)" if hidden else ""

    def _beat(self) -> None:
        while not self._ended.wait(self._every):
            if self._started:
                self._line(f"working: {self._state(time_left(self._tally))}")

    def _state(self, left: str = "") -> str:
        every = self._tally.all()
        rate = self._tally.rate(every.rows)
        parts = (
            f"{every.done:,} of {counted(every.total, 'slice')}",
            f"{every.failed:,} failed{self._more()}",
            state_in_words(every),
            counted(every.rows, "row"),
            f"{rate:,} rows/s" if rate is not None else "",
            f"{shown_seconds(self._tally.seconds())}{left}",
        )
        names = running_shards(every, _NAMED_SHARDS)
        return ", ".join(filter(None, parts)) + (f": {names}" if names else "")

    def _line(self, text: str) -> None:
        self._write(f"{shown_time()} {text}")


def _start_line(event: RunStarted) -> str:
    slices = event.plan.slices
    days = sorted({planned.slice.day for planned in slices})
    loads = counted(len({planned.load.name for planned in slices}), "load")
    servers = counted(len({planned.shard.connection for planned in slices}), "server")
    span = "" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    return f"started: {counted(len(slices), 'slice')} of {loads} from {servers}{span}; run {event.run_id}"


def time_left(tally: Tally) -> str:
    """Return about how long the run still takes; nothing when that is not known yet."""
    seconds = tally.remaining()
    return "" if seconds is None else f", about {about(seconds)} left"


def closed_line(event: SliceClosed) -> str:
    what = f"{event.load} {event.shard} {event.day} (from {event.connection})"
    return end_line(event, what, event.state.value)


def end_line(event: SliceClosed | ReportClosed, what: str, done: str) -> str:
    """Return a line on the end of an attempt at a slice or a report; `done` is the word for a success."""
    took = shown_seconds(event.seconds)
    if event.failure is None:
        return f"{done}: {what}: {counted(event.rows, 'row')} in {took}"
    # A slice that no worker had took no time.
    after = f" after {took}" if event.seconds else ""
    ended = f"{what}: attempt {event.attempt} failed{after}: {reason_text(event.failure)}"
    if event.state is State.UP_FOR_RETRY:
        again = f" at {shown_time(event.retry_at)}" if event.retry_at else ""
        return f"will retry{again}: {ended}"
    return f"{'in doubt' if event.state is State.RUNNING else 'failed'}: {ended}"


def reason_text(failure: Failure) -> str:
    return one_line(f"{failure.error_class}: {failure.message}")
