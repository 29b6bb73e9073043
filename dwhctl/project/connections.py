"""Connections: named access to one system each."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from .fields import Duration, ProjectPath, SomeTexts, SomeTime, Table, Text, given
from .secrets import Secret

_AMOUNT = re.compile(r"[1-9]\d*(?:\.\d+)? ?[KMGT]i?B", re.ASCII)
DUCKDB_SUFFIXES = (".duckdb", ".ddb", ".db")


def _no_memory(path: Path) -> Path:
    if path.name == ":memory:":
        raise ValueError("':memory:' would be another, empty database in every process; name a file")
    return path


def _writable(path: Path) -> Path:
    if "?" in str(path):
        # DuckDB puts the name of its log before a question mark, as in a URL.
        raise ValueError(
            f"'{path}' has a '?' in it, which DuckDB cannot write to; name another folder or file"
        )
    return path


def _amount(text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"'{text}' is no amount of memory; write one as 256MiB or 2GiB")
    return text


Database = Annotated[ProjectPath, AfterValidator(_no_memory)]


class _Connection(Table):
    """What every connection has."""

    default_port: ClassVar[int | None] = None

    name: str = given("the connection's name")
    max_connections: int = Field(
        4,
        ge=1,
        le=10_000,
        description="Never more at once, over all dwhctl processes of this project.",
        examples=[8],
    )


class _EmbeddedConnection(_Connection):
    """What every connection to a file has."""

    max_connections: int | None = Field(  # type: ignore[assignment]
        None,
        ge=1,
        le=10_000,
        description="Never more at once, over all dwhctl processes of this project; no limit when left out.",
        examples=[8],
    )


class DuckdbConnection(_EmbeddedConnection):
    """A DuckDB file, or a folder in which each shard's database is `<path>/<database>.duckdb`."""

    type: Literal["duckdb"] = Field("duckdb", description="The kind of system.", examples=["duckdb"])
    path: Annotated[Database, AfterValidator(_writable)] = Field(
        description="The file, or the folder of files; relative to the project.",
        examples=["state/warehouse.duckdb"],
    )
    lock_wait: Duration = Field(
        timedelta(seconds=30),
        description="How long to wait for a file that another process has open.",
        examples=["30s"],
    )
    memory_limit: Annotated[str, AfterValidator(_amount)] | None = Field(
        None,
        description="The memory that DuckDB may use in each process before it spills to the folder"
        " spill of the state folder; left out, it is 64MiB, or 3MiB for each column of a wide table.",
        examples=["256MiB"],
    )

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder of databases: decided by what is there, else by its ending."""
        if self.path.exists():
            return self.path.is_dir()
        return self.path.suffix not in DUCKDB_SUFFIXES

    def database_file(self, database: str) -> Path:
        """The file that holds this database."""
        return self.path / f"{database}.duckdb" if self.is_folder else self.path


class SqliteConnection(_EmbeddedConnection):
    """A SQLite file."""

    type: Literal["sqlite"] = Field("sqlite", description="The kind of system.", examples=["sqlite"])
    path: Database = Field(
        description="The file; relative to the project.", examples=["state/sessions.sqlite"]
    )


class _NetworkConnection(_Connection):
    """What every connection to a server has."""

    host: Text | None = Field(
        None, description="The server; or `hosts`, not both.", examples=["dwh.example.com"]
    )
    hosts: SomeTexts | None = Field(
        None,
        description="Several servers under one name that share the work in turn and stand in for each other; "
        "`server` or `server:port`.",
        examples=[["dwh_1", "dwh_2:5434"]],
    )
    port: int = Field(0, ge=0, le=65_535, description="The port; default: the system's own.", examples=[5433])
    user: Text = Field(description="The user to log in as.", examples=["dwh"])
    password: Secret | None = Field(None, description="The password.", examples=[{"env": "DWH_PASSWORD"}])
    connect_timeout: SomeTime = Field(
        timedelta(seconds=10), description="How long to wait for the server to answer.", examples=["10s"]
    )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every server of the connection with its port, in the order written."""
        return tuple(self._address(each) for each in (self.hosts or (self.host or "",)))

    def _address(self, host: str) -> tuple[str, int]:
        server, colon, port = host.rpartition(":")
        if colon and port.isdigit() and (":" not in server or server.endswith("]")):
            return server.strip("[]"), int(port)
        return host.strip("[]"), self.port

    @model_validator(mode="before")
    @classmethod
    def _port_of_type(cls, table: Any) -> Any:
        if isinstance(table, dict) and "port" not in table:
            return {**table, "port": cls.default_port}
        return table

    @model_validator(mode="after")
    def _one_host(self) -> _NetworkConnection:
        if self.host is None and self.hosts is None:
            raise ValueError('host: is missing; add host = "SERVER"')
        if self.host is not None and self.hosts is not None:
            raise ValueError("host: stands beside hosts; keep one of the two")
        return self


class PostgresConnection(_NetworkConnection):
    """A PostgreSQL database."""

    default_port: ClassVar[int | None] = 5432
    type: Literal["postgres"] = Field("postgres", description="The kind of system.", examples=["postgres"])
    database: Text = Field(description="The database to log in to.", examples=["etl"])


class MssqlConnection(_NetworkConnection):
    """A Microsoft SQL Server with the databases of many shards."""

    default_port: ClassVar[int | None] = 1433
    type: Literal["mssql"] = Field("mssql", description="The kind of system.", examples=["mssql"])
    database: Text = Field(
        "master", description="The database to log in to; a shard names its own.", examples=["master"]
    )
    encryption: Literal["require", "request", "off"] = Field(
        "request", description="Whether the connection is encrypted.", examples=["require"]
    )
    read_only: bool = Field(
        False, description="Ask for a readable secondary of an availability group.", examples=[True]
    )


class VerticaConnection(_NetworkConnection):
    """A Vertica database."""

    default_port: ClassVar[int | None] = 5433
    type: Literal["vertica"] = Field("vertica", description="The kind of system.", examples=["vertica"])
    database: Text = Field(description="The database to log in to.", examples=["docker"])
    tlsmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer",
        description="Whether the connection is encrypted and whose certificate is trusted.",
        examples=["require"],
    )
    tls_cafile: ProjectPath | None = Field(
        None, description="The certificates to trust; relative to the project.", examples=["config/ca.pem"]
    )
    staging_schema: Text | None = Field(
        None,
        description="The schema for staging tables; default: the target table's own.",
        examples=["staging"],
    )


Connection = DuckdbConnection | SqliteConnection | PostgresConnection | MssqlConnection | VerticaConnection

CONNECTION_TYPES: dict[str, type[Connection]] = {
    "duckdb": DuckdbConnection,
    "sqlite": SqliteConnection,
    "postgres": PostgresConnection,
    "mssql": MssqlConnection,
    "vertica": VerticaConnection,
}
SOURCE_TYPES = ("duckdb", "postgres", "mssql")
TARGET_TYPES = ("duckdb", "postgres", "vertica")
SESSIONS_TYPES = ("sqlite", "postgres")
