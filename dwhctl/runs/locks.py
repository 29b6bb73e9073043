"""Locks: which run is alive, and who works on which load and day, or report.

A lock is a flock on a file that is never removed while others may wait for it; the kernel lets go of it when its
holder dies. The file's text is for people only.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dwhctl.errors import LockHeldError, StateDirError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from dwhctl.project.model import Load

_POLL_SECONDS = 0.2
#: Files that a run may have open beside the locks of its work: slots, pipes to its workers, databases.
_OTHER_FILES = 512


class Lock:
    """A flock on a file, with its holder's pid, host, command and start in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, mode=0o640, thread_local=False, blocking=False, fallback_to_soft=False)
        self._signed = False

    def try_take(self, command: str = "") -> bool:
        """Take the lock if it is free. Raise StateDirError when the file cannot be used."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise StateDirError(f"cannot lock {self.path}: {error.strerror}") from error
        if command:
            self._sign(command)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go of the lock; `remove` its file first where nobody can wait for it any more."""
        if remove:
            self.path.unlink(missing_ok=True)
        elif self._signed:
            with suppress(OSError):
                self.path.write_text("")
        self._signed = False
        self._lock.release()

    def holder(self) -> str:
        """Say who holds the lock, for people."""
        try:
            return self.path.read_text() or "another dwhctl"
        except OSError:
            return "another dwhctl"

    def _sign(self, command: str) -> None:
        self._signed = True
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        text = f"pid {os.getpid()} on {socket.gethostname()}: {command} (since {since})"
        try:
            self.path.write_text(text)
        except OSError as error:
            self.release()
            raise StateDirError(f"cannot write {self.path}: {error.strerror}") from error


def held_work(
    folder: Path, work: Sequence[tuple[Load, date]], command: str, wait: float
) -> AbstractContextManager[None]:
    """Hold the lock of every load and day of `work`, or none of them.

    Raise LockHeldError that names holder and day when one is still held after `wait` seconds.
    """
    names = {work_name(load, day): f"load {load.name} of {day} is being done" for load, day in work}
    return _held(folder, names, command, wait)


def held_reports(
    folder: Path, reports: Collection[str], command: str, wait: float
) -> AbstractContextManager[None]:
    """Hold the lock of every report, whatever the date: a refresh replaces its whole table. As `held_work` else."""
    names = {f"report.{name}": f"report {name} is being refreshed" for name in sorted(reports)}
    return _held(folder, names, command, wait)


@contextmanager
def _held(folder: Path, names: Mapping[str, str], command: str, wait: float) -> Iterator[None]:
    """Hold the locks of these names, each with what it is in words.

    They are taken in one order by everybody, so that two runs that wait cannot wait for each other.
    """
    until = time.monotonic() + wait
    _allow_open_files(len(names) + _OTHER_FILES)
    with ExitStack() as held:
        for name, words in names.items():
            lock = Lock(folder / f"{name}.lock")
            while not lock.try_take(command):
                if time.monotonic() >= until:
                    raise LockHeldError(f"{words} by {lock.holder()}")
                time.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))
            held.callback(lock.release)
        yield


def _allow_open_files(count: int) -> None:
    """Let this process have so many files open, as far as the system allows: a held lock is one, 1,024 are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (hard, resource.RLIM_INFINITY) and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def work_name(load: Load, day: date) -> str:
    """Name the lock of a load's day; a load without slice_by replaces its whole table whatever the day."""
    return f"{load.name}.{day}" if load.slice_by else load.name
