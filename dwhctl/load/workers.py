"""Workers: one of them, and how many a run has.

Each is a process that can fail or be killed alone: in a shared pool a killed worker ends all running tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import BrokenExecutor, Future
from itertools import count
from math import ceil, inf, sqrt
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct

from dwhctl.core.errors import WorkersError
from dwhctl.load.worker_process import close_in_worker
from dwhctl.runtime.slots import WORKERS, Slot, Slots

if TYPE_CHECKING:
    from dwhctl.engine.jobs import Attempt

_T = TypeVar("_T")


class Worker(Protocol):
    """Runs one task at a time."""

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        """Start a task."""

    def kill(self) -> Future[object] | None:
        """End the worker now, whatever it does. A future is done when it has ended; None: it has."""

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task."""

    @property
    def keeps(self) -> bool:
        """Whether it is a process of this machine that may keep connections open between its tasks."""


class WorkerLostError(BrokenExecutor):
    """A worker on another machine died while it worked on an attempt; the text says which."""


class InlineWorker:
    """Runs the task in the parent, before `submit` returns: for breakpoints. Isolation and deadlines do not hold."""

    is_alive = True
    keeps = False

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def kill(self) -> None:
        """Do nothing: no task runs between two calls of `submit`."""


_log = logging.getLogger(__name__)
#: How long a run keeps its only worker while another run has none; how long it keeps the others after it gave one up.
_TURN_SECONDS = 10.0
_PAUSE_SECONDS = 1.0


#: What one more worker costs in seconds: its fork, its first imports and connections.
_WORKER_SECONDS = 0.1
#: How long a worker may take to close its connections, before it is ended.
_CLOSE_SECONDS = 5.0
#: With no result for so long, and slices that wait, the run gets all its workers.
_STALL_SECONDS = 0.3


class Demand:
    """How many workers the queue is worth: one more is worth it while it saves more time than it costs.

    `seconds` is how long a slice takes as far as it is known.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._results = 0
        self._since: float | None = None

    def finished(self, seconds: float, now: float) -> None:
        """Take how long a slice took in its worker."""
        # The mean of about the last ten.
        self._results = min(self._results + 1, 10)
        known = self._seconds if self._results > 1 and self._seconds is not None else seconds
        self._seconds = known + (seconds - known) / self._results
        self._since = now

    def workers(self, queued: int, running: Collection[float], now: float) -> int:
        """Return how many workers to have for the slices that wait; `running` are the start times of the others."""
        self._since = self._since or now if running else now
        if self.stalled_at() <= now:
            return len(running) + queued
        # With work of W seconds and workers that cost C each, W / n + n * C is least for the root of W / C.
        worth = ceil(sqrt(queued * (self._seconds or 0.0) / _WORKER_SECONDS))
        slow = sum(now - start > _STALL_SECONDS for start in running)
        return max(1, worth) + slow

    def stalled_at(self) -> float:
        """Return the time at which the slices that wait get more workers if there is no result before."""
        return inf if self._since is None else self._since + _STALL_SECONDS


class KeptSlots(Struct, frozen=True):
    """The slots of the connections that a worker keeps open, to source and target; None for one that it does not."""

    names: tuple[str, ...] = ()
    slots: tuple[Slot | None, ...] = (None, None)

    def __bool__(self) -> bool:
        return any(self.slots)

    def fits(self, names: Sequence[str], is_wanted: Callable[[str], bool]) -> bool:
        """Return whether a job that needs these connections uses all that is kept, and nothing waits for it."""
        pairs = zip(names, self.names, self.slots, strict=True) if self else ()
        return not any(slot and (name != kept or is_wanted(kept)) for name, kept, slot in pairs)

    def taken(self, names: Sequence[str], slots: Slots) -> tuple[Slot, ...] | None:
        """Return a slot of each of the connections: those that are kept, and others; None when one is missing."""
        lacking = [name for name, slot in zip(names, self.slots, strict=True) if slot is None]
        if (new := slots.try_take_all(*lacking)) is None:
            return None
        others = iter(new)
        return tuple(slot or next(others) for slot in self.slots)

    def release(self) -> None:
        """Release the slots. Idempotent."""
        for slot in filter(None, self.slots):
            slot.release()


class WorkerPool:
    """Up to `jobs` workers, each under a slot of this machine's worker processes.

    `make` returns None as long as no worker can be made yet. `limit` sets how many there should be for now. `notify` is
    called in a thread when a worker has closed the connections that it kept, and so is idle.
    """

    def __init__(
        self,
        jobs: int,
        make: Callable[[], Worker | None],
        slots: Slots,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self._jobs = jobs
        self._limit = jobs
        self._make = make
        self._slots = slots
        self._idle: list[Worker] = []
        self._held: dict[Worker, Slot] = {}
        self._notify = notify
        self._kept: dict[Worker, KeptSlots] = {}
        self._closing: dict[Worker, float] = {}
        self._changed = 0.0
        #: No worker can be made yet: the process that they are forked from imports.
        self.is_starting = False
        self._numbers: dict[Worker, int] = {}

    def take(self) -> Worker | None:
        """Return an idle worker, first one that keeps connections, or a new one if there may be one more."""
        while self._idle:
            worker = next((one for one in self._idle if one in self._kept), self._idle[-1])
            self._idle.remove(worker)
            if worker.is_alive:
                return worker
            self.dismiss(worker)
        if not self.may_grow or (slot := self._slots.try_take(WORKERS)) is None:
            return None
        try:
            new = self._make()
        except WorkersError as error:
            slot.release()
            self._go_on_with_fewer(error)
            return None
        self.is_starting = new is None
        if new is None:
            slot.release()
            return None
        self._hold(new, slot)
        return new

    def limit(self, workers: int) -> None:
        """Have no more than so many workers; those that there are stay."""
        self._limit = workers

    def take_back(self, worker: Worker, attempt: Attempt[Any, Any], kept: tuple[bool, bool]) -> None:
        """Take a worker back after an attempt, with the slots of what it keeps open, to source and target."""
        if any(kept):
            pairs = list(zip(attempt.slots, kept, strict=True))
            slots = tuple(slot if keeps else None for slot, keeps in pairs)
            self._kept[worker] = KeptSlots(attempt.job.connections, slots)
            attempt.slots = tuple(slot for slot, keeps in pairs if not keeps)
        self.give_back(worker)

    def kept(self, worker: Worker) -> KeptSlots:
        """Return what a worker keeps."""
        return self._kept.get(worker, KeptSlots())

    def use_kept(self, worker: Worker) -> None:
        """Leave the slots of what a worker keeps to its next attempt."""
        self._kept.pop(worker, None)

    def close_kept(self, worker: Worker) -> bool:
        """Have a worker close what it keeps; then its slots are released, and it is idle. Return False for nothing."""
        if worker not in self._kept:
            return False
        self._closing[worker] = time.monotonic()

        def closed(_: Future[object]) -> None:
            # In a thread. A worker that was ended meanwhile is in the pool no more.
            self._kept.pop(worker, KeptSlots()).release()
            if self._closing.pop(worker, None) is not None:
                self._idle.append(worker)
            self._notify()

        worker.submit(close_in_worker, None).add_done_callback(closed)
        return True

    def close_idle(self) -> None:
        """Have every idle worker close what it keeps: there is nothing for it to do. End those that are long at it."""
        for worker, since in list(self._closing.items()):
            is_late = time.monotonic() - since > _CLOSE_SECONDS
            # One that has closed them meanwhile is idle.
            if is_late and self._closing.pop(worker, None) is not None:
                self.dismiss(worker)
        for worker in [worker for worker in self._idle if worker in self._kept]:
            self._idle.remove(worker)
            self.close_kept(worker)

    def replace_dead(self, worker: Worker) -> Worker:
        """Return the worker, or a new one in its place when it died before it had a task."""
        if worker.is_alive:
            return worker
        try:
            new = self._make()
        except WorkersError:
            new = None
        if new is None:
            return worker  # its death counts as that of the attempt
        slot, number = self._held.pop(worker), self._numbers.pop(worker)
        self._held[new], self._numbers[new] = slot, number
        return new

    def _hold(self, worker: Worker, slot: Slot) -> None:
        self._held[worker] = slot
        self._changed = time.monotonic()
        taken = self._numbers.values()
        self._numbers[worker] = next(number for number in count(1) if number not in taken)

    def _go_on_with_fewer(self, error: WorkersError) -> None:
        """Have no more workers than there are. Raise the error when there are none."""
        if not self._held:
            raise error
        self._jobs = len(self._held)
        _log.warning("%s; the run goes on with %d workers", error, self._jobs)

    def number(self, worker: Worker) -> int:
        """Return the number of a worker in its pool, from 1; a worker that replaces another gets its number."""
        return self._numbers[worker]

    def give_back(self, worker: Worker) -> None:
        """Take a worker back after its task, or end it when another run waits for its slot."""
        if self._slots.is_wanted(WORKERS) and self._had_its_turn():
            self.dismiss(worker)
            self._changed = time.monotonic()
        else:
            self._idle.append(worker)

    def _had_its_turn(self) -> bool:
        turn = _PAUSE_SECONDS if len(self._held) > 1 else _TURN_SECONDS
        return time.monotonic() - self._changed >= turn

    def dismiss(self, worker: Worker) -> Future[object] | None:
        """Kill a worker; its slot is free for another. Return what its `kill` returns. Idempotent.

        One whose answer comes at that moment may become idle once more.
        """
        self._closing.pop(worker, None)
        if worker not in self._held:
            return None
        ended = worker.kill()
        self._kept.pop(worker, KeptSlots()).release()
        self._held.pop(worker).release()
        del self._numbers[worker]
        return ended

    def has_begun(self, worker: Worker) -> bool:  # noqa: ARG002
        """Return whether a worker has begun with its task. On a cluster it may have to wait for a machine."""
        return True

    def dismiss_idle(self) -> None:
        """End the workers that have nothing to do: another run may want their slots."""
        while self._idle:
            self.dismiss(self._idle.pop())

    def dismiss_all(self) -> None:
        """Kill every worker."""
        self._idle.clear()
        for worker in list(self._held):
            self.dismiss(worker)

    @property
    def has_idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return bool(self._idle)

    @property
    def may_grow(self) -> bool:
        """Whether the run could use one more worker."""
        return not self._idle and len(self._held) < min(self._jobs, self._limit)

    @property
    def may_grow_later(self) -> bool:
        """Whether the run could use one more worker when the demand rises."""
        return not self._idle and self._limit <= len(self._held) < self._jobs
