"""What a run has done so far, added up from its events: what both kinds of progress show."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.runs.events import Event, RunStarted, SliceClosed, SliceStarted
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from dwhctl.runs.plan import Plan

Key = tuple[str, str, "date"]


@dataclass(slots=True)
class Server:
    """How far the slices of one connection are."""

    connection: str
    total: int = 0
    done: int = 0
    failed: int = 0
    rows: int = 0
    running: set[Key] = field(default_factory=set)
    waiting: set[Key] = field(default_factory=set)


class Tally:
    """Adds up events. Another thread may look while an event comes in: hold `lock` for more than one look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self.servers: dict[str, Server] = {}
        self._clock = clock
        self._began = clock()

    def take(self, event: Event) -> None:
        """Add one event."""
        with self.lock:
            if isinstance(event, RunStarted):
                self._begin(event.plan)
            elif isinstance(event, SliceStarted):
                self._start(event)
            elif isinstance(event, SliceClosed):
                self._close(event)

    def _begin(self, plan: Plan) -> None:
        self._began = self._clock()
        for connection, total in sorted(Counter(one.shard.connection for one in plan.slices).items()):
            self._server(connection).total = total

    def _start(self, event: SliceStarted) -> None:
        server = self._server(event.connection)
        server.waiting.discard(_key(event))
        server.running.add(_key(event))

    def _close(self, event: SliceClosed) -> None:
        server = self._server(event.connection)
        server.running.discard(_key(event))
        server.waiting.discard(_key(event))
        if event.state is State.UP_FOR_RETRY:
            server.waiting.add(_key(event))
            return
        server.done += 1
        server.rows += event.rows if event.state is State.LOADED else 0
        server.failed += event.state not in (State.LOADED, State.SKIPPED)

    def _server(self, connection: str) -> Server:
        return self.servers.setdefault(connection, Server(connection))

    def seconds(self) -> float:
        """Tell how long the run has taken so far."""
        return self._clock() - self._began

    def rate(self, rows: int) -> int:
        """Tell how many rows a second that is."""
        return round(rows / max(self.seconds(), 0.001))

    def all(self) -> Server:
        """Add up the servers."""
        with self.lock:
            every = Server("all")
            for server in self.servers.values():
                every.total += server.total
                every.done += server.done
                every.failed += server.failed
                every.rows += server.rows
                every.running |= server.running
                every.waiting |= server.waiting
            return every


def _key(event: SliceStarted | SliceClosed) -> Key:
    return (event.load, event.shard, event.day)
