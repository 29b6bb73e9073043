"""How fast the reports answer over two weeks of the planned scale, and what their indexes cost a run.

    python -m benchmarks.reports                  # 5,000,000 sessions on SQLite and PostgreSQL, some minutes
    python -m benchmarks.reports --hours 24 sqlite

Each report is a process of its own; its seconds are the best of three, less those of a command that only reads the
project, and so is its CPU time (PostgreSQL's own is not in it). Then the least milliseconds that opening and closing 64
sessions takes, with all indexes and without those of the reports.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from benchmarks.history import History, fill_postgres, fill_sqlite
from dwhctl.project.model import Project
from dwhctl.sessions import Closing, NewSession, SessionStore, State, open_store
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from tests.postgres import PostgresServer, running_server
from tests.support.projects import Sandbox

#: What a person types, in its default range. RUN becomes the newest finished run.
COMMANDS = (
    "report failures",
    "report failures --load load_007",
    "report runs",
    "report sessions",
    "report sessions --state abandoned --load load_007",
    "report sessions --run RUN",
    "report durations",
    "report grid",
    "report gaps",
    "report timeline RUN",
    "report metrics",
    "report sla",
)
#: Some of what it looks at is missed, so that it ends with 1.
WATCH = "watch"
START = "connections list"
REPORT_INDEXES = ("sessions_closed", "sessions_by_start")
_BATCH = 64


@contextmanager
def filled(history: History, dialect: str) -> Iterator[tuple[Sandbox, Project]]:
    """Give a project with the history in it, in SQLite or in a PostgreSQL server of its own."""
    folder = Path(tempfile.mkdtemp(prefix="dwhctl_reports_"))
    try:
        if dialect == "sqlite":
            sandbox = history.project(folder, 'type = "sqlite"\npath = "state/sessions.sqlite"')
            fill_sqlite(history, sandbox.project())
            yield sandbox, sandbox.project()
        else:
            with running_server() as server:
                sandbox = history.project(folder, _postgres(server))
                fill_postgres(history, sandbox.project(), server)
                yield sandbox, sandbox.project()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres(server: PostgresServer) -> str:
    place = f'host = "{server.host}"\nport = {server.port}\nuser = "{server.user}"'
    return f'type = "postgres"\n{place}\ndatabase = "{server.make_database()}"'


def finished_run(project: Project) -> str:
    """Name the newest run but one: the newest is under way."""
    with open_store(project.sessions) as store:
        return store.newest_runs(2)[1]


def best_seconds(sandbox: Sandbox, command: Sequence[str], times: int = 3) -> tuple[float, float]:
    """Run `dwhctl COMMAND` so many times and give the least seconds and the least seconds of CPU.

    Raise RuntimeError when it ends neither with 0 nor, a watch, with 1.
    """
    seconds, cpu = zip(*(_seconds(sandbox, command) for _ in range(times)), strict=True)
    return min(seconds), min(cpu)


def _seconds(sandbox: Sandbox, command: Sequence[str]) -> tuple[float, float]:
    begun, cpu = time.perf_counter(), _children_cpu()
    done = subprocess.run(
        [sys.executable, "-m", "dwhctl", *command, "--project", str(sandbox.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode not in ((0, 1) if list(command) == [WATCH] else (0,)):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return seconds, _children_cpu() - cpu


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def batch_milliseconds(store: SessionStore, batches: int = 50) -> tuple[float, float]:
    """Give the least milliseconds of opening and of closing a batch of 64 sessions."""
    opened, closed = [], []
    for batch in range(batches):
        now = datetime.now(UTC)
        sessions = [
            NewSession(
                "benchmark", f"load_{batch:03}", f"city_{n:02}", date(2020, 1, 1), 1, f"b{batch}-{n}", now
            )
            for n in range(_BATCH)
        ]
        begun = time.perf_counter()
        ids = store.open(sessions)
        half = time.perf_counter()
        store.close([Closing(one, State.LOADED, now, 5, 5, 100) for one in ids])
        opened.append(half - begun)
        closed.append(time.perf_counter() - half)
    return min(opened) * 1000, min(closed) * 1000


def drop_report_indexes(project: Project) -> None:
    """Drop the indexes that only the reports need."""
    connection = project.sessions
    if isinstance(connection, SqliteConnection):
        import sqlite3

        with closing(sqlite3.connect(connection.path, isolation_level=None)) as db:
            for name in REPORT_INDEXES:
                db.execute(f"DROP INDEX {name}")
        return
    assert isinstance(connection, PostgresConnection)
    server = PostgresServer(str(connection.host), connection.port, connection.user)
    for name in REPORT_INDEXES:
        server.run(f"DROP INDEX {name}", connection.database)


def _measure(history: History, dialect: str) -> None:
    begun = time.perf_counter()
    with filled(history, dialect) as (sandbox, project):
        print(f"{dialect}: {history.slices:,} slices, written in {time.perf_counter() - begun:.0f} s")
        start, start_cpu = best_seconds(sandbox, START.split())
        print(f"  {start:6.2f} s  {start_cpu:6.2f} s CPU  {START}")
        run = finished_run(project)
        for command in (*COMMANDS, WATCH):
            seconds, cpu = best_seconds(sandbox, command.replace("RUN", run).split())
            print(f"  {seconds - start:+6.2f} s  {cpu - start_cpu:+6.2f} s CPU  {command}", flush=True)
        for which in ("all indexes", "without the reports'"):
            with open_store(project.sessions) as store:
                opened, closed = batch_milliseconds(store)
            print(f"  64 sessions, {which}: open {opened:.1f} ms, close {closed:.1f} ms")
            if which == "all indexes":
                drop_report_indexes(project)


def main() -> None:
    """Print a line for each report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=History.hours)
    parser.add_argument("dialects", nargs="*", default=["sqlite", "postgres"])
    asked = parser.parse_args()
    for dialect in asked.dialects:
        _measure(History(hours=asked.hours), dialect)


if __name__ == "__main__":
    main()
