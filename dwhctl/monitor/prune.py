"""Prune old sessions into daily sums, window after window, while loads run beside it.

Each window of ids is looked through by reading; what may go is folded and deleted in one short transaction of its own.
Killed at any moment, a window has been pruned as a whole or not at all.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import StateDirError, UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.project.connections import EmbeddedConnection
from dwhctl.runtime.locks import Lock, StateDir
from dwhctl.sessions import open_if_there, open_store
from dwhctl.sessions.history import prunable
from dwhctl.systems.duckdb.spill import left_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore


#: What is younger may belong to a look or a run that is about to begin.
_OLD = timedelta(days=7)
#: What a dead process spilled is of no use, however young it is.
_ANY_AGE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Removal:
    """One kind of thing: how many were looked at, how many removed (or would be), and the octets of their files."""

    what: str
    looked_at: int = 0
    removed: int = 0
    bytes: int | None = None


def clean_up_state(folder: Path, before: datetime, *, dry_run: bool) -> list[Removal]:
    """Remove what is old from the state folder; logs last written before that moment. Raise StateDirError."""
    state = StateDir(folder)
    old = datetime.now(UTC) - _OLD
    try:
        return [
            _removed("work locks", _files(state.work_locks, "*.lock"), old, _remove_lock, dry_run=dry_run),
            _removed("staging", _staging(state), old, _remove_folder, dry_run=dry_run),
            _removed("spill", left_behind(folder), _ANY_AGE, _remove_folder, dry_run=dry_run),
            _removed("logs", _files(state.logs, "*"), before, _remove_file, dry_run=dry_run),
        ]
    except OSError as error:
        raise StateDirError(f"the state folder {folder} cannot be tidied: {error}") from error


def _removed(
    what: str, paths: Iterable[Path], before: datetime, remove: Callable[[Path, bool], bool], *, dry_run: bool
) -> Removal:
    looked_at = removed = octets = 0
    for path in paths:
        looked_at += 1
        size = _size(path)
        if (touched := _touched(path)) is not None and touched < before and remove(path, dry_run):
            removed += 1
            octets += size
    return Removal(what, looked_at, removed, octets)


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob(pattern)) if path.is_file() and not path.is_symlink())


def _staging(state: StateDir) -> Iterator[Path]:
    """Folders of runs that ended, or were reaped: a run's lock file is there before its staging, and goes after it."""
    if not state.staging.is_dir():
        return
    for path in sorted(state.staging.iterdir()):
        over = not (state.run_locks / f"{path.name}.lock").exists()
        if over and path.is_dir() and not path.is_symlink():
            yield path


def _touched(path: Path) -> datetime | None:
    """When the file, or any file in the folder, was written last; None when it is gone."""
    try:
        inside = path.rglob("*") if path.is_dir() else ()
        newest = max([path.stat().st_mtime, *(one.lstat().st_mtime for one in inside)])
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(newest, UTC)


def _size(path: Path) -> int:
    try:
        files = (one for one in path.rglob("*") if one.is_file()) if path.is_dir() else (path,)
        return sum(one.lstat().st_size for one in files)
    except FileNotFoundError:
        return 0


def _remove_lock(path: Path, dry_run: bool) -> bool:
    return Lock(path).remove_if_free(dry_run=dry_run)


def _remove_folder(path: Path, dry_run: bool) -> bool:
    if not dry_run:
        shutil.rmtree(path)
    return True


def _remove_file(path: Path, dry_run: bool) -> bool:
    if not dry_run:
        path.unlink(missing_ok=True)
    return True


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
        return [sessions, *clean_up_state(project.state_dir, before, dry_run=request.dry_run)]


def _of_sessions(project: Project, request: PruneRequest, before: datetime) -> Removal:
    found = open_if_there(project.sessions)
    if found is None and (request.dry_run or not _has_database(project)):
        return Removal("sessions")
    with found or open_store(project.sessions) as store:
        if not request.dry_run:
            store.prepare()
        return prune_sessions(store, before, request)


def _has_database(project: Project) -> bool:
    sessions = project.sessions
    return not isinstance(sessions, EmbeddedConnection) or sessions.path.exists()


def prune_sessions(store: SessionStore, before: datetime, request: PruneRequest) -> Removal:
    """Prune the sessions that started before that moment, oldest first."""
    looked_at = removed = 0
    for count, ids in prunable(store, before, request.window, everything=request.everything):
        looked_at += count
        if not ids or request.dry_run:
            removed += len(ids)
            continue
        started = time.monotonic()
        removed += store.prune(ids)
        # Loads wait for the same lock: they get it now, for about as long as it was held.
        time.sleep(min(_LONGEST_PAUSE, max(_LEAST_PAUSE, time.monotonic() - started)))
    return Removal("sessions", looked_at, removed)
