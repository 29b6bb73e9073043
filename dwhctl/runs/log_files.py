"""The logs of runs as files: where they are, which one is meant, which ones go.

A log goes when it was last written longer ago than `[project] keep_logs`, or, the oldest first, while all together
take more than a gigabyte. Once an hour the run that ends then looks, and removes so many at most.

`cron.log` is what cron's shell appends the output of commands to. It gets another name when it is large; from then on
it is a log as the others.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.errors import StateDirError
from dwhctl.files import inside, touch
from dwhctl.private import denied
from dwhctl.runs.find_run import find_run
from dwhctl.runs.state_dir import CRON_LOG

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from dwhctl.runs.state_dir import StateDir

#: From here on cron.log gets another name.
MOST_CRON_BYTES = 10 * 2**20
_SUFFIX = ".jsonl"
MOST_TOGETHER = 2**30
MOST_REMOVED = 2000
_EVERY_SECONDS = 3600


def log_path(folder: Path, run_id: str) -> Path:
    """Return the path of a run's log in the folder of logs. Raise ValueError for an id that leads out of it."""
    return inside(folder, f"{run_id}{_SUFFIX}")


def find_log(folder: Path, text: str) -> Path:
    """Find the log of the run that a text means: its id, the beginning of it, or `last`.

    Raise UsageError when there is none, or more than one, and StateDirError.
    """
    none = f"there is no log in {folder}: a run writes one on its own machine"
    missing = "logs stay on the run's own machine for [project] keep_logs: there is no log of a run"
    return log_path(folder, find_run(_Logs(_run_ids(folder)), text, none=none, missing=missing))


class _Logs:
    """The runs that have a log."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        self._ids = sorted(run_ids)

    def newest(self, count: int) -> Sequence[str]:
        return self._ids[: -count - 1 : -1]

    def beginning_with(self, text: str, count: int) -> Sequence[str]:
        return [run_id for run_id in self._ids if run_id.startswith(text)][:count]


def _run_ids(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []
    except OSError as error:
        remedy = denied(folder) if isinstance(error, PermissionError) else "check the disk"
        raise StateDirError(f"the logs in {folder} cannot be read: {error.strerror}; {remedy}") from error


def put_away(state: StateDir, keep: timedelta) -> None:
    """Remove logs that are too old or too much, if nobody has looked in the last hour. Raises nothing."""
    with suppress(OSError):
        now = time.time()
        looked = state.logs / ".looked"
        if looked.exists() and now - _EVERY_SECONDS < looked.lstat().st_mtime <= now:
            return
        touch(looked)
        with suppress(OSError):
            rotate_cron_log(state.logs / CRON_LOG)
        _remove_old(state, now - keep.total_seconds())


def rotate_cron_log(path: Path) -> None:
    """Put an empty file in the place of a cron.log that is large, which stays beside it under another name.

    No moment is without a cron.log, and no line is lost: whoever has the old file open goes on writing to it. Others
    may not read it; the group keeps it where it may write. Raise OSError.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return
    mode = 0o660 if found.st_mode & stat.S_IWGRP else 0o600
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
    if found.st_size < MOST_CRON_BYTES:
        return
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f"{CRON_LOG}.")
    try:
        os.fchmod(descriptor, mode)
        os.link(path, f"{path}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", follow_symlinks=False)
        Path(new).replace(path)
    finally:
        os.close(descriptor)
        Path(new).unlink(missing_ok=True)


def _remove_old(state: StateDir, oldest: float) -> None:
    found = []
    with os.scandir(state.logs) as entries:
        for entry in entries:
            is_log = entry.name.endswith(_SUFFIX) or entry.name.startswith(f"{CRON_LOG}.")
            if is_log and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                # What it takes of the disk: a small file takes a block.
                found.append((status.st_mtime, entry.name, status.st_blocks * 512))
    together = sum(size for _, _, size in found)
    for written, name, size in sorted(found)[:MOST_REMOVED]:
        if written >= oldest and together <= MOST_TOGETHER:
            return
        # A run that is under way, or died and waits to be reaped, has its lock.
        if not (state.run_locks / f"{name.removesuffix(_SUFFIX)}.lock").exists():
            (state.logs / name).unlink(missing_ok=True)
            together -= size
