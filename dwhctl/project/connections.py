"""Connections, each to one system, and the registry of the systems.

The keys of all connections are here; those of one system are in `dwhctl/systems/NAME/system.py`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, cast, get_args

from pydantic import AfterValidator, Field, model_validator

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.core.waiting import delayed_signals
from dwhctl.core.words import shown_path
from dwhctl.project.fields import Host, Listed, NamedTable, ProjectPath, SomeTime, TableWithoutUrls, Text


def _no_memory(path: Path) -> Path:
    if path.name == ":memory:":
        raise ValueError("':memory:' is a new, empty database in every process; write the path of a file")
    return path


Database = Annotated[ProjectPath, AfterValidator(_no_memory)]


class Connection(NamedTable, TableWithoutUrls):
    """The keys of every connection."""

    default_port: ClassVar[int | None] = None

    type: str
    max_connections: int | None = Field(4, ge=1, le=10000, examples=[8])
    """The most connections at once, over all dwhctl processes of this project."""

    def shard_file(self, database: str) -> Path | None:  # noqa: ARG002 - for systems whose databases are files
        """Return the file or folder that holds the database; None where databases are not files."""
        return None

    def warehouse_problem(self) -> str | None:
        """Return why the connection cannot be a warehouse, or None."""
        return None

    def in_clear(self) -> str | None:
        """Return which key lets login and rows travel in clear beyond this machine, for systems without `tls_words`."""
        return None

    def address(self, root: Path) -> str:  # noqa: ARG002 - for connections to files
        """Return the address for listings; a path is relative to the project's folder `root`."""
        return ""


class EmbeddedConnection(Connection):
    """The keys of every connection to a file or folder."""

    path: Path

    max_connections: int | None = Field(None, ge=1, le=10000, examples=[8])
    """The most connections at once, over all dwhctl processes of this project; left out: no limit."""

    def address(self, root: Path) -> str:
        return shown_path(self.path, root)


class TlsWords(NamedTuple):
    """The keys and values by which a system's connections say whether they are encrypted."""

    #: The key, the key of the CA file, and the values that check the server's certificate.
    key: str
    ca_key: str | None
    checked: tuple[str, ...]
    #: The default for a server on this machine, which may have no TLS, and the value for no encryption.
    local: str
    off: str
    #: The setting without which no value checks the certificate.
    needs: str = ""

    def setting(self, value: str) -> str:
        """Return the key with a value, as it is written."""
        return f"{self.key} = {value}" if value in ("true", "false") else f'{self.key} = "{value}"'


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


class NetworkConnection(Connection):
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
    database: str
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

    def address(self, root: Path) -> str:  # noqa: ARG002
        servers = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        return f"{','.join(servers)}/{self.database}"

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
    def _one_host(self) -> NetworkConnection:
        if self.host is None and self.hosts is None:
            raise ValueError('host: is missing; add host = "SERVER"')
        if self.host is not None and self.hosts is not None:
            raise ValueError("host: cannot be combined with hosts; keep one of the two")
        return self


#: The values that check the server's certificate: its authority, or also its name.
CHECKED_TLS = ("verify-ca", "verify-full")


class SystemUses:
    """The uses of a type of connection, for the check of the configuration and every command."""

    connection: ClassVar[type[Connection]]
    #: The server of shards; the target of loads and reports; the database of the sessions table, for which
    #: `dwhctl/sessions` has a store.
    is_source: ClassVar[bool] = False
    is_target: ClassVar[bool] = False
    is_sessions: ClassVar[bool] = False
    #: A target with one writer at a time.
    one_writer: ClassVar[bool] = False
    #: A source with a probe, which needs no worker and no login.
    has_probe: ClassVar[bool] = False
    #: A target that stages parts of one slice at once, under one token.
    stages_parts: ClassVar[bool] = False
    #: As a source it takes a load's `endpoint` and `columns` in place of an `extract`.
    takes_endpoint: ClassVar[bool] = False
    #: The module whose import takes time.
    driver: ClassVar[str] = ""
    #: The schemes of URLs, in addition to the type.
    schemes: ClassVar[tuple[str, ...]] = ()

    def missing_package(self, connection: Any) -> str | None:  # noqa: ARG002
        """Return what to install for the connection, when its driver is in an extra that is not installed."""
        return None

    def table_problem(self, connection: Any, table: str) -> str | None:  # noqa: ARG002
        """Return why a target can have no table of this name."""
        return None


_BUILT_IN = ("duckdb", "sqlite", "postgres", "mssql", "vertica", "clickhouse", "http")
_Found = TypeVar("_Found")


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group="dwhctl.systems"):
        if point.name not in _BUILT_IN:
            found.setdefault(point.name, []).append(point)
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _load(kind: str) -> SystemUses:
    if kind in _BUILT_IN:
        with delayed_signals():
            return cast("SystemUses", pkgutil.resolve_name(f"dwhctl.systems.{kind}.system:SYSTEM"))
    point, *others = _installed()[kind]
    if others:
        packages = ", ".join(sorted(map(_package, (point, *others))))
        raise ConfigError(f"the system {kind} is in several packages, {packages}; uninstall all but one")
    try:
        loaded = point.load()
    except Exception as error:
        raise ConfigError(
            f"the system {kind} of the package {_package(point)} cannot be"
            f" imported: {type(error).__name__}: {error}; correct or uninstall the package"
        ) from error
    if not isinstance(loaded, SystemUses):
        raise ConfigError(
            f"the entry point {point.value} of the system {kind}, in the package {_package(point)}, is not an instance"
            " of dwhctl.systems.base.system.System; correct or uninstall the package"
        )
    if problem := _keys_problem(kind, loaded):
        raise ConfigError(
            f"the system {kind} of the package {_package(point)} {problem}; correct or uninstall the package"
        )
    return loaded


def _keys_problem(kind: str, system: SystemUses) -> str | None:
    """Return why the keys of a connection of this type cannot be read, or None."""
    keys = getattr(system, "connection", None)
    if not isinstance(keys, type) or not issubclass(keys, Connection):
        return "has no `connection`, a class that derives from dwhctl.project.connections.Connection"
    types = get_args(keys.model_fields["type"].annotation)
    if types and kind not in types:
        return f"has connections of the type '{types[0]}': the entry point has another name than the type"
    return None


class _ByType(Mapping[str, _Found]):
    """What is found by the type of a connection, when it is first used.

    The types are those of dwhctl, then those of packages with an entry point in the group `dwhctl.systems`.
    """

    def __init__(self, find: Callable[[str], _Found]) -> None:
        self._find = cache(find)

    def __getitem__(self, kind: str) -> _Found:
        return self._find(kind)

    def __contains__(self, kind: object) -> bool:
        return kind in _BUILT_IN or kind in _installed()

    def __iter__(self) -> Iterator[str]:
        yield from (*_BUILT_IN, *_installed())

    def __len__(self) -> int:
        return sum(1 for _ in self)


SYSTEMS: Mapping[str, SystemUses] = _ByType(_load)
CONNECTION_TYPES: Mapping[str, type[Connection]] = _ByType(lambda kind: SYSTEMS[kind].connection)


def usable_systems() -> Iterator[tuple[str, SystemUses]]:
    """Yield the types with their systems, without a package that is broken: it concerns only who uses its type."""
    for kind in SYSTEMS:
        try:
            system = SYSTEMS[kind]
        except ConfigError:
            continue
        yield kind, system


def ignored_systems() -> list[str]:
    """Return what is wrong with packages whose system has the type of one of dwhctl's own."""
    return sorted(
        f"the package {_package(point)} has a system {point.name}, as dwhctl itself; the one of the package is ignored"
        for point in entry_points(group="dwhctl.systems")
        if point.name in _BUILT_IN
    )


def types_for(use: str) -> list[str]:
    """Return the types that have a use: `is_source`, `is_target` or `is_sessions`."""
    return [kind for kind, system in usable_systems() if getattr(system, use)]
