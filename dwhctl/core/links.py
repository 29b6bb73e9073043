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

from dwhctl.core.secrets import mask


class Links:
    """The sockets of one exchange, so that whoever gives it up ends it: a thread in a read hears nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed: list[socket.socket] = []
        self._cut = False

    def add(self, link: socket.socket) -> socket.socket:
        """Take a socket that was just connected. Raise TimeoutError when the exchange was given up before.

        Return the copy by which it is known.
        """
        with self._lock:
            if self._cut:
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
            self._cut = True
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
    """The server's answer is longer than any that makes sense."""


_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


def cause_of(error: BaseException) -> str:
    """The root of the failure, as `connection refused`; nothing of any library's own message but reasons of TLS."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {each.verify_message}"
    for each in chain:
        if isinstance(each, socket.gaierror):
            return "the name cannot be resolved"
        if isinstance(each, ssl.SSLError):
            return f"TLS failed: {each.reason or 'the server does not speak it'}"
    if any(isinstance(each, AnswerTooLongError) for each in chain):
        return "the answer has no end"
    for each in chain:
        refusal = _TUNNEL.search(str(each))
        if refusal:
            return f"the proxy refuses the way ({refusal[1]})"
    for each in chain:
        if isinstance(each, TimeoutError) or "timed out" in str(each):
            return "no answer in time"
    for each in chain:
        if isinstance(each, OSError) and each.errno is not None:
            return os.strerror(each.errno).lower()
    return (
        "the connection broke"
        if isinstance(error, OSError)
        else f"a defect in dwhctl: {type(error).__name__}"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it wraps in its arguments, and what it came from: each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (*each.args, getattr(each, "reason", None), each.__cause__, each.__context__)
        waiting += [other for other in inner if isinstance(other, BaseException)]


class _Masked(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage()), None
        if record.exc_info:
            record.exc_info = None
        return True


_masked = _Masked()


def mask_logs() -> None:
    """Hide secrets in urllib3's log: who turns it on, or any root logger, would read the URL there."""
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_masked)
