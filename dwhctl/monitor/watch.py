"""Watch: check whether loads and reports are in time, and notify the channels of what is not.

It reads only the sessions table, and takes no lock of a load: it may run on another machine than the loads, and at the
same time. On a machine there is one watch of a project at a time, because cron starts the next one every five minutes
even when the last one has not ended.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from msgspec import Struct

from dwhctl.alerts.delivery import Delivery
from dwhctl.alerts.digest import AlertFailure, Item, Outcome, RunKind
from dwhctl.alerts.notifier import notify
from dwhctl.core.errors import DeadlineMissed, TooOld
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import counted, shown_time
from dwhctl.monitor.freshness import Sla, Task, read_slas
from dwhctl.notify import run_notifier
from dwhctl.project.days import format_duration
from dwhctl.project.model import Project
from dwhctl.runtime.events import Notice
from dwhctl.runtime.locks import StateDir, held_work
from dwhctl.sessions import open_if_there, open_store

#: The name of its lock; no load can have it.
_LOCK = {"dwhctl.watch": "a watch is running"}


class WatchReport(Struct, frozen=True):
    """What a watch found, and the messages that it sent."""

    slas: Sequence[Sla]
    alerts: list[Delivery]

    @property
    def missed(self) -> list[Sla]:
        """Return the loads and reports that are not in time."""
        return [sla for sla in self.slas if sla.missed]


def run_watch(
    project: Project, command: str, listen: Callable[[Notice], None], *, scheduled: bool
) -> WatchReport:
    """Check every deadline and max_age and notify the channels.

    Raise SessionsError (after notifying too), LockHeldError when another watch is running, and Interrupted.
    """
    with (
        run_notifier(project, command, (), listen, RunKind.WATCH, scheduled=scheduled),
        caught_signals(),
        ExitStack() as stack,
    ):
        _hold_lock(project, command, stack)
        store = open_if_there(project.sessions)
        if store is None and project.sessions.type != "sqlite":  # a file is only made by a run
            store = open_store(project.sessions)
        if store is not None:
            stack.enter_context(store).prepare()
        slas = read_slas(project, store, datetime.now(UTC))
        return WatchReport(slas, notify(project, store, _outcome(project, command, slas)))


def _hold_lock(project: Project, command: str, stack: ExitStack) -> None:
    """Hold the lock of watches; without a state folder (on another machine than the loads) none is made."""
    if project.state_dir.exists():
        state = StateDir(project.state_dir)
        state.make()
        stack.enter_context(held_work(state.work_locks, _LOCK, command, wait=0.0))


def _outcome(project: Project, command: str, slas: Sequence[Sla]) -> Outcome:
    return Outcome(
        command=mask(command),
        kind=RunKind.WATCH,
        items=tuple(item for sla in slas for item in _items(sla, project.zone)),
        missed=True,
        look=f"dwhctl report sla --project {shlex.quote(str(project.root))}",
        began=datetime.now(UTC),
    )


def _items(sla: Sla, zone: ZoneInfo) -> Iterator[Item]:
    """Yield an item for each task, also for those in time: the channels compare it with the last watch."""
    late, old = words_of_late(sla, zone), words_of_old(sla, zone)
    for task in sla.tasks:
        if not task.is_missed:
            yield Item(sla.kind, sla.name, task.shard)
            continue
        found, message = (DeadlineMissed, late) if task.late else (TooOld, old)
        failure = AlertFailure("", found.__name__, message or "", sla.command or "")
        yield Item(sla.kind, sla.name, task.shard, status="failed", failure=failure)


def words_of_late(sla: Sla, zone: ZoneInfo) -> str | None:
    """Return what missed its deadline, as `3 of 70 shards not complete by 07:00: ...`; None when nothing did."""
    late = [(task, task.late) for task in sla.tasks if task.late]
    if not late:
        return None
    oldest = min(days.oldest for _, days in late)
    since = f"since {shown_time(min(days.since for _, days in late), zone)}"
    by = f"by {sla.deadline:%H:%M}"
    if sla.kind == "report":
        return (
            f"not refreshed for {late[0][1].newest} {by}: last refreshed {_last(late[0][0], zone)}, {since}"
        )
    slices = sum(days.slices for _, days in late)
    how_many = counted(slices, "slice")
    return f"{_of(sla, len(late))} not complete {by}: {how_many}, the oldest {oldest}, {since}"


def words_of_old(sla: Sla, zone: ZoneInfo) -> str | None:
    """Return what is older than its max_age; None when nothing is."""
    old = [task for task in sla.tasks if task.is_old]
    if not old or sla.max_age is None:
        return None
    furthest = min(old, key=lambda task: (task.last_success is not None, task.last_success))
    known = [task.old_since for task in old if task.old_since]
    since = f", since {shown_time(min(known), zone)}" if known else ""
    age = format_duration(sla.max_age)
    if sla.kind == "report":
        return f"older than {age}: last refreshed {_last(furthest, zone)}{since}"
    return f"{_of(sla, len(old))} older than {age}: the oldest last loaded {_last(furthest, zone)}{since}"


def _of(sla: Sla, count: int) -> str:
    return f"{count:,} of {counted(len(sla.tasks), 'shard')}"


def _last(task: Task, zone: ZoneInfo) -> str:
    return "never" if task.last_success is None else shown_time(task.last_success, zone)
