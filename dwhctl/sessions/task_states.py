"""What fails now, and the state of every load and report as numbers: one step in an index for each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from dwhctl.sessions.values import State, as_day, as_number, as_text, as_text_or_none, as_time, is_good

if TYPE_CHECKING:
    from dwhctl.sessions.store import Execute, SessionStore


#: The longest streak that is counted: as many days as a report goes back.
MOST_STREAK = 3_660


class UnsuccessfulSlice(Struct, frozen=True):
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


class FailingTask(Struct, frozen=True):
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
        return sum(failed.state is State.UP_FOR_RETRY for failed in self.slices)

    @property
    def last(self) -> UnsuccessfulSlice:
        """Return the slice that failed last."""
        return max(self.slices, key=lambda failed: (failed.finished, failed.id))


def read_unsuccessful(store: SessionStore, since: datetime) -> list[UnsuccessfulSlice]:
    """Return the slices whose last closed session is unsuccessful and ended since that moment, in no order."""
    return unsuccessful_slices(partial(store.read, "reading the failures"), since)


def unsuccessful_slices(execute: Execute, since: datetime) -> list[UnsuccessfulSlice]:
    """Return the same within a transaction."""
    rows = execute("unsuccessful_slices", {"since": since})
    return [
        UnsuccessfulSlice(
            id_,
            as_text(task_name),
            as_text(load),
            as_text_or_none(shard),
            as_day(day),
            State(state),
            as_time(finished),
            ": ".join(filter(None, map(as_text, error))) or None,
            bool(replaced),
        )
        for id_, task_name, load, shard, day, state, finished, *error, replaced in rows
    ]


class ClosedSlice(NamedTuple):
    """A slice by its last closed session. A report has the shard ""."""

    id: int
    shard: str
    day: date
    succeeded: bool


def closed_slices(execute: Execute, work: str, first: date, last: date) -> list[ClosedSlice]:
    """Return the slices of a load or report on these days that have a closed session."""
    rows = execute("closed_slices", {"load": work, "first": first, "last": last})
    return [ClosedSlice(id_, as_text(shard), as_day(day), bool(good)) for id_, shard, day, good in rows]


def failing_tasks(store: SessionStore, slices: Iterable[UnsuccessfulSlice]) -> list[FailingTask]:
    """Return the tasks of the slices: the longest streak first, then the one that failed last."""
    by_task: dict[str, list[UnsuccessfulSlice]] = {}
    for newest in sorted(slices, key=lambda failed: failed.day, reverse=True):
        by_task.setdefault(newest.task_name, []).append(newest)
    streaks = read_streaks(store, [of_task[0].id for of_task in by_task.values()])
    found = [
        FailingTask(task, newest.load, newest.shard, (newest, *older), *streaks[newest.id])
        for task, (newest, *older) in by_task.items()
        if newest.id in streaks  # else it was pruned since
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


#: The longest streak that the metrics count, and the age of the oldest slices whose success they report.
MOST_METRIC_STREAK = 400
MOST_DAYS = 90
NEVER_TRIED = "missing"


class Work(NamedTuple):
    """A load or a report, with the names of its tasks in the sessions."""

    kind: Literal["load", "report"]
    name: str
    tasks: Sequence[str]


@dataclass(slots=True)
class WorkState:
    """The state of a load or report: by the last closed session of each task's newest slice.

    `states` counts tasks by its state, those that were never tried as `missing`, and sessions that are running. `rows`
    are those of the successful ones. `seconds` is how long the newest run took that loaded some of them.
    `last_success` is None if no task succeeded on a slice of the last 90 days. `failing` counts the tasks of which a
    slice failed recently, or whose newest one failed at any time: a task that is not tried any more has not recovered.
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
    """Return the state of each load and report; `failing` are tasks that failed recently. Raise SessionsError."""
    newest = read_newest(store, list(chain.from_iterable(work.tasks for work in works)))
    bad = {task: session.id for task, session in newest.items() if not is_good(session.state)}
    counted = read_streaks(store, list(bad.values()), MOST_METRIC_STREAK)
    streaks = {task: counted[id_][0] for task, id_ in bad.items() if id_ in counted}
    streaks |= {task.task_name: min(task.streak, MOST_METRIC_STREAK) for task in failing}
    states = [_state_of(work, newest, streaks) for work in works]
    _add_older_successes(
        store, [state for state in states if not state.last_success and state.failing], today
    )
    running = {
        ("report" if is_report else "load", name): count
        for name, is_report, count in store.read("counting the running sessions", "running_by_load", {})
    }
    for state in states:
        state.states[State.RUNNING] = running.get((state.work.kind, state.work.name), 0)
    return states


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
    good = [session for session in closed if is_good(session.state)]
    # A run that adopted slices (attempt 0) has loaded nothing: it does not show how long a load takes.
    loaded = [session for session in closed if session.attempt != 0]
    last_run = max((session.run_id for session in loaded), default="")
    of_run = [session for session in loaded if session.run_id == last_run]
    of_failing = [streaks[task] for task in work.tasks if task in streaks]
    state = WorkState(
        work,
        Counter(session.state.value for session in closed),
        rows=sum(session.rows or 0 for session in good),
        failing=len(of_failing),
        streak=max(of_failing, default=0),
        last_success=max((session.finished for session in good), default=None),
    )
    state.states[NEVER_TRIED] = len(work.tasks) - len(closed)
    if of_run:
        taken = max(session.finished for session in of_run) - min(session.started for session in of_run)
        state.seconds = taken.total_seconds()
    return state


def _add_older_successes(store: SessionStore, states: list[WorkState], today: date) -> None:
    """Add the last success to work whose newest slices all failed."""
    if tasks := [task for state in states for task in state.work.tasks]:
        values = {"tasks": tasks, "first": today - timedelta(days=MOST_DAYS)}
        rows = store.read("reading the last successes", "last_successes", values)
        finished = {tasks[place]: moment for place, moment in rows}
        for state in states:
            state.last_success = max(
                (finished[task] for task in state.work.tasks if task in finished), default=None
            )
