"""Telling: what a run's outcome means for each channel.

Written into the outbox while the run still holds its locks, delivered after it has let go of them: a channel that hangs
holds up nobody, and a run that is killed in between has its digest in the outbox, where the next run finds it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.channels import fit_to_show
from dwhctl.alerts.delivery import REFUSED_PAUSE, Delivery, delivery_of, send, send_due
from dwhctl.alerts.digest import Digest, RunKind
from dwhctl.alerts.message import render
from dwhctl.alerts.outbox import (
    AlertState,
    outdated,
    queue,
    replace_row,
    supersede,
    undelivered,
    with_recoveries,
)
from dwhctl.alerts.rules import Covered, Decision, Streak, Streaks, decide
from dwhctl.alerts.state import Fact, Memory, Refusals, Told, ToldDirectly
from dwhctl.core.errors import SessionsError
from dwhctl.core.secrets import Secret, mask
from dwhctl.project.model import TelegramAlert
from dwhctl.sessions.task_states import failing_tasks, read_newest, read_unsuccessful
from dwhctl.sessions.values import FIRST, is_good

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from dwhctl.alerts.digest import Outcome
    from dwhctl.project.model import Alert, Project
    from dwhctl.sessions import SessionStore
    from dwhctl.sessions.store import Execute

_LONGEST_RUN = timedelta(days=7)
#: In the table, of a fact without a day: a key has no NULL.
_NO_DAY = FIRST.date()


def write(project: Project, store: SessionStore, outcome: Outcome) -> set[str]:
    """Write a digest of the outcome into the outbox for each channel that it concerns, and return these channels.

    Raise SessionsError.
    """
    written: set[str] = set()
    if not project.alerts:
        return written
    now = datetime.now(UTC)
    streaks = _streaks(store, outcome, now)
    direct = ToldDirectly(project.state_dir).all()
    with store.transaction("writing the alerts", "tell") as execute:
        execute("alerts_alone", {})
        for channel, fact, told in (row for rows in direct.values() for row in rows):
            _remember(execute, channel, {fact: told})
        for alert in project.alerts.values():
            memory = _memory(execute, alert.name)
            covered = Covered(project, execute)
            decision = decide(covered, alert, outcome, memory, streaks, now)
            if decision.digest is not None:
                written.add(alert.name)
            _write(execute, covered, alert, decision, memory, now)
    for path in direct:
        path.unlink(missing_ok=True)
    return written


def _write(
    execute: Execute, covered: Covered, alert: Alert, decision: Decision, memory: Memory, now: datetime
) -> None:
    row_id = None
    old = outdated(alert, decision, memory, undelivered(execute, alert.name))
    digest = with_recoveries(decision, old)
    if digest is not None:
        if digest.recoveries and digest.kind != RunKind.WATCH:
            digest = replace(digest, still_failing=covered.still_failing(alert, now))
        digest = fit_to_show(digest)
        subject = subject_of(covered.project, alert, digest)
        while old and row_id is None:
            row = old.pop()
            row_id = row.id if replace_row(execute, row.id, subject, digest, now) else None
        row_id = row_id or queue(execute, alert.name, subject, digest, now)
    for row in old:
        supersede(execute, row.id)
    if decision.forget:
        execute("alerts_forget", {"channel": alert.name, "facts": _keys(decision.forget)})
    after = decision.memory(row_id)
    _remember(execute, alert.name, {fact: told for fact, told in after.items() if memory.get(fact) != told})


def _memory(execute: Execute, channel: str) -> dict[Fact, Told]:
    return dict(_fact_and_told(*row) for row in execute("alerts_facts", {"channel": channel}))


def _fact_and_told(
    work: str, connection: str, error_class: str, shard: str, day: date, at: datetime, *rest: Any
) -> tuple[Fact, Told]:
    newest, well, alert_id, heard, waits = rest
    fact = Fact(work, connection, error_class, shard, None if day == _NO_DAY else day)
    return fact, Told(at, bool(newest), bool(well), alert_id, bool(heard), bool(waits))


def _remember(execute: Execute, channel: str, memory: Memory) -> None:
    same: dict[Told, list[Fact]] = {}
    for fact, told in memory.items():
        same.setdefault(told, []).append(fact)
    for told, facts in same.items():
        values = {
            "told_at": told.at,
            "newest": told.newest,
            "well": told.well,
            "alert_id": told.alert_id,
            "heard": told.heard,
        }
        execute("alerts_remember", {"channel": channel, "facts": _keys(facts), **values})


def _keys(facts: Iterable[Fact]) -> str:
    """Write the facts for a statement: a year of slices is one statement, not as many as slices."""
    keys = [
        [one.work, one.connection, one.error_class, one.shard, (one.day or _NO_DAY).isoformat()]
        for one in facts
    ]
    return json.dumps(keys, ensure_ascii=False)


def _streaks(store: SessionStore, outcome: Outcome, now: datetime) -> Streaks:
    if not any(item.ending == "failed" for item in outcome.items):
        return {}
    tasks = failing_tasks(store, read_unsuccessful(store, outcome.began or now - _LONGEST_RUN))
    newest = read_newest(store, [task.task_name for task in tasks])
    return {
        (task.load, task.shard or ""): Streak(
            task.streak, task.since, newest=not is_good(newest[task.task_name].state)
        )
        for task in tasks
    }


def subject_of(project: Project, alert: Alert, digest: Digest) -> str:
    """Give the message's subject; a wrong template, which the sending will tell of, has a plain one."""
    try:
        return mask(render(project, alert, digest).subject)
    except Exception:
        return mask(f"{digest.project}: {digest.subject}: {digest.command}")


def tell_directly(project: Project, outcome: Outcome) -> list[Delivery]:
    """Tell the channels without a sessions database. What was told is kept in the state folder."""
    told = ToldDirectly(project.state_dir)
    now = datetime.now(UTC)
    deliveries = []
    for alert in project.alerts.values():
        known = told.of(alert.name, outcome.command)
        decision = decide(Covered(project, None), alert, outcome, known, None, now)
        if decision.digest is None:
            continue
        subject = subject_of(project, alert, decision.digest)
        refusals = Refusals(project.state_dir, alert.name)
        if (answer := refusals.since(now - REFUSED_PAUSE)) is not None:
            deliveries.append(
                Delivery(alert.name, subject, AlertState.REFUSED, answer, again=True, tried=False)
            )
            continue
        result = send(project, alert, decision.digest)
        deliveries.append(delivery_of(alert.name, subject, result))
        refusals.keep(result.answer if result.state is AlertState.REFUSED else None, now)
        if result.state in (AlertState.SENT, AlertState.UNKNOWN):
            _keep(told, alert, outcome, decision)
    return deliveries


def _keep(told: ToldDirectly, alert: Alert, outcome: Outcome, decision: Decision) -> None:
    try:
        told.remember(alert.name, outcome.command, decision.memory(None))
    except OSError:
        return  # a state folder that cannot be written is what the digest tells of, and it is told again


def tell(project: Project, store: SessionStore | None, outcome: Outcome) -> list[Delivery]:
    """Write and send, where no run holds locks: of a command that was stopped. Raise SessionsError, see send_due."""
    if store is None:
        return tell_directly(project, outcome)
    try:
        written = write(project, store, outcome)
    except SessionsError:
        return tell_directly(project, outcome)
    return send_due(project, store, written)


def preview(project: Project, store: SessionStore, outcome: Outcome) -> str:
    """Return the text that a chat would read of the outcome, in a project that has no channel yet."""
    token = Secret("TOKEN", kind="env")  # never read: nothing is sent
    chat = TelegramAlert(name="chat", when=("one_failed",), token=token, chat_id="0")
    now = datetime.now(UTC)
    streaks = _streaks(store, outcome, now)
    digest = decide(Covered(project, None), chat, outcome, {}, streaks, now).digest
    return render(project, chat, digest).text if digest is not None else ""
