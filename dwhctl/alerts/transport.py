"""Bounded exchanges with servers that are not trusted: timeouts, causes of failures, and one HTTP sender.

No error of a library leaves this module, nor does any text that a server repeated: both may hold a token or a URL.
"""

from __future__ import annotations

import base64
import io
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, ConfigError
from dwhctl.core.files import read_bytes
from dwhctl.core.links import Links, cause_of, mask_logs
from dwhctl.core.secrets import Secret, remember
from dwhctl.core.waiting import within
from dwhctl.project.days import format_duration
from dwhctl.project.model import TelegramAlert, WebhookAlert

Answer = TypeVar("Answer")
#: No pause is longer: a message is given up after some days, and a date may be wrong.
_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to connect, for each answer, for a whole message, and to wait when a server asks for a pause."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 30.0
    longest_wait: float = 60.0


class ExchangeFailure(NamedTuple):
    """Why an exchange failed. `in_doubt`: the message was on its way and may have arrived."""

    error: Exception
    in_doubt: bool


class Exchange(Links):
    """One exchange: its sockets, and whether the message is on its way.

    The thread that sends and the one that ends the exchange share it. A thread in a read notices only a closed socket.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_sending = False

    def begin_sending(self) -> None:
        """Record that the message goes out now. Raise TimeoutError when the exchange is over."""
        with self._lock:
            if self._is_over:
                raise TimeoutError
            self._is_sending = True

    def run(self, seconds: float, work: Callable[[], Answer]) -> Answer | ExchangeFailure:
        """Do the work within so many seconds; return why it failed, so that the caller raises without a context."""
        try:
            return within(seconds, work, self.cut)
        except Exception as error:
            failure = error
        finally:
            self.cut()
        return ExchangeFailure(failure, self._is_sending)


def check_authorities(path: Path, place: str) -> None:
    """Raise ConfigError for a file that holds no certificate or cannot be read."""
    try:
        read_bytes(path)  # ssl itself waits without end at a FIFO
        ssl.create_default_context(cafile=path)
    except OSError as error:
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{place}: the file {path} cannot be used ({why}); write the path of the authority's PEM file"
        ) from None


def is_http_url(url: str) -> bool:
    """Return whether the text is an HTTP address with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Body(io.BytesIO):
    """A request's body. It is read only when the connection is open: then the message is on its way."""

    def __init__(self, content: bytes, exchange: Exchange) -> None:
        super().__init__(content)
        self._exchange = exchange

    def read(self, size: int | None = -1, /) -> bytes:
        self._exchange.begin_sending()
        return super().read(size)


class HttpResponse(NamedTuple):
    """What came back. `body` is empty when it was longer than allowed, or compressed without our asking.

    `retry_after`: the seconds of the header Retry-After.
    """

    status: int
    body: bytes = b""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class HttpSender:
    """Sends POST requests through `proxy`, trusting `tls_cafile` in place of the usual authorities.

    The environment has no say (~/.netrc, HTTPS_PROXY, REQUESTS_CA_BUNDLE). `place` is the table of the configuration.
    """

    place: str
    proxy: Secret | None
    tls_cafile: Path | None
    timeouts: Timeouts

    @classmethod
    def of(cls, alert: TelegramAlert | WebhookAlert, timeouts: Timeouts) -> HttpSender:
        return cls(f"config/dwhctl.toml: alerts.{alert.name}", alert.proxy, alert.tls_cafile, timeouts)

    def check(self) -> None:
        """Raise ConfigError for a proxy or a file of authorities that cannot be used; hide the proxy's login."""
        if self.tls_cafile is not None:
            check_authorities(self.tls_cafile, f"{self.place}.tls_cafile")
        if self.proxy is None:
            return
        proxy = self.proxy.reveal().strip()
        if not is_http_url(proxy):
            raise ConfigError(
                f"{self.place}.proxy: is no URL of an HTTP proxy; write it as http://user:password@host:3128"
            )
        parts = urlsplit(proxy)
        if parts.password:
            user, password = unquote(parts.username or ""), unquote(parts.password)
            remember(password)
            remember(base64.b64encode(f"{user}:{password}".encode()).decode())  # as requests sends it

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], most: int = 0
    ) -> HttpResponse | ExchangeFailure:
        """Send the body and read at most `most` bytes of the answer, within `timeouts.total` seconds."""
        # The time that the imports take does not count.
        from urllib3.exceptions import HTTPError

        from dwhctl.core.http import EndableSession, retry_after

        mask_logs()
        exchange = Exchange()
        proxy = self.proxy.reveal().strip() if self.proxy else None

        def work() -> HttpResponse:
            with EndableSession(exchange) as session:
                response = session.post(
                    url,
                    data=_Body(body, exchange) if body else b"",
                    headers={**headers, "Accept-Encoding": "identity"},
                    proxies={"http": proxy, "https": proxy} if proxy else None,
                    verify=str(self.tls_cafile) if self.tls_cafile else True,
                    timeout=(self.timeouts.connect, self.timeouts.read),
                    allow_redirects=False,  # a redirect would carry the secret in the URL to another host
                    stream=True,
                )
                pause = retry_after(response.headers.get("Retry-After", ""))
                encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
                if not most or encoding != "identity":
                    return HttpResponse(response.status_code, retry_after=pause)
                answer = b""
                try:
                    answer = response.raw.read(most + 1, decode_content=False)
                except (HTTPError, OSError):
                    # A refusal is one by its status alone.
                    if response.status_code < 300:
                        raise
                body_read = answer if len(answer) <= most else b""
                return HttpResponse(response.status_code, body_read, pause)

        return exchange.run(self.timeouts.total, work)

    def deliver(
        self, url: str, body: bytes, headers: Mapping[str, str], most: int, *, server: str, key: str
    ) -> HttpResponse:
        """Send a message as `post` does. Raise AlertNotSentError or AlertInDoubtError when no answer comes.

        `server` is what the errors call it, `key` the key of the configuration that has its address.
        """
        answer = self.post(url, body, headers, most)
        if not isinstance(answer, ExchangeFailure):
            return answer
        cause = cause_of(answer.error)
        if answer.in_doubt:
            raise AlertInDoubtError(f"{server}: {cause}; the message was on its way and may have arrived")
        through = " through the proxy" if self.proxy else ""
        raise AlertNotSentError(
            f"{server} cannot be reached{through}: {cause}; check network, {key} and proxy"
        )


def asks_for_pause(server: str, seconds: float | None) -> AlertNotSentError:
    """Return the error of a message that a server takes later, after so many seconds if it says so."""
    later = timedelta(seconds=min(seconds, _A_DAY)) if seconds is not None else None
    how_long = f" for {format_duration(later)}" if later else ""
    return AlertNotSentError(f"{server} asks for a pause{how_long}: too many messages", later)


def json_document(text: str | bytes) -> Any:
    """Return the document of an answer; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
