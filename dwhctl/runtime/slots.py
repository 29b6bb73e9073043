"""Slots limit how many use a connection, or are a worker, at once over all runs that share the state folder.

A limit of N is N files; the holder of the flock of one of them has a slot. The slots of a dead run are free.

A large run does not starve others: a run that has no slot of a name and gets none leaves a mark (the time of a file);
a run that has a slot, or just had one, leaves the next one to it. A mark expires soon: its run may have ended.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.core.errors import TargetBusyError
from dwhctl.core.files import touch
from dwhctl.core.waiting import poll
from dwhctl.runtime.locks import Lock, StateDir, holder_of

if TYPE_CHECKING:
    from dwhctl.project.model import Project

#: The name under which worker processes are counted: no connection can have it.
WORKERS = "worker processes"
_POLL_SECONDS = 0.05
#: How long a mark counts, which is renewed at every try, and how long a run yields after it had a slot.
_MARK_SECONDS = 0.5
_SHOWN_USERS = 3
#: A line of /proc/locks: number, FLOCK, ADVISORY, WRITE, pid, device:inode, start, end.
_LOCK_FIELDS = 8


class Slot:
    """A slot that is held until it is released."""

    def __init__(self, release: Callable[[], None] | None = None) -> None:
        self._release = release

    def release(self) -> None:
        """Release the slot. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Slots:
    """Hands out the slots of each name up to its limit; a name without a limit always has one. Thread-safe."""

    def __init__(self, folder: Path, limits: Mapping[str, int | None]) -> None:
        self._folder = folder
        self._free: dict[str, list[Lock]] = {}
        self._files = {name: folder / f"{_file_name(name)}.wanted" for name in limits}
        self._held: Counter[str] = Counter()
        self._had: dict[str, float] = {}
        self._own_marks: dict[str, int] = {}
        # Two threads of one process would both get the same file lock.
        self._mutex = threading.Lock()
        for name, limit in limits.items():
            if limit is not None:
                self._free[name] = [
                    Lock(folder / f"{_file_name(name)}.{number}.lock") for number in range(limit)
                ]
                # Runs that try them in different orders meet less often at the same file.
                random.shuffle(self._free[name])

    def try_take(self, name: str) -> Slot | None:
        """Take a slot if one is free now, and no other run without a slot waits for it."""
        taken = self.try_take_all(name)
        return None if taken is None else taken[0]

    def try_take_all(self, *names: str) -> tuple[Slot, ...] | None:
        """Take a slot of each name, or none at all."""
        with self._mutex:
            locks: list[tuple[str, Lock | None]] = []
            for name in names:
                lock = self._try_one(name)
                if lock is None and name in self._free:
                    self._put_back(locks)
                    self._mark(names)
                    return None
                locks.append((name, lock))
            self._held.update(name for name, lock in locks if lock is not None)
        return tuple(Slot(partial(self._take_back, name, lock) if lock else None) for name, lock in locks)

    def is_wanted(self, name: str) -> bool:
        """Return whether another run has no slot of this name and waits for one."""
        if name not in self._free:
            return False
        try:
            marked = self._files[name].lstat().st_mtime_ns
        except OSError:
            return False
        fresh = time.time_ns() - marked < _MARK_SECONDS * 1e9
        return fresh and marked != self._own_marks.get(name)

    def _try_one(self, name: str) -> Lock | None:
        free = self._free.get(name, [])
        if not free or self._yields(name):
            return None
        for number, lock in enumerate(free):
            if lock.try_take():
                return free.pop(number)
        return None

    def _yields(self, name: str) -> bool:
        has = self._held[name] > 0 or time.monotonic() < self._had.get(name, 0.0) + _MARK_SECONDS
        return has and self.is_wanted(name)

    def _mark(self, names: Sequence[str]) -> None:
        """Leave a mark for the other runs that this one waits, unless it has a slot or yields itself."""
        for name in names:
            if name not in self._free or self._held[name] or self._yields(name):
                continue
            now = time.time_ns()
            try:
                touch(self._files[name], now)
            except OSError:
                continue  # it waits without a mark
            self._own_marks[name] = now

    def _put_back(self, locks: Sequence[tuple[str, Lock | None]]) -> None:
        for name, lock in locks:
            if lock is not None:
                lock.release()
                self._free[name].append(lock)

    def users(self, name: str) -> str:
        """Describe the other processes that hold the slots of a name; empty when the system does not list them."""
        of_name = f"{_file_name(name)}.*.lock"
        inodes = {path.stat().st_ino for path in self._folder.glob(of_name)}
        runs = {
            holder.pid: holder
            for path in StateDir(self._folder.parent).run_locks.glob("*.lock")
            if (holder := holder_of(path)) is not None and holder.host == socket.gethostname()
        }
        pids = sorted(pid for pid in _flock_holders(inodes) if pid != os.getpid())
        shown = [runs[pid].shown() if pid in runs else f"pid {pid}" for pid in pids[:_SHOWN_USERS]]
        more = [f"{len(pids) - _SHOWN_USERS} more"] if len(pids) > _SHOWN_USERS else []
        return ", ".join(shown + more)

    def wanted(self, *names: str) -> str:
        """Describe the slot to wait for, of the first of these names without a free one, and its holders."""
        name = next((name for name in names if self._is_taken(name)), names[0])
        limit = "max_workers" if name == WORKERS else f"max_connections of {name}"
        what = "a worker process" if name == WORKERS else f"a slot of {name}"
        return f"{what} ({limit} are in use by {self.users(name) or 'other runs'})"

    def all_taken(self, name: str) -> str:
        """Return the message that a connection has no slot left, with the holders."""
        users = f": {users}" if (users := self.users(name)) else ""
        return f"connection {name}: other runs use all that its max_connections allows{users}"

    def _is_taken(self, name: str) -> bool:
        slot = self.try_take(name)
        if slot is not None:
            slot.release()
        return slot is None

    @contextmanager
    def held(self, name: str, wait: float = float("inf")) -> Iterator[None]:
        """Hold a slot for a block, waiting for it for up to `wait` seconds. Raise TargetBusyError."""
        slot = poll(partial(self.try_take, name), wait, _POLL_SECONDS, partial(self.wanted, name))
        if slot is None:
            raise TargetBusyError(self.all_taken(name))
        try:
            yield
        finally:
            slot.release()

    def _take_back(self, name: str, lock: Lock) -> None:
        with self._mutex:
            self._put_back([(name, lock)])
            self._held[name] -= 1
            self._had[name] = time.monotonic()


def _flock_holders(inodes: Collection[int]) -> set[int]:
    """Return the processes that hold a flock on one of these files, as Linux lists them (proc(5), /proc/locks)."""
    found: set[int] = set()
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        fields = line.split()
        if len(fields) == _LOCK_FIELDS and fields[1] == "FLOCK":
            *_, inode = fields[5].split(":")
            if inode.isdigit() and int(inode) in inodes and fields[4].isdigit() and fields[4] != "0":
                found.add(int(fields[4]))
    return found


def _file_name(name: str) -> str:
    # A dash, not an underscore: a connection may be called worker_processes.
    return name.replace(" ", "-")


def slots_of_run(project: Project) -> Slots:
    """Return the slots of a project's connections and workers."""
    limits = _connection_limits(project) | {WORKERS: project.max_workers}
    return Slots(StateDir(project.state_dir).slots, limits)


def slots_of(project: Project) -> Slots:
    """Return the slots of a project's connections for a check that makes no state folder.

    Without the folder there is no other run, and so no limit to keep.
    """
    folder = StateDir(project.state_dir).slots
    return Slots(folder, _connection_limits(project) if folder.is_dir() else {})


def _connection_limits(project: Project) -> dict[str, int | None]:
    """Return the limit of each connection, by its name."""
    return {name: connection.max_connections for name, connection in project.connections.items()}
