"""Worker processes: one executor of one process each.

In a shared pool a killed worker ends all running tasks, and a hung one cannot be killed alone.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from multiprocessing import resource_tracker
from typing import Protocol, TypeVar

from dwhctl.core.errors import WorkersError
from dwhctl.core.secrets import mask_python
from dwhctl.runtime.messages import LogBuffer, StageOrder, StageResult, captured_log
from dwhctl.runtime.recovery import _SHARED_MEMORY
from dwhctl.runtime.slots import WORKERS, Slot, Slots

_T = TypeVar("_T")
_PR_SET_PDEATHSIG = 1
_UP_SECONDS = 5.0
#: For the resource trackers of Python and loky, which outlive a killed run: they clean up after it, and warn of it on
#: the run's stderr, cron's log; the next run reports the death. They read the filter from `sys.warnoptions`.
_QUIET_TRACKERS = "ignore:resource_tracker:UserWarning"
_REMEDIES = {
    errno.ENOSPC: f"{_SHARED_MEMORY} is full: remove what is not needed there, or make it larger (mount -o"
    f" remount,size=64m {_SHARED_MEMORY}; a container: --shm-size=64m)",
    errno.EROFS: f"{_SHARED_MEMORY} is read-only: mount -o remount,rw {_SHARED_MEMORY}",
    errno.EACCES: f"this user may not write {_SHARED_MEMORY}: chmod 1777 {_SHARED_MEMORY}",
    errno.ENOENT: f"{_SHARED_MEMORY} is missing: mount -t tmpfs -o mode=1777 tmpfs {_SHARED_MEMORY}",
    errno.ENOSYS: f"{_SHARED_MEMORY} is missing: mount -t tmpfs -o mode=1777 tmpfs {_SHARED_MEMORY}",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers (--jobs)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or use fewer workers (--jobs)",
    errno.ENOMEM: "the machine has no memory left: use fewer workers (--jobs)",
}


class Worker(Protocol):
    """Runs one task at a time."""

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        """Start a task."""

    def kill(self) -> Future[object] | None:
        """End the worker now, whatever it does. A future is done when it has ended; None: it has."""

    @property
    def is_up(self) -> bool:
        """Whether the worker has started: until then its task has not begun."""


class WorkerLostError(BrokenExecutor):
    """A worker on another machine died while it worked on an attempt; the text says which."""


class ProcessWorker:
    """A process of its own, from loky: a fresh interpreter that shares no handle with the parent."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        with warnings.catch_warnings():
            # joblib warns that it goes on in one process without semaphores; the error below says what is wrong.
            warnings.simplefilter("ignore", UserWarning)
            from joblib.externals.loky import ProcessPoolExecutor

        if _QUIET_TRACKERS not in sys.warnoptions:
            sys.warnoptions.append(_QUIET_TRACKERS)
        try:
            self._executor = ProcessPoolExecutor(
                max_workers=1, timeout=None, initializer=_settle, initargs=(os.getpid(),)
            )
            # Submitted at once: the process starts and imports what it needs while the parent goes on.
            with _without_ctrl_c():
                self._pid: Future[int] = self._executor.submit(os.getpid)
        except OSError as error:
            raise WorkersError(_translate_error(error)) from error

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        try:
            future: Future[object] = self._executor.submit(function, task)
        except BrokenExecutor:
            # It died while it had nothing to do: the task did not kill it.
            self._executor.shutdown(wait=False)
            self._start()
            future = self._executor.submit(function, task)
        return future

    @property
    def is_up(self) -> bool:
        return self._pid.done()

    def kill(self) -> None:
        try:
            # loky's manager thread fails when its process ends while it starts.
            pid = self._pid.result(timeout=_UP_SECONDS)
        except (BrokenExecutor, FutureTimeoutError):
            self._executor.shutdown(wait=False, kill_workers=True)
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._executor.shutdown(wait=False)


def _translate_error(error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0)
    text = f"worker processes cannot be started: {error.strerror or error}"
    return f"{text}; {remedy}" if remedy else text


class InlineWorker:
    """Runs the task in the parent, before `submit` returns: for breakpoints. Isolation and deadlines do not hold."""

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def kill(self) -> None:
        """Do nothing: no task runs between two calls of `submit`."""

    @property
    def is_up(self) -> bool:
        return True


def stage_in_worker(order: StageOrder) -> StageResult:
    """Stage a slice. The parent never imports what this needs: pandas and pyarrow."""
    from dwhctl.load.extract import stage_slice

    log = LogBuffer()
    with captured_log(log.take):
        result = stage_slice(order)
    return replace(result, logged=log.messages())


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block SIGINT while a process starts, until it ignores the signal itself."""
    # It would let SIGINT through again if it started in the block.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _settle(parent: int) -> None:
    """Make the process die with its parent, ignore the terminal's Ctrl-C, and be ready for its first slice.

    The kernel sends the signal when the thread that started the process ends (prctl(2), PR_SET_PDEATHSIG): that is
    the parent's main thread. A parent that died before the call is recognized by its pid.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask_python()
    import dwhctl.load.extract  # noqa: F401 - imported ahead of the first slice


_log = logging.getLogger(__name__)
#: How long a run keeps its only worker while another run has none; how long it keeps the others after it gave one up.
_TURN_SECONDS = 10.0
_PAUSE_SECONDS = 1.0


class WorkerPool:
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
        """Return an idle worker, or a new one if there may be one more."""
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
        """Kill a worker; its slot is free for another. Return what its `kill` returns."""
        ended = worker.kill()
        self._held.pop(worker).release()
        del self._numbers[worker]
        return ended

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
        return not self._idle and len(self._held) < self._jobs
