"""The worker processes, the server process that they are forked from, and the run's side of both.

    run ──socket──▶ server ──fork──▶ worker, with a socket of its own to the run

The server imports once what the workers need. It has one thread and no connection, so that no lock and no handle
crosses a fork. It passes no task on: it only forks workers and kills them. It ends with the run, its workers with it.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn, TypeVar

from dwhctl.core.errors import WorkersError
from dwhctl.core.secrets import mask_python
from dwhctl.load.workers import keep_pandas_out
from dwhctl.project.connections import SYSTEMS

_T = TypeVar("_T")
#: What the run asks the server for: FORK, with the worker's end of its socket, or KILL with a pid.
REQUEST = struct.Struct("=ci")
FORK, KILL = b"F", b"K"
#: The server's answer to FORK: the worker's pid, or 0 and the error's number. Both are 0 when it is ready.
REPLY = struct.Struct("=ii")
#: What every worker needs.
_ALWAYS = ("dwhctl.load.extract", "dwhctl.load.workers")
_NAME = b"dwhctl-worker"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
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
from dwhctl.load.worker_server import serve
serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:])
"""


@dataclass(frozen=True, slots=True)
class WorkersReady:
    """An event: workers can be forked now, or it is known that they cannot."""


class ProcessWorker:
    """A process of its own. `kill` ends it."""

    def __init__(self, pid: int, channel: Connection, kill: Callable[[int], None]) -> None:
        self.pid = pid
        self._channel = channel
        self._kill = kill
        self._lock = threading.Lock()
        self._future: Future[object] | None = None
        self.is_alive = self.keeps = True
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


def modules_of(sources: Collection[str], targets: Collection[str]) -> list[str]:
    """Return the modules that a worker imports for systems of these types, as far as a system has them.

    A system of another package may give pyarrow what pandas made: then pandas is one of them.
    """
    names = []
    for kind in sorted({*sources, *targets}):
        system = SYSTEMS[kind]
        package = type(system).__module__.rpartition(".")[0]
        parts = ["source"] * (kind in sources) + ["target", "staging"] * (kind in targets)
        names += [system.driver] * bool(system.driver) + [f"{package}.{part}" for part in parts]
        if not package.startswith("dwhctl."):
            names.append("pandas")
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

    @property
    def is_started(self) -> bool:
        """Whether the process was started and not closed since."""
        return self._process is not None

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
    # As multiprocessing does: what the user gave to the interpreter of the run holds for its workers.
    flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
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


def serve(control: int, run: int, modules: Sequence[str]) -> NoReturn:
    """Import the modules, and fork workers until the run closes its end of the socket; `run` is its pid."""
    _end_with(run)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    mask_python()
    gc.disable()
    if modules and "pandas" not in modules:
        keep_pandas_out()
    for module in (*_ALWAYS, *modules):
        # The worker that needs it raises the error again, which is then its slice's.
        with suppress(Exception):
            importlib.import_module(module)
    if modules and _threads() > 1:
        # A lock that a thread holds during a fork is never released in the worker: let the workers import themselves.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(modules)]])  # noqa: S606
    os.set_inheritable(control, False)
    # The garbage collector of a worker leaves the pages alone that it shares with the server.
    gc.freeze()
    gc.enable()
    _Server(socket.socket(fileno=control)).run()
    os._exit(0)


def _threads() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:  # not Linux
        return 1


def _end_with(parent: int) -> None:
    """Make this process die with its parent.

    The kernel sends the signal when the thread that started the process ends (prctl(2), PR_SET_PDEATHSIG): that is
    the parent's main thread. A parent that died before the call is recognized by its pid.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Server:
    """The loop over the run's requests. A worker's pid is its own until it is waited for here."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: set[int] = set()

    def run(self) -> None:
        """Announce that it is ready, and serve; then end every worker."""
        with suppress(OSError):  # the run is gone
            self._control.sendall(REPLY.pack(0, 0))
            while self._serve():
                pass
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)

    def _serve(self) -> bool:
        request, sockets, _, _ = socket.recv_fds(self._control, REQUEST.size, 1)
        if not request:
            return False
        self._forget_ended()
        what, pid = REQUEST.unpack(request)
        if what == FORK:
            self._fork(*sockets)
        elif pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        return True

    def _forget_ended(self) -> None:
        while self._workers and (pid := os.waitpid(-1, os.WNOHANG)[0]):
            self._workers.discard(pid)

    def _fork(self, channel: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(channel)
            self._control.sendall(REPLY.pack(0, error.errno or 0))
            return
        if pid == 0:
            try:
                self._control.close()
                _end_with(server)
                _work(Connection(channel))
            finally:
                os._exit(1)
        os.close(channel)
        self._workers.add(pid)
        self._control.sendall(REPLY.pack(pid, 0))


def _work(channel: Connection) -> NoReturn:
    """Run each task that comes, and send its result or the error that it raised."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    with suppress(EOFError, OSError):  # the run is gone, or has closed its end
        while True:
            request = channel.recv_bytes()
            answer = _answer(request)
            channel.send_bytes(answer)
    os._exit(0)


def _answer(request: bytes) -> bytes:
    """Run a pickled function with its task; return pickled whether it returned, and its result or its error."""
    answer: tuple[bool, object]
    try:
        function, task = pickle.loads(request)  # noqa: S301 - the run's, over a socket that only it has
        answer = True, function(task)
    except Exception as error:
        answer = False, error
    try:
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
