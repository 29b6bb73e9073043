"""Slots: how many may use a connection, or be a worker, at once over all runs that share the state folder.

A limit of N is N files; whoever holds the flock of one of them has a slot. A run that dies lets go of its slots.

No run starves beside a large one: who has no slot of a name and does not get one leaves a mark (the time of a file),
and who has one, or just had, leaves the next to it. A mark soon expires, for its run may want nothing any more.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.core.errors import TargetBusyError
from dwhctl.core.files import touch
from dwhctl.core.waiting import waited
from dwhctl.runtime.locks import Lock, StateDir, holder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from dwhctl.project.model import Project

#: The name under which worker processes are counted: no connection can have it.
WORKERS = "worker processes"
_POLL_SECONDS = 0.05
#: A mark is renewed at every try, every 0.05 s; so long it counts, and so long who just had a slot stands back.
_MARK_SECONDS = 0.5
_SHOWN_USERS = 3
#: A line of /proc/locks: number, FLOCK, ADVISORY, WRITE, pid, device:inode, start, end.
_LOCK_FIELDS = 8


class Slot:
    """A slot that is held until it is released."""

    def __init__(self, lock: Lock | None, give_back: Callable[[Lock], None] | None = None) -> None:
        self._lock = lock
        self._give_back = give_back

    def release(self) -> None:
        """Give the slot back; twice is once."""
        if self._lock is not None and self._give_back is not None:
            self._give_back(self._lock)
        self._lock = None


class Slots:
    """Hands out the slots of each name up to its limit; a name without a limit always has one.

    The dispatch loop and the publisher's thread ask it at the same time.
    """

    def __init__(self, folder: Path, limits: Mapping[str, int | None]) -> None:
        self._folder = folder
        self._free: dict[str, list[Lock]] = {}
        self._files = {name: folder / f"{_file_name(name)}.wanted" for name in limits}
        self._held: Counter[str] = Counter()
        self._had: dict[str, float] = {}
        self._own_marks: dict[str, int] = {}
        # A file lock says yes twice to two threads of one process.
        self._one_asks = threading.Lock()
        for name, limit in limits.items():
            if limit is not None:
                self._free[name] = [
                    Lock(folder / f"{_file_name(name)}.{number}.lock") for number in range(limit)
                ]
                # Runs that look in different orders meet less often at the same file.
                random.shuffle(self._free[name])

    def try_take(self, name: str) -> Slot | None:
        """Take a slot if one is free now, and no other run is in greater need of it."""
        taken = self.try_take_all(name)
        return None if taken is None else taken[0]

    def try_take_all(self, *names: str) -> tuple[Slot, ...] | None:
        """Take a slot of each name, or none at all."""
        with self._one_asks:
            locks: list[tuple[str, Lock | None]] = []
            for name in names:
                lock = self._try_one(name)
                if lock is None and name in self._free:
                    self._put_back(locks)
                    self._mark(names)
                    return None
                locks.append((name, lock))
            self._held.update(name for name, lock in locks if lock is not None)
        return tuple(Slot(lock, partial(self._take_back, name)) for name, lock in locks)

    def is_wanted(self, name: str) -> bool:
        """Tell whether another run has no slot of this name and waits for one."""
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
        if not free or self._stands_back(name):
            return None
        for number, lock in enumerate(free):
            if lock.try_take():
                return free.pop(number)
        return None

    def _stands_back(self, name: str) -> bool:
        has = self._held[name] > 0 or time.monotonic() < self._had.get(name, 0.0) + _MARK_SECONDS
        return has and self.is_wanted(name)

    def _mark(self, names: Sequence[str]) -> None:
        """Say to the other runs that this one waits, unless it has its share or stands back itself."""
        for name in names:
            if name not in self._free or self._held[name] or self._stands_back(name):
                continue
            now = time.time_ns()
            try:
                touch(self._files[name], now)
            except OSError:
                continue  # it waits without a mark, as one among equals
            self._own_marks[name] = now

    def _put_back(self, locks: Sequence[tuple[str, Lock | None]]) -> None:
        for name, lock in locks:
            if lock is not None:
                lock.release()
                self._free[name].append(lock)

    def users(self, name: str) -> str:
        """Say which other processes hold the slots of a name, for people; empty when the system does not tell."""
        of_name = f"{_file_name(name)}.*.lock"
        inodes = {path.stat().st_ino for path in self._folder.glob(of_name)}
        runs = {
            holder.pid: holder
            for path in StateDir(self._folder.parent).run_locks.glob("*.lock")
            if (holder := holder_of(path)) is not None and holder.is_here
        }
        pids = sorted(pid for pid in _flock_holders(inodes) if pid != os.getpid())
        shown = [runs[pid].shown() if pid in runs else f"pid {pid}" for pid in pids[:_SHOWN_USERS]]
        more = [f"{len(pids) - _SHOWN_USERS} more"] if len(pids) > _SHOWN_USERS else []
        return ", ".join(shown + more)

    def wanted(self, *names: str) -> str:
        """Say that a slot of the first of these that has none free is waited for, and who holds them."""
        name = next((each for each in names if self._is_taken(each)), names[0])
        limit = "max_workers" if name == WORKERS else f"max_connections of {name}"
        what = "a worker process" if name == WORKERS else f"a slot of {name}"
        return f"{what} ({limit} are in use by {self.users(name) or 'other runs'})"

    def all_taken(self, name: str) -> str:
        """Say that a connection has no slot left, and who holds them."""
        users = f": {users}" if (users := self.users(name)) else ""
        return f"connection {name}: other runs use all that its max_connections allows{users}"

    def _is_taken(self, name: str) -> bool:
        slot = self.try_take(name)
        if slot is not None:
            slot.release()
        return slot is None

    @contextmanager
    def held(self, name: str, wait: float = float("inf")) -> Iterator[None]:
        """Hold a slot for a block, waiting for it as long as `wait` seconds. Raise TargetBusyError."""
        until = time.monotonic() + wait
        with waited(wait) as waiting:
            while (slot := self.try_take(name)) is None:
                if time.monotonic() > until:
                    raise TargetBusyError(self.all_taken(name))
                waiting.note(partial(self.wanted, name))
                time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            slot.release()

    def _take_back(self, name: str, lock: Lock) -> None:
        with self._one_asks:
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


def slots_of(project: Project) -> Slots:
    """Give the slots of a project's connections for a look that makes no state folder.

    Without the folder there is no run beside which a limit could be passed.
    """
    folder = StateDir(project.state_dir).slots
    return Slots(folder, connection_limits(project) if folder.is_dir() else {})


def connection_limits(project: Project) -> dict[str, int | None]:
    """Give the limit of each connection, by its name."""
    return {name: connection.max_connections for name, connection in project.connections.items()}
