"""Tasks that are failing now: their streaks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from dwhctl.sessions.cells import as_day, as_text, as_text_or_none, as_time

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class FailingTask:
    """A task whose newest slices are unsuccessful.

    Per slice the last closed session counts; the streak is the number of unsuccessful ones from the newest slice
    back to the first success. `failed` of them are failed or abandoned, `up_for_retry` wait. `since` is the oldest
    slice of the streak, `last_failed` when its last session ended, `last_error` why. A report has no shard.
    """

    task_name: str
    load: str
    shard: str | None
    streak: int
    failed: int
    up_for_retry: int
    since: date
    last_failed: datetime
    last_error: str | None


def read_failures(store: SessionStore, since: datetime) -> list[FailingTask]:
    """Tasks that are failing now and failed last since that moment: the longest streak first, then the latest."""
    rows = store.read("reading the failures", "failures", {"since": since})
    found = [_task(*row) for row in rows]
    return sorted(found, key=lambda task: (-task.streak, -task.last_failed.timestamp(), task.task_name))


def _task(*row: Any) -> FailingTask:
    task_name, load, shard, streak, failed, up_for_retry, since, last_failed, error_class, comment = row
    return FailingTask(
        task_name=as_text(task_name),
        load=as_text(load),
        shard=as_text_or_none(shard),
        streak=streak,
        failed=failed,
        up_for_retry=up_for_retry,
        since=as_day(since),
        last_failed=as_time(last_failed),
        last_error=": ".join(filter(None, map(as_text, (error_class, comment)))) or None,
    )
