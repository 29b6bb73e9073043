"""Open SQLite files, translate the errors of sqlite3, run ad hoc statements."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.core.errors import (
    AttemptError,
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
from dwhctl.systems.base.source import DriverCursor, StatementResult, closed_on_error

if TYPE_CHECKING:
    from dwhctl.systems.sqlite.system import SqliteConnection


#: How long to wait for another process that writes.
BUSY_SECONDS = 30.0
_ROUND_MILLISECONDS = 500

_REMEDIES = {
    "SQLITE_BUSY": "another program holds a lock on the file; find it (fuser, lsof) and try again",
    "SQLITE_CANTOPEN": "check that the folder exists and may be written",
    "SQLITE_CORRUPT": "the file is damaged; restore a backup, or try `sqlite3 FILE .recover`",
    "SQLITE_FULL": "make room on its disk and start the command again",
    "SQLITE_IOERR": "check the disk and start the command again",
    "SQLITE_NOTADB": "the file is of another kind; move it, or configure another path",
    "SQLITE_PERM": "check who owns the file",
    "SQLITE_READONLY": "dwhctl must be able to write the file and its folder",
}
#: SQLite's error of AUTOINCREMENT without a further id is that of a full disk.
_NO_MORE_IDS = (
    "a row has the largest id there is: delete that row, and set `seq` of `sessions` in sqlite_sequence to the largest"
    " id left"
)
_LARGEST_ID = 2**63 - 1
_ACCESS = {"SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY"}
#: The file was replaced, or its file system fails.
_LOST = {"SQLITE_READONLY_DBMOVED", "SQLITE_IOERR_VNODE"}


def connect(path: Path, settings: str) -> sqlite3.Connection:
    """Open the sessions file; create it if there is none."""
    with translate_error(path, "opening the file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()  # SQLite creates it at the first write only, and the store compares its inode
        for suffix in ("", "-wal", "-shm"):
            tighten(path.with_name(path.name + suffix))
        connection = _open(path, "mode=rwc")
        with closed_on_error(connection):
            connection.executescript(settings)
            _write_ahead(connection, path)
        return connection


def _open(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    # Another program may have written what is not UTF-8.
    connection.text_factory = lambda octets: octets.decode("utf-8", "replace")
    return connection


def may_write(path: Path) -> bool:
    """Return whether this user may write the file and its folder, where SQLite creates two more."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True) and os.access(
        path.parent, os.W_OK | os.X_OK, effective_ids=True
    )


class AtRest(Struct, frozen=True):
    """The size and time of a database file that no process has open. They change when one writes it."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> AtRest | None:
        """Return None while a process has the database open, or after one that died."""
        if any(os.path.lexists(f"{path}{suffix}") for suffix in ("-wal", "-journal")):
            return None
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


def connect_to_read(path: Path, settings: str) -> tuple[sqlite3.Connection, AtRest | None]:
    """Open a file that this user may not write.

    SQLite reads a database in WAL mode with two files beside it. They are missing while no process has the database
    open, and this user cannot create them: then the database file alone is complete, and is read without locks. What is
    read so is right as long as the returned `AtRest` does not change.
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
    connection = _open(path, how)
    with closed_on_error(connection):
        connection.executescript(settings)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Turn WAL on: readers and the writer do not wait for each other.

    It needs the file alone for a moment, and SQLite does not wait for that. A file system without shared memory keeps
    the old journal, which is slower and as safe.
    """
    note = f"the sessions file {path}: another process has it for itself"
    _retry_while_busy(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone(), note, 0.05)


def begin_immediate(connection: sqlite3.Connection, path: Path) -> None:
    """Begin a transaction that writes, waiting BUSY_SECONDS for another writer, and report the wait."""
    # SQLite waits in C without a message: several short waits allow one between them.
    connection.execute(f"PRAGMA busy_timeout = {_ROUND_MILLISECONDS}")
    try:
        note = f"the sessions file {path}: another process writes to it"
        _retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"), note)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")


def _retry_while_busy(action: Callable[[], object], note: str, pause: float = 0) -> None:
    with waited(BUSY_SECONDS) as waiting:
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                action()
                return
            except sqlite3.OperationalError as error:
                if _primary(error) != "SQLITE_BUSY" or time.monotonic() > until:
                    raise
            waiting.note(lambda: note)
            time.sleep(pause)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes the file from another at its path; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def translate_error(path: Path, doing: str) -> Iterator[None]:
    """Raise the errors of SQLite as a SessionsError with place and remedy."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        raise _explained(path, doing, error) from None


def _explained(path: Path, doing: str, error: Exception) -> SessionsError:
    name = getattr(error, "sqlite_errorname", "")
    closed = isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error)
    kind = SessionsLostError if name in _LOST or closed else SessionsError
    remedy = _REMEDIES.get(_primary(error))
    if isinstance(error, PermissionError) or (_primary(error) in _ACCESS and not may_write(path)):
        remedy = denied(path)
    if _primary(error) == "SQLITE_IOERR" and _is_full(path.parent):
        remedy = "its disk is full: make room and start the command again"
    if _primary(error) == "SQLITE_FULL" and _has_largest_id(path):
        remedy = _NO_MORE_IDS
    text = f"sessions in {path}: {doing}: {error}"
    return kind(mask(f"{text}; {remedy}" if remedy else text))


def _is_full(folder: Path) -> bool:
    """Return whether the disk is full: SQLite reports an I/O error where it has no room for its index of the WAL."""
    try:
        return os.statvfs(folder).f_bavail == 0
    except OSError:
        return False


def _has_largest_id(path: Path) -> bool:
    try:
        with closing(_open(path, "mode=ro")) as connection:
            [(largest,)] = connection.execute("SELECT max(seq) FROM sqlite_sequence").fetchall()
    except sqlite3.Error:
        return False
    return bool(largest == _LARGEST_ID)


def _primary(error: Exception) -> str:
    # SQLITE_IOERR_WRITE is a kind of SQLITE_IOERR.
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


#: Actions of statements that only read: https://www.sqlite.org/c3ref/c_alter_table.html. ATTACH and VACUUM INTO write
#: other files whatever the mode of this one.
_READING = frozenset(
    {
        sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_TRANSACTION,
    }
)  # fmt: skip


class SqliteCursor(DriverCursor[sqlite3.Connection]):
    """A SQLite file. Without `write` it is open read-only, and SQLite's authorizer denies all but reading."""

    reading = frozenset({"SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"})

    failures = (sqlite3.Error, sqlite3.Warning, UnicodeError)

    def __init__(self, connection: SqliteConnection, *, write: bool) -> None:
        super().__init__(connection.name, write=write)
        self._path = connection.path

    def statements(self, sql: str) -> list[str]:
        """Split into statements; a semicolon inside a trigger does not end one."""
        whole: list[str] = []
        part = ""
        for piece in split_statements(sql):
            part += f"{piece};"
            if sqlite3.complete_statement(part):
                whole.append(part.removesuffix(";"))
                part = ""
        return [*whole, part] if part else whole

    def open(self) -> None:
        if not self._path.is_file():
            raise DatabaseMissingError(f"connection {self.name}: there is no file {self._path}")
        with self.translated():
            self._driver = _open(self._path, "mode=rw" if self.write else "mode=ro")
            self._driver.text_factory = str
            if not self.write:
                self._driver.execute("PRAGMA query_only = ON")
                self._driver.set_authorizer(_only_reading)

    def begin(self) -> None:
        with self.translated():
            self.driver.execute("BEGIN IMMEDIATE")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self.translated():
            cursor = self.driver.execute(sql)
        yield self.result(cursor, lambda: cursor.fetchmany(rows))

    def commit(self) -> None:
        with self.translated():
            if self.driver.in_transaction:
                self.driver.execute("COMMIT")

    def interrupt(self) -> None:
        if (driver := self._driver) is not None:
            with suppress(sqlite3.Error):
                driver.interrupt()

    def _translate_error(self, error: Exception) -> AttemptError:
        at = f"connection {self.name}:"
        if isinstance(error, UnicodeDecodeError):
            return QueryError(f"{at} a text is not UTF-8: {error.reason}")
        if isinstance(error, UnicodeError):
            return QueryError(f"{at} the SQL is no text that SQLite can hold")
        name = getattr(error, "sqlite_errorname", "")
        kind = SourceBusyError if name.startswith("SQLITE_BUSY") else QueryError
        # SQLite refuses ATTACH with the words of the authorizer, not with its error name.
        refused = name == "SQLITE_AUTH" or "not authorized" in str(error)
        hint = "; --write lets a statement write" if refused else ""
        return kind(f"{at} {mask(str(error))}{hint}")


def _only_reading(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    """Allow reading, and a PRAGMA that sets nothing: `PRAGMA journal_mode = ...` writes."""
    sets = action == sqlite3.SQLITE_PRAGMA and second is not None and first not in _QUERY_PRAGMAS
    return sqlite3.SQLITE_OK if action in _READING and not sets else sqlite3.SQLITE_DENY


#: PRAGMAs whose argument is not a value to set: https://www.sqlite.org/pragma.html
_QUERY_PRAGMAS = frozenset(
    {
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
        "foreign_key_check", "integrity_check", "quick_check",
    }
)  # fmt: skip
