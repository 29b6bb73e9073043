"""Worker processes: how the run starts them, gives them tasks, and how many it has.

Each is a process that can fail or be killed alone: in a shared pool a killed worker ends all running tasks.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from math import ceil, inf, sqrt
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

from dwhctl.core.errors import WorkersError
from dwhctl.load.worker_process import FORK, KILL, REPLY, REQUEST
from dwhctl.project.connections import SYSTEMS
from dwhctl.runtime.messages import LogBuffer, StageOrder, StageResult, captured_log
from dwhctl.runtime.slots import WORKERS, Slot, Slots

_T = TypeVar("_T")
_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers (--jobs)",
    errno.ENFILE: "the machine has no open files left: raise fs.file-max, or use fewer workers (--jobs)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or use fewer workers (--jobs)",
    errno.ENOMEM: "the machine has no memory left: use fewer workers (--jobs)",
}


class Worker(Protocol):
    """Runs one task at a time."""

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        """Start a task."""

    def kill(self) -> None:
        """End the worker now, whatever it does."""

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task."""


class ProcessWorker:
    """A process of its own. `kill` ends it."""

    def __init__(self, pid: int, channel: Connection, kill: Callable[[int], None]) -> None:
        self.pid = pid
        self._channel = channel
        self._kill = kill
        self._lock = threading.Lock()
        self._future: Future[object] | None = None
        self.is_alive = True
        threading.Thread(target=self._receive, name=f"worker {pid}", daemon=True).start()

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        future: Future[object] = Future()
        with self._lock:
            self._future = future if self.is_alive else None
        if self._future is None:
            future.set_exception(BrokenExecutor())
        else:
            # One that is dead already is found by the thread that receives.
            with suppress(OSError):
                self._channel.send_bytes(pickle.dumps((function, task)))
        return future

    def kill(self) -> None:
        self._kill(self.pid)

    def _receive(self) -> None:
        """Pass each result on, until the worker ends."""
        with suppress(EOFError, OSError):
            while True:
                answer = self._channel.recv_bytes()
                future = self._taken()
                try:
                    is_result, value = pickle.loads(answer)  # noqa: S301 - the worker's, over a socket that only it has
                except Exception as error:
                    is_result, value = False, error
                if future is not None:
                    future.set_result(value) if is_result else future.set_exception(value)
        with self._lock:
            self.is_alive = False
        if (future := self._taken()) is not None:
            future.set_exception(BrokenExecutor())
        self._channel.close()

    def _taken(self) -> Future[object] | None:
        with self._lock:
            future, self._future = self._future, None
        return future


class InlineWorker:
    """Runs the task in the parent, before `submit` returns: for breakpoints. Isolation and deadlines do not hold."""

    is_alive = True

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def kill(self) -> None:
        """Do nothing: no task runs between two calls of `submit`."""


def stage_in_worker(order: StageOrder) -> StageResult:
    """Stage a slice. The parent never imports what this needs: pandas and pyarrow."""
    from dwhctl.load.extract import stage_slice

    log = LogBuffer()
    with captured_log(log.take):
        result = stage_slice(order)
    return replace(result, logged=log.messages())


#: How long the server process may import, and how long it may take to fork or to end.
_IMPORT_SECONDS = 300.0
_FORK_SECONDS = 60.0
_END_SECONDS = 5.0
_MAX_RESTARTS = 3
#: These libraries start threads when they are imported, of which no worker has a use.
_WITHOUT_THREADS = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OPENBLAS_NUM_THREADS": "1",
}
_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from dwhctl.load.worker_process import serve
serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:])
"""


def modules_of(sources: Collection[str], targets: Collection[str]) -> list[str]:
    """Return the modules that a worker imports for systems of these types, as far as a system has them."""
    names = []
    for kind in sorted({*sources, *targets}):
        system = SYSTEMS[kind]
        package = type(system).__module__.rpartition(".")[0]
        parts = ["source"] * (kind in sources) + ["target", "staging"] * (kind in targets)
        names += [system.driver] * bool(system.driver) + [f"{package}.{part}" for part in parts]
    return names


class WorkerServer:
    """Starts the process that the workers are forked from, and has it fork them.

    `notify` is called in a thread when it is ready, and when it cannot be used.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._modules: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready: bool | None = None
        self._starts = 0

    def start(self, modules: Iterable[str] = ()) -> None:
        """Start the process. It imports the modules while the run goes on. Raise WorkersError."""
        self._modules = list(modules)
        self._starts += 1
        self._is_ready = None
        try:
            self._control, theirs = socket.socketpair()
            with theirs, _without_ctrl_c():
                self._process = subprocess.Popen(
                    _command(theirs.fileno(), self._modules),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **_WITHOUT_THREADS},
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            raise _workers_error(error) from error
        self._control.settimeout(_IMPORT_SECONDS)
        threading.Thread(target=self._await, args=(self._control,), name="worker server", daemon=True).start()

    def _await(self, control: socket.socket) -> None:
        reply = b""
        with suppress(OSError):
            reply = control.recv(REPLY.size)
            control.settimeout(_FORK_SECONDS)
        if control is self._control:
            self._is_ready = len(reply) == REPLY.size
            self._notify()

    def fork(self) -> Worker | None:
        """Return a new worker; None as long as the process is not ready. Raise WorkersError."""
        if self._process is None:
            self.start()
        if self._is_ready is None:
            return None
        if not self._is_ready:
            raise WorkersError(
                "worker processes cannot be started: the process that they are forked from ended, or was not ready"
                f" after {_IMPORT_SECONDS:.0f} seconds"
            )
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _workers_error(error) from error
        reply = b""
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [REQUEST.pack(FORK, 0)], [theirs.fileno()])
            reply = self._control.recv(REPLY.size)
        if len(reply) != REPLY.size:
            ours.close()
            self._start_again()
            return None
        pid, number = REPLY.unpack(reply)
        if number:
            ours.close()
            raise _workers_error(OSError(number, os.strerror(number)))
        return ProcessWorker(pid, Connection(ours.detach()), self._kill)

    def _start_again(self) -> None:
        self.close()
        if self._starts > _MAX_RESTARTS:
            raise WorkersError(
                "worker processes cannot be started: the process that they are forked from was killed"
                f" {self._starts} times"
            )
        self.start(self._modules)

    def _kill(self, pid: int) -> None:
        with suppress(OSError):  # it is gone, and its workers with it
            self._control.sendall(REQUEST.pack(KILL, pid))

    def close(self) -> None:
        """End the process and every worker. Idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if self._is_ready:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        process.kill()
        process.wait()
        self._control.close()


def _command(control: int, modules: Iterable[str]) -> list[str]:
    flags = ["-I"] if sys.flags.isolated else ["-P"]
    arguments = [str(control), str(os.getpid()), json.dumps(sys.path), *modules]
    return [sys.executable, *flags, "-c", _PROGRAM, *arguments]


def _workers_error(error: OSError) -> WorkersError:
    remedy = _REMEDIES.get(error.errno or 0)
    text = f"worker processes cannot be started: {error.strerror or error}"
    return WorkersError(f"{text}; {remedy}" if remedy else text)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block SIGINT while a process starts, until it ignores the signal itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_log = logging.getLogger(__name__)
#: How long a run keeps its only worker while another run has none; how long it keeps the others after it gave one up.
_TURN_SECONDS = 10.0
_PAUSE_SECONDS = 1.0


#: What one more worker costs in seconds: its fork, its first imports and connections.
_WORKER_SECONDS = 0.1
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

    def workers(self, queued: int, running: Iterable[float], now: float) -> int:
        """Return how many workers to have for the slices that wait; `running` are the start times of the others."""
        began = list(running)
        self._since = now if not began else self._since or now
        if self.stalled_at() <= now:
            return len(began) + queued
        # With work of W seconds and workers that cost C each, W / n + n * C is least for the root of W / C.
        worth = ceil(sqrt(queued * (self._seconds or 0.0) / _WORKER_SECONDS))
        slow = sum(now - start > _STALL_SECONDS for start in began)
        return max(1, worth) + slow

    def stalled_at(self) -> float:
        """Return the time at which the slices that wait get more workers if there is no result before."""
        return inf if self._since is None else self._since + _STALL_SECONDS


class WorkerPool:
    """Up to `jobs` workers, each under a slot of this machine's worker processes.

    `make` returns None as long as no worker can be made yet. `limit` sets how many there should be for now.
    """

    def __init__(self, jobs: int, make: Callable[[], Worker | None], slots: Slots) -> None:
        self._jobs = jobs
        self._limit = jobs
        self._make = make
        self._slots = slots
        self._idle: list[Worker] = []
        self._held: dict[Worker, Slot] = {}
        self._changed = 0.0
        #: No worker can be made yet: the process that they are forked from imports.
        self.is_starting = False
        self._numbers: dict[Worker, int] = {}

    def take(self) -> Worker | None:
        """Return an idle worker, or a new one if there may be one more."""
        while self._idle:
            if (worker := self._idle.pop()).is_alive:
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

    def replace_dead(self, worker: Worker) -> Worker:
        """Return the worker, or a new one in its place when it died before it had a task."""
        if worker.is_alive or (new := self._make()) is None:
            return worker
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

    def dismiss(self, worker: Worker) -> None:
        """Kill a worker; its slot is free for another."""
        worker.kill()
        self._held.pop(worker).release()
        del self._numbers[worker]

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
