"""What ran when on which worker: the sessions of one run as bars on lanes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.sessions import REPORT_TIMEOUT, open_if_there
from dwhctl.sessions.history import find_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwhctl.project.model import Project
    from dwhctl.sessions import Session


@dataclass(frozen=True, slots=True)
class Bar:
    """One session on its worker's lane: busy from `start` to `end`, then waiting to be published until `closed`."""

    session: Session
    start: datetime
    end: datetime
    closed: datetime

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class Lane:
    """What one worker did, in order; or the attempts of a report, which has no worker.

    `worker` is None for sessions that no worker saw, or that do not say which.
    """

    worker: int | None
    bars: tuple[Bar, ...]
    report: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run from its first session's start to its last one's end (or now)."""

    run_id: str
    lanes: tuple[Lane, ...]
    start: datetime
    end: datetime

    @property
    def bars(self) -> list[Bar]:
        """Every bar, in the order of the lanes."""
        return [bar for lane in self.lanes for bar in lane.bars]

    def waits_for_retry(self) -> list[tuple[datetime, datetime]]:
        """Give when slices waited for their next attempt: from the end of one to the start of the next."""
        by_slice: dict[tuple[str, str | None, object], list[Bar]] = {}
        for bar in sorted(self.bars, key=lambda bar: bar.session.id):
            one = bar.session
            by_slice.setdefault((one.load, one.shard, one.day), []).append(bar)
        return [
            (first.closed, second.start) for bars in by_slice.values() for first, second in pairwise(bars)
        ]

    def waits_for_publishing(self) -> list[tuple[datetime, datetime]]:
        """Give when staged slices waited to be published."""
        return [(bar.end, bar.closed) for bar in self.bars if bar.closed > bar.end]


def read_run(project: Project, text: str) -> tuple[str, list[Session]]:
    """Give the run that a text means (its id, the beginning of it, or `last`) with its sessions.

    Raise UsageError when there is none or more than one, and SessionsError.
    """
    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    if store is None:
        raise UsageError("there is no run yet: dwhctl load makes one")
    with store:
        run_id = find_run(store, text)
        if not (sessions := store.of_run(run_id)):
            raise UsageError(f"there is no run '{text}' any more: its sessions are gone")
        return run_id, sessions


def timeline_of(project: Project, run_id: str, sessions: Sequence[Session], now: datetime) -> Timeline:
    """Put a run's sessions on lanes.

    Each report has a lane of its own. Sessions that do not say which worker had them (of an earlier version, or never
    given to one) share lanes so that no two bars are on top of each other.
    """
    timeouts = {name: load.timeout for name, load in project.loads.items()}
    bars = [_bar(one, now, timeouts) for one in sessions]
    known: dict[int, list[Bar]] = {}
    reports: dict[str, list[Bar]] = {}
    unknown: list[Bar] = []
    for bar in bars:
        if bar.session.worker is not None:
            known.setdefault(bar.session.worker, []).append(bar)
        elif bar.session.shard is None:
            reports.setdefault(bar.session.load, []).append(bar)
        else:
            unknown.append(bar)
    lanes = [Lane(number, tuple(known[number])) for number in sorted(known)]
    lanes += [Lane(None, tuple(of_report), name) for name, of_report in reports.items()]
    lanes += [Lane(None, tuple(packed)) for packed in _pack(unknown)]
    end = max(bar.closed for bar in bars)
    return Timeline(run_id, tuple(lanes), min(bar.start for bar in bars), end)


def _bar(session: Session, now: datetime, timeouts: Mapping[str, timedelta]) -> Bar:
    start = session.started
    closed = session.finished
    if closed is None:
        # Nobody tells whether its run is alive; no attempt lives longer than its load's timeout.
        timeout = timeouts.get(session.load)
        closed = max(start, now if timeout is None else min(now, start + timeout))
    busy = session.busy_seconds
    end = closed if busy is None else min(start + timedelta(seconds=busy), closed)
    return Bar(session, start, end, max(closed, start))


def _pack(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Put bars on as few lanes as keep them apart."""
    lanes: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.session.id)):
        free = next((lane for lane in lanes if lane[-1].end <= bar.start), None)
        if free is None:
            lanes.append(free := [])
        free.append(bar)
    return lanes
