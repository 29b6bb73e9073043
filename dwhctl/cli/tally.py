"""What a run has done so far, added up from its events: what both kinds of progress show."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.runs.events import Event, RunStarted, SliceClosed, SliceStaged, SliceStarted
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date

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
