"""Slots: how many may use a connection, or be a worker, at once over all runs that share the state folder.

A limit of N is N files; whoever holds the flock of one of them has a slot. A run that dies lets go of its slots.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from dwhctl.runs.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The name under which worker processes are counted: no connection can have it.
WORKERS = "worker processes"


class Slot:
    """A slot that is held until it is released."""

    def __init__(self, lock: Lock | None, free: list[Lock]) -> None:
        self._lock = lock
        self._free = free

    def release(self) -> None:
        """Give the slot back; twice is once."""
        if self._lock is not None:
            self._lock.release()
            self._free.append(self._lock)
            self._lock = None


class Slots:
    """Hands out the slots of each name up to its limit; a name without a limit always has one."""

    def __init__(self, folder: Path, limits: Mapping[str, int | None]) -> None:
        self._free: dict[str, list[Lock]] = {}
        for name, limit in limits.items():
            if limit is not None:
                self._free[name] = [
                    Lock(folder / f"{name.replace(' ', '_')}.{number}.lock") for number in range(limit)
                ]
                # Runs that look in different orders meet less often at the same file.
                random.shuffle(self._free[name])

    def try_take(self, name: str) -> Slot | None:
        """Take a slot if one is free now."""
        if name not in self._free:
            return Slot(None, [])
        free = self._free[name]
        for number, lock in enumerate(free):
            if lock.try_take():
                return Slot(free.pop(number), free)
        return None
