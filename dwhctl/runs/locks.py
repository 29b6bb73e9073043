"""Locks: which run is alive, and who works on which load and day, or report.

A lock is a flock on a file; the kernel lets go of it when its holder dies. The file's text says who that is. A file
is removed only by who holds the lock on it: who waits for it then locks a file without a name, which filelock does not
count as taken, and at the next try takes the lock of a new file.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dwhctl.errors import LockHeldError, SessionsError, StateDirError, UsageError
from dwhctl.files import read_text, write_text
from dwhctl.private import denied
from dwhctl.times import shown_time
from dwhctl.waiting import waited

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date
    from pathlib import Path

    from dwhctl.project.model import Load
    from dwhctl.sessions.store import SessionStore

_SIGNED = re.compile(
    r"pid (?P<pid>[0-9]{1,10}) on (?P<host>\S+): (?P<command>.*?)(?: \(since (?P<since>[^()]+)\))?", re.DOTALL
)
_SINCE = "%Y-%m-%d %H:%M:%S UTC"
#: What stands for a holder whose file does not say who it is.
SOMEBODY = "another dwhctl"
_POLL_SECONDS = 0.2
#: How long a lock may be held by somebody who does not say who he is: he signs next, or only tidies the folder.
_INSTANT_SECONDS = 0.5
#: Files that a run may have open beside the locks of its work: slots, pipes to its workers, databases.
_OTHER_FILES = 512
_FEW_OTHER_FILES = 128
#: A command line is no longer; what is in a larger file, no run wrote.
_MOST_SIGNED = 2**20


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock. Its text is what a lock's file contains: people can read it too."""

    pid: int
    host: str
    command: str
    since: datetime | None = None

    @classmethod
    def of(cls, text: str) -> Holder | None:
        """Read the text of a lock's file. Return None for a text that no holder wrote."""
        found = _SIGNED.fullmatch(text.rstrip("\n"))
        if found is None:
            return None
        since = None
        with suppress(ValueError, TypeError):
            since = datetime.strptime(found["since"], _SINCE).replace(tzinfo=UTC)
        return cls(int(found["pid"]), found["host"], found["command"], since)

    def __str__(self) -> str:
        since = f" (since {self.since:{_SINCE}})" if self.since else ""
        return f"pid {self.pid} on {self.host}: {self.command}{since}"

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()

    def shown(self) -> str:
        """Say who it is, for people: the start is in the project's zone."""
        since = f", since {shown_time(self.since)}" if self.since else ""
        return f"pid {self.pid} on {self.host} ({self.command}{since})"


class Lock:
    """A flock on a file, with its holder's pid, host, command and start in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False, blocking=False, fallback_to_soft=False)
        self._signed = False

    def try_take(self, command: str = "") -> bool:
        """Take the lock if it is free. Raise StateDirError when the file cannot be used."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise StateDirError(_cannot("lock", self.path, error)) from error
        if command:
            self._sign(command)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go of the lock; `remove` its file first where nobody can wait for it any more."""
        if remove:
            self.path.unlink(missing_ok=True)
        elif self._signed:
            with suppress(OSError):
                write_text(self.path, "")
        self._signed = False
        self._lock.release()

    def remove_if_free(self, *, dry_run: bool = False) -> bool:
        """Remove the file if nobody holds the lock; tell whether nobody does."""
        if not self.try_take():
            return False
        if not dry_run:
            # A dead holder's words would name him to who meets this lock now.
            with suppress(OSError):
                write_text(self.path, "")
        self.release(remove=not dry_run)
        return True

    def is_signed(self) -> bool:
        """Tell whether whoever holds the lock says who he is."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    def holder(self) -> Holder | None:
        """Return who holds the lock, as far as its file says it."""
        return holder_of(self.path)

    def _sign(self, command: str) -> None:
        self._signed = True
        holder = Holder(os.getpid(), socket.gethostname(), command, datetime.now(UTC))
        try:
            write_text(self.path, str(holder))
        except OSError as error:
            self.release()
            raise StateDirError(_cannot("write", self.path, error)) from error


def shown_holder(holder: Holder | None) -> str:
    """Say who holds a lock, for people."""
    return holder.shown() if holder is not None else SOMEBODY


def _cannot(do: str, path: Path, error: OSError) -> str:
    whose = f"; {denied(path)}" if isinstance(error, PermissionError) else ""
    return f"cannot {do} {path}: {error.strerror}{whose}"


def holder_of(lock_file: Path) -> Holder | None:
    """Return who holds the lock of this file, or died with it. None when the file does not say it."""
    try:
        return Holder.of(read_text(lock_file, most=_MOST_SIGNED, follow=False, errors="replace"))
    except OSError:
        return None


def work_names(work: Iterable[tuple[Load, date]]) -> dict[str, str]:
    """Name the locks of loads and days, each with what is done under it in words."""
    return {work_name(load, day): f"load {load.name} of {day} is being done" for load, day in work}


def report_names(reports: Iterable[str]) -> dict[str, str]:
    """Name the locks of reports, whatever the date: a refresh replaces a whole table."""
    return {f"report.{name}": f"report {name} is being refreshed" for name in sorted(reports)}


@contextmanager
def held_work(folder: Path, work: Mapping[str, str], command: str, wait: float) -> Iterator[None]:
    """Hold the locks of all this work, given by name and in words, or none of them.

    They are taken in one order by everybody, so that two runs that wait cannot wait for each other.
    Raise LockHeldError that says who holds one still after `wait` seconds, and UsageError for more work than files
    may be open.
    """
    until = time.monotonic() + wait
    _allow_open_files(len(work))
    with ExitStack() as held:
        for name, words in work.items():
            lock = Lock(folder / f"{name}.lock")
            _take_work(lock, words, command, until)
            held.callback(lock.release)
        yield


def _take_work(lock: Lock, words: str, command: str, until: float) -> None:
    instant = time.monotonic() + _INSTANT_SECONDS
    with waited(until - time.monotonic()) as wait:
        while not lock.try_take(command):
            left = (until if lock.is_signed() else max(until, instant)) - time.monotonic()
            if left <= 0:
                raise LockHeldError(f"{words} by {shown_holder(lock.holder())}")
            wait.note(lambda: f"{shown_holder(lock.holder())}: {words}")
            time.sleep(min(_POLL_SECONDS if lock.is_signed() else _POLL_SECONDS / 10, left))


@contextmanager
def held_in_sessions(store: SessionStore, work: Mapping[str, str], wait: float) -> Iterator[None]:
    """Hold the same in the sessions database, where it has locks: against runs on other machines.

    Raise LockHeldError that says who holds one still after `wait` seconds.
    """
    until = time.monotonic() + wait
    names = list(work)
    with waited(wait) as waiting:
        while (held := store.hold_work(names)) is not None:
            if time.monotonic() >= until:
                raise LockHeldError(f"{work[held.name]} by {held.holder}")
            words = f"{held.holder}: {work[held.name]}"
            waiting.note(lambda words=words: words)  # type: ignore[misc]
            time.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))
    try:
        yield
    finally:
        # A connection that is lost has let go of them.
        with suppress(SessionsError):
            store.release_work(names)


def _allow_open_files(locks: int) -> None:
    """Let this process have so many locks and its other files open: a held lock is one file, 1,024 are usual.

    Raise UsageError when the system does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = locks + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < locks + _FEW_OTHER_FILES:
        raise UsageError(
            f"{locks:,} days of loads are to be locked at once, each by an open file, and the system allows this"
            f" process {hard:,} open files: ask for fewer days or loads at a time, or raise the limit (ulimit -Hn)"
        )
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def work_name(load: Load, day: date) -> str:
    """Name the lock of a load's day; a load without slice_by replaces its whole table whatever the day."""
    return f"{load.name}.{day}" if load.slice_by else load.name
