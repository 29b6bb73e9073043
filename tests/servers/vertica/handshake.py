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

_CLEAR = 3
_CHANGE_PASSWORD = 9
_HASH_MD5 = 65536 + 5
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
            balances = server.balance_to is not None or server.balance_policy != "NONE"
            link.send(b"Y" + _balanced(server) if balances else b"N")
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
            # There are no subclusters that would serve a workload: a wish is answered by none.
            wire.parameter("workload", ""),
            wire.key_data(session.number, session.key),
            wire.ready(in_transaction=False),
        ]
    )


def _authenticated(server: VerticaServer, link: Link, name: str) -> User:
    user = server.catalog.users.get(name.casefold())
    method = server.security.method(name) or server.authentication
    if method == "trust" and user is not None:
        return user
    stored = user.password if user else ""
    salt, user_salt = secrets.token_bytes(4), secrets.token_bytes(16)
    if method == "hash" and user is not None and user.algorithm == "MD5":
        link.send(wire.authentication(_HASH_MD5, salt))
        expected = _hashed("md5", stored, name.encode(), salt)
    elif method == "hash":
        link.send(wire.authentication(_HASH_SHA512, salt + struct.pack("!I", 16) + user_salt))
        expected = _hashed("sha512", stored, user_salt, salt)
    else:
        link.send(wire.authentication(_CLEAR))
        expected = stored.encode()
    kind, body = wire.read(link)
    if kind != b"p":
        raise Gone("no password")
    if not hmac.compare_digest(body.rstrip(b"\0"), expected) or user is None or method == "reject":
        raise bad_login()
    if user.expired:
        link.send(wire.authentication(_CHANGE_PASSWORD))
        raise Gone("an expired password")
    return user


def _hashed(algorithm: str, password: str, *keys: bytes) -> bytes:
    value = password.encode()
    for key in keys:
        value = hashlib.new(algorithm, value + key).hexdigest().encode()
    return algorithm.encode() + value
