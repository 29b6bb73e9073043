"""Run a command and measure it: wall time, CPU, peak memory (PSS) of the process and of those below it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.projects import Sandbox

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figures:
    """What one run took. CPU in seconds over parent and workers, memory in MiB for the largest of each."""

    seconds: float
    cpu_parent: float
    cpu_workers: float
    parent_mib: float
    worker_mib: float
    output: str


def measure_load(sandbox: Sandbox, *arguments: str, env: Mapping[str, str] | None = None) -> Figures:
    """Run `dwhctl load ARGUMENTS -v` in the sandbox. Raise RuntimeError when it does not end with 0."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dwhctl", "load", *arguments, "-v", "--project", str(sandbox.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=_ROOT,
        env={**_environment(), "NO_COLOR": "1", **(env or {})},
    )
    parent = psutil.Process(process.pid)
    memory: dict[int, float] = {}
    cpu: dict[int, float] = {}
    while process.poll() is None:
        for one in [parent, *_children(parent)]:
            _sample(one, memory, cpu)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.03)
    seconds = time.perf_counter() - started
    output = process.stdout.read() if process.stdout else ""
    if process.returncode != 0:
        raise RuntimeError(output)
    workers = [pid for pid in memory if pid != parent.pid]
    return Figures(
        seconds,
        cpu[parent.pid],
        sum(cpu[pid] for pid in workers),
        memory[parent.pid],
        max((memory[pid] for pid in workers), default=0.0),
        output,
    )


def _children(parent: psutil.Process) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = parent.children(recursive=True)
        return children
    except psutil.NoSuchProcess:
        return []


def _sample(process: psutil.Process, memory: dict[int, float], cpu: dict[int, float]) -> None:
    try:
        times = process.cpu_times()
        cpu[process.pid] = times.user + times.system
        memory[process.pid] = max(memory.get(process.pid, 0.0), process.memory_full_info().pss / 2**20)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds, CPU seconds of its processes, and the most MiB (PSS) of all of them at once."""

    seconds: float
    cpu: float
    mib: float

    @staticmethod
    def head(of: str) -> str:
        """Return the head of the table in Markdown."""
        return f"| {of} | seconds | client CPU s | peak PSS MiB | times the floor |\n| --- | --- | --- | --- | --- |"

    def row(self, name: str, floor: float) -> str:
        """Return the row of the table."""
        mib = f"{self.mib:,.0f}" if self.mib else "-"
        return f"| {name} | {self.seconds:.1f} | {self.cpu:.1f} | {mib} | {self.seconds / floor:.2f} |"


def _environment() -> dict[str, str]:
    """Return the environment of a command: what is installed has its bytecode, and so has this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure(command: Sequence[str], env: Mapping[str, str] | None = None, *, memory: bool = True) -> Usage:
    """Run a command to its end. Raise RuntimeError with the end of its output unless it ends with 0.

    Reading the PSS of many processes holds them up, so a run whose seconds count is made without `memory` when it is
    a short one.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_environment(), "NO_COLOR": "1", **(env or {})},
        )
        cpu: dict[int, float] = {}
        peak = _watch(process, cpu) if memory else 0.0
        process.wait()
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {output.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited_for = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # A killed worker may not be waited for; a short process may not be sampled.
    return Usage(seconds, max(waited_for, sum(cpu.values())), peak)


def _watch(process: subprocess.Popen[bytes], cpu: dict[int, float]) -> float:
    """Return the most MiB of a process and those below it, until it ends; note the CPU seconds of each."""
    parent = psutil.Process(process.pid)
    peak = 0.0
    while process.poll() is None:
        memory: dict[int, float] = {}
        for one in [parent, *_children(parent)]:
            _sample(one, memory, cpu)
        peak = max(peak, sum(memory.values()))
        time.sleep(0.05)
    return peak


def best(runs: Sequence[Usage]) -> Usage:
    """Return the fastest of several runs."""
    return min(runs, key=lambda usage: usage.seconds)


def median(runs: Sequence[Usage]) -> Usage:
    """Return the middle one of several runs."""
    return sorted(runs, key=lambda usage: usage.seconds)[len(runs) // 2]
