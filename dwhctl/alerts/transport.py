"""Bounded exchanges with servers that are not trusted: timeouts, causes of failures, and one HTTP sender.

No error of a library leaves this module, nor does any text that a server repeated: both may hold a token or a URL.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import read_bytes
from dwhctl.core.secrets import Secret, mask, remember
from dwhctl.core.waiting import within

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter


Answer = TypeVar("Answer")


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


class Exchange:
    """One exchange: its sockets, and whether the message is on its way.

    The thread that sends and the one that ends the exchange share it. A thread in a read notices only a closed socket.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_sending = False
        self._is_over = False

    def add(self, connection: socket.socket) -> None:
        """Register a new connection. Raise TimeoutError when the exchange is over."""
        with self._lock:
            if self._is_over:
                connection.close()
                raise TimeoutError
            # A copy: TLS takes the socket away from its object.
            self._sockets.append(connection.dup())

    def begin_sending(self) -> None:
        """Record that the message goes out now. Raise TimeoutError when the exchange is over."""
        with self._lock:
            if self._is_over:
                raise TimeoutError
            self._is_sending = True

    def run(self, seconds: float, work: Callable[[], Answer]) -> Answer | ExchangeFailure:
        """Do the work within so many seconds; return why it failed, so that the caller raises without a context."""
        try:
            return within(seconds, work, self._end)
        except Exception as error:
            failure = error
        finally:
            self._end()
        return ExchangeFailure(failure, self._is_sending)

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._sockets.clear()


class AnswerTooLongError(OSError):
    """The server's answer is longer than any valid one."""


_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


def cause_of(error: BaseException) -> str:
    """Return the root of a failure, as `connection refused`, without the text of any library but TLS's reasons."""
    chain = list(_chain(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in chain if isinstance(cause, kinds)), None)

    # The most telling cause wins, wherever in the chain it is.
    known = first(ssl.SSLCertVerificationError) or first(socket.gaierror, ssl.SSLError)
    match known or first(AnswerTooLongError):
        case ssl.SSLCertVerificationError(verify_message=message):
            return f"the server's certificate is not trusted: {message}"
        case ssl.SSLError(reason=reason):
            return f"TLS failed: {reason or 'the server does not speak it'}"
        case socket.gaierror():
            return "the name cannot be resolved"
        case AnswerTooLongError():
            return "the answer is too long"
    if refusal := next(filter(None, (_TUNNEL.search(str(cause)) for cause in chain)), None):
        return f"the proxy refuses the connection ({refusal[1]})"
    if any(isinstance(cause, TimeoutError) or "timed out" in str(cause) for cause in chain):
        return "no answer in time"
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno).lower()
    if isinstance(error, OSError):
        return "the connection broke"
    return f"a defect in dwhctl: {type(error).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, what it wraps in its arguments, and its causes, each once."""
    seen: set[int] = set()
    left = [error]
    while left:
        cause = left.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
            left += [other for other in inner if isinstance(other, BaseException)]


def check_authorities(path: Path, place: str) -> None:
    """Raise ConfigError for a file that holds no certificate or cannot be read."""
    try:
        read_bytes(path)  # ssl itself waits for ever at a FIFO
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
    """What came back. `body` is empty when it was longer than allowed, or compressed without our asking."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpSender:
    """Sends POST requests through `proxy`, trusting `tls_cafile` in place of the usual authorities.

    The environment has no say (~/.netrc, HTTPS_PROXY, REQUESTS_CA_BUNDLE). `place` is the table of the configuration.
    """

    place: str
    proxy: Secret | None
    tls_cafile: Path | None
    timeouts: Timeouts

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
        from requests import Session  # the time that the import takes does not count

        _mask_logs()
        exchange = Exchange()
        adapter = _adapter(exchange)
        proxy = self.proxy.reveal().strip() if self.proxy else None

        def work() -> HttpResponse:
            with Session() as session:
                session.trust_env = False
                for scheme in ("http://", "https://"):
                    session.mount(scheme, adapter)
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
                encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
                if not most or encoding != "identity":
                    return HttpResponse(response.status_code)
                answer: bytes = response.raw.read(most + 1, decode_content=False)
                return HttpResponse(response.status_code, answer if len(answer) <= most else b"")

        return exchange.run(self.timeouts.total, work)


def _adapter(exchange: Exchange) -> HTTPAdapter:
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

    def pool(base: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
        class Connection(base.ConnectionCls):  # type: ignore[name-defined,misc]
            def _new_conn(self) -> socket.socket:
                made: socket.socket = super()._new_conn()
                exchange.add(made)
                return made

        class Pool(base):  # type: ignore[valid-type,misc]
            ConnectionCls = Connection

        return Pool

    pools = {"http": pool(HTTPConnectionPool), "https": pool(HTTPSConnectionPool)}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **options)
            manager.pool_classes_by_scheme = pools
            return manager

    return Adapter()


def _masked(record: logging.LogRecord) -> bool:
    record.msg, record.args, record.exc_info = mask(record.getMessage()), None, None
    return True


def _mask_logs() -> None:
    """Hide secrets in urllib3's log, where the URL is."""
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_masked)
