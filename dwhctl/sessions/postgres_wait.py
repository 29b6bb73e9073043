"""A connection to PostgreSQL on which every wait has an end and signals are heard.

psycopg2's ordinary connections wait in C: a server that is frozen, or a proxy that stops forwarding, holds them for
ever, and Python runs no signal handler meanwhile. An asynchronous connection leaves the waiting to us. (psycopg2's wait
callback would do so too, but for every connection of the process, and COPY does not work with it.)
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, register_type

from dwhctl.project.slices import format_duration
from dwhctl.waiting import Wait, waited, within

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from psycopg2.extensions import ConnectionInfo
    from psycopg2.extensions import connection as PgConnection  # noqa: N812
    from psycopg2.extensions import cursor as PgCursor  # noqa: N812

#: How long a statement may still take once the command is to stop.
STOP_SECONDS = 2.0
#: So much longer than its own limit (statement_timeout) the server is given to say that it has passed.
_LAST_WORD_SECONDS = 1.0
#: Another thread may ask for an end in the meantime.
_SLICE_SECONDS = 0.2
#: What a server says that takes nobody like us; libpq then asks no other server, unless this one cannot serve now.
_REFUSAL = re.compile(r"\bFATAL: ")
_NOT_NOW = re.compile("starting up|shutting down|recovery mode|not accepting connections|not yet accepting")


class AnswerTimeoutError(psycopg2.OperationalError):
    """The server did not answer in time; the connection is closed."""


class BoundedConnection:
    """A connection in autocommit: each statement is a transaction, unless `BEGIN` says otherwise.

    `answer_timeout` is how long one statement may take. A statement that fails in the server leaves the connection as
    it was; one without an answer, or broken off by an exception, closes it. One thread at a time executes.
    """

    def __init__(self, raw: PgConnection, answer_timeout: timedelta, name: str = "database") -> None:
        self._raw = raw
        self._name = name
        self.answer_timeout = answer_timeout
        self._hurried_at: float | None = None

    @property
    def info(self) -> ConnectionInfo:
        """What libpq knows of the connection."""
        return self._raw.info

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or broken."""
        return bool(self._raw.closed)

    def execute(
        self, sql: str, values: Mapping[str, object] | None = None, timeout: timedelta | None = None
    ) -> PgCursor:
        """Execute a statement, or several with semicolons between, and return the cursor of the last one's rows."""
        limit = timeout or self.answer_timeout
        try:
            cursor = self._raw.cursor()
            cursor.execute(sql, values)
            self._wait(limit.total_seconds() + _LAST_WORD_SECONDS, f"no answer for {format_duration(limit)}")
        except BaseException:
            if self._raw.isexecuting():
                self.close()
            raise
        return cursor

    def connected(self, timeout: timedelta, name: str) -> None:
        """Wait until the connection is made. Raise psycopg2.OperationalError when it is refused or takes too long."""
        words = f"connection to {name} failed: timeout expired: no answer for {format_duration(timeout)}"
        try:
            self._wait(timeout.total_seconds(), words)
        except BaseException:
            self.close()
            raise

    def read_as(self, kind: Any) -> None:
        """Let a type of psycopg2's `new_type` say what values of the server become in Python, on this connection."""
        register_type(kind, self._raw)

    def hurry(self) -> None:
        """Let what runs now, and every later statement, take STOP_SECONDS at most. Safe in a signal handler."""
        self._hurried_at = time.monotonic()

    def close(self) -> None:
        """Close the connection. Never waits; idempotent."""
        self._raw.close()

    def _wait(self, seconds: float, words: str) -> None:
        """Wait until the statement is done, and say so; an exception of a signal handler is raised afterwards."""
        with waited(seconds) as waiting:
            self._poll_until_done(seconds, words, waiting)

    def _poll_until_done(self, seconds: float, words: str, waiting: Wait) -> None:
        began = time.monotonic()
        stop: BaseException | None = None
        while (state := self._raw.poll()) != POLL_OK:
            until = began + seconds
            if self._hurried_at is not None:
                until = min(until, max(began, self._hurried_at) + STOP_SECONDS)
            left = until - time.monotonic()
            if left <= 0:
                self.close()
                raise stop or AnswerTimeoutError(words)
            waiting.note(lambda: f"an answer of the {self._name}")
            try:
                self._pause(state, min(left, _SLICE_SECONDS))
            except (Exception, KeyboardInterrupt):
                self.close()
                raise
            except BaseException as signalled:
                stop = stop or signalled
                self.hurry()
        if stop is not None:
            raise stop

    def _pause(self, state: int, seconds: float) -> None:
        poller = select.poll()
        poller.register(self._raw.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        poller.poll(seconds * 1000)


def connect(
    options: Mapping[str, Any], servers: tuple[tuple[str, int], ...], timeout: timedelta, answer: timedelta
) -> BoundedConnection:
    """Connect to the first of the servers that takes us; each of their addresses has `timeout` to answer.

    Raise psycopg2.OperationalError with what each of them said.
    """
    said: list[str] = []
    for attempt, name in _attempts(servers, timeout, said.append):
        try:
            raw: PgConnection = psycopg2.connect(**{**options, **attempt}, async_=1)
            connection = BoundedConnection(raw, answer, name)
            connection.connected(timeout, name)
        except psycopg2.OperationalError as error:
            said.append(str(error))
            if _REFUSAL.search(said[-1]) and not _NOT_NOW.search(said[-1]):
                break
        else:
            return connection
    raise psycopg2.OperationalError("\n".join(said))


def _attempts(
    servers: tuple[tuple[str, int], ...], timeout: timedelta, fail: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Give libpq's options for each address of each server. libpq would resolve a name in C, deaf to signals."""
    for host, port in servers:
        if host.startswith(("/", "@")):
            yield {"host": host, "port": port}, f'server on socket "{host}", port {port}'
            continue
        try:
            addresses = within(timeout.total_seconds(), partial(_resolved, host, port))
        except TimeoutError:
            fail(f'the name "{host}" was not resolved within {format_duration(timeout)}')
        except OSError as error:
            fail(f'could not translate host name "{host}" to address: {error.strerror or error}')
        else:
            for address in addresses:
                shown = f'"{host}"' if address == host else f'"{host}" ({address})'
                name = f"server at {shown}, port {port}"
                yield {"host": host, "hostaddr": address, "port": port}, name


def _resolved(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
