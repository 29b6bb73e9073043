"""Starts `dwhctl` as a process of its own without its imports, which cost more than most commands do.

    test process ──request──▶ server ──clone──▶ dwhctl, a child of the test process ──fork──▶ its worker server

The server is a Python process that has imported dwhctl and runs nothing. For a command it clones itself; the clone
takes the command's arguments, environment, folder, umask, session and streams, and runs `python -m dwhctl` from its
first line. By CLONE_PARENT it is a child of the test process: pid, signals, exit code, waiting and CPU time are those
of any process. A load's worker server is forked before the load has run a line, and waits until the load starts it.

What differs from a process that Python starts:
- all modules are imported: an import that dwhctl forgot is not missed, and what an import does is not seen;
- `/proc/PID/cmdline` and `/proc/PID/environ` are the server's, and memory is shared with it: PSS is lower;
- a traceback has the frames of this file first.
So a test of one of these starts its process with `plain=True`, or by `subprocess`. DWHCTL_TEST_PREFORK=0 makes every
process plain, and so is one that the server cannot make: of another user, namespace, limit or interpreter's setting.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import pkgutil
import platform
import resource
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_REPOSITORY = Path(__file__).parents[2]
_PROGRAM = "from tests.support.prefork import serve; serve({})"
#: What dwhctl imports when it needs it: no pandas, which workers keep out, and nothing that starts a thread. A clone
#: has only the thread that cloned it.
_DRIVERS = (
    "duckdb",
    "psycopg2",
    "pyarrow.pandas_compat",
    "pymssql",
    "requests",
    "rich.console",
    "vertica_python",
)
_LEFT_OUT = ("__main__", "cluster", "arrow_")
_WITHOUT_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OPENBLAS_NUM_THREADS": "1"}
#: What an interpreter or a library reads before the first line of dwhctl.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OMP_", "MSSQL_PYTHON")
_NAMESPACES = ("mnt", "net", "pid_for_children", "user", "uts")
#: dwhctl itself forbids core files.
_LIMITS = [
    getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_CORE"
]
_WITH_WORKERS = ("load", "backfill")
_PID = struct.Struct("=i")
_LARGEST = 1 << 20

_CLONE_PARENT = 0x00008000
_CLONE_SET_AND_CLEAR_TID = 0x01000000 | 0x00200000
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0) if sys.platform == "linux" else 0


class DwhctlProcess(subprocess.Popen[Any]):
    """`subprocess.Popen([sys.executable, "-m", "dwhctl", *arguments], ...)`, cloned from the server where it can be."""

    def __init__(self, *arguments: str, plain: bool = False, **options: Any) -> None:
        self._plain = plain
        self._arguments = arguments
        super().__init__([sys.executable, "-m", "dwhctl", *arguments], **options)

    def _execute_child(self, *given: Any) -> None:
        execute = super()._execute_child  # type: ignore[misc]
        names = inspect.signature(execute).bind(*given).arguments
        env = dict(os.environ) if names["env"] is None else names["env"]
        self.is_clone = not self._plain and _can_be_cloned(names, env)
        if not self.is_clone:
            execute(*given)
            return
        with _lock:
            self.pid = _server().clone(self._arguments, env, names)
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(names[pipe] for pipe in pipes))  # type: ignore[attr-defined]


def _can_be_cloned(names: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    unusual = ("preexec_fn", "pass_fds", "executable", "shell", "startupinfo", "gids")
    return (
        _CLONE != 0
        and os.environ.get("DWHCTL_TEST_PREFORK") != "0"
        and not any(names[name] for name in unusual)
        and (names["gid"], names["uid"], names["process_group"]) == (None, None, -1)
        and names["close_fds"]
        and names["restore_signals"]
        and os.path.isdir(names["cwd"] or ".")
        and _state(env) == _STATE
    )


def _state(env: Mapping[str, str]) -> object:
    """What a process inherits and a clone of the server does not."""
    return (
        os.getresuid(),
        os.getresgid(),
        [os.readlink(f"/proc/thread-self/ns/{name}") for name in _NAMESPACES] if _CLONE else [],
        [resource.getrlimit(limit) for limit in _LIMITS],
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        {name: env[name] for name in env if name.startswith(_READ_AT_START) and name != "PYTHONPATH"},
    )


# The side of the tests

_lock = threading.Lock()


class _Server:
    """The server of this process, and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with theirs:
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(theirs.fileno())],
                stdin=subprocess.DEVNULL, cwd=_REPOSITORY, env=env, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self._close)

    def clone(self, arguments: Sequence[str], env: Mapping[str, str], names: Mapping[str, Any]) -> int:
        """Start a command; its pid. `names` are the arguments of `Popen._execute_child`."""
        order = {
            "arguments": arguments,
            "env": dict(env),
            "folder": os.path.abspath(names["cwd"] or "."),
            "umask": names["umask"] if names["umask"] != -1 else _umask(),
            "new session": bool(names["start_new_session"]),
        }
        given = (names["p2cread"], names["c2pwrite"], names["errwrite"])
        streams = [number if stream == -1 else stream for number, stream in enumerate(given)]
        socket.send_fds(self._socket, [json.dumps(order).encode()], streams)
        (pid,) = _PID.unpack(self._socket.recv(_PID.size))
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait(10)


_servers: list[_Server] = []


def _server() -> _Server:
    if not _servers:
        _servers.append(_Server())
    return _servers[0]


def _umask() -> int:
    """The umask, without changing it for the other threads."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:")
    )
    return int(line.split()[1], 8)


# The side of the server


def serve(number: int) -> None:
    """Clone a command for each request that comes over the socket. In a clone, run the command instead."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.flags.safe_path:
        sys.path.pop(0)
    _import_dwhctl()
    assert len(os.listdir("/proc/self/task")) == 1, "an import starts a thread: no lock may cross a fork"
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as control:
        while True:
            text, streams, _, _ = socket.recv_fds(control, _LARGEST, 3)
            if not text:
                os._exit(0)
            pid = _clone()
            if pid == 0:
                break
            for stream in streams:
                os.close(stream)
            control.sendall(_PID.pack(pid))
    signal.signal(signal.SIGINT, ignored)
    _run(json.loads(text), streams)


def _import_dwhctl() -> None:
    before = {name: os.environ.get(name) for name in _WITHOUT_THREADS}
    os.environ.update(_WITHOUT_THREADS)
    dwhctl = importlib.import_module("dwhctl")
    for module in pkgutil.walk_packages(dwhctl.__path__, "dwhctl."):
        if not any(word in module.name for word in _LEFT_OUT):
            importlib.import_module(module.name)
    for name in _DRIVERS:
        importlib.import_module(name)
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def _clone() -> int:
    """Fork, but as a child of this process's parent; 0 in the child, or a negative error number."""
    c = ctypes.PyDLL(None, use_errno=True)
    tid = _place_of_tid(c)
    ctypes.pythonapi.PyOS_BeforeFork()
    flags = _CLONE_PARENT | _CLONE_SET_AND_CLEAR_TID | signal.SIGCHLD
    # Its fourth argument is the place of the thread's number on x86-64, its fifth on ARM.
    pid = c.syscall(*map(ctypes.c_long, (_CLONE, flags, 0, 0, tid, tid)))
    error = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return -error if pid < 0 else int(pid)


def _place_of_tid(c: ctypes.CDLL) -> int:
    """Where the C library keeps this thread's number: fork writes the child's there, a bare clone must be told."""
    c.pthread_self.restype = ctypes.c_void_p
    start = c.pthread_self()
    words = (ctypes.c_int32 * 512).from_address(start)
    found = [place for place, word in enumerate(words) if word == threading.get_native_id()]
    return int(start) + 4 * found[0]


def _run(order: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Become what `python -m dwhctl ARGUMENTS` is at its first line, and run it."""
    if order["new session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(order["folder"])
    os.umask(order["umask"])
    arguments = order["arguments"]
    spare = (
        _Spare() if arguments[:1] and arguments[0] in _WITH_WORKERS and "--inline" not in arguments else None
    )
    first = [] if sys.flags.safe_path else [order["folder"]]
    _begin(["-m", *arguments], ["-m", "dwhctl", *arguments], order["env"], first)
    if spare is not None:
        spare.offer()
    runpy.run_module("dwhctl", run_name="__main__", alter_sys=True)


def _begin(
    argv: Sequence[str], original: Sequence[str], env: Mapping[str, str], first: Sequence[str]
) -> None:
    """Do what Python does at its start, as far as it depends on the process."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _standard_stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *original]
    path = env.get("PYTHONPATH")
    sys.path[:0] = path.split(os.pathsep) if path else []
    sys.modules.pop("sitecustomize", None)
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    sys.path[:0] = first


def _standard_stream(number: int, like: Any) -> Any:
    """Open what `sys.stdin`, `sys.stdout` or `sys.stderr` is: `like`, but for whether it is a terminal."""
    through = like.write_through
    file: Any = open(number, "wb" if number else "rb", 0 if through and number else -1, closefd=False)  # noqa: SIM115
    getattr(file, "raw", file).name = like.name
    lines = not through and (number == 2 or file.isatty())
    text: Any = io.TextIOWrapper(
        file, like.encoding, like.errors, "\n", line_buffering=lines, write_through=through
    )
    text.mode = like.mode
    return text


# The worker server of a load


class _Spare:
    """A process that becomes the command's worker server when the command starts one, or ends with the command."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # As at its start: until it ignores Ctrl-C itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _become_worker_server(theirs)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def offer(self) -> None:
        """Have the first process with the program of a worker server be this one."""
        plain = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        signature = inspect.signature(plain)

        def execute(process: Any, *given: Any) -> None:
            names = signature.bind(process, *given).arguments
            if not any("worker_process" in str(word) for word in names["args"]):
                plain(process, *given)
                return
            subprocess.Popen._execute_child = plain  # type: ignore[attr-defined]
            order = json.dumps([list(names["args"]), dict(names["env"])]).encode()
            try:
                socket.send_fds(self._socket, [order], [names["p2cread"], *names["pass_fds"]])
            except OSError:  # it was killed
                plain(process, *given)
                return
            process.pid = self._pid
            process._child_created = True
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            process._close_pipe_fds(*(names[pipe] for pipe in pipes))

        subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


def _become_worker_server(control: socket.socket) -> NoReturn:
    text, numbers, _, _ = socket.recv_fds(control, _LARGEST, 2)
    if not text:
        os._exit(0)
    words, env = json.loads(text)
    place = words.index("-c") + 1
    stdin, theirs = numbers
    control.close()
    os.dup2(stdin, 0)
    os.dup2(theirs, int(words[place + 1]))
    for number in {stdin, theirs} - {0, int(words[place + 1])}:
        os.close(number)
    _begin(["-c", *words[place + 1 :]], words[1:], env, [])
    exec(words[place], {"__name__": "__main__"})
    os._exit(1)


_STATE = _state(os.environ)
