"""CSV as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dwhctl.core.errors import UsageError
from dwhctl.core.files import inside
from dwhctl.core.sql import replace_binds
from dwhctl.core.words import quoted
from dwhctl.project.connections import EmbeddedConnection
from dwhctl.project.fields import Duration, ProjectPath
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System, TargetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.core.columns import Column
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.system import SourceType
    from dwhctl.systems.base.target import Target


class CsvConnection(EmbeddedConnection):
    """A folder of tables, each a CSV file; a shard's database is the folder `<path>/<database>`."""

    type: Literal["csv"] = Field("csv", examples=["csv"])
    """The kind of system."""
    path: ProjectPath = Field(examples=["state/warehouse"])
    """The folder; relative to the project."""
    lock_wait: Duration = Field(timedelta(seconds=30), examples=["30s"])
    """How long to wait for a folder that another process writes to."""

    def shard_file(self, database: str) -> Path | None:
        return inside(self.path, database)

    def warehouse_problem(self) -> str | None:
        if self.path.exists() and not self.path.is_dir():
            return "is no folder; a warehouse is a folder of CSV files"
        return None


class _Csv(System[CsvConnection]):
    connection = CsvConnection
    is_source = is_target = one_writer = True
    driver = "dwhctl_csv.engine"

    def open_source(self, connection: CsvConnection, database: str, options: SourceOptions) -> Source:
        from dwhctl_csv.source import CsvSource

        return CsvSource(connection, database, options.zone)

    def open_target(self, connection: CsvConnection, options: TargetOptions) -> Target:
        from dwhctl_csv.target import CsvTarget

        return CsvTarget(connection, options.state_dir)

    def source_types(self) -> Sequence[SourceType]:
        from dwhctl_csv.tables import source_types

        return source_types()

    def declaration(self, column: Column) -> str:
        from dwhctl_csv.tables import declaration

        return declaration(column)

    def open_cursor(self, connection: CsvConnection, database: str | None, options: CursorOptions) -> Cursor:
        from dwhctl_csv.console import CsvCursor

        if options.write:
            raise UsageError(f"connection {connection.name}: CSV files are read only here; leave --write out")
        try:
            folder = connection.path if database is None else inside(connection.path, database)
        except ValueError:
            raise UsageError(
                f"{quoted(database or '')} is no name of a database in {connection.path}"
            ) from None
        return CsvCursor(connection.name, folder)

    def list_databases(self, connection: CsvConnection, timeout: float) -> list[str]:
        if not connection.path.is_dir():
            return []
        return sorted(
            path.name for path in connection.path.iterdir() if path.is_dir() and any(path.glob("*.csv"))
        )

    def extract_problem(self, sql: str) -> str | None:
        from dwhctl_csv.engine import query_problem

        return query_problem(replace_binds(sql, lambda name: f"${name}"))

    def table_problem(self, connection: CsvConnection, table: str) -> str | None:
        from dwhctl_csv.tables import name_problem

        return name_problem(table)

    def statement_problem(self, statement: str) -> str | None:
        from dwhctl_csv.engine import syntax_problem

        return syntax_problem(statement)


SYSTEM = _Csv()
