"""Ad hoc statements on a DuckDB file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from dwhctl.core.errors import DatabaseMissingError, QueryError, SourceBusyError
from dwhctl.core.secrets import mask
from dwhctl.core.sql import first_word
from dwhctl.systems.base.source import Cursor, StatementResult
from dwhctl.systems.duckdb import client as engine
from dwhctl.systems.duckdb.spill import SpillFolder

if TYPE_CHECKING:
    from dwhctl.systems.duckdb.system import DuckdbConnection


_WRITING = ("INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "COPY")


class DuckdbCursor(Cursor):
    """A DuckDB file.

    Read only it is opened so, and other files, servers and extensions are out of reach: COPY and ATTACH cannot write
    then, and `read_csv` cannot read.
    """

    reading = frozenset(
        {
            "SELECT", "WITH", "FROM", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "SUMMARIZE", "EXPLAIN", "PIVOT",
            "UNPIVOT", "PRAGMA",
        }
    )  # fmt: skip

    def __init__(
        self, connection: DuckdbConnection, path: str, *, write: bool, state_dir: Path | None = None
    ) -> None:
        super().__init__(write=write)
        self._state_dir = state_dir
        self._spill: SpillFolder | None = None
        self._connection = connection
        self._path = Path(path)
        self._gave_up = threading.Event()
        self._db: duckdb.DuckDBPyConnection | None = None

    def open(self) -> None:
        if not self._path.is_file():
            raise DatabaseMissingError(f"connection {self._connection.name}: there is no file {self._path}")
        if self._state_dir is not None:
            with suppress(OSError):  # this user may only read here: the query keeps to its memory
                self._state_dir.mkdir(parents=True, exist_ok=True)
        self._spill = SpillFolder(self._state_dir)
        with self._translate_error():
            self._db = engine.open_file(
                self._path,
                read_only=not self.write,
                wait=self._connection.lock_wait.total_seconds(),
                config={
                    "memory_limit": engine.memory_limit(self._connection.memory_limit, columns=50),
                    "temp_directory": self._spill.path,
                },
                folders=None if self.write else (),
                give_up=self._gave_up,
            )

    def begin(self) -> None:
        with self._translate_error():
            self._open().execute("BEGIN")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self._translate_error():
            db = self._open().execute(sql)
            columns = tuple(str(column[0]) for column in db.description or ())
            if _counts(db, sql):
                found = db.fetchone()
                yield StatementResult(changed=int(found[0]) if found else None)
                return
        yield StatementResult(columns, self._batches(db, rows) if columns else iter(()))

    def _batches(self, db: duckdb.DuckDBPyConnection, rows: int) -> Iterator[list[tuple[object, ...]]]:
        with self._translate_error():
            while batch := db.fetchmany(rows):
                yield batch

    def commit(self) -> None:
        with self._translate_error(), suppress(duckdb.TransactionException):
            # Outside of a transaction each statement has committed itself.
            self._open().execute("COMMIT")

    def interrupt(self) -> None:
        self._gave_up.set()
        if (db := self._db) is not None:
            with suppress(duckdb.Error):
                db.interrupt()

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()
        if self._spill is not None:
            self._spill.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._db is None:
            raise QueryError(f"{self._path} is closed")
        return self._db

    @contextmanager
    def _translate_error(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, duckdb.Warning, OSError) as error:
            if engine.is_lock_conflict(error):
                text = f"{self._path} is in use by {engine.lock_holder(error)}"
                raise SourceBusyError(text) from error
            if engine.is_out_of_memory(error):
                raise QueryError(engine.more_memory(self._connection.name)) from error
            hint = "; --write lets it" if engine.is_out_of_reach(error) else ""
            text = f"connection {self._connection.name}: {mask(engine.words(error))}{hint}"
            raise QueryError(text) from error


def _counts(db: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Tell whether the answer is only the number of rows that were written: DuckDB's one column `Count`."""
    names = [column[0] for column in db.description or []]
    return names == ["Count"] and first_word(sql) in _WRITING
