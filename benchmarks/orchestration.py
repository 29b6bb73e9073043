"""What dwhctl itself costs per slice: a source and a target that take no time, sessions in PostgreSQL or SQLite.

    python -m benchmarks.orchestration 150 600 15000
    python -m benchmarks.orchestration 600 --sqlite --history 1000000

Runs the numbers of slices in one go and prints slices per second and milliseconds per slice, the latter also
relative to the first: flat is 1. The rate is that of the run after its start, from its own last line. `--history` runs
each number a second time with so many sessions of the same load in the table.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.history import History, fill_postgres, fill_sqlite
from benchmarks.measure import Figures, measure_load
from dwhctl.project.read import read_project
from tests.postgres import PostgresServer, any_server
from tests.support.projects import DAY, Sandbox

_NOOP = Path(__file__).resolve().parent / "noop"
_SECONDS = re.compile(r"rows in ([\d.]+) s")


def main(counts: list[int], history: int, *, sqlite: bool) -> None:
    """Print a line for each number of slices."""
    titles = f"{'slices':>7} {'history':>8} {'seconds':>8} {'slices/s':>9} {'ms/slice':>9} {'ratio':>6}"
    print(f"{titles} {'CPU s':>11} {'MiB':>11}")
    first: float | None = None
    with ExitStack() as stack:
        server = None if sqlite else stack.enter_context(any_server())
        for count in counts:
            for sessions in [0, history] if history else [0]:
                figures = _run(server, count, sessions)
                found = _SECONDS.search(figures.output)
                seconds = float(found[1]) if found else figures.seconds
                each = seconds / count
                first = first or each
                speed = f"{count:7} {sessions:8} {seconds:8.1f} {count / seconds:9.1f} {each * 1000:9.2f}"
                cpu = f"{figures.cpu_parent:5.1f}+{figures.cpu_workers:5.1f}"
                print(
                    f"{speed} {each / first:6.2f} {cpu} {figures.parent_mib:6.0f}+{figures.worker_mib:4.0f}"
                )
                print("        " + figures.output.strip().replace("\n", "\n        "), flush=True)


def _run(server: PostgresServer | None, count: int, sessions: int) -> Figures:
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
        return measure_load(sandbox, "--date", str(DAY), "--jobs", "2", env={"PYTHONPATH": str(_NOOP)})


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
    chosen = parser.parse_args()
    main(chosen.counts, chosen.history, sqlite=chosen.sqlite)
