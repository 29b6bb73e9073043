"""The run's workers: made as they are needed, replaced when they die, sent home when nothing is left for them."""

from __future__ import annotations

import logging
import time
from itertools import count
from typing import TYPE_CHECKING

from dwhctl.errors import WorkersError
from dwhctl.runs.slots import WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwhctl.runs.slots import Slot, Slots
    from dwhctl.runs.workers import Worker

_log = logging.getLogger(__name__)
#: So long a run keeps its only worker from one that has none, and so long it keeps the others after it gave one up.
_TURN_SECONDS = 10.0
_PAUSE_SECONDS = 1.0


class Crew:
    """Up to `jobs` workers, each under a slot of this machine's worker processes."""

    def __init__(self, jobs: int, make: Callable[[], Worker], slots: Slots) -> None:
        self._jobs = jobs
        self._make = make
        self._slots = slots
        self._idle: list[Worker] = []
        self._held: dict[Worker, Slot] = {}
        self._changed = 0.0
        self._numbers: dict[Worker, int] = {}

    def take(self) -> Worker | None:
        """Give an idle worker, or a new one if there may be one more."""
        if self._idle:
            return self._idle.pop()
        if len(self._held) >= self._jobs or (slot := self._slots.try_take(WORKERS)) is None:
            return None
        try:
            worker = self._make()
        except WorkersError as error:
            slot.release()
            self._go_on_with_fewer(error)
            return None
        self._held[worker] = slot
        self._changed = time.monotonic()
        taken = self._numbers.values()
        self._numbers[worker] = next(number for number in count(1) if number not in taken)
        return worker

    def _go_on_with_fewer(self, error: WorkersError) -> None:
        """Have no more workers than there are. Raise the error when there are none."""
        if not self._held:
            raise error
        self._jobs = len(self._held)
        _log.warning("%s; the run goes on with %d workers", error, self._jobs)

    def number(self, worker: Worker) -> int:
        """Give the number of a worker in its crew, from 1; who replaces another takes over its number."""
        return self._numbers[worker]

    def give_back(self, worker: Worker) -> None:
        """Take a worker back after its task; its place may be another run's turn."""
        if self._slots.is_wanted(WORKERS) and self._had_its_turn():
            self.dismiss(worker)
            self._changed = time.monotonic()
        else:
            self._idle.append(worker)

    def _had_its_turn(self) -> bool:
        turn = _PAUSE_SECONDS if len(self._held) > 1 else _TURN_SECONDS
        return time.monotonic() - self._changed >= turn

    def dismiss(self, worker: Worker) -> None:
        """Kill a worker; its slot is free for another."""
        worker.kill()
        self._held.pop(worker).release()
        del self._numbers[worker]

    def dismiss_idle(self) -> None:
        """Send home the workers that have nothing to do: another run may want their slots."""
        while self._idle:
            self.dismiss(self._idle.pop())

    def dismiss_all(self) -> None:
        """Kill every worker."""
        self._idle.clear()
        for worker in list(self._held):
            self.dismiss(worker)

    @property
    def has_idle(self) -> bool:
        """Tell whether a worker has nothing to do."""
        return bool(self._idle)

    @property
    def may_grow(self) -> bool:
        """Tell whether the run could use a worker more than it has."""
        return not self._idle and len(self._held) < self._jobs
