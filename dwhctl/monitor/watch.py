"""Watch: look whether loads and reports are in time, and tell the channels of what is not.

It asks the sessions table and nothing else: no source, no warehouse, no lock of a load, so it may run on another
machine than the loads, and beside any of them. Of a project there is one watch at a time on a machine: cron starts the
next one every five minutes, however long the last one takes.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import AlertFailure, Item, Outcome, RunKind
from dwhctl.alerts.notifier import notify
from dwhctl.core.errors import DeadlineMissed, ExitCode, TooOld
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import shown_time
from dwhctl.monitor.freshness import look
from dwhctl.notify.run import run_notifier
from dwhctl.project.days import format_duration
from dwhctl.runtime.events import Notice
from dwhctl.runtime.locks import StateDir, held_work
from dwhctl.sessions import open_if_there, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from zoneinfo import ZoneInfo

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.monitor.freshness import Sla, Task
    from dwhctl.project.model import Project
    from dwhctl.sessions import SessionStore

#: Its lock, beside those of loads and reports: no load can have such a name.
_LOCK = {"dwhctl.watch": "a watch is under way"}


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What a watch found, and what became of the messages that it sent."""

    slas: Sequence[Sla]
    alerts: list[Delivery] = field(default_factory=list)

    @property
    def missed(self) -> list[Sla]:
        """What is not in time."""
        return [sla for sla in self.slas if sla.missed]


def run_watch(
    project: Project, command: str, listen: Callable[[Notice], None], *, scheduled: bool = False
) -> WatchReport:
    """Look at every deadline and max_age and tell the channels.

    Raise SessionsError (told too), LockHeldError when another watch is under way, and Interrupted.
    """
    with (
        run_notifier(project, command, (), listen, RunKind.WATCH, scheduled=scheduled),
        caught_signals(),
        ExitStack() as stack,
    ):
        _hold_lock(project, command, stack)
        store = _open(project)
        if store is not None:
            stack.enter_context(store).prepare()
        slas = look(project, store, datetime.now(UTC))
        return WatchReport(slas, notify(project, store, _outcome(project, command, slas)))


def _hold_lock(project: Project, command: str, stack: ExitStack) -> None:
    """Hold the lock of watches; where no run has a state folder (on another machine than the loads) none is made."""
    if project.state_dir.exists():
        state = StateDir(project.state_dir)
        state.make()
        stack.enter_context(held_work(state.work_locks, _LOCK, command, wait=0.0))


def exit_code_of(report: WatchReport) -> ExitCode:
    """Give the exit code that a watch ends with."""
    return ExitCode.FAILED if report.missed else ExitCode.DONE


def _open(project: Project) -> SessionStore | None:
    """Open the sessions; where no run has made them yet, a database takes them and a file is not made."""
    store = open_if_there(project.sessions)
    return open_store(project.sessions) if store is None and project.sessions.type != "sqlite" else store


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
    """Give a piece of work for each task: each watch says of all of them how they stand, whatever the day."""
    late, old = words_of_late(sla, zone), words_of_old(sla, zone)
    for task in sla.tasks:
        if not task.is_missed:
            yield Item(sla.kind, sla.name, task.shard)
            continue
        found, message = (DeadlineMissed, late) if task.late else (TooOld, old)
        trouble = AlertFailure("", found.__name__, message or "", sla.command or "")
        yield Item(sla.kind, sla.name, task.shard, status="failed", failure=trouble)


def words_of_late(sla: Sla, zone: ZoneInfo) -> str | None:
    """Say what missed its deadline, as `3 of 70 shards not complete by 07:00: ...`; None when nothing did."""
    late = [(task, task.late) for task in sla.tasks if task.late]
    if not late:
        return None
    oldest = min(one.oldest for _, one in late)
    since = f"since {_shown(min(one.since for _, one in late), zone)}"
    by = f"by {sla.deadline:%H:%M}"
    if sla.kind == "report":
        return (
            f"not refreshed for {late[0][1].newest} {by}: last refreshed {_last(late[0][0], zone)}, {since}"
        )
    slices = sum(one.slices for _, one in late)
    how_many = f"{slices:,} slice{'' if slices == 1 else 's'}"
    return f"{_of(sla, len(late))} not complete {by}: {how_many}, the oldest {oldest}, {since}"


def words_of_old(sla: Sla, zone: ZoneInfo) -> str | None:
    """Say what is older than its max_age; None when nothing is."""
    old = [task for task in sla.tasks if task.is_old]
    if not old or sla.max_age is None:
        return None
    furthest = min(old, key=lambda task: (task.last_success is not None, task.last_success))
    known = [task.old_since for task in old if task.old_since]
    since = f", since {_shown(min(known), zone)}" if known else ""
    age = format_duration(sla.max_age)
    if sla.kind == "report":
        return f"older than {age}: last refreshed {_last(furthest, zone)}{since}"
    return f"{_of(sla, len(old))} older than {age}: the oldest last loaded {_last(furthest, zone)}{since}"


def _of(sla: Sla, count: int) -> str:
    return f"{count:,} of {len(sla.tasks):,} shard{'' if len(sla.tasks) == 1 else 's'}"


def _last(task: Task, zone: ZoneInfo) -> str:
    return "never" if task.last_success is None else _shown(task.last_success, zone)


def _shown(at: datetime, zone: ZoneInfo) -> str:
    return shown_time(at, zone)
