"""Connections: named access to one system each."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.secrets import Secret
from dwhctl.core.words import quoted
from dwhctl.project.fields import (
    Duration,
    Host,
    Listed,
    NamedTable,
    ProjectPath,
    SomeTime,
    TableWithoutUrls,
    Text,
)

_AMOUNT = re.compile(r"[1-9]\d*(?:\.\d+)? ?[KMGT]i?B", re.ASCII)
DUCKDB_SUFFIXES = (".duckdb", ".ddb", ".db")


def _no_memory(path: Path) -> Path:
    if path.name == ":memory:":
        raise ValueError("':memory:' is a new, empty database in every process; write the path of a file")
    return path


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


Database = Annotated[ProjectPath, AfterValidator(_no_memory)]


class _Connection(NamedTable, TableWithoutUrls):
    """The keys of every connection."""

    default_port: ClassVar[int | None] = None

    max_connections: int = Field(4, ge=1, le=10000, examples=[8])
    """The most connections at once, over all dwhctl processes of this project."""


class _EmbeddedConnection(_Connection):
    """The keys of every connection to a file."""

    max_connections: int | None = Field(None, ge=1, le=10000, examples=[8])  # type: ignore[assignment]
    """The most connections at once, over all dwhctl processes of this project; left out: no limit."""


class DuckdbConnection(_EmbeddedConnection):
    """A DuckDB file, or a folder in which each shard's database is `<path>/<database>.duckdb`."""

    type: Literal["duckdb"] = Field("duckdb", examples=["duckdb"])
    """The kind of system."""
    path: Annotated[Database, AfterValidator(_writable)] = Field(examples=["state/warehouse.duckdb"])
    """The file, or the folder of files; relative to the project."""
    lock_wait: Duration = Field(timedelta(seconds=30), examples=["30s"])
    """How long to wait for a file that another process has open."""
    memory_limit: Annotated[str, AfterValidator(_amount)] | None = Field(None, examples=["256MiB"])
    """The memory that DuckDB may use in each process before it spills to the folder `spill` of the state folder. Left
    out: 64MiB, or 3MiB for each column of a wide table."""

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder of databases: decided by what exists there, else by its suffix."""
        # Path.exists raises for a folder that this user may not enter.
        if os.path.exists(self.path):  # noqa: PTH110
            return os.path.isdir(self.path)  # noqa: PTH112
        return self.path.suffix not in DUCKDB_SUFFIXES

    def database_file(self, database: str) -> Path:
        """Return the file that holds this database."""
        return self.path / f"{database}.duckdb" if self.is_folder else self.path


class SqliteConnection(_EmbeddedConnection):
    """A SQLite file."""

    type: Literal["sqlite"] = Field("sqlite", examples=["sqlite"])
    """The kind of system."""
    path: Database = Field(examples=["state/sessions.sqlite"])
    """The file; relative to the project."""


class TlsWords(NamedTuple):
    """The keys and values by which a system's connections say whether they are encrypted."""

    #: The key, the key of the CA file, and the values that check the server's certificate.
    key: str
    ca_key: str | None
    checked: tuple[str, ...]
    #: The default for a server on this machine, which may have no TLS, and the value for no encryption.
    local: str
    off: str


#: The value that every system has for: encrypted, or no connection.
BEYOND = "require"


def is_local(host: str) -> bool:
    """Return whether a host is this machine, by its name as written; names are not resolved."""
    if host.startswith(("/", "@")):
        return "," not in host  # a socket; libpq splits several hosts at commas
    server = host.partition("\\")[0]  # without the instance of SQL Server
    if server.lower() == "localhost":
        return True
    try:
        return ip_address(server).is_loopback
    except ValueError:
        return False


class _NetworkConnection(_Connection):
    """The keys of every connection to a server."""

    tls_words: ClassVar[TlsWords]

    host: Host | None = Field(None, examples=["dwh.example.com"])
    """The server; or `hosts`, not both."""
    hosts: Annotated[tuple[Host, ...], Listed, Field(min_length=1)] | None = Field(
        None, examples=[["dwh_1", "dwh_2:5434"]]
    )
    """Several servers of one cluster, used in turn; when one is down, the next is used. `server` or `server:port`."""
    port: int = Field(0, ge=0, le=65535, examples=[5433])
    """The port; default: the system's own."""
    user: Text = Field(examples=["dwh"])
    """The user to log in as."""
    password: Secret | None = Field(None, examples=[{"env": "DWH_PASSWORD"}])
    """The password."""
    connect_timeout: SomeTime = Field(timedelta(seconds=10), examples=["10s"])
    """How long to wait for the server to answer."""

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every server of the connection with its port, in the order of the configuration."""
        return tuple(self._address(host) for host in (self.hosts or (self.host or "",)))

    @property
    def is_local(self) -> bool:
        """Whether all its servers are on this machine."""
        return all(is_local(host) for host, _ in self.addresses)

    @property
    def tls(self) -> str:
        """The TLS mode in force: as configured, or the default by the CA file and by where the servers are."""
        words = self.tls_words
        if (written := getattr(self, words.key)) is not None:
            return str(written)
        if words.ca_key is not None and getattr(self, words.ca_key) is not None:
            return words.checked[-1]
        return words.local if self.is_local else BEYOND

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
            raise ValueError("host: cannot be combined with hosts; keep one of the two")
        return self


def _no_allow(word: object) -> object:
    if word == "allow":
        raise ValueError(
            '\'allow\' sends the password in clear first; write "require", or "disable" to have no TLS'
        )
    return word


_CHECKED_TLS = ("verify-ca", "verify-full")
_TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConnection(_NetworkConnection):
    """A PostgreSQL database."""

    default_port: ClassVar[int | None] = 5432
    tls_words: ClassVar[TlsWords] = TlsWords(
        "sslmode", "sslrootcert", _CHECKED_TLS, local="prefer", off="disable"
    )
    type: Literal["postgres"] = Field("postgres", examples=["postgres"])
    """The kind of system."""
    database: Text = Field(examples=["etl"])
    """The database to log in to."""
    sslmode: Annotated[_TlsMode | None, BeforeValidator(_no_allow)] = Field(None, examples=["verify-full"])
    """Whether the connection is encrypted, and what of the server's certificate is checked: nothing, its authority,
    or its authority and its name. With `sslrootcert` alone it is `verify-full`."""
    sslrootcert: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""
    answer_timeout: SomeTime | None = Field(None, examples=["30s"])
    """How long to wait for one answer of the sessions database; then the connection counts as lost. Left out: 60s, and
    10s in commands that only report."""


class MssqlConnection(_NetworkConnection):
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


class VerticaConnection(_NetworkConnection):
    """A Vertica database."""

    default_port: ClassVar[int | None] = 5433
    tls_words: ClassVar[TlsWords] = TlsWords(
        "tlsmode", "tls_cafile", _CHECKED_TLS, local="prefer", off="disable"
    )
    type: Literal["vertica"] = Field("vertica", examples=["vertica"])
    """The kind of system."""
    database: Text = Field(examples=["docker"])
    """The database to log in to."""
    tlsmode: _TlsMode | None = Field(None, examples=["verify-full"])
    """Whether the connection is encrypted, and what of the server's certificate is checked: nothing, its authority,
    or its authority and its name. With `tls_cafile` alone it is `verify-full`."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""
    staging_schema: Text | None = Field(None, examples=["staging"])
    """The schema for staging tables; default: the target table's own."""


NetworkConnection = PostgresConnection | MssqlConnection | VerticaConnection
Connection = DuckdbConnection | SqliteConnection | PostgresConnection | MssqlConnection | VerticaConnection


class System(NamedTuple):
    """What a type of connection can be used for. The check of the configuration and every command go by it."""

    table: type[Connection]
    #: It can be the server of shards; the target of loads and reports; the database of the sessions table.
    source: bool = False
    target: bool = False
    sessions: bool = False
    #: As a target it takes one writer at a time.
    one_writer: bool = False
    #: As a source it answers a probe, which needs no worker and no login.
    probe: bool = False


SYSTEMS: dict[str, System] = {
    "duckdb": System(DuckdbConnection, source=True, target=True, one_writer=True),
    "sqlite": System(SqliteConnection, sessions=True),
    "postgres": System(PostgresConnection, sessions=True),
    "mssql": System(MssqlConnection, source=True, probe=True),
    "vertica": System(VerticaConnection, target=True),
}
CONNECTION_TYPES = {name: system.table for name, system in SYSTEMS.items()}
SOURCE_TYPES = tuple(name for name, system in SYSTEMS.items() if system.source)
TARGET_TYPES = tuple(name for name, system in SYSTEMS.items() if system.target)
SESSIONS_TYPES = tuple(name for name, system in SYSTEMS.items() if system.sessions)
