"""Work over the network with an end: no resolver, server or proxy holds a run longer than was agreed."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a channel waits, in seconds: to connect, for each answer, for all of a message, when told to wait."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 30.0
    longest_wait: float = 60.0


class Departure:
    """Whether a message is on its way: settled once between the thread that sends it and the one that gives it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False

    def begin(self) -> None:
        """The message goes out now; TimeoutError when it was given up."""
        with self._lock:
            if self._given_up:
                raise TimeoutError
            self._begun = True

    def give_up(self) -> bool:
        """The message goes out no more; whether it had begun to."""
        with self._lock:
            self._given_up = True
            return self._begun


class Links:
    """The sockets of one exchange, so that whoever gives it up ends it: a thread in a read hears nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._cut = False

    def add(self, link: socket.socket) -> None:
        """Take a socket that was just connected. Raise TimeoutError when the exchange was given up before."""
        with self._lock:
            if self._cut:
                link.close()
                raise TimeoutError
            # A copy: TLS takes the socket away from its object.
            self._sockets.append(link.dup())

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
