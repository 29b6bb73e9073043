"""Connect to PostgreSQL with bounded waits, and translate the errors of psycopg2."""

from __future__ import annotations

import math
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, ConnectionInfo, register_type
from psycopg2.extensions import connection as PgConnection  # noqa: N812
from psycopg2.extensions import cursor as PgCursor  # noqa: N812

from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import waited, within
from dwhctl.project.days import format_duration
from dwhctl.systems.base import source

if TYPE_CHECKING:
    from dwhctl.systems.postgres.system import PostgresConnection


#: How long a statement may still take once the command is to stop.
STOP_SECONDS = 2.0
#: How much longer than statement_timeout to wait for the server's report that it has passed.
_LAST_WORD_SECONDS = 1.0
#: The longest poll: another thread may call `hurry`.
_SLICE_SECONDS = 0.2
#: A server's refusal, after which libpq tries no other server; and those that are temporary, after which it does.
_REFUSAL = re.compile(r"\bFATAL: ")
_NOT_NOW = re.compile(
    "starting up|shutting down|recovery mode|not accepting connections|not yet accepting|terminating connection"
)
#: What libpq says of a server that does not write, and of one before PostgreSQL 14.
_READ_ONLY = re.compile("session is read-only|could not make a writable connection")
#: What to do about it. A failover ends it as well, so that another attempt may succeed.
READ_ONLY_REMEDY = (
    "the server is a standby, or its default_transaction_read_only is on for the user or the database: connect to the"
    " primary (of several `hosts` dwhctl takes the one that writes), or switch that off"
)


Servers = tuple[tuple[str, int], ...]
Connected = TypeVar("Connected")


class AnswerTimeoutError(psycopg2.OperationalError):
    """The server did not answer in time; the connection is closed."""


class BoundedConnection:
    """A connection in autocommit, used by one thread at a time.

    `answer_timeout` limits each statement. A statement that fails in the server leaves the connection as it was; one
    without an answer, or interrupted by an exception, closes it.
    """

    def __init__(self, raw: PgConnection, answer_timeout: timedelta, name: str = "database") -> None:
        self._raw = raw
        self._name = name
        self.answer_timeout = answer_timeout
        self._hurried_at: float | None = None

    @property
    def info(self) -> ConnectionInfo:
        """libpq's information on the connection."""
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
            self.wait(limit.total_seconds() + _LAST_WORD_SECONDS, f"no answer for {format_duration(limit)}")
        except BaseException:
            if self._raw.isexecuting():
                self.close()
            raise
        return cursor

    def read_as(self, kind: Any) -> None:
        """Register a type of psycopg2's `new_type` for the values on this connection."""
        register_type(kind, self._raw)

    def hurry(self) -> None:
        """Limit the running and every later statement to STOP_SECONDS. Safe in a signal handler."""
        self._hurried_at = time.monotonic()

    def close(self) -> None:
        """Close the connection without waiting. Idempotent."""
        self._raw.close()

    def wait(self, seconds: float, words: str) -> None:
        """Wait until the statement is done, and report the wait. Raise an exception of a signal handler afterwards."""
        began = time.monotonic()
        stop: BaseException | None = None
        with waited(seconds) as waiting:
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
    options: Mapping[str, Any], servers: Servers, timeout: timedelta, answer: timedelta
) -> BoundedConnection:
    """Connect to the first server that accepts; each of the addresses has `timeout` to answer.

    Raise psycopg2.OperationalError with the messages of all of them.
    """

    def connect(attempt: dict[str, Any], name: str) -> BoundedConnection:
        raw: PgConnection = psycopg2.connect(**{**options, **attempt}, async_=1)
        connection = BoundedConnection(raw, answer, name)
        words = f"connection to {name} failed: timeout expired: no answer for {format_duration(timeout)}"
        with source.closed_on_error(connection):
            connection.wait(timeout.total_seconds(), words)
        return connection

    return connect_to_first(servers, timeout, connect)


def connect_to_first(
    servers: Servers, timeout: timedelta, connect: Callable[[dict[str, Any], str], Connected]
) -> Connected:
    """Connect to the first server that accepts; `connect` is given libpq's options of an address, and its name.

    After a server's refusal no other one is tried. Raise psycopg2.OperationalError with the messages of all of them.
    """
    messages: list[str] = []
    for attempt, name in _addresses(servers, timeout, messages.append):
        try:
            return connect(attempt, name)
        except psycopg2.OperationalError as error:
            messages.append(str(error))
            if _REFUSAL.search(messages[-1]) and not _NOT_NOW.search(messages[-1]):
                break
    raise psycopg2.OperationalError("\n".join(messages))


def read_only_remedy(message: str) -> str | None:
    """Return what to do when no server wrote; None when the failed connection is not about that."""
    return READ_ONLY_REMEDY if _READ_ONLY.search(message) else None


def _addresses(
    servers: Servers, timeout: timedelta, fail: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield libpq's options for each address. libpq would resolve a name in C, where signals are not handled."""
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
    "25006": READ_ONLY_REMEDY,
    "3F000": "create the schema of the user's search_path",
    "40P01": "another program locked the same rows; start the command again",
    "42501": "let the table's owner grant what is missing, or upgrade the table once as its owner",
    "42P01": "the table was dropped while dwhctl used it",
    "53100": "make room on the server's disk",
    "53200": "run fewer days at a time, or raise max_locks_per_transaction of the server",
    "55P03": "another program has locked the table; find it in pg_locks and try again",
    "57014": "the server took too long; find the lock in pg_locks and try again, or raise answer_timeout",
}
# The client library gives no code of a refused connection; these are the server's words for 53300.
_FULL = re.compile("too many clients|too many connections|remaining connection slots")
#: SQLSTATEs with which the server ends the session: a shutdown, a crash, a failover, a transaction without statements.
LOST = ("08", "57P", "25P03", "25P04")


def where(address: PostgresConnection) -> str:
    """Return the place for messages, without the password."""
    servers = ",".join(f"{host}:{port}" for host, port in address.addresses)
    return f"sessions in PostgreSQL {address.user}@{servers}/{address.database}"


def connect(address: PostgresConnection, settings: str, answer_timeout: timedelta) -> BoundedConnection:
    """Connect and send the settings; `answer_timeout` limits every wait for an answer."""
    password = address.password.reveal() if address.password else None
    options = parameters(address) | {"password": password}
    try:
        connection = connect_bounded(options, address.addresses, address.connect_timeout, answer_timeout)
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        raise SessionsError(_message(address, "connecting", error)) from None
    with (
        source.closed_on_error(connection),
        translate_error(connection, address, "setting up the connection"),
    ):
        connection.execute(f"{settings}; {timeouts(answer_timeout)}")
    return connection


def timeouts(answer_timeout: timedelta) -> str:
    """Return the settings that end a statement in the server after `answer_timeout`, and a wait for a lock before."""
    milliseconds = max(1, round(answer_timeout.total_seconds() * 1000))
    return f"SET statement_timeout = {milliseconds}; SET lock_timeout = {max(1, milliseconds // 2)}"


def parameters(address: PostgresConnection) -> dict[str, Any]:
    """Return libpq's options without the password."""
    hosts, ports = zip(*address.addresses, strict=True)
    cafile = source.authorities(address) or address.sslrootcert
    return {
        "host": ",".join(hosts),
        "port": ",".join(str(port) for port in ports),
        "dbname": address.database,
        "user": address.user,
        # Shown in pg_stat_activity; the server keeps 63 bytes.
        "application_name": f"dwhctl, pid {os.getpid()} on {socket.gethostname()}",
        "client_encoding": "UTF8",
        "connect_timeout": max(2, math.ceil(address.connect_timeout.total_seconds())),
        # Of several servers the primary: the sessions are in one place.
        "target_session_attrs": "read-write" if len(hosts) > 1 else "any",
        # Detect a server that vanished after some 20 seconds, before the server drops the connection.
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": 20_000,
        # So that the environment (PGSSLMODE, PGHOSTADDR ...) does not change them.
        "sslmode": address.tls,
        "sslrootcert": str(cafile) if cafile else None,
        # libpq would prefer Kerberos' encryption to TLS, and check no certificate then.
        "gssencmode": "disable",
        "hostaddr": "",
    }


@contextmanager
def translate_error(connection: BoundedConnection, address: PostgresConnection, doing: str) -> Iterator[None]:
    """Raise the errors of psycopg2 as a SessionsError with place and remedy."""
    try:
        yield
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        if _is_lost(connection, error):
            raise _lost(address, doing, error) from None
        raise SessionsError(_message(address, doing, error)) from None


def _is_lost(connection: BoundedConnection, error: Exception) -> bool:
    code = getattr(error, "pgcode", None) or ""
    # An error without a code comes from the client library. After the last warning of a server that crashed, psycopg2
    # raises the bare DatabaseError, and `closed` is still 0.
    is_client = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    has_no_code = (is_client or type(error) is psycopg2.DatabaseError) and not code
    return connection.closed or has_no_code or code.startswith(LOST)


def _lost(address: PostgresConnection, doing: str, error: Exception) -> SessionsLostError:
    why = reason(error)
    if isinstance(error, AnswerTimeoutError):
        why = f"{why} (answer_timeout of connections.{address.name})"
    text = (
        f"{where(address)}: {doing}: the connection is lost: {why}. "
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
        check = f"check connections.{address.name} and that the server runs"
        remedy = source.remedy(text, address) or read_only_remedy(text) or check
    else:
        remedy = _REMEDIES.get(code)
    text = f"{text}; {remedy}" if remedy else text
    return mask(text)


#: What psycopg2 says when the server ended the session while it waited for rows.
_LOST_SOCKET = re.compile(r"no message from the libpq|\Ainvalid socket")


def reason(error: Exception) -> str:
    """Return the message of the server, or of the client library, in one line."""
    # Not the whole text, which quotes the statement with its values.
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    if primary is None and _LOST_SOCKET.search(str(error)):
        return "the server closed the connection"
    lines = [line.strip() for line in (primary or str(error)).splitlines() if line.strip()]
    return "; ".join(lines).rstrip(".") or type(error).__name__
