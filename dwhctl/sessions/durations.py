"""How long the sessions of each task take."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from dwhctl.sessions.cells import as_text, as_text_or_none

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore


#: Of how many parts a trend consists at most.
STEPS = 12


@dataclass(frozen=True, slots=True)
class TaskDurations:
    """Seconds of a task's successful sessions, in the order of the sessions. A report has no shard."""

    load: str
    shard: str | None
    seconds: tuple[float, ...]
    median: float

    @property
    def p95(self) -> float:
        """The least value that 95 of 100 sessions do not exceed."""
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]

    @property
    def trend(self) -> list[float]:
        """Medians of up to `STEPS` parts, one after another."""
        count = min(len(self.seconds), STEPS)
        borders = [len(self.seconds) * step // count for step in range(count + 1)]
        return [statistics.median(self.seconds[start:end]) for start, end in pairwise(borders)]


def read_durations(store: SessionStore, since: datetime) -> list[TaskDurations]:
    """The durations of every task with a successful session that started since then, the slowest median first."""
    rows = store.read("reading the durations", "task_durations", {"since": since})
    found = [_durations(as_text(load), as_text_or_none(shard), text) for load, shard, text in rows if text]
    return sorted(found, key=lambda task: (-task.median, task.load, task.shard or ""))


def _durations(load: str, shard: str | None, text: str) -> TaskDurations:
    """The durations of a task from `id ms,id ms,...` in any order."""
    pairs = sorted((int(number), int(ms)) for number, ms in (pair.split(" ") for pair in text.split(",")))
    seconds = tuple(max(ms, 0) / 1000 for _, ms in pairs)
    return TaskDurations(load, shard, seconds, round(statistics.median(seconds), 3))
