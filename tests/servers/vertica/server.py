"""A server with Vertica's protocol, for the tests: vertica-python talks to it as to the original."""

from __future__ import annotations

import shutil
import ssl
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import trustme

from dwhctl.systems.vertica.system import VerticaConnection
from tests.servers.base import Link, Server
from tests.servers.vertica import handshake, wire
from tests.servers.vertica.back_door import BackDoor
from tests.servers.vertica.catalog import Catalog, Table, User
from tests.servers.vertica.extended import Extended
from tests.servers.vertica.lexer import split
from tests.servers.vertica.locks import Locks
from tests.servers.vertica.problems import VerticaError
from tests.servers.vertica.security import Security
from tests.servers.vertica.session import Session
from tests.servers.vertica.store import Store


class VerticaServer(Server):
    """One database; its data lives as long as the object, through `stop`, `kill` and `revive`."""

    def __init__(
        self,
        port: int = 0,
        user: str = "dbadmin",
        password: str = "Secret_456",
        database: str = "docker",
        max_sessions: int = 50,
        lock_timeout: float = 300.0,
        max_containers: int = 1024,
        *,
        tls: bool = False,
        authentication: str = "password",
    ) -> None:
        """`authentication` is "password" (in clear) or "hash" (salted SHA-512)."""
        super().__init__(port)
        self.user = user
        self.password = password
        self.database = database
        self.max_sessions = max_sessions
        self.lock_timeout = lock_timeout
        self.authentication = authentication
        #: COPY does not read its rows, it counts them: for benchmarks.
        self.counts_rows = False
        #: Where a LoadBalanceRequest sends the client; None: here.
        self.balance_to: tuple[str, int] | None = None
        #: What SET_LOAD_BALANCE_POLICY says.
        self.balance_policy = "NONE"
        self.security = Security()
        self.tls_context: ssl.SSLContext | None = None
        self.tls_cafile: Path | None = None
        self.catalog = Catalog()
        self.catalog.add_user(User(user, password, superuser=True))
        self.catalog.schemas["public"] = ("public", user)
        self.locks = Locks()
        self.store = Store(max_containers)
        self._here: dict[int, Session] = {}
        self._registry = threading.Lock()
        # Not a cycle: with the last reference to the server goes what it stores, and another gets its engine.
        self._back_door = BackDoor(weakref.proxy(self))
        if tls:
            self._make_certificates()

    def _make_certificates(self) -> None:
        authority = trustme.CA()
        self.tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self.tls_context)
        folder = tempfile.mkdtemp(prefix="vertica-test-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.tls_cafile = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(self.tls_cafile)

    # --- for tests

    def connection(self, name: str = "dwh", **keys: Any) -> VerticaConnection:
        """A project's connection to this server."""
        given = {
            "name": name,
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": self.user,
            "password": self.password,
            "max_connections": 8,
            "connect_timeout": "5s",
            "tlsmode": "disable" if self.tls_context is None else "require",
            "tls_cafile": self.tls_cafile,
            **keys,
        }
        return VerticaConnection(**given)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run statements of Vertica as its superuser, each committed; the rows of the last one."""
        return self._back_door.execute(sql)

    def duckdb(self, sql: str, params: object = None) -> list[tuple[Any, ...]]:
        """Run a SELECT or INSERT in DuckDB's words: what is committed is seen, nothing is checked or locked."""
        return self._back_door.duckdb(sql, params)

    def create_user(self, name: str, password: str) -> None:
        """A user with no privileges."""
        self.catalog.add_user(User(name, password))

    def table(self, name: str) -> Table:
        """A table by its name, "schema.table"."""
        return self.catalog.table(tuple(name.split(".")))

    def containers(self, table: str) -> int:
        """ROS containers and delete vectors of a table."""
        return self.table(table).count_containers()

    @property
    def most_containers(self) -> int:
        """The most containers that any table had at once."""
        return self.store.most_containers

    def mergeout(self, table: str | None = None) -> None:
        """Let the Tuple Mover work on one table or on all."""
        for each in [self.table(table)] if table is not None else self.catalog.tables():
            self.store.mergeout(each)

    # --- for sessions

    def sessions(self) -> list[Session]:
        """Who is logged in."""
        with self._registry:
            return list(self._here.values())

    def add_session(self, session: Session) -> bool:
        """Let a session in, unless there are too many."""
        with self._registry:
            # A superuser has five more (docs: "MaxClientSessions").
            most = self.max_sessions + (5 if session.user.superuser and self.reserve_for_superuser else 0)
            if len(self._here) >= most:
                return False
            self._here[session.number] = session
            return True

    #: Whether a superuser may pass the limit of sessions by five, as with the original.
    reserve_for_superuser = False

    def close_session(self, identifier: str, by: Session) -> bool:
        """End the session of this id (CLOSE_SESSION); whether there was one."""
        for each in self.sessions():
            if each.identifier == identifier and (by.user.superuser or each.user is by.user):
                return self.end_session(each.number, "reset")
        return False

    def cancel(self, process: int, key: int) -> None:
        """Cancel what the session with this key runs."""
        for each in self.sessions():
            if (each.number, each.key) == (process, key):
                each.cancel()

    def converse(self, link: Link) -> None:
        """A connection from its first octet to its end."""
        session = handshake.start(self, link)
        if session is None:
            return
        link.on_end = session.interrupt
        with self.session(link):
            try:
                link.send(handshake.welcome(session))
                _serve(session)
            finally:
                session.close()
                with self._registry:
                    del self._here[session.number]


def _serve(session: Session) -> None:
    extended = Extended(session)
    while True:
        kind, body = wire.read(session.link)
        if kind == b"X":
            return
        if kind == b"Q":
            _simple(session, body.rstrip(b"\0").decode())
        elif kind not in (b"d", b"c", b"f", b"e"):
            # What is left of a COPY that failed before its data came is dropped.
            extended.handle(kind, body)


def _simple(session: Session, text: str) -> None:
    """Statement after statement; an error ends the rest."""
    try:
        statements = split(text)
        if not statements:
            session.put(wire.message(b"I"))
        for sql in statements:
            session.simple(sql)
    except VerticaError as problem:
        session.put(wire.error(problem))
        if session.autocommit:
            session.rollback()
    session.put(wire.ready(session.work is not None))
    session.flush()
