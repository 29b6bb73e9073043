"""How long the sessions of each task take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class TaskDurations:
    """Seconds of a task's successful sessions. `trend` holds them in their order, medians of up to `STEPS` parts."""

    load: str
    shard: str | None
    sessions: int
    median: float
    p95: float
    last: float
    trend: tuple[float, ...]


#: Of how many parts a trend consists at most.
STEPS = 12


def read_durations(store: SessionStore, since: datetime) -> list[TaskDurations]:
    """The durations of every task with a successful session that started since then, the slowest median first."""
    rows = store.read("reading the durations", "task_durations", {"since": since})
    found = [_durations(load, shard, _seconds(text)) for load, shard, text in rows]
    return sorted(found, key=lambda task: (-task.median, task.load, task.shard or ""))


def _seconds(text: str) -> list[float]:
    """The seconds in the order of the sessions, from `id ms,id ms,...` in any order."""
    pairs = sorted((int(number), int(ms)) for number, ms in (pair.split(" ") for pair in text.split(",")))
    return [max(ms, 0) / 1000 for _, ms in pairs]


def _durations(load: str, shard: str | None, seconds: Sequence[float]) -> TaskDurations:
    ranked = sorted(seconds)
    # The smallest value that at least 95 of 100 do not exceed.
    p95 = ranked[math.ceil(0.95 * len(ranked)) - 1]
    median = round(statistics.median(ranked), 3)
    return TaskDurations(load, shard, len(ranked), median, p95, seconds[-1], _trend(seconds))


def _trend(seconds: Sequence[float]) -> tuple[float, ...]:
    count = min(len(seconds), STEPS)
    borders = [len(seconds) * step // count for step in range(count + 1)]
    parts = (seconds[start:end] for start, end in pairwise(borders))
    return tuple(statistics.median(part) for part in parts)
