"""ClickHouse as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dwhctl.core.errors import ConfigError
from dwhctl.project.connections import NetworkConnection, TlsWords, is_local
from dwhctl.project.fields import Host, Listed, ProjectPath, Text
from dwhctl.systems.base.system import CursorOptions, System, TargetOptions, refuse_other_database
from dwhctl.systems.clickhouse import NAME_OCTETS

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor
    from dwhctl.systems.base.target import Target

_TLS_PORT = 8443


class ClickHouseConnection(NetworkConnection):
    """A ClickHouse server, over HTTP."""

    default_port: ClassVar[int | None] = 8123
    tls_words: ClassVar[TlsWords] = TlsWords("secure", "ca_cert", ("true",), local="false", off="false")
    type: Literal["clickhouse"] = Field("clickhouse", examples=["clickhouse"])
    """The kind of system."""
    hosts: Annotated[tuple[Host, ...], Listed, Field(min_length=1)] | None = Field(
        None, examples=[["ch_1", "ch_2:8444"]]
    )
    """Replicas; the first that answers is used. `server` or `server:port`."""
    port: int = Field(0, ge=0, le=65535, examples=[8443])
    """The HTTP port; default: 8443 with TLS, 8123 without."""
    database: Text = Field("default", examples=["stage"])
    """The database of tables that are written without one."""
    secure: bool | None = Field(None, examples=[True])
    """Whether the connection is encrypted; the server's certificate is then checked, its authority and its name.
    Default: true, and false for a server on this machine without `ca_cert`."""
    ca_cert: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""

    @property
    def is_secure(self) -> bool:
        if self.secure is not None:
            return self.secure
        return self.ca_cert is not None or not self.is_local

    @property
    def is_local(self) -> bool:
        # Without the ports, which depend on it.
        return all(
            is_local(NetworkConnection._address(self, host)[0]) for host in (self.hosts or (self.host or "",))
        )

    @property
    def tls(self) -> str:
        return str(self.is_secure).lower()

    @model_validator(mode="before")
    @classmethod
    def _port_of_type(cls, table: Any) -> Any:
        return table  # the port depends on TLS: see `_address`

    def _address(self, host: str) -> tuple[str, int]:
        server, port = super()._address(host)
        return server, port or (_TLS_PORT if self.is_secure else self.default_port or 0)


class _ClickHouse(System[ClickHouseConnection]):
    connection = ClickHouseConnection
    is_target = stages_parts = True
    driver = "clickhouse_connect"
    types_module = "dwhctl.systems.clickhouse.types"

    def open_target(self, connection: ClickHouseConnection, options: TargetOptions) -> Target:
        _check_installed(connection)
        from dwhctl.systems.clickhouse.target import ClickHouseTarget

        return ClickHouseTarget(connection, options.timeout, options.label)

    def open_cursor(
        self, connection: ClickHouseConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        refuse_other_database(connection, database)
        _check_installed(connection)
        from dwhctl.systems.clickhouse.console import ClickHouseCursor

        return ClickHouseCursor(connection, write=options.write, timeout=options.timeout)

    def missing_package(self, connection: ClickHouseConnection) -> str | None:
        if find_spec("clickhouse_connect") is not None:
            return None
        return (
            f'connections.{connection.name}: type = "clickhouse" needs a package that is not installed;'
            " pip install 'dwhctl[clickhouse]'"
        )

    def table_problem(self, connection: ClickHouseConnection, table: str) -> str | None:
        database, _, name = table.rpartition(".")
        if "." in database:
            return "a table in ClickHouse is `table` or `database.table`; leave the rest out"
        if "\\" in table:
            return "a backslash in a table's name has a meaning of its own in ClickHouse; rename it"
        if database.lower() in ("system", "information_schema"):
            return f"the database {database} is ClickHouse's own; name another one"
        if len(name.encode()) > NAME_OCTETS:
            return f"a table's name has at most {NAME_OCTETS} octets, for it is a file's; shorten it"
        return None


def _check_installed(connection: ClickHouseConnection) -> None:
    if problem := SYSTEM.missing_package(connection):
        raise ConfigError(problem)


SYSTEM = _ClickHouse()
