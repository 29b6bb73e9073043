"""The timeline of one run: its sessions as bars, on a lane for each worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.monitor.coverage import SliceStatus, grouped, sessions_of, status_of
from dwhctl.project.model import Project
from dwhctl.sessions import Session
from dwhctl.sessions.history import find_run


class Bar(Struct, frozen=True):
    """One session on its worker's lane: busy from `start` to `end`, then waiting to be published until `closed`."""

    session: Session
    start: datetime
    end: datetime
    closed: datetime

    @property
    def seconds(self) -> float:
        """Return how long it held its worker."""
        return (self.end - self.start).total_seconds()

    @property
    def status(self) -> SliceStatus:
        """Return the status of its slice, by this session alone."""
        return status_of(self.session.state)

    @property
    def busy_until(self) -> datetime | None:
        """Return when its worker was free again; None when the session does not say."""
        return None if self.session.busy_seconds is None else self.end

    @property
    def waited_seconds(self) -> float | None:
        """Return how long it waited to be published; None when that is not known."""
        is_known = self.session.busy_seconds is not None and self.session.finished
        return (self.closed - self.end).total_seconds() if is_known else None


class Lane(Struct, frozen=True):
    """The sessions of one worker, in order; or the attempts of a report, which has no worker.

    `worker` is None for sessions that had no worker, or do not say which.
    """

    worker: int | None
    bars: tuple[Bar, ...]
    report: str | None = None


class Timeline(Struct, frozen=True):
    """A run from its first session's start to its last one's end (or now)."""

    run_id: str
    lanes: tuple[Lane, ...]
    start: datetime
    end: datetime

    @property
    def bars(self) -> list[Bar]:
        return [bar for lane in self.lanes for bar in lane.bars]

    def waits_for_retry(self) -> list[tuple[datetime, datetime]]:
        """Return when slices waited for their next attempt: from the end of one to the start of the next."""
        bars = sorted(self.bars, key=lambda bar: bar.session.id)
        by_slice = grouped(bars, lambda bar: (bar.session.load, bar.session.shard, bar.session.day))
        return [
            (first.closed, second.start)
            for slice_bars in by_slice.values()
            for first, second in pairwise(slice_bars)
        ]

    def waits_for_publishing(self) -> list[tuple[datetime, datetime]]:
        return [(bar.end, bar.closed) for bar in self.bars if bar.closed > bar.end]


def read_run(project: Project, text: str) -> tuple[str, list[Session]]:
    """Return the run of a text (its id, the beginning of it, or `last`) with its sessions.

    Raise UsageError when there is none or more than one, and SessionsError.
    """
    with sessions_of(project) as store:
        if store is None:
            raise UsageError("there is no run yet: dwhctl load makes one")
        run_id = find_run(store, text)
        if not (sessions := store.of_run(run_id)):
            raise UsageError(f"there is no run '{text}' any more: its sessions are gone")
        return run_id, sessions


def timeline_of(project: Project, run_id: str, sessions: Sequence[Session], now: datetime) -> Timeline:
    """Put a run's sessions on lanes.

    Each report has a lane of its own. Sessions without a known worker (of an earlier version, or never given to one)
    share lanes without overlapping.
    """
    timeouts = {name: load.timeout for name, load in project.loads.items()}
    bars = [_bar(session, now, timeouts) for session in sessions]
    workers = grouped(bars, lambda bar: bar.session.worker)
    others = workers.pop(None, [])
    reports = grouped((bar for bar in others if bar.session.shard is None), lambda bar: bar.session.load)
    unknown = [bar for bar in others if bar.session.shard is not None]
    lanes = [
        *(Lane(number, tuple(workers[number])) for number in sorted(filter(None, workers))),
        *(Lane(None, tuple(attempts), name) for name, attempts in reports.items()),
        *(Lane(None, tuple(packed)) for packed in _pack(unknown)),
    ]
    return Timeline(run_id, tuple(lanes), min(bar.start for bar in bars), max(bar.closed for bar in bars))


def _bar(session: Session, now: datetime, timeouts: Mapping[str, timedelta]) -> Bar:
    start, closed, busy = session.started, session.finished, session.busy_seconds
    if closed is None:
        # Its run may have died; no attempt takes longer than its load's timeout.
        timeout = timeouts.get(session.load)
        closed = max(start, now if timeout is None else min(now, start + timeout))
    end = closed if busy is None else min(start + timedelta(seconds=busy), closed)
    return Bar(session, start, end, max(closed, start))


def _pack(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Put bars on as few lanes as possible without overlap."""
    lanes: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.session.id)):
        free = next((lane for lane in lanes if lane[-1].end <= bar.start), None)
        if free is None:
            lanes.append(free := [])
        free.append(bar)
    return lanes
