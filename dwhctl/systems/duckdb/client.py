"""DuckDB files: open them with a bounded wait, describe their columns, translate errors, check syntax."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import tenacity

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    About,
    AttemptError,
    DatabaseMissingError,
    QueryError,
    SourceBusyError,
    SourceError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
)
from dwhctl.core.files import denied, with_remedy
from dwhctl.core.sql import literal, shown_name
from dwhctl.core.waiting import Wait, waited
from dwhctl.project.query import named_line
from dwhctl.systems.base.source import closed_on_error
from dwhctl.systems.base.system import SourceType

if TYPE_CHECKING:
    from dwhctl.systems.duckdb.system import DuckdbConnection

#: DuckDB's types. Of any other the values would not arrive as they were, or a warehouse table cannot hold them.
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
    # DuckDB converts HUGEINT to decimal(38, 0), even a value of 39 digits; the cast checks the digits.
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
_MOST_DIGITS = 38
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def column(name: str, declared: str, *, nullable: bool = True) -> Column | None:
    """Return a DuckDB column; None when its type is not in KINDS."""
    if match := _DECIMAL.fullmatch(declared):
        precision, scale = int(match[1]), int(match[2])
        return Column(name, Kind.DECIMAL, pa.decimal128(precision, scale), declared, nullable)
    if declared.startswith("ENUM("):
        return Column(name, Kind.TEXT, pa.string(), "ENUM", nullable)
    if declared not in KINDS:
        return None
    return Column(name, *KINDS[declared], declared, nullable)


def declaration(column: Column) -> str:
    """Return the type that holds the values of another system's column. Raise TargetRefusedError when none does."""
    if column.kind is Kind.DECIMAL and column.type.precision <= _MOST_DIGITS:
        return f"DECIMAL({column.type.precision}, {column.type.scale})"
    if column.kind is Kind.TIME:
        return "TIME"
    for declared, (kind, arrow) in KINDS.items():
        if kind is column.kind and arrow == column.type:
            return declared
    if column.kind is Kind.TIMESTAMPTZ and column.type.unit in ("s", "ms"):
        return "TIMESTAMP WITH TIME ZONE"
    raise TargetRefusedError(f"column {column.name}: no DuckDB type holds {column.declared}")


#: One type of each group that is refused.
_REFUSED = ("UHUGEINT", "INTERVAL", "BIT", "TIME WITH TIME ZONE", "INTEGER[]", "STRUCT", "MAP", "UNION")
#: With a name: DuckDB names an expression after its text.
_REMEDY = "CAST({column} AS VARCHAR) AS {column}"
_NOTES = {
    "ENUM": "text",
    "HUGEINT": "decimal(38,0); a value of 39 digits is refused",
}


def source_types() -> list[SourceType]:
    known = [column("c", name) for name in ("DECIMAL(18,2)", "ENUM('a')", *KINDS)]
    found = [SourceType(one.declared, one, _NOTES.get(one.declared, str(one.kind))) for one in known if one]
    return found + [SourceType(name, None, _REMEDY) for name in _REFUSED]


def declared_columns(names: Sequence[str], types: Sequence[object]) -> list[Column]:
    """Return a query's columns. Raise QueryError for a type that is not in KINDS and for a duplicate name."""
    columns: dict[str, Column] = {}
    for name, declared in zip(names, map(str, types), strict=True):
        if name.lower() in columns:
            raise QueryError(f"column {name} occurs twice in the extract; give one of them another name")
        if (described := column(name, declared)) is None:
            raise QueryError(
                f"column {name}: DuckDB's type {declared} would not arrive as it is;"
                f" CAST it in the extract: {_REMEDY.format(column=shown_name(name))}"
            )
        columns[name.lower()] = described
    return list(columns.values())


def is_lock_conflict(error: BaseException) -> bool:
    """Return whether another process holds the file: DuckDB has no exception class for it."""
    return isinstance(error, duckdb.IOException) and "Could not set lock on file" in str(error)


def lock_holder(error: BaseException) -> str:
    """Return the process that holds the file, as far as DuckDB says."""
    match = re.search(r"\(PID (\d+)\)", str(error))
    return f"process {match[1]}" if match else "another process"


#: Errors of the path, the file or its permissions: a later attempt does not help.
_REFUSED_FILES = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
#: DuckDB's messages for a file that it cannot read although it is not damaged, and for a damaged one.
_OTHER_VERSION = (
    "can only read storage versions", "storage version greater than", "Cannot open encrypted database",
)  # fmt: skip
_DAMAGE = (
    "not a valid DuckDB database", "orrupt", "checksum", "Serialization Error", "Could not read enough bytes",
    *_OTHER_VERSION,
)  # fmt: skip


def is_damage(error: BaseException) -> bool:
    """Return whether DuckDB cannot read the file's content."""
    return isinstance(error, duckdb.Error | OSError) and any(word in str(error) for word in _DAMAGE)


#: Errors that every later attempt meets too; and how their messages begin where Arrow raises them, without the class.
#: Source: the exception classes of the duckdb package, https://duckdb.org/docs/stable/clients/python/reference
_REFUSALS = (
    duckdb.ProgrammingError, duckdb.DataError, duckdb.IntegrityError, duckdb.NotSupportedError,
    duckdb.PermissionException,
)  # fmt: skip
_REFUSED_BY_ARROW = ("Conversion Error", "Invalid Input Error", "Out of Range Error", "Permission Error")
#: DuckDB's messages for files, servers and extensions outside of what `connect` allows.
_OUT_OF_REACH = ("disabled by configuration", "disabled through configuration")
_CONFINED = (
    "SQL, and the views and macros of a DuckDB file, may reach no other file, server or extension here"
)


def is_out_of_reach(error: BaseException) -> bool:
    """Return whether the SQL, or a view in the file, reads or writes outside of the file."""
    return any(message in str(error) for message in _OUT_OF_REACH)


def words(error: BaseException) -> str:
    """Return DuckDB's message without the excerpt of the statement that follows it."""
    message = " ".join(str(error).partition("\nLINE ")[0].split()) or type(error).__name__
    return f"{message}; {_CONFINED}" if is_out_of_reach(error) else with_remedy(message)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, duckdb.OutOfMemoryException) or str(error).startswith("Out of Memory Error")


_LINE = re.compile(r"\nLINE (\d+):")
#: The errors of a source and of a target: the file is in use, DuckDB refuses the statement, anything else.
_SOURCE_ERRORS = (SourceBusyError, QueryError, SourceError)
_TARGET_ERRORS = (TargetBusyError, TargetRefusedError, TargetError)


def translate_error(
    error: BaseException,
    connection: DuckdbConnection,
    path: Path,
    *,
    target: bool = False,
    statement: str | None = None,
) -> AttemptError:
    """Return the error that one of DuckDB's means for a source, or for a target.

    With a `statement` of the user the error says which line of it DuckDB refuses.
    """
    found = _translated(error, connection, path, target=target)
    if _is_out_of_memory(error):
        found.about = About.MEMORY
    elif isinstance(error, duckdb.CatalogException) and str(error).startswith("Catalog Error: Table "):
        found.about = About.TABLE
    if statement is not None:
        line = _LINE.search(str(error))
        found.statement = statement
        found.line = int(line[1]) if line else named_line(statement, str(error))
    return found


def _translated(
    error: BaseException, connection: DuckdbConnection, path: Path, *, target: bool
) -> AttemptError:
    busy, refused, failed = _TARGET_ERRORS if target else _SOURCE_ERRORS
    if _is_out_of_memory(error):
        return refused(
            f"DuckDB needs more memory; set memory_limit of the connection {connection.name} to more, for example 1GiB"
        )
    if is_lock_conflict(error):
        seconds = connection.lock_wait.total_seconds()
        return busy(f"{path} is open in {lock_holder(error)}; waited {seconds:g} s for it")
    # Before the damage, whose words may be in the message: a column `checksum`, a value 'corrupt'.
    if isinstance(error, _REFUSALS) or (
        isinstance(error, OSError) and str(error).startswith(_REFUSED_BY_ARROW)
    ):
        return refused(words(error))
    if not target and is_damage(error):
        return DatabaseMissingError(f"{path} is damaged: {words(error)}")
    reason = str(error).rpartition(": ")[2]
    number = next((number for number in _REFUSED_FILES if os.strerror(number) == reason), None)
    if not target or number is None or not isinstance(error, duckdb.IOException):
        return failed(f"{path}: {words(error)}")
    remedy = denied(path) if number in (errno.EACCES, errno.EPERM) else "correct its path, or make it usable"
    return refused(f"the warehouse {path} cannot be opened: {reason}; {remedy}")


#: DuckDB's memory limit where the connection has none: DuckDB stores a table by column, so a wide table needs more.
#: Measured: 20 columns of text load in 64 MiB, 60 in 128, 150 in 256.
_MEMORY_MIB = 64
_MEMORY_MIB_PER_COLUMN = 3


def memory_limit(configured: str | None, columns: int = 0) -> str:
    """Return DuckDB's memory limit for a query of that many columns."""
    return configured or f"{max(_MEMORY_MIB, _MEMORY_MIB_PER_COLUMN * columns)}MiB"


Config = dict[str, str | bool | int | float | list[str]]

#: For every connection: SQL, or a view in the file, installs and loads no extension, and no name in SQL refers to a
#: variable of this program.
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
    if folders is None:
        return db
    # Not in the configuration of `connect`: DuckDB refuses them there, or refuses the spill folder beside them.
    # DuckDB checks a pattern as it is written and the paths that it matches.
    paths = [text for folder in folders for text in (str(folder), literal_path(folder))]
    with closed_on_error(db):
        for setting, allowed in (("allowed_directories", paths), ("allowed_configs", settings)):
            db.execute(f"SET {setting} = [{', '.join(map(literal, allowed))}]")
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
    return db


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
            attempts = tenacity.Retrying(
                retry=tenacity.retry_if_exception(is_lock_conflict),
                stop=tenacity.stop_any(
                    tenacity.stop_after_delay(wait), tenacity.stop_when_event_set(give_up)
                ),
                sleep=tenacity.sleep_using_event(give_up),
                wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
                before_sleep=partial(_note_holder, waiting, path),
                reraise=True,
            )
            if not read_only:
                _create_whole(path)
            return attempts(
                connect, str(path), config, read_only=read_only, folders=folders, settings=settings
            )
    except (duckdb.Error, duckdb.Warning) as error:
        if is_damage(error):
            is_other = any(message in str(error) for message in _OTHER_VERSION)
            problem = (
                "is of another version of DuckDB, or encrypted" if is_other else "is not a DuckDB database"
            )
            raise DatabaseMissingError(f"{path} {problem}: {words(error)}") from error
        raise


def _create_whole(path: Path) -> None:
    """Create a DuckDB file that is absent, so that no other process, and no run after a kill, finds half of it.

    DuckDB itself creates an empty file, which it refuses as damaged until it has filled it.
    """
    # A write-ahead log whose file was deleted is of no use to a new file; DuckDB's own creation removes it.
    if path.exists() or path.with_name(f"{path.name}.wal").exists():
        return
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.new")
    try:
        # What fails here, links on some file systems or all in a folder without rights, is left to DuckDB's own
        # creation, whose error is about the file itself.
        with suppress(OSError, duckdb.Error):
            _remove_half_created(path)
            duckdb.connect(str(new)).close()
            os.link(new, path)
    finally:
        with suppress(OSError):
            new.unlink()


def _remove_half_created(path: Path) -> None:
    """Remove what killed processes left of creating the file, which takes milliseconds."""
    for left in path.parent.glob(f".{literal_path(Path(path.name))}.*.new"):
        pid = left.suffixes[-2].strip(".").partition("-")[0]
        with suppress(OSError):  # another process has removed it
            if not Path("/proc", pid).exists() or time.time() - left.stat().st_mtime > 60:
                left.unlink()


def _note_holder(waiting: Wait, path: Path, attempt: tenacity.RetryCallState) -> None:
    error = attempt.outcome.exception() if attempt.outcome else None
    waiting.note(lambda: f"{path}: it is open in {lock_holder(error) if error else 'another process'}")


def literal_path(path: Path) -> str:
    """Return the path as a pattern of DuckDB that matches it alone."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


#: Kinds of statements that return rows, EXPLAIN excepted; DuckDB parses one PIVOT as several statements.
_GIVE_ROWS = ("SELECT", "MULTI", "PRAGMA", "CALL", "RELATION")


def syntax_problem(sql: str) -> str | None:
    """Return DuckDB's syntax error with its line, or None."""
    try:
        duckdb.extract_statements(sql)
    except duckdb.Error as error:
        line = _LINE.search(str(error))
        return f"{f'line {line[1]} as rendered: ' if line else ''}{words(error)}"
    return None


def query_problem(sql: str) -> str | None:
    """Return the syntax error, or that the statement returns no rows, or None."""
    if problem := syntax_problem(sql):
        return problem
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    other = [kind for kind in kinds if kind not in _GIVE_ROWS]
    return f"an extract is one SELECT; this one is {other[0]}" if other else None
