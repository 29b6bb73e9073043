"""Connections: named access to one system each, and the registry of the systems.

What all connections have is here; the keys of one system are in its folder, `dwhctl/systems/NAME/system.py`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.core.words import shown_path
from dwhctl.project.fields import Host, Listed, ProjectPath, SomeTime, TableWithoutUrls, Text, given


def _no_memory(path: Path) -> Path:
    if path.name == ":memory:":
        raise ValueError("':memory:' would be another, empty database in every process; name a file")
    return path


Database = Annotated[ProjectPath, AfterValidator(_no_memory)]


class Connection(TableWithoutUrls):
    """What every connection has."""

    default_port: ClassVar[int | None] = None

    type: str
    name: str = given("the connection's name")
    max_connections: int | None = Field(
        4,
        ge=1,
        le=10_000,
        description="Never more at once, over all dwhctl processes of this project.",
        examples=[8],
    )

    def shard_file(self, database: str) -> Path | None:  # noqa: ARG002 - for systems whose databases are files
        """Return the file that holds the database; None where databases are not files."""
        return None

    def warehouse_problem(self) -> str | None:
        """Return why the connection, as it is written, cannot be a warehouse."""
        return None

    def in_clear(self) -> str | None:
        """Return which key lets login and rows travel in clear beyond this machine, for systems without `tls_words`."""
        return None

    def address(self, root: Path) -> str:  # noqa: ARG002 - for connections to files
        """Return the address as listings show it; a path is relative to the project's folder `root`."""
        return ""


class EmbeddedConnection(Connection):
    """What every connection to a file or folder has."""

    path: Path

    max_connections: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Never more at once, over all dwhctl processes of this project; no limit when left out.",
        examples=[8],
    )

    def address(self, root: Path) -> str:
        return shown_path(self.path, root)


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


class NetworkConnection(Connection):
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
    database: str
    user: Text = Field(description="The user to log in as.", examples=["dwh"])
    password: Secret | None = Field(None, description="The password.", examples=[{"env": "DWH_PASSWORD"}])
    connect_timeout: SomeTime = Field(
        timedelta(seconds=10), description="How long to wait for the server to answer.", examples=["10s"]
    )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every server of the connection with its port, in the order written."""
        return tuple(self._address(each) for each in (self.hosts or (self.host or "",)))

    def address(self, root: Path) -> str:  # noqa: ARG002
        servers = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        return f"{','.join(servers)}/{self.database}"

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
    def _one_host(self) -> NetworkConnection:
        if self.host is None and self.hosts is None:
            raise ValueError('host: is missing; add host = "SERVER"')
        if self.host is not None and self.hosts is not None:
            raise ValueError("host: stands beside hosts; keep one of the two")
        return self


#: The words with which a system checks the server's certificate: its authority, also its name.
CHECKED_TLS = ("verify-ca", "verify-full")


class SystemUses:
    """What a type of connection can be used for. The check of the configuration and every command go by it."""

    connection: ClassVar[type[Connection]]
    #: It can be the server of shards; the target of loads and reports; the database of the sessions table, for which
    #: `dwhctl/sessions` has a store.
    is_source: ClassVar[bool] = False
    is_target: ClassVar[bool] = False
    is_sessions: ClassVar[bool] = False
    #: As a target it takes one writer at a time.
    one_writer: ClassVar[bool] = False
    #: As a source it answers a probe, which needs no worker and no login.
    has_probe: ClassVar[bool] = False
    #: As a source it takes a load's `endpoint` and `columns` in place of an `extract`.
    takes_endpoint: ClassVar[bool] = False
    #: The module whose import takes time.
    driver: ClassVar[str] = ""
    #: Schemes of URLs beside the type's name.
    schemes: ClassVar[tuple[str, ...]] = ()


_BUILT_IN = ("duckdb", "sqlite", "postgres", "mssql", "vertica", "http")
_GROUP = "dwhctl.systems"


class _Systems(Mapping[str, SystemUses]):
    """The systems by their type: those of dwhctl, then those of packages with an entry point in `dwhctl.systems`.

    A system is imported when its type is first used.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, SystemUses] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=_GROUP) if point.name not in _BUILT_IN}

    def __getitem__(self, kind: str) -> SystemUses:
        if kind not in self._loaded:
            self._loaded[kind] = self._load(kind)
        return self._loaded[kind]

    def _load(self, kind: str) -> SystemUses:
        if kind in _BUILT_IN:
            found: SystemUses = pkgutil.resolve_name(f"dwhctl.systems.{kind}.system:SYSTEM")
            return found
        point = self._installed[kind]
        try:
            loaded = point.load()
        except Exception as error:
            raise ConfigError(
                f"the system {kind} of the package {point.dist.name if point.dist else point.value} cannot be"
                f" imported: {type(error).__name__}: {error}; correct or uninstall the package"
            ) from error
        if not isinstance(loaded, SystemUses):
            raise ConfigError(f"the entry point {point.value} of the system {kind} is no dwhctl System")
        return loaded

    def __contains__(self, kind: object) -> bool:
        return kind in _BUILT_IN or kind in self._installed

    def __iter__(self) -> Iterator[str]:
        yield from _BUILT_IN
        yield from self._installed

    def __len__(self) -> int:
        return len(_BUILT_IN) + len(self._installed)


SYSTEMS: Mapping[str, SystemUses] = _Systems()


def types_for(use: str) -> list[str]:
    """Return the types that have a use: `is_source`, `is_target` or `is_sessions`."""
    return [kind for kind, system in SYSTEMS.items() if getattr(system, use)]


class ConnectionTypes(Mapping[str, type[Connection]]):
    """The class of each type of connection."""

    def __getitem__(self, kind: str) -> type[Connection]:
        return SYSTEMS[kind].connection

    def __contains__(self, kind: object) -> bool:
        return kind in SYSTEMS

    def __iter__(self) -> Iterator[str]:
        return iter(SYSTEMS)

    def __len__(self) -> int:
        return len(SYSTEMS)


CONNECTION_TYPES = ConnectionTypes()
