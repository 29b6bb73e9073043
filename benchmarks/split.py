"""One big slice of a SQL Server as a whole and in parts, by turns in one run:

    python -m benchmarks.split 1000000 --parts 2

- into nothing: a target that reads the rows and keeps none of them, so that the driver in the workers is the limit;
- into the Vertica of the tests, whose own work takes the cores from the workers when there are two of them.

The SQL Server sends the answers from files that it filled before (`--cache`): its CPU is shown, and is near none. With
the seconds stand the CPU seconds of the busiest worker: without free cores these say what the seconds would be.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.wire import Servers, fill, project, served
from tests.support.projects import DAY

_ROOT = Path(__file__).resolve().parent.parent
_NOOP = Path(__file__).resolve().parent / "noop"
_SECONDS = re.compile(r"rows in ([\d.]+) s\b")
_EVERY = 0.02


@dataclass(frozen=True)
class Taken:
    """The seconds of a load from its plan to its end, and the CPU of its busiest worker, its parent and the servers."""

    seconds: float
    worker: float
    parent: float
    servers: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s, CPU: busiest worker {self.worker:.2f} s, parent {self.parent:.2f} s,"
            f" servers {self.servers:.2f} s"
        )


def _into_nothing(root: Path) -> None:
    """Write the target that `benchmarks/noop` replaces, and its columns."""
    main = root / "config" / "dwhctl.toml"
    text = main.read_text()
    start, end = text.index("[connections.dwh]"), text.index("[shards.cities]")
    main.write_text(
        f'{text[:start]}[connections.dwh]\ntype = "duckdb"\npath = "state/none.duckdb"\n{text[end:]}'
    )
    extract = root / "sql" / "orders" / "extract.sql"
    extract.write_text(extract.read_text().replace(", status", "", 1))


def _load(root: Path, path: Path | None) -> Taken:
    """Run a load and sample what it uses."""
    ours = psutil.Process()
    servers = [process for process in ours.children() if "tests.servers" in " ".join(process.cmdline())]
    before = sum(map(_cpu, servers))
    places = [str(place) for place in (path, _ROOT) if place]
    process = subprocess.Popen(
        [sys.executable, "-m", "dwhctl", "load", "--date", str(DAY), "-v", "--project", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
    used: dict[int, float] = {}
    while process.poll() is None:
        for each in _family(process.pid):
            with suppress(psutil.Error):
                used[each.pid] = _cpu(each)
        time.sleep(_EVERY)
    out, err = process.communicate()
    found = _SECONDS.search(out)
    if process.returncode or found is None:
        raise RuntimeError(out + err)
    parent = used.pop(process.pid, 0.0)
    return Taken(float(found[1]), max(used.values()), parent, sum(map(_cpu, servers)) - before)


def _family(pid: int) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main(rows: int, parts: int, turns: int) -> None:
    """Print each load, and the ratio of the best ones."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = folder / "answers"
        cache.mkdir()
        source = ("tests.servers.tds", "--database", "moscow", "--cache", str(cache))
        servers = Servers(
            stack.enter_context(served(*source)), stack.enter_context(served("tests.servers.vertica"))
        )
        fill(servers, rows)
        for where, path in (("nothing", _NOOP), ("Vertica", None)):
            best: dict[int, Taken] = {}
            for turn in range(1 + turns):
                for split in (1, parts):
                    root = project(folder / f"{where}{split}", servers, "pymssql", split)
                    if path is not None:
                        _into_nothing(root)
                    taken = _load(root, path)
                    first = ", the first time (the server fills its cache)" * (not turn)
                    print(f"into {where}, split = {split}: {taken}{first}", flush=True)
                    if turn:
                        best[split] = min(best.get(split, taken), taken, key=lambda each: each.seconds)
            whole, split_up = best[1], best[parts]
            print(
                f"into {where}: split = {parts} is {whole.seconds / split_up.seconds:.2f} times as fast; CPU of the"
                f" busiest worker {whole.worker / split_up.worker:.2f} times less"
            )


if __name__ == "__main__":
    arguments = ArgumentParser(prog="benchmarks.split")
    arguments.add_argument("rows", nargs="?", type=int, default=1_000_000)
    arguments.add_argument("--parts", type=int, default=2)
    arguments.add_argument("--turns", type=int, default=3)
    given = arguments.parse_args()
    main(given.rows, given.parts, given.turns)
