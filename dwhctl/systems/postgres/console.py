"""Ad hoc statements on a PostgreSQL database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from dwhctl.core.errors import ConnectError, LoginRefusedError, QueryError, SourceError, TlsError
from dwhctl.core.secrets import mask
from dwhctl.core.sql import first_word
from dwhctl.systems.base import source
from dwhctl.systems.base.source import Cursor, Row, StatementResult
from dwhctl.systems.postgres.client import parameters, reason

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PgConnection  # noqa: N812
    from psycopg2.extensions import cursor as PgCursor  # noqa: N812

    from dwhctl.systems.postgres.system import PostgresConnection

#: Text that comes back the same whatever the server's settings; where the statements end is told by standard strings.
_SETTINGS = "SET standard_conforming_strings = on; SET bytea_output = 'hex'"
#: A session that stays read only, whatever a statement ends: https://www.postgresql.org/docs/current/sql-set-transaction.html
_READ_ONLY = "SET default_transaction_read_only = on"
_STREAMED = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
#: Opens the cursor with the server's own reading of the text: it refuses several statements, and what gives no rows.
_ASK = "SELECT set_config('dwhctl.query', %s, true)"
_OPEN_ASKED = (
    "DO 'DECLARE asked refcursor := ''dwhctl_query'';"
    " BEGIN OPEN asked NO SCROLL FOR EXECUTE current_setting(''dwhctl.query''); END'"
)
_WRITING = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
_REFUSED_LOGIN = ("28000", "28P01")
_CONNECT = ("08", "57P0")
#: What a transaction that only reads refuses, and a cursor: https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSED_READING = ("25006", "42P11")


class PostgresCursor(Cursor):
    """A PostgreSQL database. Read only is a transaction of the server's own kind, always rolled back.

    The statement is opened as a cursor by the server, which takes one statement that gives rows and nothing else. A
    function with an effect outside of its transaction (`pg_terminate_backend`, `lo_export`, dblink) is not held back.
    """

    reading = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN"})

    def __init__(self, connection: PostgresConnection, *, write: bool) -> None:
        super().__init__(write=write)
        self._connection = connection
        self._link: PgConnection | None = None

    def open(self) -> None:
        password = self._connection.password.reveal() if self._connection.password else None
        options = parameters(self._connection)
        if not self.write:
            options["target_session_attrs"] = "any"
        try:
            self._link = psycopg2.connect(**options, password=password)
        except (psycopg2.Error, ValueError, UnicodeError) as error:
            raise self._at_the_door(error, password) from None
        with self._translate_error():
            self._link.autocommit = True
            self._run(_SETTINGS)
            if not self.write:
                self._run(_READ_ONLY)
                self.begin()

    def begin(self) -> None:
        with self._translate_error():
            self._run("BEGIN" if self.write else "BEGIN TRANSACTION READ ONLY")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self._translate_error():
            if self._may_stream(sql):
                yield from self._streamed(sql, rows)
                return
            with self._open().cursor() as cursor:
                cursor.execute(sql)
                if cursor.description is None:
                    yield StatementResult(changed=cursor.rowcount if cursor.rowcount >= 0 else None)
                else:
                    yield StatementResult(_names(cursor), self._batches(lambda: cursor.fetchmany(rows)))

    def _may_stream(self, sql: str) -> bool:
        """Tell whether a cursor of the server can hand out the rows as they are asked for: it wants a plain query."""
        return not self.write or (first_word(sql) in _STREAMED and not _WRITING.search(sql))

    def _streamed(self, sql: str, rows: int) -> Iterator[StatementResult]:
        own = self._open().info.transaction_status == TRANSACTION_STATUS_IDLE
        if own:
            self._run("BEGIN")
        with self._open().cursor() as cursor:
            if self.write:
                cursor.execute(f"DECLARE dwhctl_query NO SCROLL CURSOR FOR {sql}")
            else:
                cursor.execute(_ASK, (sql,))
                cursor.execute(_OPEN_ASKED)

            def fetch() -> list[Row]:
                cursor.execute(f"FETCH FORWARD {rows} FROM dwhctl_query")
                return list(cursor.fetchall())

            first = fetch()
            yield StatementResult(_names(cursor), self._batches(fetch, first))
            cursor.execute("CLOSE dwhctl_query")
        if own:
            self._run("COMMIT")

    def _batches(
        self, fetch: Callable[[], Sequence[Row]], first: Sequence[Row] | None = None
    ) -> Iterator[Sequence[Row]]:
        with self._translate_error():
            batch = fetch() if first is None else first
            while batch:
                yield batch
                batch = fetch()

    def commit(self) -> None:
        with self._translate_error():
            if self._open().info.transaction_status != TRANSACTION_STATUS_IDLE:
                self._run("COMMIT")

    def interrupt(self) -> None:
        if (link := self._link) is not None:
            with suppress(psycopg2.Error):
                link.cancel()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(psycopg2.Error):
                link.close()

    def _run(self, sql: str) -> None:
        with self._open().cursor() as cursor:
            cursor.execute(sql)

    def _open(self) -> PgConnection:
        if self._link is None:
            raise QueryError(f"connection {self._connection.name} is closed")
        return self._link

    @contextmanager
    def _translate_error(self) -> Iterator[None]:
        try:
            yield
        except (psycopg2.Error, UnicodeError, ValueError) as error:
            code = getattr(error, "pgcode", None) or ""
            lost = self._link is None or self._link.closed or code.startswith(_CONNECT)
            text = f"connection {self._connection.name}: {reason(error)}{f' ({code})' if code else ''}"
            hint = "; --write lets a statement write" if code in _REFUSED_READING and not self.write else ""
            raise (SourceError if lost else QueryError)(mask(text + hint)) from error

    def _at_the_door(self, error: Exception, password: str | None) -> Exception:
        said = reason(error)
        said = said.replace(password, "********") if password else said
        refused = getattr(error, "pgcode", None) in _REFUSED_LOGIN or "authentication failed" in said
        name, remedy = self._connection.name, source.remedy(said, self._connection)
        kind = LoginRefusedError if refused else TlsError if remedy else ConnectError
        hint = f"; {remedy}" if remedy and not refused else ""
        return kind(mask(f"connection {name}: {said}{hint}"), connection=name)


def _names(cursor: PgCursor) -> tuple[str, ...]:
    return tuple(str(column.name) for column in cursor.description or ())
