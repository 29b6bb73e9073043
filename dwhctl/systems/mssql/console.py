"""Ad hoc statements on a SQL Server database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pymssql

from dwhctl.core.errors import DatabaseMissingError, QueryError, SourceError, UsageError, ValueRefusedError
from dwhctl.systems.base.source import Cursor, Row, StatementResult, refuse_unclear_lines
from dwhctl.systems.mssql.client import open_link
from dwhctl.systems.mssql.errors import query_error
from dwhctl.systems.mssql.source import fetched
from dwhctl.systems.mssql.sql import one_select, select_words

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection


#: Who looks gives way to the shop's own work.
_MANNERS = "SET DEADLOCK_PRIORITY LOW"
#: What a SELECT can do that no ROLLBACK takes back: statements on other servers and files, the end of the transaction.
_BEYOND = frozenset(
    {
        "OPENROWSET", "OPENQUERY", "OPENDATASOURCE", "COMMIT", "ROLLBACK", "BEGIN", "SAVE", "MERGE", "BULK", "USE",
        "REVERT", "SETUSER", "CHECKPOINT", "DUMP", "LOAD", "WHILE", "IF", "GOTO", "RAISERROR", "PRINT",
    }
)  # fmt: skip
_GO = re.compile(r"^[ \t]*GO[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class MssqlCursor(Cursor):
    """A SQL Server database. The server has no read-only transaction, so read only is two things.

    A query must look like one SELECT, and it runs in a transaction that is always rolled back. What a SELECT does
    outside of it is not held back: a function of an assembly, a sequence's next value.
    """

    reading = frozenset({"SELECT", "WITH"})

    def __init__(self, connection: MssqlConnection, database: str, *, write: bool) -> None:
        super().__init__(write=write)
        self._connection = connection
        self._database = database
        self._link: pymssql.Connection | None = None

    def statements(self, sql: str) -> list[str]:
        """Without `write` one SELECT; with it the batches between lines of GO, as T-SQL's tools read them."""
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
        self._link = open_link(self._connection, self._database, None)
        with self._translate_error():
            here = self._rows("SELECT DB_NAME()")
            if here and str(here[0][0]).lower() != self._database.lower():
                # The driver does not look whether the server went into the database.
                raise DatabaseMissingError(
                    f"connection {self._connection.name}: the server went into the database {here[0][0]},"
                    f" not {self._database}"
                )
            if not self.write:
                with suppress(pymssql.Error):
                    self._rows(_MANNERS)
                self.begin()

    def begin(self) -> None:
        with self._translate_error():
            # Off, the driver begins a transaction, and rolls it back when it closes.
            self._open().autocommit(False)

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self._translate_error():
            cursor = self._open().cursor()
            cursor.execute(sql)
            more = True
            while more:
                if cursor.description is None:
                    yield StatementResult(changed=cursor.rowcount if cursor.rowcount >= 0 else None)
                else:
                    yield StatementResult(_names(cursor), self._batches(cursor, rows))
                # An error behind the first answer comes to light only here.
                more = bool(cursor.nextset())

    def _batches(self, cursor: pymssql.Cursor, rows: int) -> Iterator[list[Row]]:
        while True:
            values, error = fetched(cursor, rows)
            if values:
                yield list(values)
            if error is not None:
                raise error
            if len(values) < rows:
                return

    def commit(self) -> None:
        with self._translate_error():
            if not self._open().autocommit_state:
                self._open().commit()

    def interrupt(self) -> None:
        """Nothing that the driver could do: the server ends the query when this process lets go of the connection."""

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(pymssql.Error):
                link.close()

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self._open().cursor()
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

    def _open(self) -> pymssql.Connection:
        if self._link is None:
            raise SourceError(f"connection {self._connection.name} is closed")
        return self._link

    @contextmanager
    def _translate_error(self) -> Iterator[None]:
        try:
            yield
        except pymssql.Error as error:
            raise query_error(error) from error
        except (UnicodeError, OverflowError) as error:
            raise ValueRefusedError(
                f"the driver cannot read a value: {error}; CAST it in the query"
            ) from error


def _names(cursor: pymssql.Cursor) -> tuple[str, ...]:
    return tuple(str(column[0] or "") for column in cursor.description or ())


#: SQL Server's own: https://learn.microsoft.com/en-us/sql/relational-databases/databases/system-databases
_ITS_OWN = frozenset({"master", "tempdb", "model", "msdb"})


def list_databases(connection: MssqlConnection, timeout: float) -> list[str]:
    """Ask the server, its own databases left out; `timeout` as in MssqlSource. Raise AttemptError.

    There may be some among them that its login cannot open.
    """
    link = open_link(connection, connection.database, timeout)
    try:
        with link.cursor() as cursor:
            cursor.execute("SELECT name FROM sys.databases ORDER BY name")
            return [str(name) for (name,) in cursor.fetchall() if str(name).lower() not in _ITS_OWN]
    except pymssql.Error as error:
        raise query_error(error) from error
    finally:
        with suppress(pymssql.Error):
            link.close()
