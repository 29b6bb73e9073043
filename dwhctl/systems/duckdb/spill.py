"""Private folders for what DuckDB spills to disk: rows of customers, which no other user may read.

A folder belongs to one open connection. Its process holds a lock on it, which ends with the process: a folder without
a lock was left by a killed process, and is removed with the next new spill folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The folder in the state folder that holds them.
SPILL = "spill"


class SpillFolder:
    """A folder of mode 0700 in the state folder. `path` is "" without one: then DuckDB does not spill."""

    def __init__(self, state_dir: Path | None) -> None:
        self.path = ""
        self._lock = -1
        if state_dir is None:
            return
        # A state folder that is missing, or that this user may only read, stays as it is.
        with suppress(OSError):
            (state_dir / SPILL).mkdir(exist_ok=True)
            remove_left_behind(state_dir)
            while not self.path:
                self._make(state_dir / SPILL)

    def _make(self, root: Path) -> None:
        path = tempfile.mkdtemp(dir=root)
        lock = _lock(path)
        # Before the lock another process may have removed it as left behind.
        if lock is not None and Path(path).is_dir():
            self.path, self._lock = path, lock
        elif lock is not None:
            os.close(lock)

    def close(self) -> None:
        """Remove the folder with its content. Idempotent."""
        path, self.path = self.path, ""
        if path:
            shutil.rmtree(path, ignore_errors=True)
            os.close(self._lock)


def remove_left_behind(state_dir: Path) -> None:
    """Remove the spill folders whose process is dead."""
    for path in left_behind(state_dir):
        shutil.rmtree(path, ignore_errors=True)


def left_behind(state_dir: Path) -> Iterator[Path]:
    """Yield the spill folders whose process is dead; each is locked until the next."""
    try:
        found = sorted((state_dir / SPILL).iterdir())
    except OSError:
        return
    for path in found:
        if (lock := _lock(path)) is not None:
            try:
                yield path
            finally:
                os.close(lock)


def _lock(path: str | Path) -> int | None:
    """Lock a folder; None when it is gone, cannot be opened, or is locked by another process."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
