"""Cursors: one connection for the statements that a person writes, whatever the system behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.errors import UsageError
from dwhctl.project.connections import (
    DuckdbConnection,
    MssqlConnection,
    PostgresConnection,
    SqliteConnection,
)
from dwhctl.project.words import quoted

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from dwhctl.project.model import Connection
    from dwhctl.runs.cursors.contract import Cursor


def open_cursor(
    connection: Connection,
    database: str | None,
    *,
    write: bool,
    patience: timedelta | None,
    state_dir: Path | None = None,
) -> Cursor:
    """The cursor for a connection; it does not connect before `open`.

    `database` is one behind the connection, None for its own. `patience` is how long the server may be silent, where
    the driver asks for it. DuckDB spills into `state_dir`; without one it keeps to its memory.

    Raise UsageError for a database that the connection cannot have.
    """
    if isinstance(connection, DuckdbConnection):
        from dwhctl.runs.cursors.duckdb import DuckdbCursor

        path = _database_file(connection, database)
        return DuckdbCursor(connection, path, write=write, state_dir=state_dir)
    if isinstance(connection, MssqlConnection):
        from dwhctl.runs.cursors.mssql import MssqlCursor

        return MssqlCursor(connection, database or connection.database, write=write)
    if isinstance(connection, PostgresConnection):
        from dwhctl.runs.cursors.postgres import PostgresCursor

        own = connection if database is None else connection.model_copy(update={"database": database})
        return PostgresCursor(own, write=write)
    if database is not None and database != getattr(connection, "database", None):
        raise UsageError(f"connection {connection.name} has one database; leave --database out")
    if isinstance(connection, SqliteConnection):
        from dwhctl.runs.cursors.sqlite import SqliteCursor

        return SqliteCursor(connection, write=write)
    from dwhctl.runs.cursors.vertica import VerticaCursor

    return VerticaCursor(connection, write=write, patience=patience)


def _database_file(connection: DuckdbConnection, database: str | None) -> str:
    if not connection.is_folder:
        if database is not None:
            raise UsageError(f"connection {connection.name} is one file; leave --database out")
        return str(connection.path)
    if database is None:
        known = sorted(path.stem for path in connection.path.glob("*.duckdb"))
        shown = ", ".join(known[:12]) or "none yet"
        raise UsageError(
            f"connection {connection.name} is a folder of databases; name one with --database or --shard"
            f" (there: {shown}{', ...' if len(known) > 12 else ''})"
        )
    file = connection.database_file(database)
    if file.parent.resolve() != connection.path.resolve():
        raise UsageError(f"{quoted(database)} is no name of a database in {connection.path}")
    return str(file)
