"""Delivery: what waits in the outbox is sent, each row by one run, and its result is written down."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dwhctl.alerts.digest import Digest
from dwhctl.alerts.outbox import DeliveryState, Outbox, Queued, Result, from_json
from dwhctl.core.errors import Interrupted
from dwhctl.core.faults import reach
from dwhctl.core.words import shown_time
from dwhctl.project.model import Project
from dwhctl.project.names import in_project, is_proposed
from dwhctl.sessions import SessionStore

#: How many messages one run sends to a channel, and the time for all of them.
SENT_AT_ONCE = 20
SENDING_SECONDS = 120.0
#: What could not be sent for so long is not sent any more.
GIVE_UP_AFTER = timedelta(days=3)
_LATE_AFTER = timedelta(minutes=10)
REPETITION = "may be a repetition: whether this message arrived before is not known"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message to a channel, for the run's summary.

    `again`: the channel refused it, and later runs try again. `tried` is False of a message that was not sent for that.
    """

    channel: str
    subject: str
    state: DeliveryState
    answer: str
    again: bool = False
    tried: bool = True

    @classmethod
    def of(cls, channel: str, subject: str, result: Result) -> Delivery:
        again = result.state is DeliveryState.REFUSED and result.retry_after is not None
        return cls(channel, subject, result.state, result.answer, again)

    @classmethod
    def withheld(cls, channel: str, subject: str, answer: str) -> Delivery:
        """Return the delivery of a message that is not sent, for the channel refused the last one with this answer."""
        return cls(channel, subject, DeliveryState.REFUSED, answer, again=True, tried=False)

    def words(self, place: Path | None = None) -> str:
        """Return it as a line. `place` is the value of --project, if it was given."""
        state = {
            DeliveryState.QUEUED: "not sent, the next run tries again",
            DeliveryState.UNKNOWN: "in doubt",
            DeliveryState.REFUSED: "refused"
            if self.tried
            else "not sent, the channel refused the last message",
            DeliveryState.GIVEN_UP: f"given up, it could not be sent for {GIVE_UP_AFTER.days} days",
        }.get(self.state, self.state.value)
        test = in_project(f"dwhctl alert-test {self.channel}", place)
        again = f"; then check it with: {test} (runs try again once an hour)"
        return f"alert {self.channel}: {state}: {self.answer}{again if self.again else ''}"


def send_due(project: Project, store: SessionStore, written: Collection[str] = ()) -> list[Delivery]:
    """Send what waits in the outbox, bounded in number and time. Raise SessionsError; an interruption ends it early.

    `written` are the channels that this run has a digest for: the result also has those that refused one recently.
    """
    if not project.alerts:
        return []
    outbox = Outbox(store)
    deliveries = _send_all(project, outbox)
    for channel in sorted(set(written) - {delivery.channel for delivery in deliveries}):
        if (refusal := outbox.refusal(channel)) is not None:
            deliveries.append(Delivery.withheld(channel, *refusal))
    return deliveries


def _send_all(project: Project, outbox: Outbox) -> list[Delivery]:
    deliveries: list[Delivery] = []
    until = time.monotonic() + SENDING_SECONDS
    for channel in outbox.channels_due():
        for row in outbox.due(channel, SENT_AT_ONCE):
            if time.monotonic() > until:
                return deliveries
            claim = uuid.uuid4().hex
            doubts = outbox.claim(row, claim)
            if doubts is None:  # another run has it
                continue
            digest = _readable(project, row, doubts)
            result, is_interrupted = _attempt(project, row, digest)
            outbox.settle(row, claim, result)
            deliveries.append(Delivery.of(row.channel, row.subject, result))
            if is_interrupted:
                return deliveries
            # What is wrong for one message of the channel is wrong for the others too.
            if not isinstance(digest, Result) and result.state is not DeliveryState.SENT:
                break
    return deliveries


def _readable(project: Project, row: Queued, doubts: int) -> Digest | Result:
    """Return the digest of a row as it is to be sent, or why it cannot be."""
    if row.channel not in project.alerts:
        return Result(DeliveryState.REFUSED, f"there is no [alerts.{row.channel}] any more")
    if doubts > 1:
        return Result(DeliveryState.UNKNOWN, "its run died while it sent it again")
    try:
        digest = with_own_commands(project, from_json(row.digest))
    except ValueError:
        return Result(DeliveryState.REFUSED, "another version of dwhctl wrote it, and it cannot be read")
    if doubts > 0:
        return replace(digest, remark=REPETITION)
    if row.created > datetime.now(UTC) - _LATE_AFTER:
        return digest
    late = f"late: this was so at {shown_time(row.created)}"
    return replace(digest, remark="; ".join(filter(None, (digest.remark, late))))


def _attempt(project: Project, row: Queued, digest: Digest | Result) -> tuple[Result, bool]:
    if isinstance(digest, Result):
        return digest, False
    from dwhctl.alerts.channels import send  # few runs have something to send

    reach("alert.send")
    try:
        result = send(project, project.alerts[row.channel], digest)
    except (Interrupted, KeyboardInterrupt):
        return Result(DeliveryState.UNKNOWN, "interrupted while it was sent"), True
    reach("alert.sent")
    is_failed = result.state in (DeliveryState.QUEUED, DeliveryState.REFUSED)
    if is_failed and row.created < datetime.now(UTC) - GIVE_UP_AFTER:
        result = Result(DeliveryState.GIVEN_UP, result.answer)
    return result, False


def with_own_commands(project: Project, digest: Digest) -> Digest:
    """Return the digest without commands that dwhctl does not propose: people copy them, and others can write rows."""
    look = digest.look if digest.look and is_proposed(digest.look, project.root) else None
    reasons = tuple(
        reason if is_proposed(reason.remedy, project.root) else replace(reason, remedy="")
        for reason in digest.reasons
    )
    return replace(digest, look=look, reasons=reasons)
