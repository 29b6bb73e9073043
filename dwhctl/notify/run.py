"""What a run tells the channels of its project at its end, however it ends.

It listens to the run's events on their way to whoever shows them, so that any kind of run can be told of.
"""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.delivery import send_due
from dwhctl.alerts.digest import AlertFailure, Item, Outcome, RunKind, Stop
from dwhctl.alerts.notifier import notify, notify_directly, write
from dwhctl.alerts.state import HeldInARow
from dwhctl.core.errors import (
    ConfigError,
    DwhctlError,
    ExitCode,
    Interrupted,
    LockHeldError,
    RunDied,
    SessionsError,
    Stopped,
)
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import caught_signals
from dwhctl.notify.pings import RunPings
from dwhctl.project.names import in_project, is_proposed
from dwhctl.runtime.events import (
    Notice,
    RefreshStarted,
    ReportClosed,
    RunReaped,
    RunResult,
    RunStarted,
    SliceClosed,
)
from dwhctl.runtime.failures import blamed, failed_reports, group_failures, said
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log import log_path
from dwhctl.runtime.log_reader import last_lines
from dwhctl.sessions import open_if_there, open_store
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Event, RefreshEvent, RefreshResult
    from dwhctl.runtime.failures import FailureGroup
    from dwhctl.runtime.messages import Failure
    from dwhctl.sessions import SessionStore

#: So many times in a row a lock may be held before that is told: once is a slow run, three times is a stuck one.
HELD_IN_A_ROW = 3
_LAST_LINES = 3


class RunNotifier:
    """One run on its way to being told of: give it the run's events, then its report."""

    def __init__(
        self,
        project: Project,
        command: str,
        works: Iterable[str],
        listen: Callable[[Any], None],
        kind: RunKind,
        *,
        pings: bool = True,
    ) -> None:
        self._project = project
        self._works = frozenset(works)
        self._kind = kind
        self._pings = RunPings(project, sorted(self._works) if pings else ())
        self._command = mask(command)
        self._listen = listen
        self._began = datetime.now(UTC)
        self._items: dict[tuple[str, str, date], Item] = {}
        self._sessions: dict[tuple[str, str, date], int | None] = {}
        self._missing: dict[str, None] = {}
        self._reaped: list[RunReaped] = []
        self._is_interrupted = False
        #: The channels that a digest was written for; None when the alerts could not be written.
        self._written: set[str] | None = None
        self._outcome: Outcome | None = None

    def listen(self, event: Event | RefreshEvent) -> None:
        """Take note of an event and pass it on."""
        if isinstance(event, RunReaped):
            self._reaped.append(event)
        for item in items_of(self._project, event):
            assert item.day is not None
            self._items[item.work, item.shard, item.day] = item
            self._sessions[item.work, item.shard, item.day] = getattr(event, "etl_id", None)
        if isinstance(event, ReportClosed):
            self._missing.update((shard, None) for one in event.without for shard in one.missing)
        self._pings.listen(event)
        self._listen(event)

    def write(self, store: SessionStore, report: RunResult | RefreshResult) -> None:
        """Write what is to be told into the outbox, while the run still holds its locks. Raises nothing."""
        outcome = self._outcome = report.outcome = self._of_report(report)
        try:
            self._written = write(self._project, store, outcome)
        except Exception as error:
            self._listen(Notice(f"the alerts cannot be written: {_translate_error(error)}"))

    def _of_report(self, report: RunResult | RefreshResult) -> Outcome:
        stops = self._deaths()
        if report.signal is not None:
            # Whoever interrupts a run knows; of dead runs that it came upon nobody does.
            self._is_interrupted = True
            return self._outcome_of(stops, completed=False)
        if report.stopped is not None:
            stops.append(self._stop(AlertFailure("", Stopped.__name__, mask(report.stopped))))
        items = self._with_advice(self._with_last_lines(report.run_id), report)
        return self._outcome_of(stops, items, report.run_id, completed=not report.stopped)

    def _with_last_lines(self, run_id: str) -> list[Item]:
        """Give the items, the failed ones with what the run's log says of their sessions."""
        ids = {
            session
            for name, session in self._sessions.items()
            if session is not None and self._items[name].status == "failed"
        }
        log = log_path(StateDir(self._project.state_dir).logs, run_id)
        lines = last_lines(log, ids, _LAST_LINES, self._project.zone, "warning") if ids else {}
        return [
            replace(item, failure=replace(item.failure, lines=lines.get(self._sessions[name] or 0, ())))
            if item.failure is not None
            else item
            for name, item in self._items.items()
        ]

    def _with_advice(self, items: Iterable[Item], report: RunResult | RefreshResult) -> list[Item]:
        """Return the items, the failed ones with what to do about their reason."""
        if isinstance(report, RunResult):
            groups = group_failures(self._project, report.failures, by_load=True)
        else:
            groups = group_failures(self._project, failed_reports(report), by_load=True)
        by_slice = {(one.load, one.shard, one.day): group for group in groups for one in group.slices}
        found = []
        for item in items:
            if item.failure is not None and item.day is not None:
                group = by_slice.get((item.work, item.shard, item.day))
                item = item if group is None else replace(item, failure=self._advised(item.failure, group))
            found.append(item)
        return found

    def _advised(self, trouble: AlertFailure, group: FailureGroup) -> AlertFailure:
        command = in_project(group.command, self._project.root)
        # A shadow run is somebody's experiment: its command goes into another table.
        remedy = command if is_proposed(command, self._project.root) else ""
        advice = mask(group.advice) if remedy else mask(group.advice).removesuffix(", then")
        return replace(trouble, advice=advice, remedy=remedy, of_work=group.of_load)

    def _stop(self, trouble: AlertFailure) -> Stop:
        return Stop(self._command, trouble, works=self._works)

    def _deaths(self) -> list[Stop]:
        return [
            Stop(_command_of(one), AlertFailure("", RunDied.__name__, mask(one.text)), passing=True)
            for one in self._reaped
        ]

    def _outcome_of(
        self, stops: Iterable[Stop], items: Iterable[Item] = (), run_id: str | None = None, *, completed: bool
    ) -> Outcome:
        return Outcome(
            command=self._command,
            kind=self._kind,
            run_id=run_id,
            items=tuple(items),
            stops=tuple(stops),
            completed=completed,
            missing=tuple(self._missing),
            began=self._began,
            look=f"dwhctl report failures --project {shlex.quote(str(self._project.root))}",
        )

    def ping(self) -> list[str]:
        """Ping how the run ended, after it has let go of its locks, and say which pings failed. Raises nothing."""
        if self._is_interrupted:
            return self._pings.interrupted()
        return self._pings.finish(list(self._items.values()))

    def ping_of_stop(self, error: Exception) -> list[str]:
        """Ping that an error ended the run before its report. Raises nothing."""
        return self._pings.fail(f"{type(error).__name__}: {error}")

    def send(self) -> list[Delivery]:
        """Send what waits, after the run has let go of its locks. Raises nothing: no alert fails a load.

        Who interrupts a run waits for no channel: the next run sends.
        """
        project, outcome = self._project, self._outcome
        if not project.alerts or outcome is None or self._is_interrupted:
            return []
        if self._written is None:
            return self._bounded(lambda: notify_directly(project, outcome))
        return self._bounded(self._send_due)

    def _send_due(self) -> list[Delivery]:
        with open_store(self._project.sessions) as store:
            return send_due(self._project, store, self._written or ())

    def tell_of_stop(self, error: Exception) -> list[Delivery]:
        """Tell of an error that ended the run before its report. Raises nothing."""
        if not self._project.alerts:
            return []
        trouble = AlertFailure("", type(error).__name__, mask(str(error)))
        outcome = self._outcome_of([*self._deaths(), self._stop(trouble)], completed=False)
        # The error may be about the database itself, which is not waited for twice.
        lost = isinstance(error, SessionsError)
        return self._bounded(lambda: tell_stopped(self._project, outcome, lost=lost))

    def _bounded(self, telling: Callable[[], list[Delivery]]) -> list[Delivery]:
        try:
            with caught_signals():
                return telling()
        except Interrupted:
            self._listen(Notice("interrupted while the alerts were sent; the next run goes on with them"))
        except Exception as error:
            self._listen(Notice(f"the alerts cannot be sent: {_translate_error(error)}"))
        return []


@contextmanager
def run_notifier(
    project: Project,
    command: str,
    works: Iterable[str],
    listen: Callable[[Any], None],
    kind: RunKind,
    *,
    pings: bool = True,
    scheduled: bool = False,
) -> Iterator[RunNotifier]:
    """Tell of the run in the block, however it ends. The block calls `write` before it lets go of its locks.

    An error of usage or configuration is not told here: the end of the command does, for all commands. It pings nobody,
    nor does a lock that is held: whoever holds it pings. `pings` is False of a run that says nothing of the schedule.
    A person sees that a lock is held: only runs that are `scheduled` are counted.
    """
    run = RunNotifier(project, command, works, listen, kind, pings=pings)
    held = HeldInARow(project.state_dir, command)
    try:
        yield run
    except LockHeldError as error:
        if scheduled and _count(held) >= HELD_IN_A_ROW:
            _show(run.tell_of_stop(error), listen)
        raise
    except Exception as error:
        held.clear()
        if getattr(error, "exit_code", None) is not ExitCode.USAGE:
            for line in run.ping_of_stop(error):
                listen(Notice(line))
            _show(run.tell_of_stop(error), listen)
        raise
    held.clear()


def _translate_error(error: Exception) -> str:
    defect = "" if isinstance(error, DwhctlError) else f"a defect in dwhctl: {type(error).__name__}: "
    return mask(f"{defect}{error}")


def _count(held: HeldInARow) -> int:
    try:
        return held.add()
    except OSError:
        return 0


def _show(deliveries: Iterable[Delivery], listen: Callable[[Notice], None]) -> None:
    for one in deliveries:
        listen(Notice(one.words()))


def tell_of_usage_error(project: Project, command: str, message: str, kind: RunKind) -> list[Delivery]:
    """Tell of a command that ended with 2; the project is what can be read of it. Raise SessionsError, Interrupted."""
    trouble = AlertFailure("", ConfigError.__name__, mask(message))
    look = f"dwhctl config check --project {shlex.quote(str(project.root))}"
    stop = Stop(mask(command), trouble)
    outcome = Outcome(command=mask(command), kind=kind, stops=(stop,), completed=False, look=look)
    with caught_signals():
        return tell_stopped(project, outcome)


def tell_stopped(project: Project, outcome: Outcome, *, lost: bool = False) -> list[Delivery]:
    """Tell of a command that did not come to its work; without the sessions database if it is `lost` or not there."""
    store = None if lost else _open(project)
    if store is None:
        return notify_directly(project, outcome)
    with store:
        return notify(project, store, outcome)


def _open(project: Project) -> SessionStore | None:
    try:
        return open_if_there(project.sessions)
    except (ConfigError, SessionsError, KeyError):
        return None


def items_of(project: Project, event: Event | RefreshEvent) -> Iterator[Item]:
    """Give the pieces of work that an event tells of, as they stand after it."""
    match event:
        case RunStarted():
            for one in event.plan.slices:
                yield Item("load", one.load.name, one.shard.name, one.slice.day, "left")
        case SliceClosed():
            item = Item("load", event.load, event.shard, event.day)
            target = project.loads[event.load].target
            yield _ended(item, event.state, event.failure, event.connection, target)
        case RefreshStarted():
            for name in event.reports:
                yield Item("report", name, "", event.day, "left")
        case ReportClosed():
            item = Item("report", event.report, "", event.day)
            yield _ended(item, event.state, event.failure, event.connection, event.connection)


def _ended(item: Item, state: State, failure: Failure | None, source: str, target: str) -> Item:
    if state in (State.LOADED, State.SKIPPED):
        return item
    if failure is None or state is State.UP_FOR_RETRY:
        return replace(item, status="left")
    return replace(item, status="failed", failure=alert_failure_of(failure, source, target))


def alert_failure_of(failure: Failure, source: str, target: str) -> AlertFailure:
    """Say what failed and the connection to blame; behind a parked connection stands what it was parked for."""
    found = said(failure)
    return AlertFailure(blamed(failure, source, target), found.error_class, mask(found.message))


def _command_of(event: RunReaped) -> str:
    command = event.holder.command if event.holder is not None else ""
    # The lock's file may hold anything: another text than a command line of dwhctl tells nothing.
    return mask(command) if command.startswith("dwhctl ") else f"run {event.run_id}"
