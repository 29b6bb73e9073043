"""Tidy the state folder: locks of work that nobody holds, staging whose run is over, spilled rows, old logs.

Nothing that a live run uses is touched. A lock file goes only while its lock is held: whoever waits for it then finds
that he holds a file that is gone, for filelock looks whether it still has a name, and takes the lock of a new one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.engines.spill import left_behind
from dwhctl.errors import StateDirError
from dwhctl.runs.locks import Lock
from dwhctl.runs.state_dir import StateDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

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


def tidy_state(folder: Path, before: datetime, *, dry_run: bool) -> list[Removal]:
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
