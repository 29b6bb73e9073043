"""Ad hoc statements on a PostgreSQL database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import (
    PYDATE,
    PYDATETIME,
    PYDATETIMETZ,
    PYTIME,
    TRANSACTION_STATUS_IDLE,
    UNICODE,
    new_array_type,
    new_type,
    register_type,
)
from psycopg2.extensions import connection as PgConnection  # noqa: N812

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    LoginRefusedError,
    QueryError,
    SourceError,
    TlsError,
)
from dwhctl.core.secrets import mask
from dwhctl.core.sql import first_word
from dwhctl.systems.base import source
from dwhctl.systems.base.source import DriverCursor, Row, StatementResult
from dwhctl.systems.postgres.client import parameters, read_only_remedy, reason

if TYPE_CHECKING:
    from dwhctl.systems.postgres.system import PostgresConnection

#: The same text output whatever the server's settings; standard strings, so that dwhctl finds the ends of statements.
_SETTINGS = (
    "SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET IntervalStyle = 'postgres';"
    " SET extra_float_digits = 1"
)
#: The session stays read only after the end of a transaction: https://www.postgresql.org/docs/current/sql-set-transaction.html
_READ_ONLY = "SET default_transaction_read_only = on"
_STREAMED = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
#: Let the server parse the text and open the cursor: it refuses several statements, and one that returns no rows.
_SET_QUERY = "SELECT set_config('dwhctl.query', %s, true)"
_OPEN_QUERY = (
    "DO 'DECLARE opened refcursor := ''dwhctl_query'';"
    " BEGIN OPEN opened NO SCROLL FOR EXECUTE current_setting(''dwhctl.query''); END'"
)
#: The oids of a type and of its arrays, with psycopg2's own conversion: of an interval it would make a number of days.
_TIMES = {
    "DATE": (1082, 1182, PYDATE),
    "TIMESTAMP": (1114, 1115, PYDATETIME),
    "TIMESTAMPTZ": (1184, 1185, PYDATETIMETZ),
    "TIME": (1083, 1183, PYTIME),
    "TIMETZ": (1266, 1270, PYTIME),
    "INTERVAL": (1186, 1187, UNICODE),
}
#: Values of which psycopg2 makes others: infinity becomes the year 9999, and 24:00 becomes 00:00.
_NOT_PYTHONS = re.compile(r"-?infinity|24:.*|.* BC")
_WRITING = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
_REFUSED_LOGIN = ("28000", "28P01")
_CONNECT = ("08", "57P0")
#: Errors of a read-only transaction and of a cursor: https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSED_READING = ("25006", "42P11")


class PostgresCursor(DriverCursor[PgConnection]):
    """A PostgreSQL database. Without `write` it uses a read-only transaction of the server, always rolled back.

    The server opens the statement as a cursor, so that it accepts one statement that returns rows and nothing else. A
    function with an effect outside of its transaction (`pg_terminate_backend`, `lo_export`, dblink) is not prevented.
    """

    reading = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN"})

    failures = (psycopg2.Error, UnicodeError, ValueError)

    def __init__(self, connection: PostgresConnection, *, write: bool) -> None:
        super().__init__(connection.name, write=write)
        self._connection = connection

    def open(self) -> None:
        password = self._connection.password.reveal() if self._connection.password else None
        options = parameters(self._connection)
        if not self.write:
            options["target_session_attrs"] = "any"
        try:
            self._driver = psycopg2.connect(**options, password=password)
        except self.failures as error:
            raise self._connect_error(error, password) from None
        with self.translated():
            self._driver.autocommit = True
            _keep_values(self._driver)
            self._run(_SETTINGS)
            if not self.write:
                self._run(_READ_ONLY)
                self.begin()

    def begin(self) -> None:
        with self.translated():
            self._run("BEGIN" if self.write else "BEGIN TRANSACTION READ ONLY")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self.translated():
            if self._may_stream(sql):
                yield from self._streamed(sql, rows)
                return
            with self.driver.cursor() as cursor:
                cursor.execute(sql)
                yield self.result(cursor, lambda: cursor.fetchmany(rows))

    def _may_stream(self, sql: str) -> bool:
        """Return whether a cursor of the server can return the rows batch by batch: it takes a plain query only."""
        return not self.write or (first_word(sql) in _STREAMED and not _WRITING.search(sql))

    def _streamed(self, sql: str, rows: int) -> Iterator[StatementResult]:
        own = self.driver.info.transaction_status == TRANSACTION_STATUS_IDLE
        if own:
            self._run("BEGIN")
        with self.driver.cursor() as cursor:
            if self.write:
                cursor.execute(f"DECLARE dwhctl_query NO SCROLL CURSOR FOR {sql}")
            else:
                cursor.execute(_SET_QUERY, (sql,))
                cursor.execute(_OPEN_QUERY)

            def fetch() -> list[Row]:
                cursor.execute(f"FETCH FORWARD {rows} FROM dwhctl_query")
                return list(cursor.fetchall())

            first = [fetch()]
            yield self.result(cursor, lambda: first.pop() if first else fetch())
            cursor.execute("CLOSE dwhctl_query")
        if own:
            self._run("COMMIT")

    def commit(self) -> None:
        with self.translated():
            if self.driver.info.transaction_status != TRANSACTION_STATUS_IDLE:
                self._run("COMMIT")

    def interrupt(self) -> None:
        if (driver := self._driver) is not None:
            with suppress(psycopg2.Error):
                driver.cancel()

    def _run(self, sql: str) -> None:
        with self.driver.cursor() as cursor:
            cursor.execute(sql)

    def _translate_error(self, error: Exception) -> AttemptError:
        code = getattr(error, "pgcode", None) or ""
        lost = self._driver is None or self._driver.closed or code.startswith(_CONNECT)
        text = f"connection {self.name}: {reason(error)}{f' ({code})' if code else ''}"
        hint = "; --write lets a statement write" if code in _REFUSED_READING and not self.write else ""
        return (SourceError if lost else QueryError)(mask(text + hint))

    def _connect_error(self, error: Exception, password: str | None) -> AttemptError:
        message = reason(error)
        message = message.replace(password, "********") if password else message
        refused = getattr(error, "pgcode", None) in _REFUSED_LOGIN or "authentication failed" in message
        about_tls = source.remedy(message, self._connection)
        remedy = about_tls or read_only_remedy(message)
        kind = LoginRefusedError if refused else TlsError if about_tls else ConnectError
        hint = f"; {remedy}" if remedy and not refused else ""
        return kind(mask(f"connection {self.name}: {message}{hint}"), connection=self.name)


def _keep_values(connection: PgConnection) -> None:
    """Have the connection return intervals, and dates and times that Python does not have, in the server's words."""
    for name, (oid, of_arrays, convert) in _TIMES.items():

        def exact(text: str | bytes | None, cursor: Any, convert: Callable[..., Any] = convert) -> Any:
            if not isinstance(text, str) or _NOT_PYTHONS.fullmatch(text):
                return text
            try:
                return convert(text, cursor)
            except (ValueError, OverflowError):  # a year beyond 9999
                return text

        register_type(one := new_type((oid,), name, exact), connection)
        register_type(new_array_type((of_arrays,), f"{name}[]", one), connection)
