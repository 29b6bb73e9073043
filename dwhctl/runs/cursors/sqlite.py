"""Ad hoc statements on a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dwhctl.errors import DatabaseMissingError, QueryError, SourceBusyError
from dwhctl.project.secrets import mask
from dwhctl.project.sql import split_statements
from dwhctl.runs.cursors.contract import Answer, Cursor, Row

if TYPE_CHECKING:
    from dwhctl.project.model import SqliteConnection

_BUSY_SECONDS = 30.0
#: What a statement may do when it only reads: https://www.sqlite.org/c3ref/c_alter_table.html. ATTACH and VACUUM INTO
#: would write other files whatever the mode of this one.
_READING = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_PRAGMA,
        sqlite3.SQLITE_TRANSACTION,
    }
)


class SqliteCursor(Cursor):
    """A SQLite file. Read only it is opened so (`mode=ro`), and SQLite is told to let nothing but reading pass."""

    reading = frozenset({"SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"})

    def __init__(self, connection: SqliteConnection, *, write: bool) -> None:
        super().__init__(write=write)
        self._connection = connection
        self._db: sqlite3.Connection | None = None

    def statements(self, sql: str) -> list[str]:
        """Split into statements; the semicolons inside a trigger end none."""
        whole: list[str] = []
        part = ""
        for piece in split_statements(sql):
            part += f"{piece};"
            if sqlite3.complete_statement(part):
                whole.append(part.removesuffix(";"))
                part = ""
        return [*whole, part] if part else whole

    def open(self) -> None:
        path = self._connection.path
        if not path.is_file():
            raise DatabaseMissingError(f"connection {self._connection.name}: there is no file {path}")
        mode = "rw" if self.write else "ro"
        with self._in_words():
            self._db = sqlite3.connect(
                f"{path.as_uri()}?mode={mode}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            if not self.write:
                self._db.execute("PRAGMA query_only = ON")
                self._db.set_authorizer(_only_reading)

    def begin(self) -> None:
        with self._in_words():
            self._open().execute("BEGIN IMMEDIATE")

    def execute(self, sql: str, rows: int) -> Iterator[Answer]:
        with self._in_words():
            cursor = self._open().execute(sql)
        if cursor.description is None:
            yield Answer(changed=cursor.rowcount if cursor.rowcount >= 0 else None)
            return
        columns = tuple(str(column[0]) for column in cursor.description)
        yield Answer(columns, self._batches(cursor, rows))

    def _batches(self, cursor: sqlite3.Cursor, rows: int) -> Iterator[list[Row]]:
        with self._in_words():
            while batch := cursor.fetchmany(rows):
                yield batch
            cursor.close()

    def commit(self) -> None:
        with self._in_words():
            if self._open().in_transaction:
                self._open().execute("COMMIT")

    def interrupt(self) -> None:
        if (db := self._db) is not None:
            with suppress(sqlite3.Error):
                db.interrupt()

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise QueryError(f"{self._connection.path} is closed")
        return self._db

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning) as error:
            name = getattr(error, "sqlite_errorname", "")
            kind = SourceBusyError if name.startswith("SQLITE_BUSY") else QueryError
            # ATTACH is refused with the words, and not the name, of the authorizer.
            refused = name == "SQLITE_AUTH" or "not authorized" in str(error)
            hint = "; --write lets a statement write" if refused else ""
            raise kind(f"connection {self._connection.name}: {mask(str(error))}{hint}") from error
        except UnicodeError as error:
            raise QueryError(
                f"connection {self._connection.name}: a text is not UTF-8: {error.reason}"
                if isinstance(error, UnicodeDecodeError)
                else f"connection {self._connection.name}: the SQL is no text that SQLite can hold"
            ) from error


def _only_reading(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    """Let reading pass; a PRAGMA only where it asks and sets nothing, for `PRAGMA journal_mode = ...` writes."""
    sets = action == sqlite3.SQLITE_PRAGMA and second is not None and first not in _ASKING
    return sqlite3.SQLITE_OK if action in _READING and not sets else sqlite3.SQLITE_DENY


#: PRAGMAs whose argument is what is asked about: https://www.sqlite.org/pragma.html
_ASKING = frozenset(
    {
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
        "foreign_key_check", "integrity_check", "quick_check",
    }
)  # fmt: skip
