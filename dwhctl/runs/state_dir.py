"""The state folder: locks, slots, staging. What stands where, and that it can be used."""

from __future__ import annotations

import errno
import fcntl
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from dwhctl.errors import StateDirError
from dwhctl.files import inside
from dwhctl.private import denied, tighten

#: What cron's shell appends the output of the crontab's lines to, in the folder of logs.
CRON_LOG = "cron.log"


class _File(Protocol):
    def fileno(self) -> int: ...


class StateDir:
    """The project's state folder, made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_locks = path / "locks" / "runs"
        self.work_locks = path / "locks" / "work"
        self.slots = path / "slots"
        self.staging = path / "staging"
        self.logs = path / "logs"
        self.etl_ids = path / "etl_ids"

    def run_lock(self, run_id: str) -> Path:
        """Return the path of a run's lock. Raise ValueError for an id that leads out of the folder of locks."""
        return inside(self.run_locks, f"{run_id}.lock")

    def make(self) -> None:
        """Make the folders, close them to other users, try them out. Raise StateDirError that says what is wrong."""
        self._make(self.run_locks, self.work_locks, self.slots, self.staging)
        self._check_locks()

    def make_log(self, path: Path) -> None:
        """Make a log that something else appends to, such as the shell of a cron line. Raise StateDirError."""
        self._make(self.logs)
        try:
            path.touch()
        except OSError as error:
            raise self._unusable(path, error) from error
        tighten(path)

    def _make(self, *folders: Path) -> None:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._unusable(folder, error) from error
        self._tighten()

    def _tighten(self) -> None:
        """Close what an earlier version left open. Folders do: what is in them cannot be reached then."""
        if not self._holds_more():
            tighten(self.path)
        within = (self.run_locks.parent, self.run_locks, self.work_locks, self.slots, self.staging)
        for each in (*within, self.logs, self.logs / CRON_LOG, self.path / "alerts"):
            tighten(each)

    def _holds_more(self) -> bool:
        """Tell whether the folder is not ours alone: /tmp, or the project itself."""
        with suppress(OSError):
            return bool(self.path.stat().st_mode & stat.S_ISVTX) or (self.path / "config").exists()
        return True

    def _check_locks(self) -> None:
        """Raise StateDirError where a lock on a file keeps nobody out: some network file systems are so."""
        try:
            with NamedTemporaryFile(dir=self.slots, prefix="probe-") as one, Path(one.name).open() as two:
                self._try_lock(one, two)
        except OSError as error:
            raise self._unusable(self.slots, error) from error

    def _try_lock(self, one: _File, two: _File) -> None:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(BlockingIOError):
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise OSError(errno.ENOLCK, "two can hold one lock at once")
        except OSError as error:
            raise StateDirError(
                f"the state folder {self.path} cannot be used: locks on files do not work there ({error.strerror});"
                " set [project] state_dir to a folder on a disk of this machine"
            ) from error

    def _unusable(self, path: Path, error: OSError) -> StateDirError:
        remedy = "set [project] state_dir to a folder of this machine that this user may write"
        if isinstance(error, PermissionError):
            remedy = denied(path)
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"make room on its disk (df -h {self.path})"
        return StateDirError(
            f"the state folder {self.path} cannot be used: {path}: {error.strerror}; {remedy}"
        )
