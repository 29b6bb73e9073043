"""Telegram: a message to a chat by the Bot API. Source: https://core.telegram.org/bots/api

The bot's token is part of the URL, and the URL part of every error of requests and of urllib3's log. No such error
leaves this module: what went wrong is told in words of our own, and raised where none is being handled.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dwhctl.alerts.channels import Departure, Patience, Receipt, clipped, shown
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.core.links import cause_of
from dwhctl.core.secrets import remember
from dwhctl.project.days import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.alerts.http import Way
    from dwhctl.alerts.message import Message
    from dwhctl.core.secrets import Secret

#: Ids of chats have up to 52 significant bits.
_SANE = 2**53
_A_YEAR = 366 * 86_400
#: The answer repeats the message: 4,096 characters, in JSON up to six octets each, and its entities.
_LONGEST_ANSWER = 256 * 1024
_CANNOT_PARSE = "can't parse entities"
#: What Telegram says, in lower case, and what to do about it; the first that fits.
_REMEDIES = (
    ("unauthorized", "the token is wrong or was revoked: take the one that @BotFather shows"),
    (
        "chat not found",
        "correct chat_id; who starts a chat with the bot, or adds it to a group, makes it known",
    ),
    ("thread not found", "correct message_thread_id, or drop it"),
    ("topic", "correct message_thread_id, or drop it"),
    ("blocked", "unblock the bot in that chat"),
    ("kicked", "add the bot to the group again"),
    ("not a member", "add the bot to the group or channel"),
    ("not enough rights", "let the bot send messages in that chat"),
    ("have no rights", "let the bot send messages in that chat"),
    ("deactivated", "choose another chat_id"),
    ("can't initiate", "open the chat with the bot and press Start"),
    ("upgraded", "take the group's new id as chat_id"),
    ("text is empty", "the template renders to nothing: correct it"),
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back: the HTTP status, and what the Bot API says in it (empty when it was not the Bot API)."""

    status: int
    content: dict[str, Any]

    @property
    def description(self) -> str:
        return clipped(shown(str(self.content.get("description", ""))), 300)

    def parameter(self, name: str) -> int | None:
        parameters = self.content.get("parameters")
        value = parameters.get(name) if isinstance(parameters, dict) else None
        return value if isinstance(value, int) and abs(value) < _SANE else None


class _Body(io.BytesIO):
    """A request's body, which is read only when the connection stands: then the message is on its way."""

    def __init__(self, content: bytes, departure: Departure) -> None:
        super().__init__(content)
        self._departure = departure

    def read(self, size: int | None = -1, /) -> bytes:
        self._departure.begin()
        return super().read(size)


@dataclass(frozen=True)
class TelegramChannel:
    """A chat, and the bot that writes to it."""

    name: str
    token: Secret = field(repr=False)
    chat_id: str
    api_base: str
    proxy: Secret | None = field(default=None, repr=False)
    message_thread_id: int | None = None
    tls_cafile: Path | None = None
    timeout: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @property
    def address(self) -> str:
        """The chat."""
        topic = f", topic {self.message_thread_id}" if self.message_thread_id is not None else ""
        return f"chat {self.chat_id}{topic}"

    def send(self, message: Message) -> Receipt:
        """Send the message, as plain text when Telegram cannot parse it, and to the group's new id when it has one."""
        return _Sending(self, message).run()

    def post(self, fields: dict[str, Any]) -> _Answer:
        """Make one request. Raise AlertNotSentError or AlertInDoubtError when no answer comes."""
        from dwhctl.alerts.http import post  # the time that the import takes is none of the server's

        departure = Departure()
        url = f"{self.api_base.rstrip('/')}/bot{self.token.reveal()}/sendMessage"
        body = _Body(json.dumps(fields).encode(), departure)
        failure = ""
        try:
            answer = post(
                url, body, {"Content-Type": "application/json"}, self.timeout, self._way(), _LONGEST_ANSWER
            )
            return _Answer(answer.status, _content(answer.body))
        except Exception as error:
            failure = cause_of(error)
        # Raised out here the error has no context: a traceback shows no error of requests with the URL in it.
        where = urlsplit(self.api_base).hostname or "the api_base"
        if departure.give_up():
            raise AlertInDoubtError(f"{where}: {failure}; the message was on its way and may have arrived")
        through = " through the proxy" if self.proxy else ""
        raise AlertNotSentError(
            f"{where} cannot be reached{through}: {failure}; check network, api_base and proxy"
        )

    def _way(self) -> Way:
        from dwhctl.alerts.http import Way

        return Way(self.proxy.reveal() if self.proxy else None, self.tls_cafile)


def _content(body: bytes) -> dict[str, Any]:
    """Read an answer of the Bot API; anything else is empty."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class _Sending:
    """One message on its way: what was tried, how long was waited."""

    def __init__(self, channel: TelegramChannel, message: Message) -> None:
        self._channel = channel
        self._text = message.text
        self._fields: dict[str, Any] = {
            "chat_id": channel.chat_id,
            "text": message.html,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        if channel.message_thread_id is not None:
            self._fields["message_thread_id"] = channel.message_thread_id
        self._migrated_to: str | None = None
        self._started = time.monotonic()
        self._waited = 0.0

    def run(self) -> Receipt:
        while True:
            answer = self._channel.post(self._fields)
            if answer.status == 200 and answer.content.get("ok") is True:
                return self._receipt(answer)
            if not self._try_otherwise(answer):
                raise _refusal(self._channel, answer)

    def _receipt(self, answer: _Answer) -> Receipt:
        result = answer.content.get("result")
        number = result.get("message_id") if isinstance(result, dict) else None
        plain = "" if "parse_mode" in self._fields else ", as plain text: the template's HTML is wrong"
        return Receipt(f"message {number}{plain}", self._migrated_to)

    def _try_otherwise(self, answer: _Answer) -> bool:
        """Change or wait for what was in the way. False when nothing is to be tried."""
        new_id = answer.parameter("migrate_to_chat_id")
        if answer.status == 400 and new_id is not None and self._migrated_to is None:
            self._migrated_to = self._fields["chat_id"] = str(new_id)
            return True
        if answer.status == 400 and _CANNOT_PARSE in answer.description and "parse_mode" in self._fields:
            del self._fields["parse_mode"]
            self._fields["text"] = self._text
            return True
        if answer.status == 429:
            self._wait(answer.parameter("retry_after"))
            return True
        return False

    def _wait(self, seconds: int | None) -> None:
        """Wait as Telegram asks; AlertNotSentError when that is too long."""
        spent = max(self._waited, time.monotonic() - self._started)
        if seconds is None or spent + max(seconds, 1) > self._channel.timeout.longest_wait:
            later = timedelta(seconds=min(seconds, _A_YEAR)) if seconds is not None else None
            how_long = f" for {format_duration(later)}" if later else ""
            raise AlertNotSentError(f"Telegram wants to be left alone{how_long}: too many messages", later)
        self._waited += max(seconds, 1)
        self._channel.sleep(max(seconds, 0))


def _refusal(channel: TelegramChannel, answer: _Answer) -> AlertRefusedError | AlertInDoubtError:
    said = answer.description
    if answer.status >= 500:
        return AlertInDoubtError(
            f"Telegram answered {answer.status}{f' ({said})' if said else ''}; it may have sent"
        )
    if "ok" not in answer.content:
        return AlertRefusedError(
            f"{urlsplit(channel.api_base).hostname} answered {answer.status}, and not as the Bot API does;"
            " correct api_base or proxy"
        )
    words = said.lower()
    if answer.status in {401, 404}:
        words = "unauthorized"
    remedy = next((remedy for part, remedy in _REMEDIES if part in words), "correct the channel's keys")
    return AlertRefusedError(f"Telegram refuses: {said or answer.status}; {remedy}")


def check_keys(name: str, token: str, api_base: str, proxy: str | None) -> None:
    """Raise ConfigError for what can only be wrong; nothing of it is shown."""
    where = f"config/dwhctl.toml: alerts.{name}"
    if not token.isascii() or not token.isprintable() or set(token) & set(" /?#%\\"):
        raise ConfigError(
            f"{where}.token: is no bot's token; take the one that @BotFather shows: 123456:ABC..."
        )
    if urlsplit(api_base).scheme not in {"http", "https"} or not urlsplit(api_base).hostname:
        raise ConfigError(f"{where}.api_base: is no URL; write it as https://api.telegram.org")
    if proxy is not None:
        check_proxy(f"{where}.proxy", proxy)


def check_proxy(where: str, proxy: str) -> None:
    """Raise ConfigError for what is no proxy's URL; hide its login."""
    import base64

    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{where}: is no URL of an HTTP proxy; write it as http://user:password@host:3128")
    if parts.password:
        from urllib.parse import unquote

        user, password = unquote(parts.username or ""), unquote(parts.password)
        remember(password)
        remember(base64.b64encode(f"{user}:{password}".encode()).decode())  # as the proxy is told
