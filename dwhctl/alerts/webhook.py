"""Webhooks: a POST of JSON to Slack, Mattermost, Teams, or a program of yours.

The address is the secret. It is sent to its host alone: over TLS beyond this machine, and redirects are not followed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from dwhctl.alerts import markup
from dwhctl.alerts.message import Message, Page, Receipt, clipped, is_json, shown
from dwhctl.alerts.telegram import chat_message
from dwhctl.alerts.transport import (
    HttpResponse,
    HttpSender,
    Timeouts,
    asks_for_pause,
    is_http_url,
    json_document,
)
from dwhctl.core.errors import AlertError, AlertInDoubtError, AlertRefusedError, ConfigError
from dwhctl.core.secrets import Secret, remember
from dwhctl.project.connections import is_local
from dwhctl.project.model import Project, WebhookAlert

_LONGEST_ANSWER = 64 * 1024
#: A shorter part of a path, as `services`, is a word. Keys are longer: 24 characters of Slack, 26 of Mattermost.
_KEY = 16
#: How many reasons a document has.
_REASONS = 60
_SUBJECT_KEYS = ("headline", "subject", "title", "summary", "text")


class Service(NamedTuple):
    """A service: how it is called, the form of its messages, and the most octets of one."""

    name: str
    build: Callable[[Message], dict[str, Any]]
    most: int


#: Mattermost's limit is of characters; no character has less than an octet.
SERVICES: Mapping[str, Service] = {
    "slack": Service("Slack", markup.slack, markup.SLACK_CHARACTERS),
    "mattermost": Service("Mattermost", markup.mattermost, markup.MATTERMOST_CHARACTERS),
    "teams": Service("Teams", markup.teams, markup.TEAMS_OCTETS),
}
#: Part of an answer in lower case, and what to do about it; the first that fits. Slack's words are from
#: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
_REMEDIES = (
    ("no_service", "the webhook was removed or disabled: create one and take its address as url"),
    ("no_team", "the workspace is gone: create a webhook and take its address as url"),
    ("invalid_token", "the address is wrong: copy it again as url"),
    ("channel_not_found", "the chat is gone: create a webhook for another one"),
    ("channel_is_archived", "the chat is archived: restore it, or create a webhook for another one"),
    ("action_prohibited", "an administrator has restricted it: ask for the permission to post"),
    ("posting_to_general", "an administrator has restricted it: ask for the permission to post"),
    ("invalid webhook", "the webhook was removed or disabled: create one and take its address as url"),
    ("couldn't find the channel", "the chat is gone: create a webhook for another one"),
    ("workflow", "look at the workflow in Teams, switch it on, and copy its address again as url"),
)
_BY_STATUS = {
    401: "the address or a header is wrong: copy it again",
    403: "the address or a header is wrong, or posting is not permitted: copy it again",
    404: "the webhook was removed, or the address is wrong: copy it again as url",
    410: "the webhook is gone: create one and take its address as url",
    413: "the message is too long: shorten the template",
}


@dataclass(frozen=True)
class WebhookChannel:
    """An address, and the service behind it."""

    alert: WebhookAlert
    host: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @classmethod
    def open(cls, project: Project, alert: WebhookAlert) -> WebhookChannel:  # noqa: ARG003
        """Check the keys. Raise ConfigError, which shows no key's value."""
        place = f"config/dwhctl.toml: alerts.{alert.name}"
        url = alert.url.reveal().strip()
        hide_address(url)
        if not is_http_url(url) or not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>'):
            raise ConfigError(
                f"{place}.url: is no address of a webhook; copy it as the service shows it: https://..."
            )
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                f'{place}.url: has a login; write it as headers = {{ Authorization = {{ env = "NAME" }} }}'
            )
        if parts.scheme == "http" and not is_local(host) and not alert.allow_http:
            raise ConfigError(
                f'{place}.url: is http://, and the address is a secret; write "https://...", or allow_http = true'
            )
        _headers(alert)
        HttpSender.of(alert, Timeouts()).check()
        return cls(alert, host)

    @property
    def address(self) -> str:
        """The service and its host; the rest of the address is secret."""
        service = SERVICES.get(self.alert.service)
        return f"{service.name} at {self.host}" if service else self.host

    @staticmethod
    def message(page: Page, alert: WebhookAlert) -> Message:
        """Render the page: the HTML of a chat, or the document of a program."""
        if not is_json(alert):
            return chat_message(page)
        text = page(_REASONS).strip()
        try:
            document = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            file = f"config/alerts/{alert.template.name}" if alert.template else "the template"
            raise ConfigError(
                f"{file}: what it renders to is no JSON{where}; write texts as"
                ' "{{ digest | headline }}" and other values as {{ digest.total | tojson }}'
            ) from None
        found = document if isinstance(document, dict) else {}
        title = next((found[key] for key in _SUBJECT_KEYS if isinstance(found.get(key), str)), "")
        return Message.titled(title, text, text)

    def send(self, message: Message) -> Receipt:
        """Send the message, again after a pause that the service asks for when that is short."""
        service = SERVICES.get(self.alert.service)
        body = markup.fitted(message, service.build, service.most) if service else message.html.encode()
        started, waited = time.monotonic(), 0.0
        while True:
            answer = self._post(body)
            pause = answer.retry_after if answer.status in (429, 503) else None
            spent = max(waited, time.monotonic() - started)
            if pause is None or spent + max(pause, 1) > self.timeouts.longest_wait:
                return self._read(answer)
            waited += max(pause, 1)
            self.sleep(pause)

    def _post(self, body: bytes) -> HttpResponse:
        """Make one request. Raise AlertNotSentError or AlertInDoubtError when no answer comes."""
        headers = {"Content-Type": "application/json; charset=utf-8", **_headers(self.alert)}
        url = self.alert.url.reveal().strip()
        sender = HttpSender.of(self.alert, self.timeouts)
        return sender.deliver(url, body, headers, _LONGEST_ANSWER, server=self.host, key="url")

    def _read(self, answer: HttpResponse) -> Receipt:
        """Return the receipt of a message that was taken. Raise what became of any other."""
        status, text = answer.status, answer.body.decode("utf-8", "replace").strip()
        if not 200 <= status < 300:
            raise self._refusal(_said(text), status, answer.retry_after)
        if (problem := _ANSWERS[self.alert.service](text)) is not None:
            raise self._refusal(problem, status, None)
        # Teams answers before the workflow runs.
        is_later = self.alert.service == "teams" and status == 202
        return Receipt(f"{status}, the workflow posts it" if is_later else f"{status} {_said(text)}".strip())

    def _refusal(self, reason: str, status: int, retry_after: float | None) -> AlertError:
        words = f": {reason}" if reason else ""
        if status == 429 or (status == 503 and retry_after is not None) or "http error 429" in reason.lower():
            return asks_for_pause(self.host, retry_after)
        if status >= 500:
            return AlertInDoubtError(f"{self.host} answered {status}{words}; it may have sent")
        if 300 <= status < 400:
            return AlertRefusedError(
                f"{self.host} answered {status}, a redirect, which is not followed; write the final address as url"
            )
        lowered = reason.lower()
        remedy = next((remedy for part, remedy in _REMEDIES if part in lowered), None)
        remedy = remedy or _BY_STATUS.get(status, "correct the channel's keys, or its template")
        return AlertRefusedError(f"{self.host} refuses ({status}){words}; {remedy}")


def hide_address(url: str) -> None:
    """Have the parts of an address masked that are a secret without the rest of it."""
    try:
        parts = urlsplit(url)
        values = [value for _, value in parse_qsl(parts.query)]
    except ValueError:
        return
    remember(url)
    keys = [*parts.path.split("/"), *values, *(parts.netloc.rpartition("@")[0].split(":"))]
    if any(len(key) >= _KEY for key in keys):
        remember(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    for key in keys:
        if len(key) >= _KEY:
            remember(key)


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _headers(alert: WebhookAlert) -> dict[str, str]:
    headers = {}
    for name, value in alert.headers.items():
        text = value.reveal() if isinstance(value, Secret) else str(value)
        if not (text.isprintable() and text.isascii()):
            raise ConfigError(
                f"config/dwhctl.toml: alerts.{alert.name}.headers.{name}: the value has characters that a header"
                " cannot hold; correct it"
            )
        headers[name] = text
    return headers


def _said(text: str) -> str:
    """Return what an answer says, as a line without secrets: its text, or the message in its JSON."""
    document = json_document(text)
    if isinstance(document, dict):
        error = document.get("error")
        inner = error if isinstance(error, dict) else document
        code, words = inner.get("code") or inner.get("id"), inner.get("message") or inner.get("error")
        parts = [part for part in (code, words) if isinstance(part, str)]
        return clipped(shown(": ".join(parts)), 300)
    return "" if text.startswith("<") else clipped(shown(text), 300)


def _answer_of_chat(text: str) -> str | None:
    """Return None when Slack or Mattermost took the message, else why not."""
    document = json_document(text)
    if text == "ok" or (isinstance(document, dict) and document.get("ok") is True):
        return None
    return _said(text) or "the answer is not as the service's; correct url or proxy"


def _answer_of_teams(text: str) -> str | None:
    """Return None when Teams took the message. The connectors of before answer "1", and failures with 200 too."""
    if not text or text == "1" or isinstance(json_document(text), dict):
        return _answer_of_program(text)
    return _said(text) or "the answer is not as the service's; correct url or proxy"


def _answer_of_program(text: str) -> str | None:
    """Return None unless the document of the answer says that it failed."""
    document = json_document(text)
    if not isinstance(document, dict):
        return None
    failed = document.get("ok") is False or document.get("success") is False or bool(document.get("error"))
    return (_said(text) or "the answer says that it failed") if failed else None


_ANSWERS: Mapping[str, Callable[[str], str | None]] = {
    "slack": _answer_of_chat,
    "mattermost": _answer_of_chat,
    "teams": _answer_of_teams,
    "json": _answer_of_program,
}
