"""The process that the workers of a run are forked from, and the workers: what they do.

The server imports once what the workers need. It has one thread and no connection, so that no lock and no handle
crosses a fork. It passes no task on: it only forks workers and kills them. It ends with the run, its workers with it.
`worker_server` is the run's side of both.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from msgspec.structs import replace

from dwhctl.core.secrets import mask_python
from dwhctl.core.waiting import ENDING_SIGNALS
from dwhctl.load.worker_server import ANSWERED, FORK, REPLY, REQUEST, START
from dwhctl.project.connections import SYSTEMS
from dwhctl.runtime.messages import NOTES, LogBuffer, StageOrder, StageResult, captured_log
from dwhctl.systems.base.system import KEPT

#: What every worker needs.
_ALWAYS = ("dwhctl.load.extract", "dwhctl.project.loads", "encodings.idna")
_NAME = b"dwhctl-worker"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
#: An argument after those of the run: the server was started again, and has its order.
_AGAIN = "again"


def modules_of(sources: Collection[str], targets: Collection[str]) -> list[str]:
    """Return the modules that a worker imports for systems of these types, as far as a system has them.

    A system of another package may give pyarrow what pandas made: then pandas is one of them.
    """
    names = []
    for kind in sorted({*sources, *targets}):
        system = SYSTEMS[kind]
        package = type(system).__module__.rpartition(".")[0]
        parts = ["system"] + ["source"] * (kind in sources) + ["target", "staging"] * (kind in targets)
        names += [system.driver] * bool(system.driver) + [f"{package}.{part}" for part in parts]
        if not package.startswith("dwhctl."):
            names.append("pandas")
    return names


def serve(control: int, run: int, *again: str) -> NoReturn:
    """Import what every worker needs, and serve the run until it closes its end of the socket; `run` is its pid."""
    _end_with(run)
    # A terminal, a service manager and `kill -- -GROUP` send them to the run as well. It ends the workers, and records
    # why: a worker that ends first is a dead worker to the run, with another reason and perhaps a retry.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    os.set_inheritable(control, False)
    mask_python()
    gc.disable()
    _import(_ALWAYS)
    _Server(socket.socket(fileno=control)).run(is_ready=_AGAIN in again)
    os._exit(0)


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        # The worker that needs it raises the error again, which is then its slice's.
        with suppress(Exception):
            importlib.import_module(module)


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

    def run(self, *, is_ready: bool = False) -> None:
        """Serve until the run is gone; then end every worker."""
        with suppress(OSError):  # the run is gone
            if is_ready:
                self._announce()
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
        what, number = REQUEST.unpack(request)
        if what == START:
            self._start(*json.loads(self._control.recv(number, socket.MSG_WAITALL)))
        elif what == FORK:
            self._fork(*sockets)
        elif number in self._workers:
            os.kill(number, signal.SIGKILL)
        return True

    def _start(self, umask: int, modules: Sequence[str]) -> None:
        """Import the modules, and announce that workers can be forked."""
        os.umask(umask)
        if modules and "pandas" not in modules:
            keep_pandas_out()
        _import(modules)
        if modules and _threads() > 1:
            # A lock that a thread holds during a fork is never released in the worker: let the workers import them.
            self._control.set_inheritable(True)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], _AGAIN])  # noqa: S606
        self._announce()

    def _announce(self) -> None:
        # The garbage collector of a worker leaves the pages alone that it shares with the server.
        gc.freeze()
        gc.enable()
        self._control.sendall(REPLY.pack(0, 0))

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
    NOTES.answered = lambda: channel.send_bytes(ANSWERED)
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


#: More than a source has of rows at a time.
_GC_OBJECTS = 50_000


def stage_in_worker(order: StageOrder) -> StageResult:
    """Stage a slice. The parent never imports what this needs: pyarrow and the drivers."""
    from dwhctl.load.extract import stage_slice

    # Rows are no garbage: with Python's 700 objects, it looks through them again and again.
    gc.set_threshold(_GC_OBJECTS)
    log = LogBuffer()
    with captured_log(log.take):
        result = stage_slice(order)
    return replace(result, logged=log.messages())


def close_in_worker(_: None) -> None:
    """Close the connections that the worker keeps."""
    KEPT.close()


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def keep_pandas_out() -> None:
    """Have pyarrow work without pandas, which takes longer to import than all else that a worker needs.

    With its first value pyarrow tries to import it, once: to recognize what pandas made. Nothing here makes that.
    """
    with suppress(Exception):  # the worker that needs pyarrow raises the error again
        import pyarrow as pa

        sys.meta_path.insert(0, without := _NoPandas())
        try:
            pa.scalar(0)
        finally:
            sys.meta_path.remove(without)
