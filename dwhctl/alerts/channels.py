"""Channels: what a message goes out by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwhctl.project.model import Alert, Project

    from .message import Message


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a channel answered to a message that it took, as `message 4711`.

    `migrated_to` is the chat's new id, when Telegram gave it one: the configuration should be changed. `refused`
    names recipients of a mail that did not get it, each with the server's reason, while others did.
    """

    answer: str
    migrated_to: str | None = None
    refused: tuple[str, ...] = ()


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


def open_channel(project: Project, alert: Alert) -> Channel:
    """Open the channel: its templates rendered, its secrets at hand. Raise ConfigError; nothing is connected yet."""
    raise NotImplementedError
