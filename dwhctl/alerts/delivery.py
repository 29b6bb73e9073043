"""Delivering: what waits in the outbox is sent, once by one run, and what became of it is written down."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from dwhctl.alerts import smtp, telegram
from dwhctl.alerts.channels import Receipt
from dwhctl.alerts.message import render
from dwhctl.alerts.outbox import AlertState, Outbox, Queued, Result, from_json
from dwhctl.core.errors import (
    AlertInDoubtError,
    AlertNotSentError,
    AlertRefusedError,
    ConfigError,
    Interrupted,
)
from dwhctl.core.faults import reach
from dwhctl.core.secrets import mask
from dwhctl.core.words import shown_time
from dwhctl.project.model import EmailAlert, TelegramAlert, chat_problem
from dwhctl.project.names import is_proposed
from dwhctl.project.templates import render_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from dwhctl.alerts.channels import Patience
    from dwhctl.alerts.digest import Digest
    from dwhctl.alerts.message import Message
    from dwhctl.project.model import Alert, Project
    from dwhctl.sessions import SessionStore


__all__ = ["Channel", "Receipt", "open_channel"]


class Channel(Protocol):
    """A way out."""

    @property
    def address(self) -> str:
        """Where messages go, in words, without secrets."""
        ...

    def send(self, message: Message) -> Receipt:
        """Send the message.

        Raise AlertRefusedError (never will be), AlertNotSentError (surely was not), AlertInDoubtError (may have been).
        """
        ...


def open_channel(project: Project, alert: Alert, timeout: Patience | None = None) -> Channel:
    """Open the channel: its templates rendered, its secrets at hand. Raise ConfigError; nothing is connected yet."""
    if isinstance(alert, EmailAlert):
        mail = _mail(project, alert)
        return replace(mail, timeout=timeout) if timeout else mail
    chat = _telegram(project, alert)
    return replace(chat, timeout=timeout) if timeout else chat


def _telegram(project: Project, alert: TelegramAlert) -> telegram.TelegramChannel:
    proxy = alert.proxy.reveal() if alert.proxy else None
    telegram.check_keys(alert.name, alert.token.reveal(), alert.api_base, proxy)
    if alert.tls_cafile is not None:
        smtp.check_authorities(alert.tls_cafile, f"config/dwhctl.toml: alerts.{alert.name}.tls_cafile")
    place = f"config/dwhctl.toml: alerts.{alert.name}.chat_id"
    chat_id = render_text(project, alert.chat_id, place).strip()
    if not chat_id:
        raise ConfigError(f"{place}: renders to nothing; it is the chat's number, or @name of a channel")
    if problem := chat_problem(chat_id):
        raise ConfigError(f"{place}: {problem}")
    return telegram.TelegramChannel(
        alert.name,
        alert.token,
        chat_id,
        alert.api_base,
        alert.proxy,
        alert.message_thread_id,
        alert.tls_cafile,
    )


def _mail(project: Project, alert: EmailAlert) -> smtp.MailChannel:
    place = f"config/dwhctl.toml: alerts.{alert.name}"
    if alert.user is not None and alert.password is not None:
        smtp.remember_login(alert.user, alert.password.reveal())
    if alert.tls_cafile is not None:
        smtp.check_authorities(alert.tls_cafile, f"{place}.tls_cafile")
    sender = smtp.addresses([render_text(project, alert.sender, f"{place}.from")], f"{place}.from")
    to = [render_text(project, each, f"{place}.to") for each in alert.to]
    return smtp.MailChannel(
        alert.name,
        alert.host,
        alert.port,
        alert.security,
        sender[0],
        smtp.addresses(to, f"{place}.to"),
        alert.user,
        alert.password,
        alert.tls_cafile,
    )


#: How long a channel that refused a message is left alone: nobody repairs it sooner, and a server may count attempts.
REFUSED_PAUSE = timedelta(hours=1)


def send(project: Project, alert: Alert, digest: Digest) -> Result:
    """Send a digest. Raises nothing but what interrupts; how long it may take is the channel's promise."""
    try:
        channel = open_channel(project, alert)
        return _result(channel.send(render(project, alert, digest)))
    except Exception as error:
        return _result(error)


def _result(outcome: Receipt | Exception) -> Result:
    if isinstance(outcome, Receipt):
        return Result(AlertState.SENT, mask(_answer(outcome)))
    words = mask(str(outcome))
    if isinstance(outcome, AlertRefusedError):
        return Result(AlertState.REFUSED, words, REFUSED_PAUSE)
    if isinstance(outcome, AlertNotSentError):
        return Result(AlertState.QUEUED, words, outcome.retry_after)
    if isinstance(outcome, ConfigError):  # an unset variable, a wrong template: it may be put right
        return Result(AlertState.QUEUED, words)
    if isinstance(outcome, AlertInDoubtError):
        return Result(AlertState.UNKNOWN, words)
    # A defect may show before or after the message went out.
    return Result(AlertState.UNKNOWN, f"a defect in dwhctl: {type(outcome).__name__}: {words}")


def _answer(receipt: Receipt) -> str:
    parts = [receipt.answer]
    if receipt.migrated_to:
        parts.append(f"the chat has moved: set chat_id to {receipt.migrated_to}")
    if receipt.refused:
        parts.append(f"refused for {', '.join(receipt.refused)}")
    return "; ".join(parts)


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
