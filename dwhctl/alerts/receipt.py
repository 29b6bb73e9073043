"""What a channel answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a channel answered to a message that it took, as `message 4711`.

    `migrated_to` is the chat's new id, when Telegram gave it one: the configuration should be changed. `refused`
    names recipients of a mail that did not get it, each with the server's reason, while others did.
    """

    answer: str
    migrated_to: str | None = None
    refused: tuple[str, ...] = ()
