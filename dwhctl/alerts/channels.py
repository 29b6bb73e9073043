"""The channels: which there are, and how one message is rendered, sent and answered.

A channel is a module with a class like `Channel`, a line in `CHANNELS`, and its keys in `project.model`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from dwhctl.alerts.apprise import AppriseChannel
from dwhctl.alerts.digest import Digest
from dwhctl.alerts.message import Message, Page, Receipt, page_of
from dwhctl.alerts.outbox import DeliveryState, Result
from dwhctl.alerts.smtp import MailChannel
from dwhctl.alerts.telegram import TelegramChannel
from dwhctl.alerts.transport import Timeouts
from dwhctl.alerts.webhook import WebhookChannel
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.core.secrets import mask
from dwhctl.project.model import Alert, Project

#: How long no message goes to a channel that refused one: a repair takes as long, and a server may count attempts.
REFUSED_PAUSE = timedelta(hours=1)


class Channel(Protocol):
    """A way to send messages. Implementations are dataclasses with a field `timeouts`."""

    @classmethod
    def open(cls, project: Project, alert: Any) -> Channel:
        """Render the templates of the keys and read the secrets. Raise ConfigError. Connect to nothing."""
        ...

    @property
    def address(self) -> str:
        """Where messages go, without secrets."""
        ...

    @staticmethod
    def message(page: Page, alert: Any) -> Message:
        """Render the page as the channel's message. Raise ConfigError for a wrong template of the user's."""
        ...

    def send(self, message: Message) -> Receipt:
        """Send the message.

        Raise AlertRefusedError (never will be), AlertNotSentError (surely was not), AlertInDoubtError (may have been).
        """
        ...


#: By the `type` of the channel's table.
CHANNELS: dict[str, type[Channel]] = {
    "telegram": TelegramChannel,
    "email": MailChannel,
    "webhook": WebhookChannel,
    "apprise": AppriseChannel,
}


def open_channel(project: Project, alert: Alert, timeouts: Timeouts | None = None) -> Channel:
    """Open the channel. Raise ConfigError; nothing is connected yet."""
    channel: Any = CHANNELS[alert.type].open(project, alert)
    made: Channel = replace(channel, timeouts=timeouts) if timeouts else channel
    return made


def render(project: Project, alert: Alert, digest: Digest) -> Message:
    """Render the digest for the channel. Raise ConfigError for a wrong template of the user's."""
    return CHANNELS[alert.type].message(page_of(project, alert, digest), alert)


def send(project: Project, alert: Alert, digest: Digest) -> Result:
    """Send a digest within the channel's timeouts. Raise only interruptions."""
    try:
        receipt = open_channel(project, alert).send(render(project, alert, digest))
    except Exception as error:
        return _failed(error)
    parts = [receipt.answer]
    if receipt.migrated_to:
        parts.append(f"the chat has moved: set chat_id to {receipt.migrated_to}")
    if receipt.refused:
        parts.append(f"refused for {', '.join(receipt.refused)}")
    return Result(DeliveryState.SENT, mask("; ".join(parts)))


def _failed(error: Exception) -> Result:
    answer = mask(str(error))
    match error:
        case AlertRefusedError():
            return Result(DeliveryState.REFUSED, answer, REFUSED_PAUSE)
        case AlertNotSentError():
            return Result(DeliveryState.QUEUED, answer, error.retry_after)
        case ConfigError():  # an unset variable or a wrong template: the user may correct it
            return Result(DeliveryState.QUEUED, answer)
        case AlertInDoubtError():
            return Result(DeliveryState.UNKNOWN, answer)
    # A defect may show before or after the message went out.
    return Result(DeliveryState.UNKNOWN, f"a defect in dwhctl: {type(error).__name__}: {answer}")
