"""How the work of a project stands, as numbers for a monitoring system: one look into an index for each task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dwhctl.sessions.values import State, as_day, as_number, as_text, as_text_or_none, as_time, is_good

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


#: A streak is counted so far, and a success looked for in slices so old.
MOST_METRIC_STREAK = 400
MOST_DAYS = 90
NEVER_TRIED = "missing"


class Work(NamedTuple):
    """A load or a report, with the names of its tasks as they stand in the sessions."""

    kind: Literal["load", "report"]
    name: str
    tasks: Sequence[str]


@dataclass(slots=True)
class WorkState:
    """How a load or report stands: by the last closed session of each task's newest slice.

    `states` counts tasks by its state, those that were never tried as `missing`, and sessions that are running. `rows`
    are those of the successful ones. `seconds` is how long the newest run took that loaded some of them.
    `last_success` is None if no task succeeded on a slice of the last 90 days. `failing` counts the tasks of which a
    slice failed lately or the newest one failed, however long ago: what is not tried any more has not recovered.
    `streak` is the longest failing streak among them, in slices.
    """

    work: Work
    states: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    seconds: float = 0.0
    failing: int = 0
    streak: int = 0
    last_success: datetime | None = None


class NewestSession(NamedTuple):
    """The last closed session of a task's newest slice."""

    id: int
    run_id: str
    state: State
    started: datetime
    finished: datetime
    rows: int | None
    attempt: int | None = None


def read_work(
    store: SessionStore, works: Sequence[Work], today: date, failing: Iterable[FailingTask] = ()
) -> list[WorkState]:
    """Return how each load and report stands; `failing` are tasks that failed lately. Raise SessionsError."""
    newest = read_newest(store, list(chain.from_iterable(work.tasks for work in works)))
    bad = {task: one.id for task, one in newest.items() if not is_good(one.state)}
    counted = read_streaks(store, list(bad.values()), MOST_METRIC_STREAK)
    streaks = {task: counted[id_][0] for task, id_ in bad.items() if id_ in counted}
    streaks |= {task.task_name: min(task.streak, MOST_METRIC_STREAK) for task in failing}
    found = [_state_of(work, newest, streaks) for work in works]
    _add_older_successes(store, [one for one in found if one.last_success is None and one.failing], today)
    running = {
        ("report" if is_report else "load", name): count
        for name, is_report, count in store.read("counting what runs", "running_by_load", {})
    }
    for one in found:
        one.states[State.RUNNING] = running.get((one.work.kind, one.work.name), 0)
    return found


def read_newest(store: SessionStore, tasks: list[str]) -> dict[str, NewestSession]:
    """Return the last closed session of each task's newest slice."""
    rows = store.read("reading the newest sessions", "newest_closed", {"tasks": tasks})
    return {
        tasks[place]: NewestSession(
            session,
            as_text(run_id),
            State(state),
            as_time(started),
            as_time(finished),
            as_number(loaded_rows),
            as_number(attempt),
        )
        for place, session, run_id, state, started, finished, loaded_rows, attempt in rows
    }


def _state_of(work: Work, newest: dict[str, NewestSession], streaks: dict[str, int]) -> WorkState:
    closed = [newest[task] for task in work.tasks if task in newest]
    good = [one for one in closed if is_good(one.state)]
    # A run that adopted slices has loaded nothing: it says nothing of how long a load takes.
    loaded = [one for one in closed if one.attempt != 0]
    last_run = max((one.run_id for one in loaded), default="")
    of_run = [one for one in loaded if one.run_id == last_run]
    state = WorkState(work, Counter(one.state.value for one in closed))
    state.states[NEVER_TRIED] = len(work.tasks) - len(closed)
    state.rows = sum(one.rows or 0 for one in good)
    of_failing = [streaks[task] for task in work.tasks if task in streaks]
    state.failing, state.streak = len(of_failing), max(of_failing, default=0)
    state.last_success = max((one.finished for one in good), default=None)
    if of_run:
        taken = max(one.finished for one in of_run) - min(one.started for one in of_run)
        state.seconds = taken.total_seconds()
    return state


def _add_older_successes(store: SessionStore, states: list[WorkState], today: date) -> None:
    """Look for the last success of work of which nothing that is newest succeeded."""
    tasks = [task for one in states for task in one.work.tasks]
    if not tasks:
        return
    values = {"tasks": tasks, "first": today - timedelta(days=MOST_DAYS)}
    finished = {
        tasks[place]: moment
        for place, moment in store.read("reading the last successes", "last_successes", values)
    }
    for one in states:
        moments = [finished[task] for task in one.work.tasks if task in finished]
        one.last_success = max(moments, default=None)
