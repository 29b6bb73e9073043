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
from dwhctl.project.commands import is_proposed
from dwhctl.times import shown_time

if TYPE_CHECKING:
    from collections.abc import Collection

    from dwhctl.alerts.digest import Digest
    from dwhctl.project.model import Project
    from dwhctl.sessions import SessionStore

#: How many messages one run sends to a channel, and for how long it goes on with all of them.
SENT_AT_ONCE = 20
SENDING_SECONDS = 120.0
#: What could not be sent for so long is of no use any more.
GIVE_UP_AFTER = timedelta(days=3)
_LATE_AFTER = timedelta(minutes=10)
_FAILED = (AlertState.QUEUED, AlertState.REFUSED)
REPETITION = "may be a repetition: whether this message arrived before is not known"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message to a channel, for the run's summary.

    `again`: the channel refused it, and later runs try again. `tried` is False of a message that was not sent for that.
    """

    channel: str
    subject: str
    state: AlertState
    answer: str
    again: bool = False
    tried: bool = True

    def words(self) -> str:
        """Return it as a line."""
        said = {
            AlertState.SENT: "sent",
            AlertState.QUEUED: "not sent, the next run tries again",
            AlertState.UNKNOWN: "in doubt",
            AlertState.REFUSED: "refused" if self.tried else "not sent, the channel refused the last message",
            AlertState.GIVEN_UP: f"given up, it could not be sent for {GIVE_UP_AFTER.days} days",
        }
        line = f"alert {self.channel}: {said.get(self.state, self.state.value)}: {self.answer}"
        if not self.again:
            return line
        return f"{line}; then check it with: dwhctl alert-test {self.channel} (runs try again once an hour)"


def send_due(project: Project, store: SessionStore, written: Collection[str] = ()) -> list[Delivery]:
    """Send what waits in the outbox, bounded in number and time. Raise SessionsError; an interruption ends it early.

    `written` are the channels that this run has a digest for: the result also has those that refused one lately.
    """
    if not project.alerts:
        return []
    outbox = Outbox(store)
    deliveries = _send_all(project, outbox)
    for channel in sorted(set(written) - {one.channel for one in deliveries}):
        if (refusal := outbox.refusal(channel)) is not None:
            deliveries.append(
                Delivery(channel, refusal[0], AlertState.REFUSED, refusal[1], again=True, tried=False)
            )
    return deliveries


def _send_all(project: Project, outbox: Outbox) -> list[Delivery]:
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
            if sent.by_channel and sent.delivery.state is not AlertState.SENT:
                break
    return deliveries


@dataclass(frozen=True, slots=True)
class _Sent:
    """`by_channel`: the channel was asked, so that what went wrong is wrong for its other messages too."""

    delivery: Delivery
    interrupted: bool
    by_channel: bool


def _send_row(project: Project, outbox: Outbox, row: Queued) -> _Sent | None:
    """Take a row in hand, send it, and write what became of it; None when another run has it."""
    claim = uuid.uuid4().hex
    doubts = outbox.claim(row, claim)
    if doubts is None:
        return None
    digest = _readable(project, row, doubts)
    if isinstance(digest, Result):
        result, interrupted = digest, False
    else:
        result, interrupted = _attempt(project, row, digest)
    outbox.settle(row, claim, result)
    delivery = delivery_of(row.channel, row.subject, result)
    return _Sent(delivery, interrupted, by_channel=not isinstance(digest, Result))


def delivery_of(channel: str, subject: str, result: Result) -> Delivery:
    """Say what became of an attempt to send."""
    again = result.state is AlertState.REFUSED and result.retry_after is not None
    return Delivery(channel, subject, result.state, result.answer, again)


def _readable(project: Project, row: Queued, doubts: int) -> Digest | Result:
    """Return the digest of a row as it is to be sent, or why it cannot be."""
    if row.channel not in project.alerts:
        return Result(AlertState.REFUSED, f"there is no [alerts.{row.channel}] any more")
    if doubts > 1:
        return Result(AlertState.UNKNOWN, "its run died while it sent it again")
    try:
        digest = with_own_commands(project, from_json(row.digest))
    except ValueError:
        return Result(AlertState.REFUSED, "another version of dwhctl wrote it, and it cannot be read")
    return replace(digest, remark=REPETITION) if doubts > 0 else _dated(digest, row.created)


def _attempt(project: Project, row: Queued, digest: Digest) -> tuple[Result, bool]:
    """Send a row that is in hand; tell whether that was interrupted."""
    reach("alert.send")
    try:
        result = send(project, project.alerts[row.channel], digest)
    except (Interrupted, KeyboardInterrupt):
        return Result(AlertState.UNKNOWN, "interrupted while it was sent"), True
    reach("alert.sent")
    if result.state in _FAILED and row.created < datetime.now(UTC) - GIVE_UP_AFTER:
        result = Result(AlertState.GIVEN_UP, result.answer)
    return result, False


def with_own_commands(project: Project, digest: Digest) -> Digest:
    """Return the digest without commands that dwhctl does not propose: people copy them, and others can write rows."""
    look = digest.look if digest.look and is_proposed(digest.look, project.root) else None
    reasons = tuple(
        one if is_proposed(one.remedy, project.root) else replace(one, remedy="") for one in digest.reasons
    )
    return replace(digest, look=look, reasons=reasons)


def _dated(digest: Digest, created: datetime) -> Digest:
    """Say of a digest that could not be sent at once when it was written."""
    if created > datetime.now(UTC) - _LATE_AFTER:
        return digest
    late = f"late: this was so at {shown_time(created)}"
    return replace(digest, remark="; ".join(filter(None, (digest.remark, late))))
