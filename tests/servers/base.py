"""What the protocol servers of the tests share: sockets, threads, counts, statements and faults.

A server runs in the test's own process or, through `run_alone`, as a process of its own. Each connection has a
thread; every wait of it ends when the client goes, when the server stops and when the server is killed.
"""

from __future__ import annotations

import atexit
import json
import socket
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

from .faults import KINDS, Fault, Faults
from .link import Gone, Link

__all__ = ["KINDS", "Fault", "Faults", "Gone", "Link", "Server", "Statement", "Traffic"]

#: How long `stop` and `kill` wait for the threads of connections, seconds.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Statement:
    """A statement that reached the server, its text exactly as received."""

    sql: str
    database: str
    user: str
    application: str
    session: int
    at: float
    """Seconds, by time.monotonic."""


@dataclass(frozen=True)
class Traffic:
    """What reached a server since `forget`.

    A round trip is what a client sends after an answer: a prelogin, a step of a handshake, a login, a batch, the rows
    of a COPY, the end of a session. Opening a connection is another one.
    """

    connections: int = 0
    logins: int = 0
    statements: int = 0
    round_trips: int = 0


@dataclass
class _Counts:
    now: int = 0
    most: int = 0

    def enter(self, left: int = 0) -> None:
        """Count one more, of which so many have been left by their clients."""
        self.now += 1
        self.most = max(self.most, self.now - left)


@dataclass
class _Live:
    """A connection and its thread."""

    link: Link
    thread: threading.Thread = field(init=False)
    in_session: bool = False


class Server(ABC):
    """A TCP server on 127.0.0.1, or on `host`, with a thread for each connection."""

    host = "127.0.0.1"

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.faults = Faults()
        self.statements: list[Statement] = []
        self.logins = 0
        self._connected = self._round_trips = 0
        self._logins_before = 0
        self._lock = threading.RLock()
        self._sessions = _Counts()
        self._connections = _Counts()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._live: dict[int, _Live] = {}
        self._numbers = 50

    @abstractmethod
    def converse(self, link: Link) -> None:
        """Talk to a client until it goes (Gone may come out); undo in a `finally` what it left uncommitted."""

    def start(self) -> Self:
        """Listen."""
        listener = socket.create_server((self.host, self.port), backlog=512)
        self.port = listener.getsockname()[1]
        self._listener = listener
        _running.add(self)
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close every connection, then the listener; the data stays as it is until the object goes."""
        self._end("close")

    def kill(self) -> None:
        """Reset every connection and refuse new ones; uncommitted work is lost, data stays."""
        self._end("reset")

    def revive(self) -> None:
        """Listen again on the same port."""
        if self._listener is None:
            self.start()

    def __enter__(self) -> Self:
        return self if self._listener is not None else self.start()

    def __exit__(self, *raised: object) -> None:
        self.stop()

    @property
    def sessions_now(self) -> int:
        """Sessions at this moment, from a successful login to the end of the connection."""
        return self._sessions.now

    @property
    def sessions_most(self) -> int:
        """The most sessions at once since `forget`, without those whose clients had gone, noticed or not."""
        return self._sessions.most

    @property
    def connections_now(self) -> int:
        """TCP connections at this moment."""
        return self._connections.now

    @property
    def connections_most(self) -> int:
        """The most TCP connections at once since `forget`."""
        return self._connections.most

    def forget(self) -> None:
        """Forget the statements, the traffic, and what were the most sessions and connections."""
        with self._lock:
            self.statements = []
            self._connected = self._round_trips = 0
            self._logins_before = self.logins
            self._sessions.most = self._sessions.now
            self._connections.most = self._connections.now

    @property
    def traffic(self) -> Traffic:
        """What reached the server since `forget`."""
        with self._lock:
            logins = self.logins - self._logins_before
            return Traffic(self._connected, logins, len(self.statements), self._round_trips)

    def _note_trip(self) -> None:
        with self._lock:
            self._round_trips += 1

    def note(self, sql: str, *, database: str, user: str, application: str, session: int) -> None:
        """Keep a statement."""
        one = Statement(sql, database, user, application, session, time.monotonic())
        with self._lock:
            self.statements.append(one)

    def note_login(self) -> None:
        """Count an attempt to log in."""
        with self._lock:
            self.logins += 1

    @contextmanager
    def session(self, link: Link) -> Iterator[None]:
        """A session, from the successful login on."""
        with self._lock:
            left = sum(each.in_session and each.link.is_left() for each in self._live.values())
            self._live[link.number].in_session = True
            self._sessions.enter(left)
        try:
            yield
        finally:
            with self._lock:
                self._live[link.number].in_session = False
                self._sessions.now -= 1

    def end_session(self, number: int, how: Literal["reset", "close"] = "reset") -> bool:
        """End the connection of this number; whether there was one."""
        with self._lock:
            live = self._live.get(number)
        if live is not None:
            live.link.end(how)
        return live is not None

    def run_alone(self) -> None:
        """Be a process: print the port as the first line on stdout, serve until stdin closes.

        Each line of stdin is answered by a line of JSON with the traffic since the last one.
        """
        with self:
            print(self.port, flush=True)
            for _ in sys.stdin:
                print(json.dumps(asdict(self.traffic)), flush=True)
                self.forget()

    def _end(self, how: Literal["reset", "close"]) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                # Closing alone does not wake the thread in accept().
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._acceptor is not None and self._acceptor is not threading.current_thread():
            self._acceptor.join(_PATIENCE)
        with self._lock:
            living = list(self._live.values())
        for each in living:
            each.link.end(how)
        until = time.monotonic() + _PATIENCE
        for each in living:
            if each.thread is not threading.current_thread():
                each.thread.join(max(0.0, until - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._numbers += 1
                number = self._numbers
                live = _Live(Link(connection, number, self._note_trip))
                self._connected += 1
                live.thread = threading.Thread(target=self._serve, args=(live.link,), daemon=True)
                self._live[number] = live
                self._connections.enter()
            live.thread.start()

    def _serve(self, link: Link) -> None:
        try:
            with suppress(Gone):
                if self.faults.take("hang_accept"):
                    link.hang()
                self.converse(link)
        finally:
            with self._lock:
                del self._live[link.number]
                self._connections.now -= 1
            link.release()


_running: weakref.WeakSet[Server] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """No thread may hold a database open while the interpreter takes itself apart."""
    for server in list(_running):
        server.stop()
