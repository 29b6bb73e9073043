"""Microsoft SQL Server as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dwhctl.core.errors import QueryError
from dwhctl.core.sql import unclosed
from dwhctl.project.connections import NetworkConnection, TlsWords
from dwhctl.project.fields import ProjectPath, Text
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor, Source


class MssqlConnection(NetworkConnection):
    """A Microsoft SQL Server with the databases of many shards."""

    default_port: ClassVar[int | None] = 1433
    tls_words: ClassVar[TlsWords] = TlsWords(
        "encryption",
        "tls_cafile",
        ("verify-full",),
        local="request",
        off="off",
        needs='driver = "mssql-python"',
    )
    type: Literal["mssql"] = Field("mssql", examples=["mssql"])
    """The kind of system."""
    database: Text = Field("master", examples=["master"])
    """The database to log in to; a shard has its own."""
    driver: Literal["pymssql", "mssql-python"] = Field("pymssql", examples=["mssql-python"])
    """The driver. `mssql-python` reads several times as fast and can check the server's certificate; it needs the extra
    `dwhctl[mssql-arrow]` and, on Debian, the packages libltdl7, libkrb5-3 and libgssapi-krb5-2."""
    encryption: Literal["require", "request", "off", "verify-full"] | None = Field(None, examples=["require"])
    """Whether the connection is encrypted; `request` encrypts the login alone, and nothing where the server has no
    TLS. Only `verify-full` checks the server's certificate, its authority and its name; it needs the driver
    `mssql-python`, and is the default with `tls_cafile`."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""
    tls_hostname: Text | None = Field(None, examples=["mssql_0.example.com"])
    """The name in the server's certificate, where it is not the host; an address is no name."""
    read_only: bool = Field(False, examples=[True])
    """Connect to a readable secondary of an availability group."""

    @model_validator(mode="after")
    def _port_with_colon(self) -> MssqlConnection:
        if any("," in host for host in (*(self.hosts or ()), self.host or "")):
            raise ValueError(
                'host: has a comma; write host = "SERVER" and port = 1433, or hosts = ["A", "B"]'
            )
        return self

    @model_validator(mode="after")
    def _driver_checks(self) -> MssqlConnection:
        wanted = [
            key
            for key, is_set in (
                ('encryption = "verify-full"', self.encryption == "verify-full"),
                ("tls_cafile", self.tls_cafile is not None),
                ("tls_hostname", self.tls_hostname is not None),
            )
            if is_set
        ]
        if wanted and self.driver == "pymssql":
            raise ValueError(
                f'driver: pymssql cannot check a certificate, which {wanted[0]} asks for; write driver = "mssql-python"'
            )
        if self.encryption not in (None, "verify-full") and len(wanted):
            raise ValueError(
                f'encryption: {self.encryption} checks no certificate, which {wanted[0]} asks for; write "verify-full"'
            )
        return self


class _Mssql(System[MssqlConnection]):
    connection = MssqlConnection
    is_source = has_probe = True
    driver = "pymssql"
    types_module = "dwhctl.systems.mssql.sql"

    def open_source(self, connection: MssqlConnection, database: str, options: SourceOptions) -> Source:
        if connection.driver == "mssql-python":
            from dwhctl.systems.mssql.arrow_source import ArrowSource

            return ArrowSource(
                connection, database, options.zone, options.timeout, login_known=options.login_known
            )
        from dwhctl.systems.mssql.source import MssqlSource

        return MssqlSource(
            connection, database, options.zone, options.timeout, login_known=options.login_known
        )

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

    def missing_package(self, connection: MssqlConnection) -> str | None:
        if connection.driver == "pymssql" or find_spec("mssql_python") is not None:
            return None
        return (
            f'connections.{connection.name}: driver = "mssql-python" needs a package that is not installed;'
            " pip install 'dwhctl[mssql-arrow]'"
        )

    def extract_problem(self, sql: str) -> str | None:
        from dwhctl.systems.mssql.sql import one_select

        try:
            one_select(sql)
        except QueryError as error:
            return str(error)
        return unclosed(sql)


SYSTEM = _Mssql()
