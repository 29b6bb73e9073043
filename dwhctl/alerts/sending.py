"""Sending: one digest to one channel, and whatever comes of it as a result."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.alerts.channels import Receipt, open_channel
from dwhctl.alerts.message import render
from dwhctl.alerts.outbox import AlertState, Result
from dwhctl.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.project.secrets import mask

if TYPE_CHECKING:
    from dwhctl.alerts.digest import Digest
    from dwhctl.project.model import Alert, Project


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
