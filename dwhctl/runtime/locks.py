"""The state folder and its locks: which run is alive, and which run works on which load and day, or report.

A lock is a flock on a file; the kernel releases it when its holder dies. The file's text describes the holder. Only the
holder of a lock removes its file: another process that waits then locks a file without a name, which filelock does not
count as taken, and takes the lock of a new file at the next try.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shlex
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from msgspec import Struct

from dwhctl.core.errors import LockHeldError, SessionsError, StateDirError, UsageError
from dwhctl.core.files import denied, inside, read_text, tighten, write_text
from dwhctl.core.waiting import poll
from dwhctl.core.words import shown_time

if TYPE_CHECKING:
    from dwhctl.project.loads import Load
    from dwhctl.sessions.store import SessionStore
    from dwhctl.sessions.values import Held


_SIGNED = re.compile(
    r"pid (?P<pid>[0-9]{1,10}) on (?P<host>\S+): (?P<command>.*?)(?: \(since (?P<since>[^()]+)\))?", re.DOTALL
)
_SINCE = "%Y-%m-%d %H:%M:%S UTC"
#: A holder whose file does not describe it.
UNKNOWN_HOLDER = "another dwhctl"
_POLL_SECONDS = 0.2
#: How long a lock may be held by a process that has not signed: it signs next, or only cleans up the folder.
_INSTANT_SECONDS = 0.5
#: Open files of a run besides the locks of its work: slots, pipes to its workers, databases.
_OTHER_FILES = 512
_FEW_OTHER_FILES = 128
#: The longest command line: no run wrote a larger file.
_MOST_SIGNED = 2**20


class Holder(Struct, frozen=True):
    """The holder of a lock; its text is that of the lock's file."""

    pid: int
    host: str
    command: str
    since: datetime | None = None

    @classmethod
    def of(cls, text: str) -> Holder | None:
        """Read the text of a lock's file. Return None for a text that no holder wrote."""
        if (found := _SIGNED.fullmatch(text.rstrip("\n"))) is None:
            return None
        since = None
        with suppress(ValueError, TypeError):
            since = datetime.strptime(found["since"], _SINCE).replace(tzinfo=UTC)
        return cls(int(found["pid"]), found["host"], found["command"], since)

    def __str__(self) -> str:
        since = f" (since {self.since:{_SINCE}})" if self.since else ""
        return f"pid {self.pid} on {self.host}: {self.command}{since}"

    def shown(self) -> str:
        """Describe it for messages, its start in the project's zone."""
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
        """Release the lock; `remove` its file first where no other process can wait for it."""
        if remove:
            self.path.unlink(missing_ok=True)
        elif self._signed:
            with suppress(OSError):
                write_text(self.path, "")
        self._signed = False
        self._lock.release()

    def remove_if_free(self, *, dry_run: bool = False) -> bool:
        """Remove the file if the lock is free. Return whether it is free."""
        if not self.try_take():
            return False
        if not dry_run:
            # Otherwise a process that finds the lock taken now would report the dead holder.
            with suppress(OSError):
                write_text(self.path, "")
        self.release(remove=not dry_run)
        return True

    def is_signed(self) -> bool:
        """Return whether the holder has signed."""
        return bool(_text_of(self.path).strip())

    def holder(self) -> Holder | None:
        """Return the holder of the lock, as far as its file describes it."""
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
    """Describe the holder of a lock for messages."""
    return holder.shown() if holder is not None else UNKNOWN_HOLDER


def _cannot(do: str, path: Path, error: OSError) -> str:
    remedy = _remedy(path, error)
    return f"cannot {do} {path}: {error.strerror}{f'; {remedy}' if remedy else ''}"


def _remedy(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return denied(path)
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"make room on its disk (df -h {shlex.quote(str(path.parent))})" if is_full else ""


def holder_of(lock_file: Path) -> Holder | None:
    """Return the holder of the lock of this file, alive or dead. Return None when the file does not describe it."""
    return Holder.of(_text_of(lock_file))


def _text_of(lock_file: Path) -> str:
    try:
        return read_text(lock_file, most=_MOST_SIGNED, follow=False, errors="replace")
    except OSError:
        return ""


def work_names(work: Iterable[tuple[Load, date]]) -> dict[str, str]:
    """Return the names of the locks of loads and days, each with a description of the work."""
    return {work_name(load, day): f"load {load.name} of {day} is being done" for load, day in work}


def report_names(reports: Iterable[str]) -> dict[str, str]:
    """Return the names of the locks of reports, the same for every day: a refresh replaces a whole table."""
    return {f"report.{name}": f"report {name} is being refreshed" for name in sorted(reports)}


@contextmanager
def held_work(folder: Path, work: Mapping[str, str], command: str, wait: float) -> Iterator[None]:
    """Hold the locks of all this work, given as name and description, or none of them.

    All runs take them in one order, so that two runs cannot wait for each other. Raise LockHeldError, with the holder,
    when one is still held after `wait` seconds, and UsageError for more work than files may be open.
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
    def what() -> str:
        return f"{shown_holder(lock.holder())}: {words}"

    def pause() -> float:
        return _POLL_SECONDS if lock.is_signed() else _POLL_SECONDS / 10

    take = partial(lock.try_take, command)
    if not poll(take, until - time.monotonic(), pause, what) and (
        lock.is_signed() or not poll(take, _INSTANT_SECONDS, pause, what)
    ):
        raise LockHeldError(f"{words} by {shown_holder(lock.holder())}")


@contextmanager
def held_in_sessions(store: SessionStore, work: Mapping[str, str], wait: float) -> Iterator[None]:
    """Hold the same locks in the sessions database, where it has locks: against runs on other machines.

    Raise LockHeldError, with the holder, when one is still held after `wait` seconds.
    """
    names = list(work)
    held: Held | None = None

    def take() -> bool:
        nonlocal held
        held = store.hold_work(names)
        return held is None

    def what() -> str:
        return f"{held.holder}: {work[held.name]}" if held else ""

    if not poll(take, wait, _POLL_SECONDS, what) and held:
        raise LockHeldError(f"{work[held.name]} by {held.holder}")
    try:
        yield
    finally:
        # A lost connection has released them.
        with suppress(SessionsError):
            store.release_work(names)


def _allow_open_files(locks: int) -> None:
    """Allow this process so many locks, one open file each, and its other files; 1,024 files are usual.

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
    """Return the name of the lock of a load's day; a load without slice_by has one for all days."""
    return f"{load.name}.{day}" if load.slice_by else load.name


#: The file in the folder of logs to which cron's shell appends the output of the crontab's lines.
CRON_LOG = "cron.log"


class StateDir:
    """The project's state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_locks = path / "locks" / "runs"
        self.work_locks = path / "locks" / "work"
        self.slots = path / "slots"
        self.staging = path / "staging"
        self.logs = path / "logs"
        self.etl_ids = path / "etl_ids"
        self.verified = path / "verify"

    def run_lock(self, run_id: str) -> Path:
        """Return the path of a run's lock. Raise ValueError for an id that leads out of the folder."""
        return inside(self.run_locks, f"{run_id}.lock")

    def locked_runs(self) -> set[str]:
        """Return the ids of the runs that have a lock here: they are alive, or did not end in order."""
        return {path.name.removesuffix(".lock") for path in self.run_locks.glob("*.lock")}

    def make(self) -> None:
        """Make the folders, close them to other users, and try a lock. Raise StateDirError."""
        self._make(self.run_locks, self.work_locks, self.slots, self.staging)
        self._check_locks()

    def make_log(self, path: Path) -> None:
        """Make a log that another program appends to, such as the shell of a cron line. Raise StateDirError."""
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
        """Close to other users the folders that an earlier version left open: what is in them is out of reach then."""
        if not self._holds_more():
            tighten(self.path)
        within = (self.run_locks.parent, self.run_locks, self.work_locks, self.slots, self.staging)
        for path in (*within, self.logs, self.logs / CRON_LOG, self.path / "alerts"):
            tighten(path)

    def _holds_more(self) -> bool:
        """Return whether the folder holds more than our state: /tmp, or the project itself."""
        with suppress(OSError):
            return bool(self.path.stat().st_mode & stat.S_ISVTX) or (self.path / "config").exists()
        return True

    def _check_locks(self) -> None:
        """Raise StateDirError where two can hold a lock on a file at once, as on some network file systems."""
        try:
            with (
                NamedTemporaryFile(dir=self.slots, prefix="probe-") as first,
                Path(first.name).open() as second,
            ):
                try:
                    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    with suppress(BlockingIOError):
                        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        raise OSError(errno.ENOLCK, "two can hold one lock at once")
                except OSError as error:
                    raise StateDirError(
                        f"the state folder {self.path} cannot be used: locks on files do not work there"
                        f" ({error.strerror}); set [project] state_dir to a folder on a disk of this machine"
                    ) from error
        except OSError as error:
            raise self._unusable(self.slots, error) from error

    def _unusable(self, path: Path, error: OSError) -> StateDirError:
        other = "set [project] state_dir to a folder of this machine that this user may write"
        remedy = _remedy(path, error) or other
        return StateDirError(
            f"the state folder {self.path} cannot be used: {path}: {error.strerror}; {remedy}"
        )
