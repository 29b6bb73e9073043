"""How a run shows what it does while it works, on stderr: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from dwhctl.cli.common.output import about, counted, shown_seconds, tell
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import one_line, shown_time
from dwhctl.runtime.events import Event, Notice, RunStarted, SliceClosed, SliceStaged, SliceStarted
from dwhctl.runtime.failures import reason_of
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date

    from dwhctl.cli.common.options import Settings
    from dwhctl.runtime.events import Listener


Key = tuple[str, str, "date"]

#: Workers take a second or two to come up: a pace taken earlier is none.
_FIRST_GUESS_SECONDS = 5.0
_LEAST_SECONDS = 0.001
#: A shorter run has no rate: its workers' start is most of it.
_LEAST_RATED_SECONDS = 10.0


@dataclass(slots=True)
class Server:
    """How far the slices of one connection are."""

    connection: str
    total: int = 0
    done: int = 0
    failed: int = 0
    rows: int = 0
    #: Seconds that its slices took lately: of those to come, and of those that are done.
    seconds_left: float = 0.0
    seconds_done: float = 0.0
    #: With a worker, in the order of their start; staged and not yet published; between two attempts.
    running: dict[Key, None] = field(default_factory=dict)
    staged: set[Key] = field(default_factory=set)
    waiting: set[Key] = field(default_factory=set)


def rate_of(rows: int, seconds: float) -> int | None:
    """Give rows a second; None for a run so short that its start is most of it."""
    return round(rows / seconds) if seconds >= _LEAST_RATED_SECONDS else None


def state_in_words(server: Server) -> str:
    """Say how many slices are running, staged, and waiting for a retry; empty when none is."""
    counts = {"running": server.running, "staged": server.staged, "waiting for a retry": server.waiting}
    return ", ".join(f"{len(slices):,} {state}" for state, slices in counts.items() if slices)


def running_shards(server: Server, most: int) -> str:
    """Name the first shards that are running; empty when none is."""
    names = list(dict.fromkeys(shard for _, shard, _ in server.running))
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


class Tally:
    """Adds up events. Another thread may look while an event comes in: hold `lock` for more than one look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.servers: dict[str, Server] = {}
        self._clock = clock
        self._began = clock()
        self._past: Mapping[tuple[str, str], float] = {}
        self._usual = 1.0

    def take(self, event: Event) -> None:
        """Add one event."""
        with self.lock:
            if isinstance(event, RunStarted):
                self._begin(event)
            elif isinstance(event, SliceStarted):
                self._start(event)
            elif isinstance(event, SliceStaged):
                server = self._server(event.connection)
                server.running.pop(_key(event), None)
                server.staged.add(_key(event))
            elif isinstance(event, SliceClosed):
                self._close(event)

    def _begin(self, event: RunStarted) -> None:
        self._began = self._clock()
        self._past = event.seconds
        # What was never loaded counts like the others.
        self._usual = sum(event.seconds.values()) / len(event.seconds) if event.seconds else 1.0
        for one in sorted(event.plan.slices, key=lambda one: one.shard.connection):
            server = self._server(one.shard.connection)
            server.total += 1
            server.seconds_left += self._weight(one.load.name, one.shard.name)

    def _weight(self, load: str, shard: str) -> float:
        return max(self._past.get((load, shard), self._usual), _LEAST_SECONDS)

    def _start(self, event: SliceStarted) -> None:
        server = self._server(event.connection)
        server.waiting.discard(_key(event))
        server.running[_key(event)] = None

    def _close(self, event: SliceClosed) -> None:
        server = self._server(event.connection)
        server.running.pop(_key(event), None)
        server.staged.discard(_key(event))
        server.waiting.discard(_key(event))
        if event.state is State.UP_FOR_RETRY:
            server.waiting.add(_key(event))
            return
        server.done += 1
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
        """Tell how long the run has taken so far."""
        return self._clock() - self._began

    def rate(self, rows: int) -> int | None:
        """Tell how many rows a second that is."""
        return rate_of(rows, self.seconds())

    def remaining(self) -> float | None:
        """Guess the seconds that are left, by the pace so far; None while that says nothing.

        Slices weigh what they took lately. One that failed is neither left nor done: fifty that a dead server
        fails at once make no pace.
        """
        every = self.all()
        seconds = self.seconds()
        if every.seconds_done <= 0 or every.done >= every.total or seconds < _FIRST_GUESS_SECONDS:
            return None
        return seconds * max(every.seconds_left, 0.0) / every.seconds_done

    def all(self) -> Server:
        """Add up the servers."""
        with self.lock:
            every = Server("all")
            for server in self.servers.values():
                every.total += server.total
                every.done += server.done
                every.failed += server.failed
                every.rows += server.rows
                every.seconds_left += server.seconds_left
                every.seconds_done += server.seconds_done
                every.running |= server.running
                every.staged |= server.staged
                every.waiting |= server.waiting
            return every


def _key(event: SliceStarted | SliceStaged | SliceClosed) -> Key:
    return (event.load, event.shard, event.day)


HEARTBEAT_SECONDS = 30.0
_NAMED_SHARDS = 3


def open_progress(settings: Settings) -> AbstractContextManager[Listener]:
    """Give the progress that fits where stderr goes."""
    if settings.quiet:
        return nullcontext(_ignore)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from dwhctl.cli.common.live import LiveProgress

        return LiveProgress(verbose=settings.verbose)
    return PlainProgress(verbose=settings.verbose)


def _ignore(_event: Event) -> None:
    pass


class PlainProgress:
    """Timestamped lines: the start, what failed or is tried again, a sign of life, the end."""

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
        """Write the event's line, if it has one."""
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
        """Tell whether an end has a line: without --verbose the first failure of each reason."""
        if self._verbose or event.failure is None:
            return self._verbose
        key = (*reason_of(event.load, event.connection, event.failure), event.state, event.attempt)
        self._shown[key] += 1
        return self._shown[key] == 1

    def _more(self) -> str:
        """Say how many failures had no line of their own."""
        hidden = sum(count - 1 for key, count in list(self._shown.items()) if State.UP_FOR_RETRY not in key)
        return f" ({hidden:,} more like those above; -v shows each)" if hidden else ""

    def _beat(self) -> None:
        while not self._ended.wait(self._every):
            if self._started:
                self._line(f"working: {self._state(time_left(self._tally))}")

    def _state(self, left: str = "") -> str:
        every = self._tally.all()
        parts = [
            f"{every.done:,} of {counted(every.total, 'slice')}",
            f"{every.failed:,} failed{self._more()}",
        ]
        parts += [words] if (words := state_in_words(every)) else []
        parts.append(counted(every.rows, "row"))
        if (rate := self._tally.rate(every.rows)) is not None:
            parts.append(f"{rate:,} rows/s")
        names = running_shards(every, _NAMED_SHARDS)
        return f"{', '.join(parts)}, {shown_seconds(self._tally.seconds())}{left}" + (
            f": {names}" if names else ""
        )

    def _line(self, text: str) -> None:
        self._write(f"{shown_time()} {text}")


def _start_line(event: RunStarted) -> str:
    slices = event.plan.slices
    days = sorted({one.slice.day for one in slices})
    loads = counted(len({one.load.name for one in slices}), "load")
    servers = counted(len({one.shard.connection for one in slices}), "server")
    span = "" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    return f"started: {counted(len(slices), 'slice')} of {loads} from {servers}{span}; run {event.run_id}"


def time_left(tally: Tally) -> str:
    """Say about how long the run still takes; nothing when that cannot be told yet."""
    seconds = tally.remaining()
    return "" if seconds is None else f", about {about(seconds)} left"


def closed_line(event: SliceClosed) -> str:
    """Say in one line how an attempt at a slice ended."""
    what = f"{event.load} {event.shard} {event.day} (from {event.connection})"
    took = shown_seconds(event.seconds)
    if event.failure is None:
        return f"{event.state.value}: {what}: {counted(event.rows, 'row')} in {took}"
    reason = one_line(f"{event.failure.error_class}: {event.failure.message}")
    # A slice that no worker has seen took no time.
    after = f" after {took}" if event.seconds else ""
    ended = f"attempt {event.attempt} failed{after}: {reason}"
    if event.state is State.UP_FOR_RETRY:
        again = f" at {shown_time(event.retry_at)}" if event.retry_at else ""
        return f"will retry{again}: {what}: {ended}"
    return f"{'in doubt' if event.state is State.RUNNING else 'failed'}: {what}: {ended}"
