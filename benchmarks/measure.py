"""Run `dwhctl load` as a process and measure it: wall time, CPU, peak memory (PSS) of parent and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
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
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
    )
    parent = psutil.Process(process.pid)
    memory: dict[int, float] = {}
    cpu: dict[int, float] = {}
    while process.poll() is None:
        for one in [parent, *_children(parent)]:
            _sample(one, memory, cpu)
        time.sleep(0.03)
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
