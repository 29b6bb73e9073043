"""Connections: named access to one system each."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.secrets import Secret
from dwhctl.core.words import quoted
from dwhctl.project.fields import Duration, Host, Listed, ProjectPath, SomeTime, TableWithoutUrls, Text, given
from dwhctl.project.http import ANSWER_TIMEOUT, Auth, Headers, HttpUrl, OAuth2Auth, Rate

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
            f"{quoted(str(path))} has a '?' in it, which DuckDB cannot write to; name another folder or file"
        )
    return path


def _amount(text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no amount of memory; write one as 256MiB or 2GiB")
    return text


Database = Annotated[ProjectPath, AfterValidator(_no_memory)]


class _Connection(TableWithoutUrls):
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
        # Not Path's: to them a folder that this user may not enter is an error.
        if os.path.exists(self.path):  # noqa: PTH110
            return os.path.isdir(self.path)  # noqa: PTH112
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


class TlsWords(NamedTuple):
    """How a system's connections say whether they are encrypted."""

    #: The key, the key of the file of authorities, and the words that have dwhctl check the server's certificate.
    key: str
    ca_key: str | None
    checked: tuple[str, ...]
    #: The words for a server of this machine that may have no TLS, and for no encryption.
    local: str
    off: str

    def default(self) -> str:
        """The default for the reference page."""
        return f'`"{BEYOND}"`; on this machine `"{self.local}"`'


#: Every system's word for an encrypted connection or none at all.
BEYOND = "require"


def is_local(host: str) -> bool:
    """Tell whether a host is this machine, judged by its name as it is written: names are not looked up."""
    if host.startswith(("/", "@")):
        return "," not in host  # a socket; libpq reads several hosts where commas are
    server = host.partition("\\")[0]  # of SQL Server, without the instance
    if server.lower() == "localhost":
        return True
    try:
        return ip_address(server).is_loopback
    except ValueError:
        return False


class _NetworkConnection(_Connection):
    """What every connection to a server has."""

    tls_words: ClassVar[TlsWords]

    host: Host | None = Field(
        None, description="The server; or `hosts`, not both.", examples=["dwh.example.com"]
    )
    hosts: Annotated[tuple[Host, ...], Listed, Field(min_length=1)] | None = Field(
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

    @property
    def is_local(self) -> bool:
        """Whether all its servers are on this machine."""
        return all(is_local(host) for host, _ in self.addresses)

    @property
    def tls(self) -> str:
        """The word that holds for the TLS key: as written, or by the CA file and by where the servers are."""
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
            raise ValueError("host: stands beside hosts; keep one of the two")
        return self


def _no_allow(word: object) -> object:
    if word == "allow":
        raise ValueError(
            '\'allow\' sends the password in clear first; write "require", or "disable" to have no TLS'
        )
    return word


_CHECKED_TLS = ("verify-ca", "verify-full")
_POSTGRES_TLS = TlsWords("sslmode", "sslrootcert", _CHECKED_TLS, local="prefer", off="disable")
_MSSQL_TLS = TlsWords("encryption", None, (), local="request", off="off")
_VERTICA_TLS = TlsWords("tlsmode", "tls_cafile", _CHECKED_TLS, local="prefer", off="disable")


class PostgresConnection(_NetworkConnection):
    """A PostgreSQL database."""

    default_port: ClassVar[int | None] = 5432
    tls_words: ClassVar[TlsWords] = _POSTGRES_TLS
    type: Literal["postgres"] = Field("postgres", description="The kind of system.", examples=["postgres"])
    database: Text = Field(description="The database to log in to.", examples=["etl"])
    sslmode: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None, BeforeValidator(_no_allow)
    ] = Field(
        None,
        description="Whether the connection is encrypted, and what is checked of the server's certificate: nothing, its"
        " authority, also its name. With `sslrootcert` alone it is `verify-full`.",
        examples=["verify-full"],
        json_schema_extra={"default": _POSTGRES_TLS.default()},
    )
    sslrootcert: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; relative to the project. Left out:"
        " the system's.",
        examples=["config/ca.pem"],
    )
    answer_timeout: SomeTime | None = Field(
        None,
        description="How long to wait for one answer of the sessions database; after it the connection is lost."
        " Left out: 60s, and 10s in commands that only report.",
        examples=["30s"],
    )


class MssqlConnection(_NetworkConnection):
    """A Microsoft SQL Server with the databases of many shards."""

    default_port: ClassVar[int | None] = 1433
    tls_words: ClassVar[TlsWords] = _MSSQL_TLS
    type: Literal["mssql"] = Field("mssql", description="The kind of system.", examples=["mssql"])
    database: Text = Field(
        "master", description="The database to log in to; a shard names its own.", examples=["master"]
    )
    encryption: Literal["require", "request", "off"] | None = Field(
        None,
        description="Whether the connection is encrypted; `request` encrypts the login alone, and nothing where the"
        " server has no TLS. The server's certificate is not checked.",
        examples=["require"],
        json_schema_extra={"default": _MSSQL_TLS.default()},
    )
    read_only: bool = Field(
        False, description="Ask for a readable secondary of an availability group.", examples=[True]
    )


class VerticaConnection(_NetworkConnection):
    """A Vertica database."""

    default_port: ClassVar[int | None] = 5433
    tls_words: ClassVar[TlsWords] = _VERTICA_TLS
    type: Literal["vertica"] = Field("vertica", description="The kind of system.", examples=["vertica"])
    database: Text = Field(description="The database to log in to.", examples=["docker"])
    tlsmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        None,
        description="Whether the connection is encrypted, and what is checked of the server's certificate: nothing, its"
        " authority, also its name. With `tls_cafile` alone it is `verify-full`.",
        examples=["verify-full"],
        json_schema_extra={"default": _VERTICA_TLS.default()},
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; relative to the project. Left out:"
        " the system's.",
        examples=["config/ca.pem"],
    )
    staging_schema: Text | None = Field(
        None,
        description="The schema for staging tables; default: the target table's own.",
        examples=["staging"],
    )


class HttpConnection(_Connection):
    """An application's HTTP API. A shard is an account of it: its `database` is a value for templates."""

    url_keys: ClassVar[frozenset[str]] = frozenset({"base_url"})

    type: Literal["http"] = Field("http", description="The kind of system.", examples=["http"])
    base_url: HttpUrl = Field(
        description="The URL that the paths of endpoints are below.",
        examples=["https://crm.example.com/api/v2/"],
    )
    auth: Auth | None = Field(
        None,
        description="How requests log in; left out, they do not.",
        examples=[{"type": "bearer", "token": {"env": "CRM_TOKEN"}}],
    )
    headers: Headers = Field(
        default_factory=dict,
        description="Headers of every request; a value may be a secret.",
        examples=[{"Accept-Language": "ru"}],
    )
    rate_limit: Rate | None = Field(
        None,
        description="Requests in any such time, over all dwhctl processes that share the state folder.",
        examples=["10/s"],
    )
    connect_timeout: SomeTime = Field(
        timedelta(seconds=10), description="How long to wait for the server to answer.", examples=["10s"]
    )
    answer_timeout: SomeTime = Field(
        ANSWER_TIMEOUT,
        description="How long an answer may take from the request to its last byte.",
        examples=["5m"],
    )
    ca_file: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; relative to the project. Left out:"
        " those that come with dwhctl (certifi).",
        examples=["config/ca.pem"],
    )
    insecure: bool = Field(
        False,
        description="Whether a `base_url` of another machine may be `http://`: login and rows travel in clear then.",
        examples=[True],
    )
    max_body: Annotated[str, AfterValidator(_amount)] = Field(
        "256MiB", description="How large an answer may be, decompressed.", examples=["1GiB"]
    )
    max_pages: int = Field(
        10_000, ge=1, le=10_000_000, description="How many pages a slice may have.", examples=[50_000]
    )
    test_path: str = Field(
        "", description="The path below `base_url` that `connections test` asks for.", examples=["status"]
    )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The server of the base URL."""
        url = urlsplit(self.base_url)
        return ((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)),)

    @model_validator(mode="after")
    def _in_clear(self) -> HttpConnection:
        urls = [("base_url", self.base_url)]
        if isinstance(self.auth, OAuth2Auth):
            urls.append(("auth.access_token_url", self.auth.access_token_url))
        for key, url in urls:
            if is_clear(url) and not self.insecure:
                raise ValueError(
                    f'{key}: is "http://" on another machine: login and rows travel in clear; write "https://...",'
                    " or insecure = true"
                )
        return self


def is_clear(url: str) -> bool:
    """Tell whether a URL leads to another machine without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_local(parts.hostname or "")


NetworkConnection = PostgresConnection | MssqlConnection | VerticaConnection
Connection = (
    DuckdbConnection
    | SqliteConnection
    | PostgresConnection
    | MssqlConnection
    | VerticaConnection
    | HttpConnection
)


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
    "http": System(HttpConnection, source=True),
}
CONNECTION_TYPES = {name: system.table for name, system in SYSTEMS.items()}
SOURCE_TYPES = tuple(name for name, system in SYSTEMS.items() if system.source)
TARGET_TYPES = tuple(name for name, system in SYSTEMS.items() if system.target)
SESSIONS_TYPES = tuple(name for name, system in SYSTEMS.items() if system.sessions)
