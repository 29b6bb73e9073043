"""Messages: a digest put into words for a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwhctl.project.model import Alert, Project

    from .digest import Digest


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel sends: `html` in the HTML that it understands, `text` with the same facts without any."""

    subject: str
    html: str
    text: str


def render(project: Project, alert: Alert, digest: Digest) -> Message:
    """Put the digest into words for the channel. Raise ConfigError for a template of the user's that is wrong."""
    raise NotImplementedError
