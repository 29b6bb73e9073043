"""Slices whose last closed session is unsuccessful, and the tasks that they are of: what is failing now.

Per task and day the last closed session counts: a session that is running does not. A task fails when any of its slices
does: today's success does not hide yesterday's failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from dwhctl.sessions.cells import as_day, as_text, as_text_or_none, as_time
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dwhctl.sessions.store import SessionStore

#: A streak is counted so far: as many days as a report looks back.
MOST_STREAK = 3_660


@dataclass(frozen=True, slots=True)
class UnsuccessfulSlice:
    """A slice by its last closed session, which is unsuccessful. A report has no shard.

    `replaced`: a session of the task that began later succeeded, for the same day or a newer one.
    """

    id: int
    task_name: str
    load: str
    shard: str | None
    day: date
    state: State
    finished: datetime
    error: str | None
    replaced: bool


@dataclass(frozen=True, slots=True)
class FailingTask:
    """A task with unsuccessful slices, the newest day first.

    `streak` counts the unsuccessful slices from the newest one back to the first success before it, also those that
    are older than the report looks back; `since` is the oldest of them.
    """

    task_name: str
    load: str
    shard: str | None
    slices: tuple[UnsuccessfulSlice, ...]
    streak: int
    since: date

    @property
    def up_for_retry(self) -> int:
        """Return how many slices wait for a retry; the others are failed or abandoned."""
        return sum(one.state is State.UP_FOR_RETRY for one in self.slices)

    @property
    def last(self) -> UnsuccessfulSlice:
        """Return the slice that failed last."""
        return max(self.slices, key=lambda one: (one.finished, one.id))


def read_unsuccessful(store: SessionStore, since: datetime) -> list[UnsuccessfulSlice]:
    """Return the slices whose last closed session is unsuccessful and ended since that moment, in no order."""
    rows = store.read("reading the failures", "unsuccessful_slices", {"since": since})
    return unsuccessful_slices(rows)


def unsuccessful_slices(rows: Iterable[Sequence[Any]]) -> list[UnsuccessfulSlice]:
    """Return the rows of the statement of this name."""
    return [_slice(*row) for row in rows]


def _slice(*row: Any) -> UnsuccessfulSlice:
    id_, task_name, load, shard, day, state, finished, error_class, comment, replaced = row
    return UnsuccessfulSlice(
        id=id_,
        task_name=as_text(task_name),
        load=as_text(load),
        shard=as_text_or_none(shard),
        day=as_day(day),
        state=State(state),
        finished=as_time(finished),
        error=": ".join(filter(None, map(as_text, (error_class, comment)))) or None,
        replaced=bool(replaced),
    )


def failing_tasks(store: SessionStore, slices: Iterable[UnsuccessfulSlice]) -> list[FailingTask]:
    """Return the tasks of the slices: the longest streak first, then the one that failed last."""
    by_task: dict[str, list[UnsuccessfulSlice]] = {}
    for one in sorted(slices, key=lambda one: one.day, reverse=True):
        by_task.setdefault(one.task_name, []).append(one)
    streaks = read_streaks(store, [of_task[0].id for of_task in by_task.values()])
    found = [
        FailingTask(task, of_task[0].load, of_task[0].shard, tuple(of_task), *streaks[of_task[0].id])
        for task, of_task in by_task.items()
        if of_task[0].id in streaks  # else it was pruned since
    ]
    return sorted(found, key=lambda task: (-task.streak, -task.last.finished.timestamp(), task.task_name))


def read_streaks(
    store: SessionStore, ids: Sequence[int], most: int = MOST_STREAK
) -> dict[int, tuple[int, date]]:
    """Return the streak that ends with each of these unsuccessful sessions: its length, and its oldest day."""
    if not ids:
        return {}
    rows = store.read("reading the streaks", "streaks", {"ids": list(ids), "most": most})
    return {ids[place]: (streak, since) for place, streak, since in rows}
