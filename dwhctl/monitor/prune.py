"""Prune old sessions into daily sums while loads run, and clean up the state folder.

Sessions are read in windows of ids; what may go is folded and deleted in one short transaction for each window. When
the process is killed, a window is pruned as a whole or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dwhctl.core.errors import StateDirError, UsageError
from dwhctl.core.files import left_behind
from dwhctl.core.waiting import caught_signals
from dwhctl.project.connections import EmbeddedConnection
from dwhctl.project.model import Project
from dwhctl.runtime.locks import Lock, StateDir
from dwhctl.sessions import open_if_there, open_store
from dwhctl.sessions.history import prunable
from dwhctl.sessions.store import SessionStore

#: What is younger may belong to a run that is about to begin.
_OLD = timedelta(days=7)
#: What a dead process spilled is of no use, whatever its age.
_ANY_AGE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Removal:
    """One kind of thing that is removed. The JSON result has these fields."""

    what: str
    """The kind: `sessions`, `work locks`, `staging`, `spill`, `logs`."""
    looked_at: int = 0
    """How many were examined."""
    removed: int = 0
    """How many were removed, or would be."""
    bytes: int | None = None
    """The octets of their files; null for sessions."""


def clean_up_state(folder: Path, before: datetime, *, dry_run: bool) -> list[Removal]:
    """Remove old files from the state folder; logs and results of `verify` if older than that. Raise StateDirError."""
    state = StateDir(folder)
    old = datetime.now(UTC) - _OLD
    try:
        return [
            _removed("work locks", _files(state.work_locks, "*.lock"), old, _remove_lock, dry_run=dry_run),
            _removed("staging", _staging(state), old, _remove, dry_run=dry_run),
            _removed("spill", left_behind(folder), _ANY_AGE, _remove, dry_run=dry_run),
            _removed("logs", _files(state.logs, "*"), before, _remove, dry_run=dry_run),
            _removed("verify results", _files(state.verified, "*"), before, _remove, dry_run=dry_run),
        ]
    except OSError as error:
        raise StateDirError(f"the state folder {folder} cannot be cleaned up: {error}") from error


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
    """Yield folders of runs that ended or were reaped: a run's lock file exists before its staging, and after it."""
    if not state.staging.is_dir():
        return
    for path in sorted(state.staging.iterdir()):
        over = not (state.run_locks / f"{path.name}.lock").exists()
        if over and path.is_dir() and not path.is_symlink():
            yield path


def _touched(path: Path) -> datetime | None:
    """Return when the file, or any file in the folder, was written last; None when it is gone."""
    try:
        inside = path.rglob("*") if path.is_dir() else ()
        newest = max([path.stat().st_mtime, *(entry.lstat().st_mtime for entry in inside)])
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(newest, UTC)


def _size(path: Path) -> int:
    try:
        files = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else (path,)
        return sum(file.lstat().st_size for file in files)
    except FileNotFoundError:
        return 0


def _remove(path: Path, dry_run: bool) -> bool:
    if not dry_run:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return True


def _remove_lock(path: Path, dry_run: bool) -> bool:
    return Lock(path).remove_if_free(dry_run=dry_run)


#: Dead runs and their retries are corrected by the sessions of the last days.
LEAST_KEPT = timedelta(days=7)
WINDOW = 4_000
#: A process that waits for SQLite's lock tries again within the first; no pause is longer than the second.
_LEAST_PAUSE, _LONGEST_PAUSE = 0.03, 1.0


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What to prune. `everything`: also the sessions by which the state of an old slice is known."""

    keep: timedelta
    everything: bool = False
    dry_run: bool = False
    window: int = WINDOW


def run_prune(project: Project, request: PruneRequest) -> list[Removal]:
    """Prune sessions and state folder, and return what was examined and removed of each kind.

    Raise UsageError for a time that is too short, SessionsError, StateDirError, Interrupted.
    """
    if request.keep < LEAST_KEPT:
        raise UsageError(
            f"--keep must be at least {LEAST_KEPT.days}d: dead runs and their retries are corrected by the"
            " sessions of the last days"
        )
    before = datetime.now(UTC) - request.keep
    with caught_signals():
        sessions = _of_sessions(project, request, before)
        return [sessions, *clean_up_state(project.state_dir, before, dry_run=request.dry_run)]


def _of_sessions(project: Project, request: PruneRequest, before: datetime) -> Removal:
    found = open_if_there(project.sessions)
    sessions = project.sessions
    has_database = not isinstance(sessions, EmbeddedConnection) or sessions.path.exists()
    if found is None and (request.dry_run or not has_database):
        return Removal("sessions")
    with found or open_store(project.sessions) as store:
        if not request.dry_run:
            store.prepare()
        return prune_sessions(store, before, request)


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
        # Loads wait for the same lock: leave it to them for about as long as it was held.
        time.sleep(min(_LONGEST_PAUSE, max(_LEAST_PAUSE, time.monotonic() - started)))
    return Removal("sessions", looked_at, removed)
