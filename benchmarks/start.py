"""What a run costs before and beside its rows: twelve tiny slices (DuckDB; SQL Server to Vertica), and a complete day.

    python -m benchmarks.start 3

Each case is measured so many times, and the least of each is printed. CPU is that of the run and all its processes.
`--dwhctl PATH` measures the checkout in another folder with its own interpreter.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.projects import DAY, Sandbox
from tests.support.wire import a_wire

_ROOT = Path(__file__).resolve().parent.parent
_ROWS = 10


@dataclass(frozen=True, order=True)
class Cost:
    """Seconds by the clock, and of CPU."""

    wall: float
    cpu: float


def measure(checkout: Path, sandbox: Sandbox, *arguments: str) -> Cost:
    """Run `dwhctl load`. Raise RuntimeError when it does not end with 0."""
    python = checkout / ".venv/bin/python"
    command = [str(python) if python.exists() else sys.executable, "-m", "dwhctl", "load", *arguments]
    before, began = _children(), time.perf_counter()
    done = subprocess.run(
        [*command, "--date", str(DAY), "--project", str(sandbox.root)],
        cwd=checkout,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return Cost(wall, _children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def servers_of(shards: int) -> dict[str, list[str]]:
    """Return so many shards on three servers."""
    return {
        f"server_{number}": [f"city_{shard}" for shard in range(shards) if shard % 3 == number]
        for number in range(3)
    }


def compare(name: str, sandbox: Sandbox, times: int, checkouts: list[Path], *arguments: str) -> None:
    """Load once, then measure so many times; the checkouts take turns. Print a line for each."""
    measure(checkouts[0], sandbox)
    costs: dict[Path, list[Cost]] = {checkout: [] for checkout in checkouts}
    for _ in range(times):
        for checkout, found in costs.items():
            found.append(measure(checkout, sandbox, *arguments))
    for checkout, found in costs.items():
        cpu = min(cost.cpu for cost in found)
        print(f"{name}: {min(found).wall:.2f} s, {cpu:.2f} s of CPU  {checkout}", flush=True)


def main(times: int, checkouts: list[Path]) -> None:
    """Print the lines of all cases."""
    with tempfile.TemporaryDirectory() as folder:
        few = Sandbox(Path(folder) / "few", servers=servers_of(12), max_workers=4).write().fill(_ROWS)
        compare("12 tiny slices", few, times, checkouts)
        many = Sandbox(Path(folder) / "many", servers=servers_of(150), max_workers=4).write().fill(_ROWS)
        compare("nothing to do, 150 shards", many, times, checkouts, "--only-missing")
        with a_wire(Path(folder) / "wire", servers_of(12), max_workers=4) as wire:
            wire.fill(_ROWS)
            compare("12 tiny slices over the wire", wire, times, checkouts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("times", nargs="?", type=int, default=3)
    parser.add_argument("--dwhctl", action="append", type=Path, help="a checkout to compare with")
    chosen = parser.parse_args()
    main(chosen.times, [_ROOT, *(chosen.dwhctl or [])])
