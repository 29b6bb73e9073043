"""Memory of a command while it runs: PSS of its process and of every process below it."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024


@dataclass
class Watch:
    """The highest PSS seen, in MiB: of the command's own process, of each process below it, and of all at once."""

    parent: float = 0.0
    children: dict[int, float] = field(default_factory=dict)
    together: float = 0.0
    samples: int = 0

    @property
    def child(self) -> float:
        """The highest of any process below."""
        return max(self.children.values(), default=0.0)

    @property
    def highest(self) -> float:
        """The highest of any process."""
        return max(self.parent, self.child)

    def __str__(self) -> str:
        return (
            f"peak PSS in MiB: parent {self.parent:.0f}, largest worker {self.child:.0f},"
            f" together {self.together:.0f} ({self.samples} samples)"
        )

    def look(self, parent: psutil.Process) -> None:
        """Take one sample."""
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            own = _pss(parent)
            below = {child.pid: _pss(child) for child in parent.children(recursive=True)}
            self.parent = max(self.parent, own)
            for pid, pss in below.items():
                self.children[pid] = max(pss, self.children.get(pid, 0.0))
            self.together = max(self.together, own + sum(below.values()))
            self.samples += 1


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / MIB
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0  # it has ended between two looks


@contextmanager
def watched(process: subprocess.Popen[str], every: float = 0.05) -> Iterator[Watch]:
    """Sample a running command until the block ends."""
    watch, done = Watch(), threading.Event()
    handle = psutil.Process(process.pid)

    def sample() -> None:
        while not done.is_set():
            watch.look(handle)
            time.sleep(every)

    thread = threading.Thread(target=sample, name="memory watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
