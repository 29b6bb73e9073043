"""Delivering: what waits in the outbox is sent, once by one run, and what became of it is written down."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.alerts.outbox import AlertState, Outbox, Queued, Result, from_json
from dwhctl.alerts.sending import send
from dwhctl.errors import Interrupted
from dwhctl.faults import reach

if TYPE_CHECKING:
    from dwhctl.alerts.digest import Digest
    from dwhctl.project.model import Project
    from dwhctl.sessions import SessionStore

#: How many messages one run sends to a channel, and for how long it goes on with all of them.
SENT_AT_ONCE = 20
SENDING_SECONDS = 120.0
#: What could not be sent for so long is of no use any more.
GIVE_UP_AFTER = timedelta(days=3)
_LATE_AFTER = timedelta(minutes=10)
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
    if created > datetime.now(UTC) - _LATE_AFTER:
        return digest
    late = f"late: this was so at {created:%Y-%m-%d %H:%M} UTC"
    return replace(digest, remark="; ".join(filter(None, (digest.remark, late))))
