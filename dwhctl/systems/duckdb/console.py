"""Ad hoc statements on a DuckDB file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from dwhctl.core.errors import AttemptError, DatabaseMissingError
from dwhctl.core.files import SpillFolder
from dwhctl.core.secrets import mask
from dwhctl.core.sql import first_word
from dwhctl.systems.base.source import DriverCursor, Row, StatementResult
from dwhctl.systems.duckdb import client as engine

if TYPE_CHECKING:
    from dwhctl.systems.duckdb.system import DuckdbConnection


#: Types of which Python makes other values: a month becomes 30 days, infinity the year 9999, nanoseconds are cut.
_AS_TEXT = ("INTERVAL", "TIMESTAMP_NS", "TIME_NS")
_INFINITE = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE")
_PLAIN = ("SELECT", "WITH", "FROM", "VALUES", "TABLE")
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
            if exact := self._exact(sql):
                names, texts = zip(*exact, strict=True)
                yield StatementResult(names, self._batches(self._fetch_exact(sql, texts, rows)))
                return
            db = self.driver.execute(sql)
            # DuckDB returns the number of written rows as one column `Count`.
            if [column[0] for column in db.description or ()] == ["Count"] and first_word(sql) in _WRITING:
                found = db.fetchone()
                yield StatementResult(changed=int(found[0]) if found else None)
                return
        yield self.result(db, lambda: db.fetchmany(rows))

    def _exact(self, sql: str) -> list[tuple[str, str]]:
        """Return the columns of a query with the SQL of their texts, empty for most; nothing when none has one."""
        if first_word(sql) not in _PLAIN:
            return []
        try:
            if duckdb.extract_statements(sql)[0].type != duckdb.StatementType.SELECT:
                return []
            described = self.driver.execute(f"DESCRIBE {sql}").fetchall()
        except duckdb.Error:  # the statement itself says it better
            return []
        columns = [
            (str(name), _text_of(f"#{at}", declared)) for at, (name, declared, *_) in enumerate(described, 1)
        ]
        return columns if any(text for _, text in columns) else []

    def _fetch_exact(self, sql: str, texts: Sequence[str], rows: int) -> Callable[[], Sequence[Row]]:
        """Run a query; return what fetches its rows, with the texts of values that Python does not have."""
        values = ", ".join([*(f"#{at}" for at in range(1, len(texts) + 1)), *filter(None, texts)])
        db = self.driver.execute(f"SELECT {values} FROM (\n{sql.rstrip().rstrip(';')}\n)")
        places = [at for at, text in enumerate(texts) if text]

        def fetch() -> list[Row]:
            return [_with_texts(row[: len(texts)], places, row[len(texts) :]) for row in db.fetchmany(rows)]

        return fetch

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


def _text_of(column: str, declared: str) -> str:
    """Return the SQL of a column's text, NULL where Python has the value; empty where it has all of the type's."""
    if declared in _AS_TEXT:
        return f"CAST({column} AS VARCHAR)"
    return f"CASE WHEN isinf({column}) THEN CAST({column} AS VARCHAR) END" if declared in _INFINITE else ""


def _with_texts(values: Row, places: Sequence[int], texts: Row) -> Row:
    row = list(values)
    for at, text in zip(places, texts, strict=True):
        row[at] = row[at] if text is None else text
    return tuple(row)
