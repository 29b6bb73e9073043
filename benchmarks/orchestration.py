"""What dwhctl itself costs per slice: a no-op source, staged and published to DuckDB, sessions in PostgreSQL.

    python -m benchmarks.orchestration 150 1000 5000

Runs the numbers of slices in one go and prints slices per second and milliseconds per slice, the latter also
relative to the first: flat is 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Figures, measure_load
from tests.postgres import PostgresServer, any_server
from tests.support.projects import DAY, Sandbox

_NOOP = Path(__file__).resolve().parent / "noop"


def main(counts: list[int]) -> None:
    """Print a line for each number of slices."""
    print(
        f"{'slices':>7} {'seconds':>8} {'slices/s':>9} {'ms/slice':>9} {'ratio':>6} {'CPU s':>12} {'MiB':>12}"
    )
    first: float | None = None
    with any_server() as server:
        for count in counts:
            figures = _run(server, count)
            each = figures.seconds / count
            first = first or each
            speed = f"{count:7} {figures.seconds:8.1f} {count / figures.seconds:9.1f} {each * 1000:9.1f}"
            cpu = f"{figures.cpu_parent:5.1f}+{figures.cpu_workers:5.1f}"
            print(f"{speed} {each / first:6.2f} {cpu} {figures.parent_mib:6.0f}+{figures.worker_mib:4.0f}")
            print("        " + figures.output.strip().replace("\n", "\n        "))


def _run(server: PostgresServer, count: int) -> Figures:
    database = server.make_database()
    try:
        with tempfile.TemporaryDirectory() as folder:
            servers = {
                f"server_{number}": [f"city_{shard}" for shard in range(count) if shard % 3 == number]
                for number in range(3)
            }
            sessions = (
                f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\n'
                f'database = "{database}"\nuser = "{server.user}"'
            )
            sandbox = Sandbox(Path(folder), servers=servers, sessions=sessions).write()
            return measure_load(sandbox, "--date", str(DAY), "--jobs", "2", env={"PYTHONPATH": str(_NOOP)})
    finally:
        server.drop_database(database)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or [150, 1000, 5000])
