"""The reference case on the embedded default: 150 shards x 1,500 rows, two workers.

    python -m benchmarks.shards 150 1500

Loads the day twice, first into an empty table, then replacing it, and prints what each took and where the time goes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import measure_load
from tests.support.projects import DAY, Sandbox


def main(shards: int, rows: int) -> None:
    """Print the figures of a first load and of a reload."""
    with tempfile.TemporaryDirectory() as folder:
        servers = {
            f"server_{number}": [f"city_{shard}" for shard in range(shards) if shard % 3 == number]
            for number in range(3)
        }
        sandbox = Sandbox(Path(folder), servers=servers).write().fill(rows)
        for name in ("first load", "reload"):
            figures = measure_load(sandbox, "--date", str(DAY), "--jobs", "2")
            print(
                f"{name}: {figures.seconds:.1f} s, {shards / figures.seconds:.0f} slices/s;"
                f" CPU parent {figures.cpu_parent:.1f} s, workers {figures.cpu_workers:.1f} s;"
                f" peak PSS parent {figures.parent_mib:.0f} MiB, largest worker {figures.worker_mib:.0f} MiB"
            )
            print("    " + figures.output.strip().replace("\n", "\n    "))


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:] or ("150", "1500")))
