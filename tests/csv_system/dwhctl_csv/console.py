"""Ad hoc statements over a folder of CSV files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
from dwhctl_csv.engine import Engine, translate_error
from dwhctl_csv.tables import TableError

from dwhctl.core.errors import AttemptError, DatabaseMissingError, QueryError, SourceError
from dwhctl.core.secrets import mask
from dwhctl.systems.base.source import DriverCursor, StatementResult

_ERRORS = (QueryError, SourceError)


class CsvCursor(DriverCursor[Engine]):
    """A folder of CSV files, which is only read: DuckDB, in memory, reaches no file."""

    reading = frozenset(
        {"SELECT", "WITH", "FROM", "VALUES", "TABLE", "SHOW", "DESCRIBE", "SUMMARIZE", "EXPLAIN"}
    )
    failures = (duckdb.Error, pa.ArrowException, OSError, TableError)

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, write=False)
        self._folder = folder

    def open(self) -> None:
        if not self._folder.is_dir():
            raise DatabaseMissingError(f"connection {self.name}: there is no folder {self._folder}")
        with self.translated():
            self._driver = Engine(self._folder, _ERRORS)

    def begin(self) -> None:
        """Begin nothing: each statement reads."""

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        with self.translated():
            cursor = self.driver.execute(sql)
        yield self.result(cursor, lambda: cursor.fetchmany(rows))

    def commit(self) -> None:
        """Commit nothing."""

    def interrupt(self) -> None:
        if self._driver is not None:
            self._driver.interrupt()

    def _translate_error(self, error: Exception) -> AttemptError:
        found = translate_error(error, _ERRORS)
        return type(found)(f"connection {self.name}: {mask(str(found))}")
