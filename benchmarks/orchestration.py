"""What dwhctl itself costs per slice: a source and a target that take no time, sessions in PostgreSQL or SQLite.

    python -m benchmarks.orchestration 150 600 15000
    python -m benchmarks.orchestration 600 --sqlite --history 1000000

Runs the numbers of slices in one go and prints slices per second of the whole command, and beyond its start. The start
is measured each time: the same command for one slice, workers included. CPU is in milliseconds per slice beyond the
start, of the run and of its workers. `--times N` takes the best of N.
`--history` runs each number a second time with so many sessions of the same load in the table.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.history import History, fill_postgres, fill_sqlite
from benchmarks.measure import Figures, measure_load
from dwhctl.project.read import read_project
from tests.postgres import PostgresServer, any_server
from tests.support.projects import DAY, Sandbox

_NOOP = Path(__file__).resolve().parent / "noop"


def main(counts: list[int], history: int, times: int, *, sqlite: bool) -> None:
    """Print a line for each number of slices."""
    print(
        f"{'slices':>7} {'history':>8} {'seconds':>8} {'start':>6} {'slices/s':>9} {'beyond the start':>17}"
        f" {'CPU ms/slice':>13} {'MiB':>8}"
    )
    with ExitStack() as stack:
        server = None if sqlite else stack.enter_context(any_server())
        for count in counts:
            for sessions in [0, history] if history else [0]:
                _print(count, sessions, *_run(server, count, sessions, times))


def _print(count: int, sessions: int, whole: Figures, start: Figures) -> None:
    more, beyond = count - 1, whole.seconds - start.seconds
    parent, workers = (1000 * seconds / more for seconds in _cpu_beyond(whole, start))
    print(
        f"{count:7} {sessions:8} {whole.seconds:8.2f} {start.seconds:6.2f} {count / whole.seconds:9.0f}"
        f" {more / beyond:17.0f} {parent:6.2f}+{workers:6.2f} {whole.parent_mib:4.0f}+{whole.worker_mib:3.0f}",
        flush=True,
    )


def _cpu_beyond(whole: Figures, start: Figures) -> tuple[float, float]:
    return whole.cpu_parent - start.cpu_parent, whole.cpu_workers - start.cpu_workers


def _run(server: PostgresServer | None, count: int, sessions: int, times: int) -> tuple[Figures, Figures]:
    """Return the best of some runs, and of as many for one slice."""
    history = History(loads=1, shards=count, hours=max(1, sessions // count), dead=0, ended=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        connection = Sandbox.sessions
        if server is not None:
            database = server.make_database()
            stack.callback(server.drop_database, database)
            connection = (
                f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\n'
                f'database = "{database}"\nuser = "{server.user}"'
            )
        sandbox = sandbox_of(Path(folder), history, connection)
        if sessions:
            project = read_project(sandbox.root)
            if server is None:
                fill_sqlite(history, project)
            else:
                fill_postgres(history, project, server)

        def best(*more: str) -> Figures:
            command = ("--date", str(DAY), "--jobs", "2", *more)
            runs = [measure_load(sandbox, *command, env={"PYTHONPATH": str(_NOOP)}) for _ in range(times)]
            return min(runs, key=lambda figures: figures.seconds)

        return best(), best("--shard", history.shard(0))


def sandbox_of(root: Path, history: History, connection: str) -> Sandbox:
    """Write a project with one load, that of the history, over three servers."""
    servers = {
        f"server_{number}": [history.shard(shard) for shard in range(number, history.shards, 3)]
        for number in range(3)
    }
    sandbox = Sandbox(root, servers=servers, sessions=connection).write()
    loads = root / "config" / "loads"
    (loads / "orders.toml").rename(loads / "load_000.toml")
    return sandbox


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[150, 600, 15000])
    parser.add_argument("--history", type=int, default=0, help="sessions in the table")
    parser.add_argument("--sqlite", action="store_true", help="sessions in SQLite")
    parser.add_argument("--times", type=int, default=1, help="take the best of so many runs")
    chosen = parser.parse_args()
    main(chosen.counts, chosen.history, chosen.times, sqlite=chosen.sqlite)
