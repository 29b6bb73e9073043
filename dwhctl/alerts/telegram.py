"""Telegram: a message to a chat by the Bot API. Source: https://core.telegram.org/bots/api

The bot's token is part of the URL, and so of every error of requests. No such error leaves `HttpSender`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from typing import Any
from urllib.parse import urlsplit

from dwhctl.alerts.message import Message, Page, Receipt, clipped, shown
from dwhctl.alerts.transport import HttpSender, Timeouts, asks_for_pause, is_http_url, json_document
from dwhctl.core.errors import AlertInDoubtError, AlertRefusedError, ConfigError
from dwhctl.core.words import counted
from dwhctl.project.model import Project, TelegramAlert, chat_problem
from dwhctl.project.templates import render_text

#: Ids of chats have up to 52 significant bits.
_SANE = 2**53
#: The answer repeats the message: 4,096 characters, in JSON up to six octets each, and its entities.
_LONGEST_ANSWER = 256 * 1024
_CANNOT_PARSE = "can't parse entities"
#: Part of an answer in lower case, and what to do about it; the first that fits.
_REMEDIES = (
    ("unauthorized", "the token is wrong or was revoked: take the one that @BotFather shows"),
    ("chat not found", "correct chat_id; start the chat with the bot, or add the bot to the group"),
    ("thread not found", "correct message_thread_id, or drop it"),
    ("topic", "correct message_thread_id, or drop it"),
    ("blocked", "unblock the bot in that chat"),
    ("kicked", "add the bot to the group again"),
    ("not a member", "add the bot to the group or channel"),
    ("rights", "let the bot send messages in that chat"),
    ("deactivated", "choose another chat_id"),
    ("can't initiate", "open the chat with the bot and press Start"),
    ("upgraded", "take the group's new id as chat_id"),
    ("text is empty", "the template renders to nothing: correct it"),
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The HTTP status, and what the Bot API says (empty when the Bot API did not answer)."""

    status: int
    content: dict[str, Any]

    @property
    def description(self) -> str:
        return clipped(shown(str(self.content.get("description", ""))), 300)

    def parameter(self, name: str) -> int | None:
        parameters = self.content.get("parameters")
        value = parameters.get(name) if isinstance(parameters, dict) else None
        return value if isinstance(value, int) and abs(value) < _SANE else None


@dataclass(frozen=True)
class TelegramChannel:
    """A chat, and the bot that writes to it."""

    alert: TelegramAlert
    chat_id: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @classmethod
    def open(cls, project: Project, alert: TelegramAlert) -> TelegramChannel:
        """Check the keys and render the chat's id. Raise ConfigError, which shows no key's value."""
        table = f"config/dwhctl.toml: alerts.{alert.name}"
        token = alert.token.reveal()
        if not token.isascii() or not token.isprintable() or set(token) & set(" /?#%\\"):
            raise ConfigError(
                f"{table}.token: is no bot's token; take the one that @BotFather shows: 123456:ABC..."
            )
        if not is_http_url(alert.api_base):
            raise ConfigError(f"{table}.api_base: is no URL; write it as https://api.telegram.org")
        place = f"{table}.chat_id"
        HttpSender.of(alert, Timeouts()).check()
        chat_id = render_text(project, alert.chat_id, place).strip()
        if not chat_id:
            raise ConfigError(f"{place}: renders to nothing; it is the chat's number, or @name of a channel")
        if problem := chat_problem(chat_id):
            raise ConfigError(f"{place}: {problem}")
        return cls(alert, chat_id)

    @property
    def address(self) -> str:
        topic = self.alert.message_thread_id
        return f"chat {self.chat_id}{f', topic {topic}' if topic is not None else ''}"

    @staticmethod
    def message(page: Page, alert: TelegramAlert) -> Message:  # noqa: ARG004
        """Render the page for as many reasons as a message has room for."""
        return chat_message(page)

    def send(self, message: Message) -> Receipt:
        """Send the message, as plain text when Telegram cannot parse it, and to the group's new id when it has one."""
        fields: dict[str, Any] = {
            "chat_id": self.chat_id,
            "text": message.html,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        if self.alert.message_thread_id is not None:
            fields["message_thread_id"] = self.alert.message_thread_id
        started, waited, migrated_to = time.monotonic(), 0.0, None
        while True:
            answer = self._post(fields)
            new_id = answer.parameter("migrate_to_chat_id")
            if answer.status == 200 and answer.content.get("ok") is True:
                result = answer.content.get("result")
                number = result.get("message_id") if isinstance(result, dict) else None
                note = "" if "parse_mode" in fields else ", as plain text: the template's HTML is wrong"
                return Receipt(f"message {number}{note}", migrated_to)
            if answer.status == 400 and new_id is not None and migrated_to is None:
                migrated_to = fields["chat_id"] = str(new_id)
            elif answer.status == 400 and _CANNOT_PARSE in answer.description and "parse_mode" in fields:
                del fields["parse_mode"]
                fields["text"] = message.text
            elif answer.status == 429:
                pause = self._pause(answer, max(waited, time.monotonic() - started))
                waited += max(pause, 1)
                self.sleep(max(pause, 0))
            else:
                raise self._refusal(answer)

    def _post(self, fields: dict[str, Any]) -> _Answer:
        """Make one request. Raise AlertNotSentError or AlertInDoubtError when no answer comes."""
        answer = HttpSender.of(self.alert, self.timeouts).deliver(
            f"{self.alert.api_base.rstrip('/')}/bot{self.alert.token.reveal()}/sendMessage",
            json.dumps(fields).encode(),
            {"Content-Type": "application/json"},
            _LONGEST_ANSWER,
            server=urlsplit(self.alert.api_base).hostname or "the api_base",
            key="api_base",
        )
        content = json_document(answer.body)
        return _Answer(answer.status, content if isinstance(content, dict) else {})

    def _pause(self, answer: _Answer, spent: float) -> int:
        """Return for how many seconds Telegram asks to wait. Raise AlertNotSentError when that is too long."""
        seconds = answer.parameter("retry_after")
        if seconds is not None and spent + max(seconds, 1) <= self.timeouts.longest_wait:
            return seconds
        raise asks_for_pause("Telegram", seconds)

    def _refusal(self, answer: _Answer) -> AlertRefusedError | AlertInDoubtError:
        description = answer.description
        if answer.status >= 500:
            reason = f" ({description})" if description else ""
            return AlertInDoubtError(f"Telegram answered {answer.status}{reason}; it may have sent")
        if "ok" not in answer.content:
            return AlertRefusedError(
                f"{urlsplit(self.alert.api_base).hostname} answered {answer.status}, and not as the Bot API does;"
                " correct api_base or proxy"
            )
        words = "unauthorized" if answer.status in {401, 404} else description.lower()
        remedy = next((remedy for part, remedy in _REMEDIES if part in words), "correct the channel's keys")
        return AlertRefusedError(f"Telegram refuses: {description or answer.status}; {remedy}")


#: In UTF-16 units after the entities are parsed; Telegram refuses more than 4,096.
LIMIT = 3500
#: How many reasons a message has, and shards of each; where that is too long, fewer.
_REASONS = (8, 5, 3, 1)
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^>]*>")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|lt|gt|amp|quot);")
_EMPTY_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")
#: Room for "... and 12,345 more lines".
_TAIL = 40


def chat_message(page: Page) -> Message:
    """Return the page as a message of a chat, with as many reasons as it has room for."""
    html = ""
    for most in _REASONS:
        html = without_empty_lines(page(most))
        if length(html) <= LIMIT:
            break
    html = cut(html)
    text = plain(html)
    return Message.titled(text, html, text)


def plain(html: str) -> str:
    return ENTITY.sub(lambda entity: unescape(entity[0]), TAG.sub("", html))


def length(html: str) -> int:
    """Return the length that Telegram counts, in UTF-16 units."""
    return _units(plain(html))


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def without_empty_lines(html: str) -> str:
    """Return the HTML without the empty lines that conditions of a template leave."""
    lines = "\n".join(line.rstrip() for line in html.split("\n"))
    return _EMPTY_LINES.sub("\n\n", lines).strip()


def cut(html: str, limit: int = LIMIT) -> str:
    """Return the HTML, or as many of its lines as fit, its tags closed and the number of lines left out at its end."""
    if length(html) <= limit:
        return html
    lines, room = html.split("\n"), limit - _TAIL
    kept, tags = _fitting(lines, room)
    if kept:
        head = "\n".join(lines[:kept]).rstrip() + "".join(f"</{name}>" for name in reversed(tags))
    else:  # the first line alone is too long: its beginning, without tags
        kept, head = 1, f"{escape(_shortened(plain(lines[0]), room - 1))}…"
    left = len(lines) - kept
    return head + (f"\n... and {counted(left, 'more line')}" if left else "")


def _fitting(lines: Sequence[str], room: int) -> tuple[int, list[str]]:
    """Return how many of the first lines fit, and the tags that are open behind them."""
    tags: list[str] = []
    for kept, line in enumerate(lines):
        room -= length(line) + 1
        if room < 0:
            return kept, tags
        for tag in TAG.finditer(line):
            if not tag[1]:
                tags.append(tag[2].lower())
            elif tags:
                tags.pop()
    return len(lines), tags


def _shortened(text: str, most: int) -> str:
    while _units(text) > most:  # a character takes at most two units
        text = text[: len(text) - max(1, (_units(text) - most) // 2)]
    return text
