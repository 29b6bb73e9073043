"""Prune old sessions into daily sums, window after window, while loads run beside it.

Each window of ids is looked through by reading; what may go is folded and deleted in one short transaction of its own.
Killed at any moment, a window has been pruned as a whole or not at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import UsageError
from dwhctl.runs.signals import caught_signals
from dwhctl.runs.tidy import Removal, tidy_state
from dwhctl.sessions import open_if_there, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore

#: A dead run is reaped, and what waited for its retry put right, by what the sessions of the last days tell.
LEAST_KEPT = timedelta(days=7)
WINDOW = 4_000
#: Whoever waits for SQLite's lock looks for it again within this; no pause is longer than the other bound.
_LEAST_PAUSE, _LONGEST_PAUSE = 0.03, 1.0


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What was asked. `everything` takes the sessions as well by which the state of an old slice is known."""

    keep: timedelta
    everything: bool = False
    dry_run: bool = False
    window: int = WINDOW


def run_prune(project: Project, request: PruneRequest) -> list[Removal]:
    """Prune sessions and state folder; say of each kind of thing what was looked at and removed.

    Raise UsageError for a time that is too short, SessionsError, StateDirError, Interrupted.
    """
    if request.keep < LEAST_KEPT:
        raise UsageError(
            f"--keep must be at least {LEAST_KEPT.days}d: runs and their retries are put right by the sessions"
            " of the last days"
        )
    before = datetime.now(UTC) - request.keep
    with caught_signals():
        sessions = _of_sessions(project, request, before)
        return [sessions, *tidy_state(project.state_dir, before, dry_run=request.dry_run)]


def _of_sessions(project: Project, request: PruneRequest, before: datetime) -> Removal:
    found = open_if_there(project.sessions)
    if found is None and (request.dry_run or not _has_database(project)):
        return Removal("sessions")
    with found or open_store(project.sessions) as store:
        if not request.dry_run:
            store.prepare()
        return prune_sessions(store, before, request)


def _has_database(project: Project) -> bool:
    return project.sessions.type != "sqlite" or project.sessions.path.exists()


def prune_sessions(store: SessionStore, before: datetime, request: PruneRequest) -> Removal:
    """Prune the sessions that started before that moment, oldest first."""
    looked_at = removed = 0
    for count, ids in _windows(store, before, request):
        looked_at += count
        if not ids or request.dry_run:
            removed += len(ids)
            continue
        started = time.monotonic()
        removed += store.prune(ids)
        # Loads wait for the same lock: they get it now, for about as long as it was held.
        time.sleep(min(_LONGEST_PAUSE, max(_LEAST_PAUSE, time.monotonic() - started)))
    return Removal("sessions", looked_at, removed)


def _windows(
    store: SessionStore, before: datetime, request: PruneRequest
) -> Iterator[tuple[int, Sequence[int]]]:
    """Give how many rows each window holds, and the ids of those that may go."""
    doing, after = "looking for old sessions", -(2**62)
    statement = "prune_all" if request.everything else "prune_superseded"
    [(end,)] = store.read(doing, "prune_end", {})
    while end is not None:
        window = {"after": after, "end": end, "size": request.window}
        [(count, last)] = store.read(doing, "prune_window", window)
        if not count:
            return
        found = store.read(doing, statement, {"after": after, "last": last, "before": before})
        yield int(count), [int(session_id) for (session_id,) in found]
        after = last
