"""Slots: how many may use a connection, or be a worker, at once over all runs that share the state folder.

A limit of N is N files; whoever holds the flock of one of them has a slot. A run that dies lets go of its slots.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dwhctl.errors import TargetBusyError
from dwhctl.runs.locks import Lock
from dwhctl.runs.state_dir import StateDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dwhctl.project.model import Project

#: The name under which worker processes are counted: no connection can have it.
WORKERS = "worker processes"
_POLL_SECONDS = 0.05


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
        self._free: dict[str, list[Lock]] = {}
        # A file lock says yes twice to two threads of one process.
        self._one_asks = threading.Lock()
        for name, limit in limits.items():
            if limit is not None:
                self._free[name] = [
                    # A dash, not an underscore: a connection may be called worker_processes.
                    Lock(folder / f"{name.replace(' ', '-')}.{number}.lock")
                    for number in range(limit)
                ]
                # Runs that look in different orders meet less often at the same file.
                random.shuffle(self._free[name])

    def try_take(self, name: str) -> Slot | None:
        """Take a slot if one is free now."""
        if name not in self._free:
            return Slot(None)
        free = self._free[name]
        with self._one_asks:
            for number, lock in enumerate(free):
                if lock.try_take():
                    return Slot(free.pop(number), lambda lock: self._take_back(lock, free))
        return None

    @contextmanager
    def held(self, name: str, wait: float = float("inf")) -> Iterator[None]:
        """Hold a slot for a block, waiting for it as long as `wait` seconds. Raise TargetBusyError."""
        until = time.monotonic() + wait
        while (slot := self.try_take(name)) is None:
            if time.monotonic() > until:
                raise TargetBusyError(
                    f"connection {name}: other runs use all that its max_connections allows"
                )
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            slot.release()

    def _take_back(self, lock: Lock, free: list[Lock]) -> None:
        with self._one_asks:
            lock.release()
            free.append(lock)


def slots_of(project: Project) -> Slots:
    """Give the slots of a project's connections for a look that makes no state folder.

    Without the folder there is no run beside which a limit could be passed.
    """
    folder = StateDir(project.state_dir).slots
    return Slots(folder, connection_limits(project) if folder.is_dir() else {})


def connection_limits(project: Project) -> dict[str, int | None]:
    """Give the limit of each connection, by its name."""
    return {name: connection.max_connections for name, connection in project.connections.items()}
