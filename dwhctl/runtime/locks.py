"""Locks: which run is alive, and who works on which load and day, or report.

A lock is a flock on a file; the kernel lets go of it when its holder dies. The file's text says who that is. A file
is removed only by who holds the lock on it: who waits for it then locks a file without a name, which filelock does not
count as taken, and at the next try takes the lock of a new file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import socket
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock, Timeout

from dwhctl.core.errors import LockHeldError, SessionsError, StateDirError, UsageError
from dwhctl.core.files import denied, inside, read_text, tighten, write_text
from dwhctl.core.waiting import waited
from dwhctl.core.words import shown_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from dwhctl.project.loads import Load
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
