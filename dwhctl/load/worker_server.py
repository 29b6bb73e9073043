"""The worker processes of a run, and the server process that they are forked from: the run's side of both.

    run ──socket──▶ server ──fork──▶ worker, with a socket of its own to the run

`worker_process` is what the server and the workers do. A load starts the server before it reads the project, so that
both import at the same time: hence this module imports little.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from msgspec import Struct

from dwhctl.core.errors import WorkersError
from dwhctl.core.files import closed_to
from dwhctl.core.waiting import ENDING_SIGNALS

_T = TypeVar("_T")
#: What the run asks the server for: START, with the length of the order that follows; FORK, with the worker's end of
#: its socket; KILL, with a pid.
REQUEST = struct.Struct("=ci")
START, FORK, KILL = b"S", b"F", b"K"
#: The server's answer to START: both are 0. To FORK: the worker's pid, or 0 and the error's number.
REPLY = struct.Struct("=ii")
#: What a worker sends in the middle of a task: the source has answered. No pickled result is this.
ANSWERED = b"answered"
_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers (--jobs)",
    errno.ENFILE: "the machine has no open files left: raise fs.file-max, or use fewer workers (--jobs)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or use fewer workers (--jobs)",
    errno.ENOMEM: "the machine has no memory left: use fewer workers (--jobs)",
}
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
serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[4:])
"""


class WorkersReady(Struct, frozen=True):
    """An event: workers can be forked now, or it is known that they cannot."""


class SourceAnswered(Struct, frozen=True):
    """An event: the source of a worker's task has answered a query, so the worker does not wait for its login."""

    worker: ProcessWorker


class ProcessWorker:
    """A process of its own. `kill` ends it. `answered` is called in a thread, before the result of the task."""

    def __init__(
        self,
        pid: int,
        channel: Connection,
        kill: Callable[[int], None],
        answered: Callable[[SourceAnswered], None] = lambda _: None,
    ) -> None:
        self.pid = pid
        self._channel = channel
        self._kill = kill
        self._answered = answered
        self._lock = threading.Lock()
        self._future: Future[object] | None = None
        self.is_alive = self.keeps = True
        threading.Thread(target=self._receive, name=f"worker {pid}", daemon=True).start()

    def submit(self, function: Callable[[_T], object], task: _T) -> Future[object]:
        future: Future[object] = Future()
        request = pickle.dumps((function, task))
        with self._lock:
            if is_alive := self.is_alive:
                self._future = future
                # One that is dead already is found by the thread that receives, which closes the channel.
                with suppress(OSError):
                    self._channel.send_bytes(request)
        if not is_alive:
            future.set_exception(BrokenExecutor())
        return future

    def kill(self) -> None:
        process = None
        with suppress(OSError):  # it has ended
            process = os.pidfd_open(self.pid)
        self._kill(self.pid)
        if process is not None:
            # Its slot may be another run's at once: the limit is of processes that there are.
            ended = select.poll()
            ended.register(process, select.POLLIN)
            ended.poll(1000 * _END_SECONDS)
            os.close(process)

    def _receive(self) -> None:
        """Pass each result on, until the worker ends."""
        with suppress(EOFError, OSError):
            while True:
                answer = self._channel.recv_bytes()
                if answer == ANSWERED:
                    self._answered(SourceAnswered(self))
                    continue
                future = self._taken()
                try:
                    is_result, value = pickle.loads(answer)  # noqa: S301 - the worker's, over a socket that only it has
                except Exception as error:
                    is_result, value = False, error
                if future is not None:
                    future.set_result(value) if is_result else future.set_exception(value)
        with self._lock:
            self.is_alive = False
            self._channel.close()
        if (future := self._taken()) is not None:
            future.set_exception(BrokenExecutor())

    def _taken(self) -> Future[object] | None:
        with self._lock:
            future, self._future = self._future, None
        return future


class WorkerServer:
    """Starts the process that the workers are forked from, and has it fork them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._modules: list[str] | None = None
        self._notify: Callable[[], None] = lambda: None
        self._is_ready: bool | None = None
        #: Called in a thread when the source of a worker's task has answered.
        self.answered: Callable[[SourceAnswered], None] = lambda _: None

    def start_early(self) -> None:
        """Start the process before it is known what it is to import beside what every worker needs.

        Where that fails, `start` tries it again.
        """
        with suppress(OSError):
            self._start_process()

    def start(self, modules: Iterable[str] = (), notify: Callable[[], None] = lambda: None) -> None:
        """Have the process import the modules while the run goes on; start it if it is not. Raise WorkersError.

        `notify` is called in a thread when it is ready, and when it cannot be used.
        """
        self._modules, self._notify = list(modules), notify
        self._is_ready = None
        try:
            if self._process is None:
                self._start_process()
        except OSError as error:
            raise _workers_error(error) from error
        # The umask: it started before the configuration was read.
        order = json.dumps([closed_to(), self._modules]).encode()
        with suppress(OSError):  # it has ended, as the thread finds
            self._control.sendall(REQUEST.pack(START, len(order)) + order)
        threading.Thread(target=self._await, args=(self._control,), name="worker server", daemon=True).start()

    def _start_process(self) -> None:
        self._control, theirs = socket.socketpair()
        try:
            with theirs, _without_signals():
                self._process = subprocess.Popen(
                    _command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **_WITHOUT_THREADS},
                    pass_fds=[theirs.fileno()],
                )
        except OSError:
            self._control.close()
            raise
        self._control.settimeout(_IMPORT_SECONDS)
        self._starts += 1

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return self._modules is not None

    def _await(self, control: socket.socket) -> None:
        reply = b""
        with suppress(OSError):
            reply = control.recv(REPLY.size)
            control.settimeout(_FORK_SECONDS)
        if control is self._control:
            self._is_ready = len(reply) == REPLY.size
            self._notify()

    def fork(self) -> ProcessWorker | None:
        """Return a new worker; None as long as the process is not ready. Raise WorkersError."""
        if self._modules is None:
            self.start()
        if self._is_ready is None:
            return None
        if not self._is_ready:
            self._start_again_if_killed()
            return None
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
        return ProcessWorker(pid, Connection(ours.detach()), self._kill, self.answered)

    def _start_again_if_killed(self) -> None:
        """Start a process again that was killed before it was ready. Raise WorkersError for another reason."""
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_END_SECONDS) if self._process else 0
        if code is not None and code < 0:
            self._start_again()
            return
        slow = f"was not ready after {_IMPORT_SECONDS:.0f} seconds"
        why = slow if code is None else f"ended with exit code {code} before it was ready"
        raise WorkersError(f"worker processes cannot be started: the process that they are forked from {why}")

    def _start_again(self) -> None:
        self.close()
        if self._starts > _MAX_RESTARTS:
            raise WorkersError(
                "worker processes cannot be started: the process that they are forked from was killed"
                f" {self._starts} times"
            )
        self.start(self._modules or (), self._notify)

    def _kill(self, pid: int) -> None:
        with suppress(OSError):  # it is gone, and its workers with it
            self._control.sendall(REQUEST.pack(KILL, pid))

    def close(self) -> None:
        """End the process and every worker. Idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if self._is_ready:
            # It ends its workers, then itself, and with that its end of the socket.
            with suppress(OSError):
                self._control.settimeout(_END_SECONDS)
                self._control.shutdown(socket.SHUT_WR)
                self._control.recv(1)
        process.kill()
        process.wait()
        self._control.close()


def _command(control: int) -> list[str]:
    # As multiprocessing does: what the user gave to the interpreter of the run holds for its workers.
    flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", _PROGRAM, str(control), str(os.getpid()), json.dumps(sys.path)]


def _workers_error(error: OSError) -> WorkersError:
    remedy = _REMEDIES.get(error.errno or 0)
    text = f"worker processes cannot be started: {error.strerror or error}"
    return WorkersError(f"{text}; {remedy}" if remedy else text)


@contextmanager
def _without_signals() -> Iterator[None]:
    """Block the signals that end a command while a process starts, until it ignores them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
