"""The server: its databases, its users, its connections."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from ..base import Fault, Link, Server
from .applocks import ApplicationLocks
from .cache import Recorder, path_of
from .catalog import Catalog, Database
from .locks import Locks
from .login import ENCRYPT_NOT_SUPPORTED, ENCRYPT_OFF, ENCRYPT_ON, ENCRYPT_REQUIRED, Login
from .session import Session
from .sink import Memory
from .storage import named
from .types import LATIN
from .wire import Conversation, WireSink, is_commit

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection

_PIECE = 1 << 20
#: A query; or a description behind settings, which a session that only reads kept answers does not need.
_CHANGES_NOTHING = re.compile(
    r"\s*SELECT\b|\s*SET\b.*\bsp_describe_first_result_set\b", re.IGNORECASE | re.DOTALL
)


class TdsServer(Server):
    """A SQL Server for tests, on 127.0.0.1.

    `tls` offers encryption, `tls="require"` insists on it; `snapshot` are the databases that allow snapshot isolation;
    `language` is that of the login.
    """

    def __init__(
        self,
        port: int = 0,
        user: str = "sa",
        password: str = "Secret_123",
        databases: Iterable[str] = (),
        snapshot: Iterable[str] = (),
        tls: bool | str = False,
        language: str | None = None,
    ) -> None:
        super().__init__(port)
        self.user = user
        self.users = {user: password}
        #: The default language of a login, where it is not us_english.
        self.languages = {} if language is None else {user: language}
        self.catalog = Catalog()
        self.locks = Locks()
        self.application_locks = ApplicationLocks()
        self.last_login: Login | None = None
        #: Where the answers of queries are kept for the next time; None: nowhere.
        self.cache_answers: Path | None = None
        self.tls_context = _certified() if tls else None
        self._insists = tls == "require"
        self._open: dict[int, Session] = {}
        allowed = {each.casefold() for each in snapshot}
        for name in databases:
            self.create_database(name, snapshot=name.casefold() in allowed)

    def create_database(self, name: str, *, collation: str = LATIN, snapshot: bool = False) -> None:
        """Create a database; master, model, msdb and tempdb are there."""
        self.catalog.create_database(name, collation).snapshot = snapshot

    def database(self, name: str) -> Database:
        """A database's settings: `snapshot`, `versioned`, `online`, whom it is `closed` to."""
        found = self.catalog.find(name)
        if found is None:
            raise KeyError(name)
        return found

    def add_user(self, name: str, password: str, *, closed: Iterable[str] = ()) -> None:
        """Another login, with no access to some databases."""
        self.users[name] = password
        for each in closed:
            self.database(each).closed.add(name.casefold())

    def deny(self, database: str, table: str, permission: str = "SELECT") -> None:
        """Deny a permission on a table to everyone: error 229."""
        self.database(database).denied.add((table.rpartition(".")[2].casefold(), permission.upper()))

    def execute(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Run T-SQL without the wire; gives the last answer's rows, raises TdsError."""
        sink = Memory()
        with closing(Session(self, 0, self.user, self.catalog.database(database), "back door")) as session:
            session.run(sql, sink)
        return sink.answer

    def duckdb(
        self, database: str, sql: str, params: Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run DuckDB's SQL in a database's catalog, schema dbo; `storage.py` says how values lie there."""
        with closing(self.catalog.root.cursor()) as cursor:
            cursor.execute(f"USE {named(self.database(database).name)}.dbo")
            done = cursor.execute(sql, params) if params is not None else cursor.execute(sql)
            return done.fetchall() if done.description else []

    def connection(self, name: str = "mssql_0", **keys: Any) -> MssqlConnection:
        """The project's connection to this server."""
        own = {"host": self.host, "user": self.user, "password": self.users[self.user]}
        return connection_to(self.port, name, **{**own, **keys})

    def add_fault(self, fault: Fault) -> None:
        """Switch a fault on."""
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self.faults.clear()

    def converse(self, link: Link) -> None:
        """Talk to a client."""
        Conversation(self, link).run()

    def encryption(self, wanted: int) -> int:
        """The server's answer to the encryption that a client wants. [MS-TDS] 2.2.6.5"""
        if self.tls_context is None:
            return ENCRYPT_NOT_SUPPORTED
        if self._insists:
            return ENCRYPT_REQUIRED
        return ENCRYPT_ON if wanted in (ENCRYPT_ON, ENCRYPT_REQUIRED) else min(wanted, ENCRYPT_OFF)

    def at_commit(self, session: Session, commit: Callable[[], None]) -> None:
        """Commit, or lose the connection before or after it."""
        with self._lock:
            live = self._live.get(session.number)
        asked = {
            "database": session.database.name,
            "application": session.application,
            "statement": session.batch,
        }
        if live is not None and is_commit(session.batch) and self.faults.take("lost_before_commit", **asked):
            live.link.reset()
        commit()
        if live is not None and self.faults.take("lost_after_commit", **asked):
            live.link.reset()

    @contextmanager
    def registered(self, session: Session) -> Iterator[None]:
        """The session stands in sys.dm_exec_sessions."""
        self._open[session.number] = session
        try:
            yield
        finally:
            del self._open[session.number]

    def session_rows(self) -> list[tuple[object, ...]]:
        """sys.dm_exec_sessions."""
        return [
            (each.number, each.user, each.application, each.database.number, "running", True)
            for each in list(self._open.values())
        ]

    def replay(self, conversation: Conversation, sql: str) -> bool:
        """Send a kept answer, all but its last token; whether there was one."""
        path = self._kept(conversation.session, sql)
        if path is None or not path.is_file():
            return False
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                conversation.packets.write(piece)
        conversation.session.row_count = int(_rows_of(path).read_text(encoding="ascii"))
        return True

    @contextmanager
    def recording(self, session: Session, sql: str, sink: WireSink) -> Iterator[None]:
        """Keep the answer of a query where answers are kept."""
        path = self._kept(session, sql)
        if path is None:
            yield
            return
        recorder = sink.recorder = Recorder(path)
        whole = False
        try:
            yield
            whole = not sink.spoilt
        finally:
            sink.recorder = None
            if whole:
                _rows_of(path).write_text(str(session.row_count), encoding="ascii")
            recorder.close(whole=whole)

    def _kept(self, session: Session, sql: str) -> Path | None:
        if self.cache_answers is None or "@@" in sql or not _CHANGES_NOTHING.match(sql):
            return None
        return path_of(Path(self.cache_answers), session.database.name, sql)


def _rows_of(answer: Path) -> Path:
    """The file with @@ROWCOUNT after a kept answer."""
    return answer.with_suffix(".rows")


def connection_to(port: int, name: str, /, **keys: Any) -> MssqlConnection:
    """A project's connection to a server on this machine."""
    from dwhctl.systems.mssql.system import MssqlConnection

    given: dict[str, Any] = {
        "name": name,
        "host": TdsServer.host,
        "port": port,
        "user": "sa",
        "password": "Secret_123",
        "max_connections": 4,
        "connect_timeout": timedelta(seconds=5),
    }
    return MssqlConnection.model_validate({**given, **keys})


def _certified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # TLS 1.3 sends tickets after its handshake, where a client of TDS 7.4 wants no more packets of that type.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    trustme.CA().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context
