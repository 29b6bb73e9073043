"""SQLite as a system: the sessions of one machine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dwhctl.project.connections import Database, EmbeddedConnection
from dwhctl.systems.base.system import System, refuse_other_database

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor


class SqliteConnection(EmbeddedConnection):
    """A SQLite file."""

    type: Literal["sqlite"] = Field("sqlite", examples=["sqlite"])
    """The kind of system."""
    path: Database = Field(examples=["state/sessions.sqlite"])
    """The file; relative to the project."""


class _Sqlite(System[SqliteConnection]):
    connection = SqliteConnection
    is_sessions = True

    def open_cursor(
        self,
        connection: SqliteConnection,
        database: str | None,
        *,
        write: bool,
        timeout: timedelta | None,
        state_dir: Path | None = None,
    ) -> Cursor:
        refuse_other_database(connection, database)
        from dwhctl.systems.sqlite.client import SqliteCursor

        return SqliteCursor(connection, write=write)


SYSTEM = _Sqlite()
