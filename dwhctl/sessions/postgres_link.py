"""The connection to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2

from dwhctl.engines import tls
from dwhctl.errors import SessionsError, SessionsLostError
from dwhctl.project.secrets import mask
from dwhctl.sessions import postgres_wait

if TYPE_CHECKING:
    from datetime import timedelta

    from dwhctl.project.connections import PostgresConnection

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


def connect(
    address: PostgresConnection, settings: str, answer_timeout: timedelta
) -> postgres_wait.BoundedConnection:
    """Connect, and set the connection up; no answer is waited for longer than `answer_timeout`."""
    password = address.password.reveal() if address.password else None
    options = parameters(address) | {"password": password}
    try:
        connection = postgres_wait.connect(
            options, address.addresses, address.connect_timeout, answer_timeout
        )
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        raise SessionsError(_message(address, "connecting", error)) from None
    try:
        with in_words(connection, address, "setting up the connection"):
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
    cafile = tls.authorities(address) or address.sslrootcert
    return {
        "sslmode": address.tls,
        "sslrootcert": str(cafile) if cafile else None,
        # libpq would prefer Kerberos' encryption to TLS, and then check no certificate.
        "gssencmode": "disable",
        "hostaddr": "",
    }


@contextmanager
def in_words(
    connection: postgres_wait.BoundedConnection, address: PostgresConnection, doing: str
) -> Iterator[None]:
    """Raise what PostgreSQL says as a SessionsError with place and remedy."""
    try:
        yield
    except (psycopg2.Error, ValueError, UnicodeError) as error:
        if _is_lost(connection, error):
            raise _lost(address, doing, error) from None
        raise SessionsError(_message(address, doing, error)) from None


def _is_lost(connection: postgres_wait.BoundedConnection, error: Exception) -> bool:
    code = getattr(error, "pgcode", None) or ""
    # Without a code it was not the server that spoke, but the client library about the connection. Of a server
    # that crashed after a last warning psycopg2 tells with the bare DatabaseError, and `closed` is still 0.
    about_it = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    mute = (about_it or type(error) is psycopg2.DatabaseError) and not code
    return connection.closed or mute or code in _LOST or code.startswith("08")


def _lost(address: PostgresConnection, doing: str, error: Exception) -> SessionsLostError:
    said = reason(error)
    if isinstance(error, postgres_wait.AnswerTimeoutError):
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
        remedy = tls.remedy(text, address) or f"check connections.{address.name} and that the server runs"
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
