"""Connections to servers that are not trusted: ended from another thread, and their failures in safe words."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException

from dwhctl.core.secrets import mask


class Links:
    """The sockets of one exchange. Closing them is the only way to end a thread that reads from one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed: list[socket.socket] = []
        self._is_over = False

    def add(self, link: socket.socket) -> socket.socket:
        """Take a socket that was just connected. Raise TimeoutError when the exchange was given up before.

        Return the copy by which it is known.
        """
        with self._lock:
            if self._is_over:
                link.close()
                raise TimeoutError
            # A copy: TLS takes the socket away from its object.
            self._sockets.append(copy := link.dup())
            return copy

    def note_closed(self, copy: socket.socket) -> None:
        """Note that a connection is closed. Its last answer may still be read, and ended by `cut`."""
        with self._lock:
            self._closed.append(copy)

    def forget_closed(self) -> None:
        """Forget the sockets of closed connections, between two exchanges."""
        with self._lock:
            for copy in self._closed:
                copy.close()
                if copy in self._sockets:
                    self._sockets.remove(copy)
            self._closed.clear()

    def cut(self) -> None:
        """End every connection: what reads or writes on one fails at once. Idempotent."""
        with self._lock:
            self._is_over = True
            for link in self._sockets:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
            self._release()

    def release(self) -> None:
        """Forget the sockets; the exchange is over."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        for link in self._sockets:
            link.close()
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
    from urllib3.exceptions import HTTPError

    # The last two: an answer that ends early, or in pieces that are none.
    if isinstance(error, OSError) or first(HTTPException, HTTPError):
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


def _masked(record: logging.LogRecord) -> bool:
    record.msg, record.args, record.exc_info = mask(record.getMessage()), None, None
    return True


def mask_logs() -> None:
    """Hide secrets in urllib3's log, where the URL is."""
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_masked)
