"""The state folder: locks, slots, staging. What stands where, and that it can be used."""

from __future__ import annotations

import errno
import fcntl
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from dwhctl.errors import StateDirError


class StateDir:
    """The project's state folder, made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_locks = path / "locks" / "runs"
        self.work_locks = path / "locks" / "work"
        self.slots = path / "slots"
        self.staging = path / "staging"
        self.logs = path / "logs"

    def make(self) -> None:
        """Make the folders. Raise StateDirError that says why they cannot be made."""
        for folder in (self.run_locks, self.work_locks, self.slots, self.staging):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            except OSError as error:
                raise StateDirError(
                    f"the state folder {self.path} cannot be used: {folder}: {error.strerror};"
                    " set [project] state_dir to a folder of this machine that this user may write"
                ) from error
        self._check_locks()

    def _check_locks(self) -> None:
        """Raise StateDirError where a lock on a file keeps nobody out: some network file systems are so."""
        try:
            with NamedTemporaryFile(dir=self.slots, prefix="probe-") as one, Path(one.name).open() as two:
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(BlockingIOError):
                    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    raise OSError(errno.ENOLCK, "two can hold one lock at once")
        except OSError as error:
            raise StateDirError(
                f"the state folder {self.path} cannot be used: locks on files do not work there ({error.strerror});"
                " set [project] state_dir to a folder on a disk of this machine"
            ) from error
