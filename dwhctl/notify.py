"""Notification at the end of a run, however it ends: what goes to the channels, and the pings.

It listens to the run's events on their way to the progress, so it serves any kind of run. A failed notification never
changes the result of the run.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.delivery import Delivery, send_due
from dwhctl.alerts.digest import AlertFailure, Item, Outcome, RunKind, Stop
from dwhctl.alerts.notifier import notify, notify_directly, write
from dwhctl.alerts.ping import TIMEOUT, Ping, Pinger
from dwhctl.alerts.state import HeldInARow
from dwhctl.core import errors
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import counted
from dwhctl.project.names import in_project, is_proposed
from dwhctl.runtime import events
from dwhctl.runtime.failures import FailureGroup, blamed, group_failures, root_cause
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log import log_path
from dwhctl.runtime.log_reader import last_lines
from dwhctl.sessions import SessionStore, open_if_there, open_store
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from dwhctl.project.model import Project
    from dwhctl.runtime.messages import Failure

#: The channels are notified of a lock that is held so many times in a row: once is a slow run, three times a stuck one.
HELD_IN_A_ROW = 3
_LAST_LINES = 3
_SHOWN_REASONS = 5
#: A person who interrupts a run does not wait for a ping.
_INTERRUPTED_SECONDS = 2.0


class RunPings:
    """The pings of one run: each load and report that has a `ping_url` is pinged by its own outcome."""

    def __init__(self, project: Project, works: Iterable[str]) -> None:
        configs = ((name, project.loads.get(name) or project.reports.get(name)) for name in works)
        urls = {name: config.ping_url for name, config in configs if config and config.ping_url is not None}
        self._names = tuple(urls)
        self._pinger = Pinger(urls, project.pings.proxy, project.pings.tls_cafile) if urls else None

    def start(self) -> None:
        """Send the starts, when the run has its locks and begins."""
        if self._pinger is not None:
            self._pinger.start()

    def finish(self, items: Sequence[Item]) -> list[str]:
        """Send how each load or report ended, and return what could not be sent. Nothing to do is a success."""
        return self._send(
            {name: _ping_of([item for item in items if item.work == name]) for name in self._names}
        )

    def fail(self, message: str) -> list[str]:
        """Send that the run could not begin, or was lost."""
        return self._send(dict.fromkeys(self._names, Ping("fail", mask(message))))

    def interrupted(self) -> list[str]:
        """Send a note that triggers no alert: a person stopped the run."""
        ping = Ping("log", "interrupted by a person or the system; it has not come to its end")
        return self._send(dict.fromkeys(self._names, ping), _INTERRUPTED_SECONDS)

    def _send(self, pings: dict[str, Ping], timeout: float = TIMEOUT) -> list[str]:
        return self._pinger.finish(pings, timeout) if self._pinger is not None else []


def _ping_of(items: Sequence[Item]) -> Ping:
    done = sum(item.status == "done" for item in items)
    if not items:
        return Ping("success", "nothing was missing")
    noun, done_word = ("slice", "loaded") if items[0].kind == "load" else ("report", "refreshed")
    lines = [f"{done:,} of {counted(len(items), noun)} {done_word}", *_reasons(items)]
    return Ping("success" if done == len(items) else "fail", "\n".join(lines))


def _reasons(items: Sequence[Item]) -> list[str]:
    failures = [item.failure for item in items if item.failure is not None]
    found = Counter((failure.connection, failure.error_class) for failure in failures)
    examples = {
        (failure.connection, failure.error_class): failure.message.partition("\n")[0]
        for failure in reversed(failures)
    }
    return [
        f"{count:,} x {connection}: {error_class}: {examples[connection, error_class]}"
        for (connection, error_class), count in found.most_common(_SHOWN_REASONS)
    ]


class RunNotifier:
    """Collects the events and the result of one run, and notifies the channels and pings of it."""

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
        self._reaped: list[events.RunReaped] = []
        self._is_interrupted = False
        #: The channels that a digest was written for; None when the alerts could not be written.
        self._written: set[str] | None = None
        self._outcome: Outcome | None = None

    def listen(self, event: events.Event) -> None:
        """Record an event and pass it on."""
        if isinstance(event, events.RunReaped):
            self._reaped.append(event)
        for item in items_of(self._project, event):
            assert item.day is not None
            self._items[item.work, item.shard, item.day] = item
            self._sessions[item.work, item.shard, item.day] = getattr(event, "etl_id", None)
        if isinstance(event, events.ReportClosed):
            self._missing.update((shard, None) for need in event.without for shard in need.missing)
        if isinstance(event, events.RunStarted | events.RefreshStarted):
            self._pings.start()
        self._listen(event)

    def write(self, store: SessionStore, result: events.RunResult) -> None:
        """Write the alerts into the outbox, while the run still holds its locks. Raises nothing."""
        outcome = self._outcome = result.outcome = self._of_result(result)
        try:
            self._written = write(self._project, store, outcome)
        except Exception as error:
            self._listen(events.Notice(f"the alerts cannot be written: {_translate_error(error)}"))

    def _of_result(self, result: events.RunResult) -> Outcome:
        stops = self._deaths()
        if result.signal is not None:
            # The user who interrupts a run needs no alert of it, only of the dead runs that it found.
            self._is_interrupted = True
            return self._outcome_of(stops, completed=False)
        if result.stopped is not None:
            stops.append(self._stop(AlertFailure("", errors.Stopped.__name__, mask(result.stopped))))
        items = self._with_advice(self._with_last_lines(result.run_id), result)
        return self._outcome_of(stops, items, result.run_id, completed=not result.stopped)

    def _with_last_lines(self, run_id: str) -> list[Item]:
        """Return the items, the failed ones with the last lines of their sessions in the run's log."""
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

    def _with_advice(self, items: Iterable[Item], result: events.RunResult) -> list[Item]:
        """Return the items, the failed ones with what to do about their reason."""
        if not result.failures:
            return list(items)
        groups = group_failures(self._project, result.failures, by_load=True)
        by_slice = {
            (failed.load, failed.shard, failed.day): group for group in groups for failed in group.slices
        }
        found = []
        for item in items:
            if item.failure is not None and item.day is not None:
                group = by_slice.get((item.work, item.shard, item.day))
                item = item if group is None else replace(item, failure=self._advised(item.failure, group))
            found.append(item)
        return found

    def _advised(self, failure: AlertFailure, group: FailureGroup) -> AlertFailure:
        command = in_project(group.command, self._project.root)
        # A shadow run is an experiment: its command goes into another table.
        remedy = command if is_proposed(command, self._project.root) else ""
        advice = mask(group.advice) if remedy else mask(group.advice).removesuffix(", then")
        return replace(failure, advice=advice, remedy=remedy, of_work=group.of_load)

    def _stop(self, failure: AlertFailure) -> Stop:
        return Stop(self._command, failure, works=self._works)

    def _deaths(self) -> list[Stop]:
        return [
            Stop(
                _command_of(event), AlertFailure("", errors.RunDied.__name__, mask(event.text)), passing=True
            )
            for event in self._reaped
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
        """Ping how the run ended, after it has released its locks; return which pings failed. Raises nothing."""
        if self._is_interrupted:
            return self._pings.interrupted()
        return self._pings.finish(list(self._items.values()))

    def ping_stop(self, error: Exception) -> None:
        """Ping that an error ended the run before its result. Raises nothing."""
        for line in self._pings.fail(f"{type(error).__name__}: {error}"):
            self._listen(events.Notice(line))

    def send(self) -> list[Delivery]:
        """Send what waits, after the run has released its locks. Raises nothing: no alert fails a load.

        After an interruption nothing is sent: the next run sends.
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

    def notify_stop(self, error: Exception) -> None:
        """Notify the channels of an error that ended the run before its result. Raises nothing."""
        if not self._project.alerts:
            return
        failure = AlertFailure("", type(error).__name__, mask(str(error)))
        outcome = self._outcome_of([*self._deaths(), self._stop(failure)], completed=False)
        # The error may be about the database itself, which is not waited for twice.
        lost = isinstance(error, errors.SessionsError)
        for delivery in self._bounded(lambda: notify_stopped(self._project, outcome, lost=lost)):
            self._listen(events.Notice(delivery.words(self._project.place)))

    def _bounded(self, send: Callable[[], list[Delivery]]) -> list[Delivery]:
        try:
            with caught_signals():
                return send()
        except errors.Interrupted:
            self._listen(
                events.Notice("interrupted while the alerts were sent; the next run goes on with them")
            )
        except Exception as error:
            self._listen(events.Notice(f"the alerts cannot be sent: {_translate_error(error)}"))
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
    """Notify the channels of the run in the block, however it ends. The block calls `write` while it holds its locks.

    An error of usage or configuration is notified by the end of the command, for all commands. It sends no ping, nor
    does a lock that is held: its holder pings. `pings` is False for a run that does not show whether the schedule is
    kept. A person sees that a lock is held: only runs that are `scheduled` are counted.
    """
    run = RunNotifier(project, command, works, listen, kind, pings=pings)
    held = HeldInARow(project.state_dir, command)
    try:
        yield run
    except errors.LockHeldError as error:
        if scheduled and _count(held) >= HELD_IN_A_ROW:
            run.notify_stop(error)
        raise
    except Exception as error:
        held.clear()
        if getattr(error, "exit_code", None) is not errors.ExitCode.USAGE:
            run.ping_stop(error)
            run.notify_stop(error)
        raise
    held.clear()


def _translate_error(error: Exception) -> str:
    defect = "" if isinstance(error, errors.DwhctlError) else f"a defect in dwhctl: {type(error).__name__}: "
    return mask(f"{defect}{error}")


def _count(held: HeldInARow) -> int:
    try:
        return held.add()
    except OSError:
        return 0


def notify_usage_error(project: Project, command: str, message: str, kind: RunKind) -> list[Delivery]:
    """Notify the channels of a command that ended with exit code 2; `project` has as much as could be read.

    Raise SessionsError and Interrupted.
    """
    failure = AlertFailure("", errors.ConfigError.__name__, mask(message))
    look = f"dwhctl config check --project {shlex.quote(str(project.root))}"
    stop = Stop(mask(command), failure)
    outcome = Outcome(command=mask(command), kind=kind, stops=(stop,), completed=False, look=look)
    with caught_signals():
        return notify_stopped(project, outcome)


def notify_stopped(project: Project, outcome: Outcome, *, lost: bool = False) -> list[Delivery]:
    """Notify the channels of a command that did no work; without the sessions database if it is `lost` or missing."""
    store = None
    with suppress(errors.ConfigError, errors.SessionsError, KeyError):
        store = None if lost else open_if_there(project.sessions)
    if store is None:
        return notify_directly(project, outcome)
    with store:
        return notify(project, store, outcome)


def items_of(project: Project, event: events.Event) -> Iterator[Item]:
    """Yield the pieces of work that an event is about, with their state after it."""
    match event:
        case events.RunStarted():
            for planned in event.plan.slices:
                yield Item("load", planned.load.name, planned.shard.name, planned.slice.day, "left")
        case events.SliceClosed():
            item = Item("load", event.load, event.shard, event.day)
            target = project.loads[event.load].target
            yield _ended(item, event.state, event.failure, event.connection, target)
        case events.RefreshStarted():
            for name in event.reports:
                yield Item("report", name, "", event.day, "left")
        case events.ReportClosed():
            item = Item("report", event.load, "", event.day)
            yield _ended(item, event.state, event.failure, event.connection, event.connection)


def _ended(item: Item, state: State, failure: Failure | None, source: str, target: str) -> Item:
    if state in (State.LOADED, State.SKIPPED):
        return item
    if failure is None or state is State.UP_FOR_RETRY:
        return replace(item, status="left")
    return replace(item, status="failed", failure=alert_failure_of(failure, source, target))


def alert_failure_of(failure: Failure, source: str, target: str) -> AlertFailure:
    """Return what failed and the connection at fault; for an open circuit breaker, the failure that opened it."""
    found = root_cause(failure)
    return AlertFailure(blamed(failure, source, target), found.error_class, mask(found.message))


def _command_of(event: events.RunReaped) -> str:
    command = event.holder.command if event.holder is not None else ""
    # The lock's file may hold anything: only a command line of dwhctl is shown.
    return mask(command) if command.startswith("dwhctl ") else f"run {event.run_id}"
