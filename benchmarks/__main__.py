"""All benchmarks in one go, as a page in Markdown and as JSON:

    python -m benchmarks [FOLDER]            results.md and results.json; about 20 minutes on two idle cores
    python -m benchmarks --small [FOLDER]    the same with few rows, to see that they run

The JSON has for each command its output, and the object of its last line where that is one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_ALL = (
    "start 3",
    "shards_wire 150 1500",
    "shards_wire 150 1500 --latency 20",
    "shards_wire 150 1500 --latency 20 --jobs 12",
    "shards 150 1500",
    "orchestration 150 600 15000",
    "orchestration 600 --sqlite --history 1000000",
    "wire 5000000",
    "split 1000000",
    "postgres",
    "postgres --tables 150 --rows 1500",
    "reports",
)
_SMALL = (
    "start 1",
    "shards_wire 6 100",
    "shards 6 100",
    "orchestration 30",
    "wire 20000",
    "split 20000",
    "postgres --rows 20000",
)


def run(command: str) -> dict[str, object]:
    """Run one benchmark. Its result has what it printed, also when it failed."""
    print(f"python -m benchmarks.{command}", file=sys.stderr, flush=True)
    name, *arguments = command.split()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    *_, last = done.stdout.strip().splitlines() or [""]
    try:
        figures = json.loads(last)
    except ValueError:
        figures = None
    return {
        "command": f"python -m benchmarks.{command}",
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - began, 1),
        "figures": figures if isinstance(figures, dict | list) else None,
        "output": done.stdout,
    }


def main() -> int:
    """Write the results of all benchmarks. Return 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run all benchmarks.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    results = []
    for command in _SMALL if options.small else _ALL:
        results.append(run(command))
        # After each: what was measured is there when a later one is stopped.
        (options.folder / "results.json").write_text(
            json.dumps({"machine": machine, "results": results}, indent=1)
        )
        blocks = [f"## {each['command']}\n\n```\n{str(each['output']).rstrip()}\n```\n" for each in results]
        (options.folder / "results.md").write_text(f"# Benchmarks: {machine}\n\n" + "\n".join(blocks))
    return int(any(each["exit_code"] for each in results))


if __name__ == "__main__":
    sys.exit(main())
