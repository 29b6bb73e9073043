"""DuckDB files: opening them with a bounded wait, their types, their errors in words."""

from __future__ import annotations

import errno
import os
import re
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import About, AttemptError, DatabaseMissingError, QueryError
from dwhctl.core.waiting import Wait, waited
from dwhctl.project.templates import named_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


#: DuckDB's types and what they are here. A type that is not in the table is refused by name: its values would
#: not arrive as they were (INTERVAL, BIT, TIME WITH TIME ZONE, nested types) or have no place in a warehouse table.
#: Source: https://duckdb.org/docs/stable/sql/data_types/overview
KINDS: dict[str, tuple[Kind, pa.DataType]] = {
    "BOOLEAN": (Kind.BOOLEAN, pa.bool_()),
    "TINYINT": (Kind.INTEGER, pa.int8()),
    "SMALLINT": (Kind.INTEGER, pa.int16()),
    "INTEGER": (Kind.INTEGER, pa.int32()),
    "BIGINT": (Kind.INTEGER, pa.int64()),
    "UTINYINT": (Kind.INTEGER, pa.uint8()),
    "USMALLINT": (Kind.INTEGER, pa.uint16()),
    "UINTEGER": (Kind.INTEGER, pa.uint32()),
    "UBIGINT": (Kind.INTEGER, pa.uint64()),
    # DuckDB hands HUGEINT to Arrow as decimal(38, 0), also a value of 39 digits: conform.py checks the digits.
    "HUGEINT": (Kind.DECIMAL, pa.decimal128(38, 0)),
    "FLOAT": (Kind.FLOAT, pa.float32()),
    "DOUBLE": (Kind.FLOAT, pa.float64()),
    "VARCHAR": (Kind.TEXT, pa.string()),
    "JSON": (Kind.TEXT, pa.string()),
    "UUID": (Kind.UUID, pa.string()),
    "BLOB": (Kind.BINARY, pa.binary()),
    "DATE": (Kind.DATE, pa.date32()),
    "TIME": (Kind.TIME, pa.time64("us")),
    "TIMESTAMP": (Kind.TIMESTAMP, pa.timestamp("us")),
    "TIMESTAMP_S": (Kind.TIMESTAMP, pa.timestamp("s")),
    "TIMESTAMP_MS": (Kind.TIMESTAMP, pa.timestamp("ms")),
    "TIMESTAMP_NS": (Kind.TIMESTAMP, pa.timestamp("ns")),
    "TIMESTAMP WITH TIME ZONE": (Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC")),
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def column(name: str, declared: str, *, nullable: bool = True) -> Column | None:
    """Describe a DuckDB column; None when its type has no place here."""
    if match := _DECIMAL.fullmatch(declared):
        precision, scale = int(match[1]), int(match[2])
        return Column(name, Kind.DECIMAL, pa.decimal128(precision, scale), declared, nullable)
    if declared.startswith("ENUM("):
        return Column(name, Kind.TEXT, pa.string(), "ENUM", nullable)
    if declared not in KINDS:
        return None
    return Column(name, *KINDS[declared], declared, nullable)


def declared_columns(names: Sequence[str], types: Sequence[object]) -> list[Column]:
    """Describe a query's columns. Raise QueryError for a type that has no place here, or a name that stands twice."""
    columns: list[Column] = []
    for name, declared in zip(names, map(str, types), strict=True):
        if any(name.lower() == column.name.lower() for column in columns):
            raise QueryError(f"column {name} stands twice in the extract; give one of them another name")
        described = column(name, declared)
        if described is None:
            raise QueryError(
                f"column {name}: DuckDB's type {declared} would not arrive as it is;"
                " CAST it in the extract, for example to VARCHAR"
            )
        columns.append(described)
    return columns


def is_lock_conflict(error: BaseException) -> bool:
    """Tell whether another process holds the file: DuckDB has no class of its own for it."""
    return isinstance(error, duckdb.IOException) and "Could not set lock on file" in str(error)


def lock_holder(error: BaseException) -> str:
    """Name the process that holds the file, as far as DuckDB tells."""
    match = re.search(r"\(PID (\d+)\)", str(error))
    return f"process {match[1]}" if match else "another process"


#: What no later attempt changes: somebody has to correct the path, the file or the rights on it.
_REFUSED_FILES = {
    os.strerror(number): number
    for number in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
}


def refused_file(error: BaseException) -> int | None:
    """Return the error number when the system refuses the file itself, however often one tries."""
    if not isinstance(error, duckdb.IOException):
        return None
    return _REFUSED_FILES.get(str(error).rpartition(": ")[2])


#: What DuckDB says of a file that it cannot read, although nothing is wrong with it.
_OTHER_VERSION = (
    "can only read storage versions",
    "storage version greater than",
    "Cannot open encrypted database",
)


def is_damage(error: BaseException) -> bool:
    """Tell whether the file itself is not what it should be."""
    words = (
        "not a valid DuckDB database",
        "orrupt",
        "checksum",
        "Serialization Error",
        "Could not read enough bytes",
        *_OTHER_VERSION,
    )
    return isinstance(error, duckdb.Error | OSError) and any(word in str(error) for word in words)


#: Errors that say the same however often one tries.
#: Source: the exception classes of the duckdb package, https://duckdb.org/docs/stable/clients/python/reference
REFUSALS = (
    duckdb.ProgrammingError,
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.NotSupportedError,
    duckdb.PermissionException,
)


#: How such errors begin where they come through Arrow, in mid-way, without their class.
_REFUSED_IN_MID_WAY = ("Conversion Error", "Invalid Input Error", "Out of Range Error", "Permission Error")


def is_refusal(error: BaseException) -> bool:
    """Tell whether the error would come again however often one tries."""
    return isinstance(error, REFUSALS) or (
        isinstance(error, OSError) and str(error).startswith(_REFUSED_IN_MID_WAY)
    )


def words(error: BaseException) -> str:
    """Give DuckDB's message without the excerpt of the statement that follows it."""
    text = str(error).partition("\nLINE ")[0]
    said = " ".join(text.split()) or type(error).__name__
    return f"{said}; {_CONFINED}" if is_out_of_reach(error) else said


#: What DuckDB says of files, servers and extensions where `confine` keeps them out.
_OUT_OF_REACH = ("disabled by configuration", "disabled through configuration")
_CONFINED = (
    "SQL, and the views and macros of a DuckDB file, may reach no other file, server or extension here"
)


def is_out_of_reach(error: BaseException) -> bool:
    """Tell whether the SQL, or a view in the file, wanted something outside of the file."""
    return any(said in str(error) for said in _OUT_OF_REACH)


_LINE = re.compile(r"\nLINE (\d+): ")


def explain(error: BaseException, found: AttemptError, statement: str | None = None) -> AttemptError:
    """Return the error with what a refusal is about, and the line of the statement that DuckDB names."""
    if is_out_of_memory(error):
        found.about = About.MEMORY
    elif isinstance(error, duckdb.CatalogException) and str(error).startswith("Catalog Error: Table "):
        found.about = About.TABLE
    if statement is not None:
        line = _LINE.search(str(error))
        found.statement = statement
        found.line = int(line[1]) if line else named_line(statement, str(error))
    return found


#: What DuckDB gets when the connection does not say: it keeps a table's columns side by side, so a wide table needs
#: more. Measured: 20 columns of text load in 64 MiB, 60 in 128, 150 in 256.
_MEMORY_MIB = 64
_MEMORY_MIB_PER_COLUMN = 3


def memory_limit(configured: str | None, columns: int = 0) -> str:
    """Give DuckDB's memory limit for work on so many columns."""
    return configured or f"{max(_MEMORY_MIB, _MEMORY_MIB_PER_COLUMN * columns)}MiB"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether DuckDB hit its memory limit; through Arrow the error comes without its class."""
    return isinstance(error, duckdb.OutOfMemoryException) or str(error).startswith("Out of Memory Error")


def more_memory(connection: str) -> str:
    """Say what helps against too little memory."""
    return (
        f"DuckDB needs more memory; set memory_limit of the connection {connection} to more, for example 1GiB"
    )


Config = dict[str, str | bool | int | float | list[str]]

#: For every connection: no extension is installed or loaded because SQL, or a view in the file, happens to need it, and
#: no name in SQL is a variable of this program.
#: Source: https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview
_EVERYWHERE: Config = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}


def connect(
    path: str,
    config: Config,
    *,
    read_only: bool = False,
    folders: Sequence[Path] | None = (),
    settings: Sequence[str] = (),
) -> duckdb.DuckDBPyConnection:
    """Connect; SQL then reaches files of `folders` only, None for all files. Raise duckdb.Error.

    `settings` lists the settings that may be changed afterwards.
    """
    db = duckdb.connect(path, read_only=read_only, config=_EVERYWHERE | config)
    if folders is not None:
        try:
            _confine(db, folders, settings)
        except duckdb.Error:
            db.close()
            raise
    return db


def _confine(db: duckdb.DuckDBPyConnection, folders: Sequence[Path], settings: Sequence[str]) -> None:
    # Not in the configuration of `connect`: there DuckDB refuses them, or the spill folder beside them.
    # A pattern is looked up as it is written, and as the paths that it matches.
    inside = [written for folder in folders for written in (str(folder), literal_path(folder))]
    for setting, allowed in (("allowed_directories", inside), ("allowed_configs", settings)):
        texts = ", ".join("'" + each.replace("'", "''") + "'" for each in allowed)
        db.execute(f"SET {setting} = [{texts}]")
    db.execute("SET enable_external_access = false")
    db.execute("SET lock_configuration = true")


def open_file(
    path: Path,
    *,
    read_only: bool,
    wait: float,
    config: Config,
    folders: Sequence[Path] | None = (),
    settings: Sequence[str] = (),
    give_up: threading.Event | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, trying for `wait` seconds, or until `give_up` is set, while another process has it.

    A file serves one writer or many readers: https://duckdb.org/docs/stable/connect/concurrency.
    `folders` and `settings` are those of `connect`.
    Raise DatabaseMissingError when it is damaged, else duckdb.Error.
    """
    give_up = give_up or threading.Event()
    try:
        with waited(wait) as waiting:
            attempts = Retrying(
                retry=retry_if_exception(is_lock_conflict),
                stop=stop_any(stop_after_delay(wait), stop_when_event_set(give_up)),
                sleep=sleep_using_event(give_up),
                wait=wait_random_exponential(multiplier=0.02, max=0.5),
                before_sleep=partial(_note_holder, waiting, path),
                reraise=True,
            )
            return attempts(
                connect, str(path), config, read_only=read_only, folders=folders, settings=settings
            )
    except (duckdb.Error, duckdb.Warning) as error:
        if is_damage(error):
            is_other = any(said in str(error) for said in _OTHER_VERSION)
            problem = (
                "is of another version of DuckDB, or encrypted" if is_other else "is not a DuckDB database"
            )
            raise DatabaseMissingError(f"{path} {problem}: {words(error)}") from error
        raise


def _note_holder(waiting: Wait, path: Path, attempt: RetryCallState) -> None:
    error = attempt.outcome.exception() if attempt.outcome else None
    waiting.note(lambda: f"{path}: it is open in {lock_holder(error) if error else 'another process'}")


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Close the connection at the block's end, whatever happens in it."""
    try:
        yield connection
    finally:
        connection.close()


def quote(name: str) -> str:
    """Quote a table's name for SQL, the parts of `schema.table` one by one."""
    return ".".join(map(quote_column, name.split(".")))


def quote_column(name: str) -> str:
    """Quote a column's name for SQL: a dot in it is a letter like any other."""
    return '"' + name.replace('"', '""') + '"'


def literal_path(path: Path) -> str:
    """Give a path in which DuckDB finds no pattern."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


#: Kinds of statements that give rows, EXPLAIN left out; DuckDB makes several statements of one PIVOT.
_GIVE_ROWS = ("SELECT", "MULTI", "PRAGMA", "CALL", "RELATION")
_SYNTAX_LINE = re.compile(r"\nLINE (\d+):")


def syntax_problem(sql: str) -> str | None:
    """Return DuckDB's syntax error with its line, or None."""
    try:
        duckdb.extract_statements(sql)
    except duckdb.Error as error:
        line = _SYNTAX_LINE.search(str(error))
        return f"{f'line {line[1]} as rendered: ' if line else ''}{words(error)}"
    return None


def query_problem(sql: str) -> str | None:
    """Return the syntax error, or that the statement gives no rows, or None."""
    if problem := syntax_problem(sql):
        return problem
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    other = [kind for kind in kinds if kind not in _GIVE_ROWS]
    return f"an extract is one SELECT; this one is {other[0]}" if other else None
