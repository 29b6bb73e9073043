"""What the tests of the sessions room share: both stores, and other programs that use their table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dwhctl.sessions import Closing, NewSession, SessionStore, State, open_store
from dwhctl.sessions.schema import percent_style, read_statements
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from tests.postgres import PostgresServer

DAY = date(2020, 7, 13)
START = datetime(2020, 7, 14, 6, 0, 0, 123456, tzinfo=UTC)

SEVEN_SQLITE = """CREATE TABLE sessions (id INTEGER PRIMARY KEY, task_name VARCHAR(200) NOT NULL,
started TIMESTAMPTZ NOT NULL, finished TIMESTAMPTZ, successful BOOL, loaded_rows BIGINT,
comment VARCHAR(500))"""
SEVEN_POSTGRES = SEVEN_SQLITE.replace("INTEGER PRIMARY", "SERIAL PRIMARY")
FOREIGN_ROW = (
    "INSERT INTO sessions (task_name, started, comment) VALUES ('theirs', '2020-01-01 00:00:00+00:00', 'x')"
)


@dataclass
class Place:
    """A database for a sessions table: stores can be opened on it, and other programs look at it."""

    connection: SqliteConnection | PostgresConnection
    server: PostgresServer | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def dialect(self) -> str:
        return self.connection.type

    @property
    def seven(self) -> str:
        return SEVEN_SQLITE if self.dialect == "sqlite" else SEVEN_POSTGRES

    def store(self, *, prepared: bool = True, host: str = "alpha") -> SessionStore:
        """A new store, closed at the end of the test."""
        store = self._stack.enter_context(open_store(self.connection, host=host))
        if prepared:
            store.prepare()
        return store

    @contextmanager
    def other_program(self) -> Iterator[Any]:
        """A connection that is not dwhctl's, in autocommit."""
        if isinstance(self.connection, SqliteConnection):
            with closing(sqlite3.connect(self.connection.path, isolation_level=None)) as connection:
                yield connection
        else:
            assert self.server
            with closing(self.server.connect(self.connection.database)) as plain:
                yield plain

    def rows(self, sql: str) -> list[Any]:
        """What another program reads, or does."""
        with self.other_program() as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def plan(self, store: SessionStore, statement: str, values: dict[str, object]) -> str:
        """How the database would execute one of the store's statements."""
        sql = read_statements(self.dialect)[statement]
        with self.other_program() as connection:
            cursor = connection.cursor()
            if self.dialect == "sqlite":
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}", {k: str(v) for k, v in values.items()})
            else:
                cursor.execute(f"EXPLAIN {percent_style(sql)}", values)
            return "\n".join(str(row) for row in cursor.fetchall())

    def end(self) -> None:
        self._stack.close()


def sqlite_place(folder: Path) -> Place:
    return Place(SqliteConnection(name="sessions", path=folder / "state" / "sessions.sqlite"))


def postgres_place(server: PostgresServer, database: str) -> Place:
    return Place(server.connection(database), server)


def new(
    shard: str = "abakan",
    *,
    day: date = DAY,
    run_id: str = "run-1",
    load: str = "orders",
    attempt: int = 1,
    started: datetime = START,
) -> NewSession:
    """A session about to start, with a token of its own."""
    return NewSession(run_id, load, shard, day, attempt, f"token-{next(_tokens)}", started)


def _counted() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


_tokens = _counted()


def closed(session_id: int, state: State = State.LOADED, *, seconds: float = 5, **more: Any) -> Closing:
    """How such a session ended."""
    return Closing(session_id, state, START + timedelta(seconds=seconds), **more)


def write(store: SessionStore, session: NewSession, state: State, **more: Any) -> int:
    """One session from its start to its end."""
    [session_id] = store.open([session])
    if state is not State.RUNNING:
        store.close([closed(session_id, state, **more)])
    return session_id
