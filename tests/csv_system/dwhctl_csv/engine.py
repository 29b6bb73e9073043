"""SQL over the tables of a folder, run by DuckDB in memory; DuckDB itself reaches no file."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import tenacity
from dwhctl_csv.tables import Declared, Table, TableError, Writer, column, tables_in

from dwhctl.core.columns import Column
from dwhctl.core.errors import About, AttemptError, QueryError
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.core.waiting import Wait, waited
from dwhctl.project.query import named_line

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "enable_external_access": False,
    "temp_directory": "",
    "memory_limit": "512MiB",
    "threads": 1,
}
#: Rows that are written at once.
_BATCH_ROWS = 10_000
_LINE = re.compile(r"\nLINE (\d+):")
#: Errors that every later attempt meets too; and how their messages begin where Arrow raises them.
_REFUSALS = (
    duckdb.ProgrammingError,
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.NotSupportedError,
    TableError,
)
_REFUSED_BY_ARROW = (
    "Conversion Error",
    "Invalid Input Error",
    "Out of Range Error",
    "Invalid: ",
    "CSV parse error",
)

#: The class of an error that every attempt meets, and of one that passes.
Errors = tuple[type[AttemptError], type[AttemptError]]


class Engine:
    """One in-memory database, with a view of each table that its SQL mentions. A table stays as it was then."""

    def __init__(self, folder: Path | None, errors: Errors, zone: str = "UTC") -> None:
        self._files = {name.lower(): path for name, path in tables_in(folder)} if folder else {}
        self._errors = errors
        self._tables: dict[str, Table] = {}
        self._views: set[str] = set()
        self.db = duckdb.connect(":memory:", config=_CONFIG)
        # DuckDB compares naive values with a TIMESTAMP WITH TIME ZONE in the session's time zone.
        self.db.execute(f"SET TimeZone = '{zone}'")
        self.db.execute("SET lock_configuration = true")
        for schema in {name.partition(".")[0] for name in self._files if "." in name} - {"main"}:
            self.db.execute(f"CREATE SCHEMA {quote_name(schema)}")

    def close(self) -> None:
        """Close the database and the files. Idempotent."""
        self.db.close()
        for table in self._tables.values():
            table.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """End the running statement. Called from another thread, which may see it closed."""
        with suppress(duckdb.ConnectionException):
            self.db.interrupt()

    def table(self, name: str) -> Table:
        """Return a table of the folder. Raise TableError when there is none."""
        key = name.lower()
        if key not in self._tables:
            path = self._files.get(key)
            if path is None or path.suffix != ".csv":
                raise TableError(f"there is no table {name}")
            self._tables[key] = Table(path)
        return self._tables[key]

    def mentioned(self, sql: str) -> list[str]:
        """Return the names of the tables and views that the SQL may mean."""
        text = sql.casefold()
        return [name for name in self._files if name.rpartition(".")[2] in text]

    def attach(self, sql: str) -> None:
        """Make a view of each table that the SQL mentions, also by a view of the folder."""
        for name in self.mentioned(sql):
            if name in self._views:
                continue
            self._views.add(name)
            path = self._files[name]
            if path.suffix == ".sql":
                view = path.read_text(encoding="utf-8")
                self.attach(view)
                with suppress(duckdb.Error):  # a view of what is gone: whoever uses it gets DuckDB's message
                    self.db.execute(view)
                continue
            table = self.table(name)
            table.described()
            self.db.execute(f"CREATE VIEW {quote_path(name)} AS {table.select(self.raw(table))}")

    def load(self, sql: str, *, with_rows: bool) -> list[str]:
        """Make a table, not a view, of each table that the SQL mentions; return their names."""
        names = [name for name in self.mentioned(sql) if self._files[name].suffix == ".csv"]
        for name in names:
            table, path = self.table(name), quote_path(name)
            table.described()
            self._views.add(name)
            self.db.execute(f"CREATE TABLE {path} ({', '.join(one.ddl for one in table.columns)})")
            if with_rows:
                self.db.execute(f"INSERT INTO {path} {table.select(self.raw(table))}")
        self.attach(sql)
        return names

    def staged(self, path: Path) -> Table:
        """Return the table of a staged file, open as long as the engine. Raise FileNotFoundError."""
        if (key := str(path)) not in self._tables:
            self._tables[key] = Table(path)
        return self._tables[key]

    def raw(self, table: Table) -> str:
        """Register a table's rows as texts; return the name to select them from."""
        name = f"rows_{table.path.name}"
        self.db.register(name, table.rows())
        return quote_name(name)

    def execute(self, sql: str, values: Mapping[str, object] | None = None) -> duckdb.DuckDBPyConnection:
        """Run SQL over the tables."""
        self.attach(sql)
        return self.db.execute(sql, dict(values) if values else None)

    def write(self, path: Path, columns: Sequence[Declared], select: str) -> int:
        """Write the answer, which has these columns, into a new file in the place of `path`; return its rows."""
        texts = ", ".join(
            f"CAST({quote_name(one.name)} AS VARCHAR) AS {quote_name(one.name)}" for one in columns
        )
        self.attach(select)
        reader = self.db.sql(f"SELECT {texts} FROM ({select}) AS new_rows").to_arrow_reader(_BATCH_ROWS)
        writer, rows = Writer(path.with_name(f".{path.name}.new"), columns), 0
        try:
            for batch in reader:
                writer.write(batch)
                rows += batch.num_rows
            writer.close()
        except BaseException:
            writer.discard()
            raise
        return rows

    @contextmanager
    def translated(self, statement: str | None = None) -> Iterator[None]:
        """Translate errors, with the user's statement that runs in the block."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError, TableError) as error:
            raise translate_error(error, self._errors, statement) from error


def put(path: Path) -> None:
    """Put the file that `Engine.write` wrote into its place: a reader finds the old file or the new one."""
    path.with_name(f".{path.name}.new").replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def translate_error(error: BaseException, errors: Errors, statement: str | None = None) -> AttemptError:
    """Return the error that one of DuckDB, Arrow or the files means."""
    refused, failed = errors
    is_refused = isinstance(error, _REFUSALS) or words(error).startswith(_REFUSED_BY_ARROW)
    if isinstance(error, duckdb.OutOfMemoryException) or words(error).startswith("Out of Memory Error"):
        found = refused(f"the query needs more memory than {_CONFIG['memory_limit']}; let it read fewer rows")
        found.about = About.MEMORY
        return found
    found = (refused if is_refused else failed)(words(error))
    if isinstance(error, duckdb.CatalogException) and str(error).startswith("Catalog Error: Table "):
        found.about = About.TABLE
    if statement is not None:
        line = _LINE.search(str(error))
        found.statement = statement
        found.line = int(line[1]) if line else named_line(statement, str(error))
    return found


def words(error: BaseException) -> str:
    """Return the message without the excerpt of the statement that follows it."""
    return " ".join(str(error).partition("\nLINE ")[0].split()) or type(error).__name__


def described(names: Sequence[str], types: Sequence[object]) -> list[Column]:
    """Return a query's columns. Raise QueryError for a type without a place and for a duplicate name."""
    found: dict[str, Column] = {}
    for name, declared in zip(names, map(str, types), strict=True):
        if name.lower() in found:
            raise QueryError(f"column {name} occurs twice in the extract; give one of them another name")
        if (one := column(name, declared)) is None:
            raise QueryError(
                f"column {name}: the type {declared} would not arrive as it is; CAST it in the extract, for example"
                " to VARCHAR"
            )
        found[name.lower()] = one
    return list(found.values())


def syntax_problem(sql: str) -> str | None:
    """Return DuckDB's syntax error with its line, or None."""
    try:
        duckdb.extract_statements(sql)
    except duckdb.Error as error:
        line = _LINE.search(str(error))
        return f"{f'line {line[1]} as rendered: ' if line else ''}{words(error)}"
    return None


def query_problem(sql: str) -> str | None:
    """Return the syntax error, or that the text is not one SELECT, or None."""
    if problem := syntax_problem(sql):
        return problem
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    return None if kinds == ["SELECT"] else f"an extract is one SELECT; this is {', '.join(kinds) or 'empty'}"


@contextmanager
def locked(
    folder: Path, how: int, wait: float, busy: type[AttemptError], give_up: threading.Event | None = None
) -> Iterator[None]:
    """Hold a lock on the folder in the block: many readers or one writer. Raise `busy` after `wait` seconds."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    give_up = give_up or threading.Event()
    try:
        with waited(wait) as waiting:
            attempts = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(BlockingIOError),
                stop=tenacity.stop_any(
                    tenacity.stop_after_delay(wait), tenacity.stop_when_event_set(give_up)
                ),
                sleep=tenacity.sleep_using_event(give_up),
                wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
                before_sleep=partial(_note, waiting, folder),
                reraise=True,
            )
            try:
                attempts(fcntl.flock, handle, how | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy(f"another process uses {folder}; waited {wait:g} s for it") from error
        yield
    finally:
        os.close(handle)


def _note(waiting: Wait, folder: Path, _: Any) -> None:
    waiting.note(lambda: f"{folder}: another process uses it")
