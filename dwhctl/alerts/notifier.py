"""Notification: what the outcome of a run means for each channel.

A run writes its digests into the outbox while it holds its locks, and delivers them afterwards: no channel holds up
another run, and the digest of a run that is killed in between is in the outbox, where the next run finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dwhctl.alerts.delivery import Delivery, send_due
from dwhctl.alerts.digest import Digest, Outcome, RunKind
from dwhctl.alerts.message import fit_to_show
from dwhctl.alerts.outbox import DeliveryState, outdated, put, undelivered, with_recoveries
from dwhctl.alerts.rules import ChannelScope, Streak, Streaks, decide
from dwhctl.alerts.state import AlertState, FailureKey, LocalState, Notified
from dwhctl.core.errors import SessionsError
from dwhctl.core.secrets import Secret, mask
from dwhctl.project.model import Alert, Project, TelegramAlert
from dwhctl.sessions import SessionStore
from dwhctl.sessions.store import Execute
from dwhctl.sessions.task_states import failing_tasks, read_newest, read_unsuccessful
from dwhctl.sessions.values import FIRST, is_good

_LONGEST_RUN = timedelta(days=7)
#: In the table, of a failure without a day: a key has no NULL.
_NO_DAY = FIRST.date()


def write(project: Project, store: SessionStore, outcome: Outcome) -> set[str]:
    """Write a digest of the outcome into the outbox for each channel that it concerns, and return these channels.

    Raise SessionsError.
    """
    if not project.alerts:
        return set()
    now = datetime.now(UTC)
    streaks = _streaks(store, outcome, now)
    local = LocalState(project.state_dir).all()
    with store.transaction("writing the alerts", "tell") as execute:
        execute("alerts_alone", {})
        for channel, key, notified in (row for rows in local.values() for row in rows):
            _save(execute, channel, {key: notified})
        written = {
            alert.name
            for alert in project.alerts.values()
            if _write(ChannelScope(project, alert, execute), execute, outcome, streaks, now)
        }
    for path in local:
        path.unlink(missing_ok=True)
    return written


def _write(scope: ChannelScope, execute: Execute, outcome: Outcome, streaks: Streaks, now: datetime) -> bool:
    alert, row_id = scope.alert, None
    state = _state(execute, alert.name)
    decision = decide(scope, outcome, state, streaks, now)
    old = outdated(alert, decision, state, undelivered(execute, alert.name))
    digest = with_recoveries(decision, old)
    if digest is not None:
        if digest.recoveries and digest.kind != RunKind.WATCH:
            digest = replace(digest, still_failing=scope.still_failing(now))
        digest = fit_to_show(digest)
        subject = subject_of(scope.project, alert, digest)
        row_id = put(execute, alert.name, subject, digest, old, now)
    for row in old:
        if row.id != row_id:
            execute("alerts_supersede", {"id": row.id})
    if decision.forget:
        execute("alerts_forget", {"channel": alert.name, "facts": _keys(decision.forget)})
    after = decision.state_after(row_id)
    _save(
        execute, alert.name, {key: notified for key, notified in after.items() if state.get(key) != notified}
    )
    return decision.digest is not None


def _state(execute: Execute, channel: str) -> AlertState:
    return {
        FailureKey(work, connection, error_class, shard, None if day == _NO_DAY else day): Notified(*rest)
        for work, connection, error_class, shard, day, *rest in execute("alerts_facts", {"channel": channel})
    }


def _save(execute: Execute, channel: str, state: AlertState) -> None:
    same: dict[Notified, list[FailureKey]] = {}
    for key, notified in state.items():
        same.setdefault(notified, []).append(key)
    for notified, keys in same.items():
        values = {
            "told_at": notified.at,
            "newest": notified.newest,
            "well": notified.recovered,
            "alert_id": notified.alert_id,
            "heard": notified.delivered,
        }
        execute("alerts_remember", {"channel": channel, "facts": _keys(keys), **values})


def _keys(keys: Iterable[FailureKey]) -> str:
    """Return the keys as JSON: one statement for a year of slices, not one for each."""
    rows = [
        [key.work, key.connection, key.error_class, key.shard, (key.day or _NO_DAY).isoformat()]
        for key in keys
    ]
    return json.dumps(rows, ensure_ascii=False)


def _streaks(store: SessionStore, outcome: Outcome, now: datetime) -> Streaks:
    if not any(item.status == "failed" for item in outcome.items):
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
    """Return the message's subject; a plain one for a wrong template, whose error the sending reports."""
    # The channels are imported where there is something to send: few runs have.
    from dwhctl.alerts.channels import render

    try:
        return mask(render(project, alert, digest).subject)
    except Exception:
        return mask(f"{digest.project}: {digest.subject}: {digest.command}")


def notify_directly(project: Project, outcome: Outcome) -> list[Delivery]:
    """Notify the channels without a sessions database. Their states are kept in the state folder."""
    from dwhctl.alerts.channels import REFUSED_PAUSE, send

    local = LocalState(project.state_dir)
    now = datetime.now(UTC)
    deliveries = []
    for alert in project.alerts.values():
        state = local.read(alert.name, outcome.command)
        decision = decide(ChannelScope(project, alert, None), outcome, state, None, now)
        if decision.digest is None:
            continue
        subject = subject_of(project, alert, decision.digest)
        if (answer := local.refusal(alert.name, now - REFUSED_PAUSE)) is not None:
            deliveries.append(Delivery.withheld(alert.name, subject, answer))
            continue
        result = send(project, alert, decision.digest)
        deliveries.append(Delivery.of(alert.name, subject, result))
        is_refused = result.state is DeliveryState.REFUSED
        local.write_refusal(alert.name, result.answer if is_refused else None, now)
        if result.state in (DeliveryState.SENT, DeliveryState.UNKNOWN):
            # A state folder that cannot be written is in the digest, which is sent again.
            with suppress(OSError):
                local.write(alert.name, outcome.command, decision.state_after(None))
    return deliveries


def notify(project: Project, store: SessionStore | None, outcome: Outcome) -> list[Delivery]:
    """Write and send, of a command that was stopped and holds no locks. Raise SessionsError, see send_due."""
    try:
        written = write(project, store, outcome) if store is not None else None
    except SessionsError:
        written = None
    if store is None or written is None:
        return notify_directly(project, outcome)
    return send_due(project, store, written)


def preview(project: Project, store: SessionStore, outcome: Outcome) -> str:
    """Return the text that a chat would show of the outcome, in a project that has no channel yet."""
    from dwhctl.alerts.channels import render

    token = Secret("TOKEN", kind="env")  # never read: nothing is sent
    chat = TelegramAlert(name="chat", when=("one_failed",), token=token, chat_id="0")
    now = datetime.now(UTC)
    decision = decide(ChannelScope(project, chat, None), outcome, {}, _streaks(store, outcome, now), now)
    return render(project, chat, decision.digest).text if decision.digest is not None else ""
