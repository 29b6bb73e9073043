"""Ad hoc statements on a DuckDB file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from dwhctl.core.errors import AttemptError, DatabaseMissingError
from dwhctl.core.files import SpillFolder
from dwhctl.core.secrets import mask
from dwhctl.core.sql import first_word
from dwhctl.systems.base.source import DriverCursor, StatementResult
from dwhctl.systems.duckdb import client as engine

if TYPE_CHECKING:
    from dwhctl.systems.duckdb.system import DuckdbConnection


_WRITING = ("INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "COPY")


class DuckdbCursor(DriverCursor[duckdb.DuckDBPyConnection]):
    """A DuckDB file.

    Without `write` the file is open read-only, and SQL reaches no other file, server or extension: COPY and ATTACH
    cannot write, and `read_csv` cannot read.
    """

    reading = frozenset(
        {
            "SELECT", "WITH", "FROM", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "SUMMARIZE", "EXPLAIN", "PIVOT",
            "UNPIVOT", "PRAGMA",
        }
    )  # fmt: skip

    failures = (duckdb.Error, duckdb.Warning, OSError)

    def __init__(
        self, connection: DuckdbConnection, path: str, *, write: bool, state_dir: Path | None = None
    ) -> None:
        super().__init__(connection.name, write=write)
        self._state_dir = state_dir
        self._spill: SpillFolder | None = None
        self._connection = connection
        self._path = Path(path)
        self._interrupted = threading.Event()

    def open(self) -> None:
        if not self._path.is_file():
            raise DatabaseMissingError(f"connection {self.name}: there is no file {self._path}")
        if self._state_dir is not None:
            with suppress(OSError):  # without write permission there is no spill folder
                self._state_dir.mkdir(parents=True, exist_ok=True)
        self._spill = SpillFolder(self._state_dir)
        with self.translated():
            self._driver = engine.open_file(
                self._path,
                read_only=not self.write,
                wait=self._connection.lock_wait.total_seconds(),
                config={
                    "memory_limit": engine.memory_limit(self._connection.memory_limit, columns=50),
                    "temp_directory": self._spill.path,
                },
                folders=None if self.write else (),
                give_up=self._interrupted,
            )

    def begin(self) -> None:
        with self.translated():
            self.driver.execute("BEGIN")

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self.translated():
            db = self.driver.execute(sql)
            # DuckDB returns the number of written rows as one column `Count`.
            if [column[0] for column in db.description or ()] == ["Count"] and first_word(sql) in _WRITING:
                found = db.fetchone()
                yield StatementResult(changed=int(found[0]) if found else None)
                return
        yield self.result(db, lambda: db.fetchmany(rows))

    def commit(self) -> None:
        with self.translated(), suppress(duckdb.TransactionException):
            # Outside of a transaction each statement is committed already.
            self.driver.execute("COMMIT")

    def interrupt(self) -> None:
        self._interrupted.set()
        if (driver := self._driver) is not None:
            with suppress(duckdb.Error):
                driver.interrupt()

    def close(self) -> None:
        super().close()
        if self._spill is not None:
            self._spill.close()

    def _translate_error(self, error: Exception) -> AttemptError:
        found = engine.translate_error(error, self._connection, self._path)
        hint = "; --write lets it" if engine.is_out_of_reach(error) else ""
        return type(found)(f"connection {self.name}: {mask(str(found))}{hint}")
