"""From the first octet of a connection to a session, or to a refusal."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from typing import TYPE_CHECKING

from tests.servers.base import Gone, Link
from tests.servers.vertica import wire
from tests.servers.vertica.catalog import User
from tests.servers.vertica.problems import VerticaError, bad_login, missing_database, too_many_sessions
from tests.servers.vertica.session import Session

if TYPE_CHECKING:
    from tests.servers.vertica.server import VerticaServer

_HASH_SHA512 = 65536 + 512


def start(server: VerticaServer, link: Link) -> Session | None:
    """Talk until there is a session; None when the connection was for something else or was refused."""
    body = _opening(server, link)
    if body is None:
        return None
    server.note_login()
    if server.faults.take("hang_login"):
        link.hang()
    given = wire.startup_parameters(body)
    try:
        return _log_in(server, link, given)
    except VerticaError as problem:
        link.send(wire.error(problem))
        return None


def _opening(server: VerticaServer, link: Link) -> bytes | None:
    """Requests that may come first; the body of the startup message at last."""
    while True:
        code, body = wire.read_start(link)
        if code == wire.LOAD_BALANCE_REQUEST:
            link.send(b"Y" + _balanced(server))
        elif code == wire.SSL_REQUEST:
            if server.tls_context is None:
                link.send(b"N")
            else:
                link.send(b"S")
                link.start_tls(server.tls_context)
        elif code == wire.CANCEL_REQUEST:
            process, key = struct.unpack("!II", body)
            server.cancel(process, key)
            return None
        elif code >> 16 == 3:
            return body
        else:
            raise Gone("a protocol that is not spoken here")


def _balanced(server: VerticaServer) -> bytes:
    host, port = server.balance_to or (server.host, server.port)
    body = struct.pack("!I", port) + wire.text(host)
    return struct.pack("!I", len(body) + 4) + body


def _log_in(server: VerticaServer, link: Link, given: dict[str, str]) -> Session:
    label = given.get("client_label", "")
    refused = server.faults.take("refuse_login", database=server.database, application=label)
    if refused is not None:
        if refused.error:
            sqlstate, code, said = refused.error
            raise VerticaError(str(sqlstate), int(str(code)), str(said), severity="FATAL")
        raise bad_login()
    if given.get("database", "") not in ("", server.database):
        raise missing_database(given["database"])
    user = _authenticated(server, link, given.get("user", ""))
    session = Session(server, link, user, given, secrets.randbelow(2**31))
    if not server.add_session(session):
        session.connection.close()
        raise too_many_sessions(server.max_sessions)
    return session


def welcome(session: Session) -> bytes:
    """What ends a login: from now on the client may send statements."""
    version = min(session.protocol or wire.PROTOCOL, wire.PROTOCOL)
    return b"".join(
        [
            wire.authentication(0),
            wire.parameter("protocol_version", str(version)),
            wire.parameter("server_version", "v24.1.0-0"),
            wire.parameter("auto_commit", "on" if session.autocommit else "off"),
            wire.parameter("timezone", session.zone),
            wire.parameter("request_complex_types", "on"),
            wire.parameter("client_label", session.label),
            wire.key_data(session.number, session.key),
            wire.ready(in_transaction=False),
        ]
    )


def _authenticated(server: VerticaServer, link: Link, name: str) -> User:
    user = server.catalog.users.get(name.casefold())
    if server.authentication == "hash":
        salt, user_salt = secrets.token_bytes(4), secrets.token_bytes(16)
        link.send(wire.authentication(_HASH_SHA512, salt + struct.pack("!I", 16) + user_salt))
        expected = _hashed(user.password if user else "", salt, user_salt)
    else:
        link.send(wire.authentication(3))
        expected = (user.password if user else "").encode()
    kind, body = wire.read(link)
    if kind != b"p":
        raise Gone("no password")
    if not hmac.compare_digest(body.rstrip(b"\0"), expected) or user is None:
        raise bad_login()
    return user


def _hashed(password: str, salt: bytes, user_salt: bytes) -> bytes:
    value = password.encode()
    for key in (user_salt, salt):
        value = hashlib.sha512(value + key).hexdigest().encode()
    return b"sha512" + value
