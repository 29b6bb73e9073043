"""Ways into the server's data without the wire, for tests that fill tables and look at them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from sqlglot import exp

from tests.servers.base import Link
from tests.servers.vertica.dialect import engine, generate
from tests.servers.vertica.lexer import split
from tests.servers.vertica.rewrite import Rewriter
from tests.servers.vertica.session import Session

if TYPE_CHECKING:
    from tests.servers.vertica.server import VerticaServer


class _NoLink:
    """In the place of a connection: nobody listens, nothing ends."""

    number = 0
    ending = False
    on_end = None

    def send(self, data: bytes) -> None:
        """Say nothing."""

    def sleep(self, seconds: float) -> None:
        """Do not wait."""


class _Inside(Session):
    """A session without a client: no faults, no record of its statements, rows as Python values."""

    rows: list[tuple[Any, ...]]

    def meet_faults(self, sql: str) -> None:
        """Faults are for clients."""

    def fault(self, *kinds: str, sql: str) -> None:
        """Faults are for clients."""

    def put(self, data: bytes) -> None:
        """Nobody listens."""

    def put_batches(self, columns: Any, batches: Any) -> int:
        """Keep the rows."""
        self.rows = [tuple(row.values()) for batch in batches for row in _records(batch)]
        return len(self.rows)


def _records(batch: Any) -> list[dict[int, Any]]:
    columns = [column.to_pylist() for column in batch.columns]
    return [dict(enumerate(row)) for row in zip(*columns, strict=True)]


class BackDoor:
    """What `VerticaServer.execute` and `.duckdb` do."""

    def __init__(self, server: VerticaServer) -> None:
        self._server = server
        self._turn = threading.Lock()
        self._session: _Inside | None = None

    def _open(self) -> _Inside:
        if self._session is None:
            user = self._server.catalog.users[self._server.user.casefold()]
            given = {"autocommit": "on", "client_label": "back door"}
            self._session = _Inside(self._server, cast(Link, _NoLink()), user, given, 0)
        self._session.rows = []
        return self._session

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Vertica's statements, each committed."""
        from tests.servers.vertica.statements import execute

        with self._turn:
            session = self._open()
            try:
                for statement in split(sql):
                    session.rows = []
                    with session.running(statement.text):
                        execute(session, statement)
                    session.commit()
            finally:
                session.rollback()
            return session.rows

    def duckdb(self, sql: str, params: object = None) -> list[tuple[Any, ...]]:
        """DuckDB's statements on the tables as they are committed."""
        with self._turn:
            session = self._open()
            work = session.begin()
            try:
                with self._server.store.statement(work) as visible:
                    rewriter = Rewriter(session, visible)
                    try:
                        text = self._translated(engine(sql), rewriter, work.number)
                        rows = session.connection.execute(text, params).fetchall()
                    finally:
                        rewriter.close()
                session.commit()
            finally:
                session.rollback()
            return rows

    def _translated(self, tree: exp.Expr, rewriter: Rewriter, number: int) -> str:
        if not isinstance(tree, exp.Insert):
            return generate(rewriter.tables(tree))
        target = tree.this
        node = target.this if isinstance(target, exp.Schema) else target
        path = (node.text("db"), node.name) if node.text("db") else (node.name,)
        table = self._server.catalog.table(path)
        named = [each.name for each in target.expressions] if isinstance(target, exp.Schema) else []
        names = ", ".join(f'"{name}"' for name in named or [column.name for column in table.columns])
        rewriter.session.begin().inserted[table.number] = table
        query = generate(rewriter.tables(tree.expression))
        return f"INSERT INTO {table.engine_name} ({names}, __ins) SELECT q.*, {number} FROM ({query}) AS q"
