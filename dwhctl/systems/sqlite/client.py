"""The connection to a SQLite file, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    DatabaseMissingError,
    QueryError,
    SessionsError,
    SessionsLostError,
    SourceBusyError,
)
from dwhctl.core.files import denied, tighten
from dwhctl.core.secrets import mask
from dwhctl.core.sql import split_statements
from dwhctl.core.waiting import waited
from dwhctl.systems.base.source import Cursor, Row, StatementResult

if TYPE_CHECKING:
    from dwhctl.systems.sqlite.system import SqliteConnection


# How long to wait for another process that writes.
BUSY_SECONDS = 30.0
_ROUND_MILLISECONDS = 500

_REMEDIES = {
    "SQLITE_BUSY": "another program holds a lock on the file; find it (fuser, lsof) and try again",
    "SQLITE_CANTOPEN": "check that the folder exists and may be written",
    "SQLITE_CORRUPT": "the file is damaged; restore a backup, or try `sqlite3 FILE .recover`",
    "SQLITE_FULL": "make room on its disk and start the command again; with room on it, a row has the largest id"
    " there is: delete that row, and set `seq` of `sessions` in sqlite_sequence to the largest id left",
    "SQLITE_IOERR": "check the disk and start the command again",
    "SQLITE_NOTADB": "another kind of file stands there; move it away or name another path",
    "SQLITE_PERM": "check who owns the file",
    "SQLITE_READONLY": "dwhctl must be able to write the file and its folder",
}
_ACCESS = {"SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY"}
# The file is not the one that was opened, or does not answer any more.
_LOST = {"SQLITE_READONLY_DBMOVED", "SQLITE_IOERR_VNODE"}


def connect(path: Path, settings: str) -> sqlite3.Connection:
    """Open the file, create it if there is none."""
    with translate_error(path, "opening the file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()  # SQLite makes it at the first write only, and the store tells it by its inode
        for suffix in ("", "-wal", "-shm"):
            tighten(path.with_name(path.name + suffix))
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            # Another program may have written what is not UTF-8.
            connection.text_factory = _any_text
            connection.executescript(settings)
            _write_ahead(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def may_write(path: Path) -> bool:
    """Tell whether this user may write the file and its folder, where SQLite puts two more."""
    return _may(path, os.R_OK | os.W_OK) and _may(path.parent, os.W_OK | os.X_OK)


@dataclass(frozen=True, slots=True)
class AtRest:
    """A database that no process has open, as its files show it: they tell when that is over."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> AtRest | None:
        """Look at the files; None while a process has the database open, or after one that died."""
        if any(os.path.lexists(f"{path}{suffix}") for suffix in ("-wal", "-journal")):
            return None
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


def connect_to_read(path: Path, settings: str) -> tuple[sqlite3.Connection, AtRest | None]:
    """Open a file that this user may not write.

    SQLite reads a database in WAL mode by two files beside it. While no process has it open they are not there, and
    this user cannot make them: the database file alone is then complete, and is read without locks. What is read in
    this way is right as long as the database is still at rest as returned.
    """
    with translate_error(path, "opening the file for reading"):
        try:
            return _connected(path, "mode=ro", settings), None
        except sqlite3.OperationalError as error:
            if _primary(error) not in ("SQLITE_CANTOPEN", "SQLITE_READONLY"):
                raise
        at_rest = AtRest.of(path)
        if at_rest is None:
            raise SessionsError(
                f"sessions in {path}: the newest are in {path.name}-wal, which this user cannot read;"
                f" {denied(path.with_name(f'{path.name}-wal'))}"
            )
        return _connected(path, "mode=ro&immutable=1", settings), at_rest


def _connected(path: Path, how: str, settings: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{how}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = _any_text
        connection.executescript(settings)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _any_text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Turn WAL on: readers and the writer do not wait for each other.

    It needs the file alone for a moment and does not wait for it by itself. A file system that cannot share
    memory keeps the old journal, which is slower and no less safe.
    """
    with waited(BUSY_SECONDS) as waiting:
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if _primary(error) != "SQLITE_BUSY" or time.monotonic() > until:
                    raise
            waiting.note(lambda: f"the sessions file {path}: another process has it for itself")
            time.sleep(0.05)


def begin_immediate(connection: sqlite3.Connection, path: Path) -> None:
    """Begin a transaction that writes, waiting BUSY_SECONDS for another writer, and say so."""
    with waited(BUSY_SECONDS) as waiting:
        until = time.monotonic() + BUSY_SECONDS
        # SQLite waits in C and says nothing; in short rounds there is something to say between them.
        connection.execute(f"PRAGMA busy_timeout = {_ROUND_MILLISECONDS}")
        try:
            while True:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if _primary(error) != "SQLITE_BUSY" or time.monotonic() > until:
                        raise
                waiting.note(lambda: f"the sessions file {path}: another process writes to it")
        finally:
            connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")


def file_identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another that took its place; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def translate_error(path: Path, doing: str) -> Iterator[None]:
    """Raise what SQLite says as a SessionsError with place and remedy."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        raise _explained(path, doing, error) from None


def _explained(path: Path, doing: str, error: Exception) -> SessionsError:
    name = getattr(error, "sqlite_errorname", "")
    closed = isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error)
    kind = SessionsLostError if name in _LOST or closed else SessionsError
    remedy = _REMEDIES.get(_primary(error))
    if isinstance(error, PermissionError) or (_primary(error) in _ACCESS and _is_denied(path)):
        remedy = denied(path)
    text = f"sessions in {path}: {doing}: {error}"
    return kind(mask(f"{text}; {remedy}" if remedy else text))


def _is_denied(path: Path) -> bool:
    """Tell whether this user may not write the file, or its folder, where SQLite puts two more."""
    return not may_write(path)


def _may(path: Path, wanted: int) -> bool:
    return os.access(path, wanted, effective_ids=True)


def _primary(error: Exception) -> str:
    # SQLITE_IOERR_WRITE is a kind of SQLITE_IOERR.
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


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
        with self._translate_error():
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
        with self._translate_error():
            self._open().execute("BEGIN IMMEDIATE")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self._translate_error():
            cursor = self._open().execute(sql)
        if cursor.description is None:
            yield StatementResult(changed=cursor.rowcount if cursor.rowcount >= 0 else None)
            return
        columns = tuple(str(column[0]) for column in cursor.description)
        yield StatementResult(columns, self._batches(cursor, rows))

    def _batches(self, cursor: sqlite3.Cursor, rows: int) -> Iterator[list[Row]]:
        with self._translate_error():
            while batch := cursor.fetchmany(rows):
                yield batch
            cursor.close()

    def commit(self) -> None:
        with self._translate_error():
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
    def _translate_error(self) -> Iterator[None]:
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
