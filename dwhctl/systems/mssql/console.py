"""Ad hoc statements on a SQL Server database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pymssql

from dwhctl.core.errors import AttemptError, QueryError, UsageError, ValueRefusedError
from dwhctl.systems.base.source import DriverCursor, Row, StatementResult, refuse_unclear_lines
from dwhctl.systems.mssql.client import check_server_database, close, connect, translated
from dwhctl.systems.mssql.errors import translate_error
from dwhctl.systems.mssql.source import fetched
from dwhctl.systems.mssql.sql import one_select, select_words

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection


#: In a deadlock a query is the victim, not the shop's own work.
_LOW_PRIORITY = "SET DEADLOCK_PRIORITY LOW"
#: Words of what a ROLLBACK does not undo: statements on other servers and files, the end of the transaction.
_BEYOND = frozenset(
    {
        "OPENROWSET", "OPENQUERY", "OPENDATASOURCE", "COMMIT", "ROLLBACK", "BEGIN", "SAVE", "MERGE", "BULK", "USE",
        "REVERT", "SETUSER", "CHECKPOINT", "DUMP", "LOAD", "WHILE", "IF", "GOTO", "RAISERROR", "PRINT",
    }
)  # fmt: skip
_GO = re.compile(r"^[ \t]*GO[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class MssqlCursor(DriverCursor[pymssql.Connection]):
    """A SQL Server database. The server has no read-only transaction.

    So without `write` a query must look like one SELECT and runs in a transaction that is always rolled back. What a
    SELECT does outside of it is not prevented: a function of an assembly, a sequence's next value.
    """

    reading = frozenset({"SELECT", "WITH"})

    failures = (pymssql.Error, UnicodeError, OverflowError)

    def __init__(self, connection: MssqlConnection, database: str, *, write: bool) -> None:
        super().__init__(connection.name, write=write)
        self._connection = connection
        self._database = database

    def statements(self, sql: str) -> list[str]:
        """Return one SELECT, or with `write` the batches between lines of GO, as T-SQL's tools split them."""
        if self.write:
            return [batch.strip() for batch in _GO.split(sql) if batch.strip(" \t\r\n;")]
        refuse_unclear_lines(sql)
        try:
            statement = one_select(sql, "a query without --write")
        except QueryError as error:
            raise UsageError(f"{error}; --write lets a statement write") from error
        if beyond := [word for word in select_words(statement) if word in _BEYOND]:
            raise UsageError(f"{beyond[0]} may do more than read; --write lets a statement write")
        return [statement]

    def open(self) -> None:
        self._driver = connect(self._connection, self._database, None)
        with self.translated():
            for (here,) in self._rows("SELECT DB_NAME()"):
                check_server_database(self.name, here, self._database)
            if not self.write:
                with suppress(pymssql.Error):
                    self._rows(_LOW_PRIORITY)
                self.begin()

    def begin(self) -> None:
        with self.translated():
            # Without autocommit the driver begins a transaction, and rolls it back when it closes.
            self.driver.autocommit(False)

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self.translated():
            cursor = self.driver.cursor()
            cursor.execute(sql)
            more = True
            while more:
                yield self.result(cursor, partial(next, _batches(cursor, rows), []))
                # Raises an error that follows the first result.
                more = bool(cursor.nextset())

    def commit(self) -> None:
        with self.translated():
            if not self.driver.autocommit_state:
                self.driver.commit()

    def interrupt(self) -> None:
        """Do nothing: the server ends the query when this process closes the connection."""

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self.driver.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

    def _translate_error(self, error: Exception) -> AttemptError:
        if isinstance(error, pymssql.Error):
            return translate_error(error)
        return ValueRefusedError(f"the driver cannot read a value: {error}; CAST it in the query")


def _batches(cursor: pymssql.Cursor, rows: int) -> Iterator[list[Row]]:
    while True:
        values, error = fetched(cursor, rows)
        if values:
            yield list(values)
        if error is not None:
            raise error
        if len(values) < rows:
            return


#: SQL Server's own: https://learn.microsoft.com/en-us/sql/relational-databases/databases/system-databases
_SYSTEM_DATABASES = frozenset({"master", "tempdb", "model", "msdb"})


def list_databases(connection: MssqlConnection, timeout: float) -> list[str]:
    """Return the server's databases without its own. Raise AttemptError.

    `timeout` is that of MssqlSource. The connection's login may not be able to open all of them.
    """
    opened = connect(connection, connection.database, timeout)
    try:
        with translated(), opened.cursor() as cursor:
            cursor.execute("SELECT name FROM sys.databases ORDER BY name")
            return [str(name) for (name,) in cursor.fetchall() if str(name).lower() not in _SYSTEM_DATABASES]
    finally:
        close(opened)
