"""Microsoft SQL Server as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dwhctl.core.errors import QueryError
from dwhctl.core.sql import unclosed
from dwhctl.project.connections import NetworkConnection, TlsWords
from dwhctl.project.fields import Text
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.type_map import SourceType


class MssqlConnection(NetworkConnection):
    """A Microsoft SQL Server with the databases of many shards."""

    default_port: ClassVar[int | None] = 1433
    tls_words: ClassVar[TlsWords] = TlsWords("encryption", None, (), local="request", off="off")
    type: Literal["mssql"] = Field("mssql", examples=["mssql"])
    """The kind of system."""
    database: Text = Field("master", examples=["master"])
    """The database to log in to; a shard has its own."""
    encryption: Literal["require", "request", "off"] | None = Field(None, examples=["require"])
    """Whether the connection is encrypted; `request` encrypts the login alone, and nothing where the server has no
    TLS. The server's certificate is not checked."""
    read_only: bool = Field(False, examples=[True])
    """Connect to a readable secondary of an availability group."""


class _Mssql(System[MssqlConnection]):
    connection = MssqlConnection
    is_source = has_probe = True
    driver = "pymssql"

    def open_source(self, connection: MssqlConnection, database: str, options: SourceOptions) -> Source:
        from dwhctl.systems.mssql.source import MssqlSource

        return MssqlSource(
            connection, database, options.zone, options.timeout, login_known=options.login_known
        )

    def source_types(self) -> Sequence[SourceType]:
        from dwhctl.systems.mssql.sql import source_types

        return source_types()

    def open_cursor(
        self, connection: MssqlConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        from dwhctl.systems.mssql.console import MssqlCursor

        return MssqlCursor(connection, database or connection.database, write=options.write)

    def list_databases(self, connection: MssqlConnection, timeout: float) -> list[str]:
        from dwhctl.systems.mssql import console

        return console.list_databases(connection, timeout)

    def probe(self, connection: MssqlConnection) -> None:
        from dwhctl.systems.mssql.errors import probe

        probe(connection)

    def extract_problem(self, sql: str) -> str | None:
        from dwhctl.systems.mssql.sql import one_select

        try:
            one_select(sql)
        except QueryError as error:
            return str(error)
        return unclosed(sql)


SYSTEM = _Mssql()
