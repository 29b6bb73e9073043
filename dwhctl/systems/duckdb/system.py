"""DuckDB as a system: its connection's keys, and what opens it."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from dwhctl.core.errors import UsageError
from dwhctl.core.sql import replace_binds
from dwhctl.core.words import quoted
from dwhctl.project.connections import Database, EmbeddedConnection
from dwhctl.project.fields import Duration
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System, TargetOptions

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.target import Target

_OWN_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")
_AMOUNT = re.compile(r"[1-9]\d*(?:\.\d+)? ?[KMGT]i?B", re.ASCII)
DUCKDB_SUFFIXES = (".duckdb", ".ddb", ".db")


def _writable(path: Path) -> Path:
    if "?" in str(path):
        # DuckDB cuts the path of its log at a question mark, as in a URL.
        raise ValueError(
            f"{quoted(str(path))} contains a '?', which DuckDB cannot write to; choose another folder or file"
        )
    return path


def _amount(text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not an amount of memory; write it as 256MiB or 2GiB")
    return text


class DuckdbConnection(EmbeddedConnection):
    """A DuckDB file, or a folder in which each shard's database is `<path>/<database>.duckdb`."""

    type: Literal["duckdb"] = Field("duckdb", examples=["duckdb"])
    """The kind of system."""
    path: Annotated[Database, AfterValidator(_writable)] = Field(examples=["state/warehouse.duckdb"])
    """The file, or the folder of files; relative to the project."""
    lock_wait: Duration = Field(timedelta(seconds=30), examples=["30s"])
    """How long to wait for a file that another process has open."""
    memory_limit: Annotated[str, AfterValidator(_amount)] | None = Field(None, examples=["256MiB"])
    """The memory that DuckDB may use in each process before it spills to the folder `spill` of the state folder. Left
    out: 64MiB, or 3MiB for each column of a wide table, and an extract keeps at most about 8MiB of its file in
    memory."""

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder of databases: decided by what exists there, else by its suffix."""
        # Path.exists raises for a folder that this user may not enter.
        if os.path.exists(self.path):  # noqa: PTH110
            return os.path.isdir(self.path)  # noqa: PTH112
        return self.path.suffix not in DUCKDB_SUFFIXES

    def database_file(self, database: str) -> Path:
        return self.path / f"{database}.duckdb" if self.is_folder else self.path

    def shard_file(self, database: str) -> Path | None:
        return self.database_file(database)

    def warehouse_problem(self) -> str | None:
        if self.is_folder:
            return "is a folder; a warehouse is one file: write its path with .duckdb at the end"
        return None


class _Duckdb(System[DuckdbConnection]):
    connection = DuckdbConnection
    is_source = is_target = one_writer = stages_parts = True
    driver = "dwhctl.systems.duckdb.client"
    types_module = "dwhctl.systems.duckdb.client"

    def open_source(self, connection: DuckdbConnection, database: str, options: SourceOptions) -> Source:
        from dwhctl.systems.duckdb.source import DuckdbSource

        return DuckdbSource(connection, database, options.zone, options.state_dir)

    def open_target(self, connection: DuckdbConnection, options: TargetOptions) -> Target:
        from dwhctl.systems.duckdb.target import DuckdbTarget

        return DuckdbTarget(connection, options.state_dir)

    def open_cursor(
        self, connection: DuckdbConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        from dwhctl.systems.duckdb.console import DuckdbCursor

        return DuckdbCursor(
            connection, _file(connection, database), write=options.write, state_dir=options.state_dir
        )

    def list_databases(self, connection: DuckdbConnection, timeout: float) -> list[str]:
        return _databases(connection) if connection.is_folder else []

    def extract_problem(self, sql: str) -> str | None:
        from dwhctl.systems.duckdb.client import query_problem

        return query_problem(replace_binds(sql, lambda name: f"${name}"))

    def table_problem(self, connection: DuckdbConnection, table: str) -> str | None:
        schema = table.lower().partition(".")[0]
        if schema in _OWN_SCHEMAS:
            return f"the schema {schema} is DuckDB's own; name another one"
        if schema == connection.path.stem.lower():
            return (
                f"DuckDB takes {schema} for the file {connection.path.name} itself, and cannot tell it from a schema of"
                " that name; give the schema or the file another name"
            )
        return None

    def statement_problem(self, statement: str) -> str | None:
        from dwhctl.systems.duckdb.client import syntax_problem

        return syntax_problem(statement)


def _databases(connection: DuckdbConnection) -> list[str]:
    return sorted(path.stem for path in connection.path.glob("*.duckdb"))


def _file(connection: DuckdbConnection, database: str | None) -> str:
    if not connection.is_folder:
        if database is not None:
            raise UsageError(f"connection {connection.name} is one file; leave --database out")
        return str(connection.path)
    if database is None:
        known = _databases(connection)
        shown = ", ".join(known[:12]) or "none yet"
        raise UsageError(
            f"connection {connection.name} is a folder of databases; name one with --database or --shard"
            f" (there: {shown}{', ...' if len(known) > 12 else ''})"
        )
    file = connection.database_file(database)
    if file.parent.resolve() != connection.path.resolve():
        raise UsageError(f"{quoted(database)} is no name of a database in {connection.path}")
    return str(file)


SYSTEM = _Duckdb()
