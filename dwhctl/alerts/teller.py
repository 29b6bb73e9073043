"""Telling: what a run's outcome means for each channel, written into the outbox, then sent.

Written while the run still holds its locks, sent after it has let go of them: a channel that hangs holds up nobody,
and a run that is killed in between has its digest in the outbox, where the next run finds it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import Digest
from dwhctl.alerts.facts import Fact, Memory, Told
from dwhctl.alerts.message import render
from dwhctl.alerts.outbox import AlertState, Outbox, Queued, Result, from_json, queue
from dwhctl.alerts.rules import Decision, Streak, Streaks, decide
from dwhctl.alerts.sending import send
from dwhctl.alerts.state_files import ToldDirectly
from dwhctl.alerts.wording import fit_to_show
from dwhctl.errors import Interrupted, SessionsError
from dwhctl.faults import reach
from dwhctl.project.alerts import Occasion
from dwhctl.project.model import EmailAlert
from dwhctl.project.secrets import mask
from dwhctl.sessions.failures import read_failures

if TYPE_CHECKING:
    from dwhctl.alerts.outcome import Outcome
    from dwhctl.project.model import Alert, Project
    from dwhctl.sessions import SessionStore
    from dwhctl.sessions.store import Execute

#: How many messages one run sends to a channel, and for how long it goes on with all of them.
SENT_AT_ONCE = 20
SENDING_SECONDS = 120.0
#: What could not be sent for so long is of no use any more.
GIVE_UP_AFTER = timedelta(days=3)
_LONGEST_RUN = timedelta(days=7)
REPETITION = "may be a repetition: whether this message arrived before is not known"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message to a channel, for the run's summary."""

    channel: str
    subject: str
    state: AlertState
    answer: str

    def words(self) -> str:
        """Say it in a line."""
        said = {
            AlertState.SENT: "sent",
            AlertState.QUEUED: "not sent, the next run tries again",
            AlertState.UNKNOWN: "in doubt",
            AlertState.REFUSED: "refused",
            AlertState.GIVEN_UP: f"given up, it could not be sent for {GIVE_UP_AFTER.days} days",
        }
        return f"alert {self.channel}: {said.get(self.state, self.state.value)}: {self.answer}"


# Written


def write(project: Project, store: SessionStore, outcome: Outcome) -> None:
    """Write what each channel is to be told of the outcome into the outbox. Raise SessionsError."""
    if not project.alerts:
        return
    now = datetime.now(UTC)
    streaks = _streaks(store, outcome, now)
    direct = ToldDirectly(project.state_dir).all()
    with store.transaction("writing the alerts", "tell") as execute:
        execute("alerts_alone", {})
        for channel, fact, told in (row for rows in direct.values() for row in rows):
            _remember(execute, channel, {fact: told})
        for alert in project.alerts.values():
            memory = _memory(execute, alert.name)
            decision = decide(project, alert, outcome, memory, streaks, now)
            _write(execute, project, alert, decision, memory, now)
    for path in direct:
        path.unlink(missing_ok=True)


def _write(
    execute: Execute, project: Project, alert: Alert, decision: Decision, memory: Memory, now: datetime
) -> None:
    row_id = None
    if decision.digest is not None:
        digest = fit_to_show(decision.digest)
        row_id = queue(execute, alert.name, subject_of(project, alert, digest), digest, now)
    for fact in decision.forget:
        execute("alerts_forget", {"channel": alert.name, **_columns(fact)})
    after = decision.memory(row_id)
    _remember(execute, alert.name, {fact: told for fact, told in after.items() if memory.get(fact) != told})


def _memory(execute: Execute, channel: str) -> dict[Fact, Told]:
    rows = execute("alerts_facts", {"channel": channel})
    return {
        Fact(*row[:4]): Told(row[4], row[5], bool(row[6]), bool(row[7]), row[8], bool(row[9])) for row in rows
    }


def _remember(execute: Execute, channel: str, memory: Memory) -> None:
    for fact, told in memory.items():
        more = {
            "told_at": told.at,
            "day": told.day,
            "newest": told.newest,
            "well": told.well,
            "alert_id": told.alert_id,
            "heard": told.heard,
        }
        execute("alerts_remember", {"channel": channel, **_columns(fact), **more})


def _columns(fact: Fact) -> dict[str, object]:
    return {
        "work": fact.work,
        "connection": fact.connection,
        "error_class": fact.error_class,
        "shard": fact.shard,
    }


def _streaks(store: SessionStore, outcome: Outcome, now: datetime) -> Streaks:
    if not any(item.ending == "failed" for item in outcome.items):
        return {}
    tasks = read_failures(store, outcome.began or now - _LONGEST_RUN)
    return {(task.load, task.shard or ""): Streak(task.streak, task.since) for task in tasks}


def subject_of(project: Project, alert: Alert, digest: Digest) -> str:
    """Give the message's subject; a wrong template, which the sending will tell of, has a plain one."""
    try:
        return mask(render(project, alert, digest).subject)
    except Exception:
        return mask(f"{digest.project}: {digest.subject}: {digest.command}")


# Sent


def send_due(project: Project, store: SessionStore) -> list[Delivery]:
    """Send what waits in the outbox, bounded in number and time. Raise SessionsError; an interruption ends it early."""
    if not project.alerts:
        return []
    outbox = Outbox(store)
    deliveries: list[Delivery] = []
    until = time.monotonic() + SENDING_SECONDS
    for channel in outbox.channels_due():
        for row in outbox.due(channel, SENT_AT_ONCE):
            if time.monotonic() > until:
                return deliveries
            sent = _send_row(project, outbox, row)
            if sent is None:
                continue
            deliveries.append(sent.delivery)
            if sent.interrupted:
                return deliveries
            if sent.delivery.state is not AlertState.SENT:
                break  # what is wrong with the channel is wrong for its other messages too
    return deliveries


@dataclass(frozen=True, slots=True)
class _Sent:
    delivery: Delivery
    interrupted: bool


def _send_row(project: Project, outbox: Outbox, row: Queued) -> _Sent | None:
    """Take a row in hand, send it, and write what became of it; None when another run has it."""
    claim = uuid.uuid4().hex
    doubts = outbox.claim(row, claim)
    if doubts is None:
        return None
    result, interrupted = _attempt(project, row, doubts)
    outbox.settle(row, claim, result)
    return _Sent(Delivery(row.channel, row.subject, result.state, result.answer), interrupted)


def _attempt(project: Project, row: Queued, doubts: int) -> tuple[Result, bool]:
    """Send a row that is in hand; tell whether that was interrupted."""
    alert = project.alerts.get(row.channel)
    if alert is None:
        return Result(AlertState.REFUSED, f"there is no [alerts.{row.channel}] any more"), False
    if doubts > 1:
        return Result(AlertState.UNKNOWN, "its run died while it sent it again"), False
    try:
        digest = from_json(row.digest)
    except ValueError:
        return Result(AlertState.REFUSED, "another version of dwhctl wrote it, and it cannot be read"), False
    digest = replace(digest, remark=REPETITION) if doubts else _dated(digest, row.created)
    reach("alert.send")
    try:
        result = send(project, alert, digest)
    except (Interrupted, KeyboardInterrupt):
        return Result(AlertState.UNKNOWN, "interrupted while it was sent"), True
    reach("alert.sent")
    if result.state is AlertState.QUEUED and row.created < datetime.now(UTC) - GIVE_UP_AFTER:
        result = Result(AlertState.GIVEN_UP, result.answer)
    return result, False


def _dated(digest: Digest, created: datetime) -> Digest:
    """Say of a digest that could not be sent at once when it was written."""
    if created > datetime.now(UTC) - timedelta(minutes=10):
        return digest
    late = f"late: this was so at {created:%Y-%m-%d %H:%M} UTC"
    return replace(digest, remark="; ".join(filter(None, (digest.remark, late))))


def tell_directly(project: Project, outcome: Outcome) -> list[Delivery]:
    """Tell the channels without a sessions database. What was told is kept in the state folder."""
    told = ToldDirectly(project.state_dir)
    now = datetime.now(UTC)
    deliveries = []
    for alert in project.alerts.values():
        decision = decide(project, alert, outcome, told.of(alert.name, outcome.command), None, now)
        if decision.digest is None:
            continue
        result = send(project, alert, decision.digest)
        deliveries.append(
            Delivery(alert.name, subject_of(project, alert, decision.digest), result.state, result.answer)
        )
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
        write(project, store, outcome)
    except SessionsError:
        return tell_directly(project, outcome)
    return send_due(project, store)


def preview(project: Project, outcomes: Iterable[Outcome]) -> str:
    """Give, as text, the digests that a mail to somebody would be made of: of a project that has no channel yet."""
    when: tuple[Occasion, ...] = ("all_success", "one_failed")
    mail = EmailAlert(name="mail", when=when, host="localhost", sender="me@localhost", to=("you@localhost",))
    now = datetime.now(UTC)
    digests = [decide(project, mail, outcome, {}, None, now).digest for outcome in outcomes]
    return "\n\n".join(render(project, mail, digest).text for digest in digests if digest is not None)
