"""The connection to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import math
import os
import re
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, register_type

from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Wait, waited, within
from dwhctl.project.days import format_duration
from dwhctl.systems.base import source

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from psycopg2.extensions import ConnectionInfo
    from psycopg2.extensions import connection as PgConnection  # noqa: N812
    from psycopg2.extensions import cursor as PgCursor  # noqa: N812

    from dwhctl.systems.postgres.system import PostgresConnection


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


def connect_bounded(
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


_REMEDIES = {
    "23505": "another program writes ids of its own choice; set the sequence of sessions.id above them",
    "25006": "the server is a standby or read-only; name the primary in the connection",
    "3F000": "create the schema that the user's search_path names",
    "40P01": "another program locked the same rows; start the command again",
    "42501": "let the table's owner grant what is missing, or upgrade the table once as its owner",
    "42P01": "the table was dropped while dwhctl used it",
    "53100": "make room on the server's disk",
    "53200": "ask for fewer days at a time, or raise max_locks_per_transaction of the server",
    "55P03": "another program has locked the table; find it in pg_locks and try again",
    "57014": "the server took too long; look for locks in pg_locks and try again, or raise answer_timeout",
}
# The client library gives no code of a refused connection; these are the server's words for 53300.
_FULL = re.compile("too many clients|too many connections|remaining connection slots")
# Shutdown, crash, failover: the server tells that it ends the connection.
_LOST = {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}


def where(address: PostgresConnection) -> str:
    """The place for messages: no password in it."""
    servers = ",".join(f"{host}:{port}" for host, port in address.addresses)
    return f"sessions in PostgreSQL {address.user}@{servers}/{address.database}"


def connect(address: PostgresConnection, settings: str, answer_timeout: timedelta) -> BoundedConnection:
    """Connect, and set the connection up; no answer is waited for longer than `answer_timeout`."""
    password = address.password.reveal() if address.password else None
    options = parameters(address) | {"password": password}
    try:
        connection = connect_bounded(options, address.addresses, address.connect_timeout, answer_timeout)
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        raise SessionsError(_message(address, "connecting", error)) from None
    try:
        with translate_error(connection, address, "setting up the connection"):
            connection.execute(f"{settings}; {timeouts(answer_timeout)}")
    except BaseException:
        connection.close()
        raise
    return connection


def timeouts(answer_timeout: timedelta) -> str:
    """Write the settings by which the server gives up a statement when we do, and a lock before."""
    milliseconds = max(1, round(answer_timeout.total_seconds() * 1000))
    return f"SET statement_timeout = {milliseconds}; SET lock_timeout = {max(1, milliseconds // 2)}"


def parameters(address: PostgresConnection) -> dict[str, Any]:
    """What libpq needs to connect, but for the password."""
    hosts, ports = zip(*address.addresses, strict=True)
    return {
        "host": ",".join(hosts),
        "port": ",".join(str(port) for port in ports),
        "dbname": address.database,
        "user": address.user,
        # For people who ask the server who holds what: 63 bytes of it are kept.
        "application_name": f"dwhctl, pid {os.getpid()} on {socket.gethostname()}",
        "client_encoding": "UTF8",
        "connect_timeout": max(2, math.ceil(address.connect_timeout.total_seconds())),
        # Of several servers the one that takes writes: the sessions stand in one place.
        "target_session_attrs": "read-write" if len(hosts) > 1 else "any",
        # A server that vanished is noticed after some 20 seconds, sooner than it gives us up.
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": 20_000,
        **_security(address),
    }


def _security(address: PostgresConnection) -> dict[str, Any]:
    """What protects the connection: said here, the environment (PGSSLMODE, PGHOSTADDR ...) does not change it."""
    cafile = source.authorities(address) or address.sslrootcert
    return {
        "sslmode": address.tls,
        "sslrootcert": str(cafile) if cafile else None,
        # libpq would prefer Kerberos' encryption to TLS, and then check no certificate.
        "gssencmode": "disable",
        "hostaddr": "",
    }


@contextmanager
def translate_error(connection: BoundedConnection, address: PostgresConnection, doing: str) -> Iterator[None]:
    """Raise what PostgreSQL says as a SessionsError with place and remedy."""
    try:
        yield
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        if _is_lost(connection, error):
            raise _lost(address, doing, error) from None
        raise SessionsError(_message(address, doing, error)) from None


def _is_lost(connection: BoundedConnection, error: Exception) -> bool:
    code = getattr(error, "pgcode", None) or ""
    # Without a code it was not the server that spoke, but the client library about the connection. Of a server
    # that crashed after a last warning psycopg2 tells with the bare DatabaseError, and `closed` is still 0.
    about_it = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    mute = (about_it or type(error) is psycopg2.DatabaseError) and not code
    return connection.closed or mute or code in _LOST or code.startswith("08")


def _lost(address: PostgresConnection, doing: str, error: Exception) -> SessionsLostError:
    said = reason(error)
    if isinstance(error, AnswerTimeoutError):
        said = f"{said} (answer_timeout of connections.{address.name})"
    text = (
        f"{where(address)}: {doing}: the connection is lost: {said}. "
        "A run that cannot reach the sessions database may no longer publish, so the run stops; the next one puts its "
        "sessions right"
    )
    return SessionsLostError(mask(text))


def _message(address: PostgresConnection, doing: str, error: Exception) -> str:
    code = getattr(error, "pgcode", None) or ""
    text = f"{where(address)}: {doing}: {reason(error)}"
    if _FULL.search(text):
        remedy: str | None = (
            "each run holds one connection: raise max_connections of the server, or the limit of the role or database"
        )
    elif doing == "connecting":
        remedy = source.remedy(text, address) or f"check connections.{address.name} and that the server runs"
    else:
        remedy = _REMEDIES.get(code)
    text = f"{text}; {remedy}" if remedy else text
    return mask(text)


def reason(error: Exception) -> str:
    """What the server, or the client library, says in one line."""
    # The server's own words first: the whole text quotes the statement with its values.
    diagnostics = getattr(error, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    lines = [line.strip() for line in (primary or str(error)).splitlines() if line.strip()]
    return "; ".join(lines).rstrip(".") or type(error).__name__
