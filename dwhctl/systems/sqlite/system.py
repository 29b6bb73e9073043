"""SQLite as a system: the sessions of one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dwhctl.project.connections import Database, EmbeddedConnection
from dwhctl.systems.base.system import CursorOptions, System, refuse_other_database

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
        self, connection: SqliteConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        refuse_other_database(connection, database)
        from dwhctl.systems.sqlite.client import SqliteCursor

        return SqliteCursor(connection, write=options.write)


SYSTEM = _Sqlite()
