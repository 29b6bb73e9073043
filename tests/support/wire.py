"""Projects over the wire: SQL Server shards and a Vertica warehouse behind their real clients.

The servers are those of `tests/servers`, or real ones that the environment names: DWHCTL_TEST_MSSQL
(`mssql://user:password@host:1433`) and DWHCTL_TEST_VERTICA (`vertica://user:password@host:5433/database`). On real
ones each test works in databases and a schema of its own, which it drops.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pymssql
import pytest
import vertica_python

from tests.servers.base import Server
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer
from tests.support.projects import DAY, Sandbox
from tests.support.vertica import open_vertica

Row = tuple[Any, ...]

ORDERS = (
    "CREATE TABLE dbo.Orders (id BIGINT NOT NULL, customer NVARCHAR(100), amount DECIMAL(18, 2),"
    " start_time DATETIME2(3))"
)
CREATE = """\
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.orders (
    etl_source VARCHAR(200) NOT NULL, etl_id INT NOT NULL, hash_id INT NOT NULL,
    id INT NOT NULL, customer VARCHAR(400), amount NUMERIC(18, 2), start_time TIMESTAMP
) ORDER BY etl_source, start_time SEGMENTED BY hash_id ALL NODES;
"""
EXTRACT = """\
SELECT id, customer, amount, start_time
FROM dbo.Orders
WHERE start_time >= :start AND start_time < :end
"""

REAL_MSSQL = os.environ.get("DWHCTL_TEST_MSSQL")
REAL_VERTICA = os.environ.get("DWHCTL_TEST_VERTICA")
#: Faults can only be had of servers that we wrote.
needs_faults = pytest.mark.skipif(
    bool(REAL_MSSQL or REAL_VERTICA), reason="real servers have no faults to order"
)


class SqlServer(Protocol):
    """What a test needs of a SQL Server, ours or a real one."""

    def execute(self, database: str, sql: str) -> list[Row]:
        """Run a statement of T-SQL and give its rows."""

    def create_database(self, name: str) -> None:
        """Make an empty database."""


@dataclass
class RealSqlServer:
    """The server of DWHCTL_TEST_MSSQL."""

    url: str

    def keys(self) -> dict[str, Any]:
        """Host, port, user and password."""
        parts = urlsplit(self.url)
        return {
            "host": parts.hostname or "localhost", "port": parts.port or 1433,
            "user": unquote(parts.username or "sa"), "password": unquote(parts.password or ""),
        }  # fmt: skip

    def execute(self, database: str, sql: str) -> list[Row]:
        """Run a statement of T-SQL and give its rows."""
        keys = self.keys()
        link = pymssql.connect(
            server=keys["host"], port=str(keys["port"]), user=keys["user"], password=keys["password"],
            database=database, autocommit=True, tds_version="7.4",
        )  # fmt: skip
        with closing(link), link.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def create_database(self, name: str) -> None:
        """Make an empty database."""
        self.execute("master", f"CREATE DATABASE [{name}]")
        self.execute("master", f"ALTER DATABASE [{name}] SET ALLOW_SNAPSHOT_ISOLATION ON")

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is in it."""
        self.execute("master", f"ALTER DATABASE [{name}] SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
        self.execute("master", f"DROP DATABASE [{name}]")


@dataclass
class Wire(Sandbox):
    """A project over the wire. `sources` are the servers by connection, `dwh` is our Vertica or None for the real one.

    A shard's database is `prefix` + its name; the target table stands in `schema`.
    """

    sources: Mapping[str, SqlServer] = field(default_factory=dict)
    dwh: VerticaServer | None = None
    prefix: str = ""
    schema: str = "stage"
    table: str = "orders"
    source_keys: str = "max_connections = 4"
    warehouse_keys: str = "max_connections = 8"
    create: str = CREATE
    extract: str = EXTRACT
    executor: str = ""

    def write(self) -> Wire:
        """Write the configuration and SQL files."""
        self.put("config/dwhctl.toml", self._toml())
        self.put_load("orders", self.table)
        self.put("sql/orders/create.sql", self.create.replace("{schema}", self.schema))
        self.put("sql/orders/extract.sql", self.extract)
        return self

    def put_load(self, name: str, table: str) -> None:
        """Write a load of the same shards into a table of its own."""
        create = self.create.replace("{schema}", self.schema).replace(".orders (", f".{table} (")
        self.put(f"sql/{name}/create.sql", create)
        self.put(
            f"config/loads/{name}.toml",
            f'shards = "cities"\nextract = "orders/extract.sql"\ntarget = "warehouse"\n'
            f'table = "{self.schema}.{table}"\n{self.create_key(name)}key = ["id"]\n'
            f'slice_by = "start_time"\n{self.load_keys}\n',
        )

    def _toml(self) -> str:
        lines = [
            f'[project]\ntimezone = "{self.timezone}"\nmax_workers = {self.max_workers}\n',
            f'[sessions]\nconnection = "sessions"\n\n[connections.sessions]\n{self.sessions}\n',
            f"[connections.warehouse]\n{self._warehouse_toml()}{self.warehouse_keys}\n",
        ]
        lines += [
            f"[connections.{name}]\n{mssql_toml(server)}{self.source_keys}\n"
            for name, server in self.sources.items()
        ]
        groups = "\n".join(
            f"{server} = [{', '.join(map(self._shard_toml, shards))}]"
            for server, shards in self.servers.items()
        )
        return "\n".join([*lines, f"[shards.cities]\n{groups}\n", self.executor])

    def _shard_toml(self, shard: str) -> str:
        return f'{{ name = "{shard}", database = "{self.prefix}{shard}" }}'

    def _warehouse_toml(self) -> str:
        if self.dwh is not None:
            one = self.dwh.connection()
            keys = {"host": one.host, "port": one.port, "user": one.user, "database": one.database}
            password = one.password.reveal() if one.password else ""
        else:
            keys, password = _vertica_keys()
        return _toml_keys({"type": "vertica", **keys, "password": password, "tlsmode": "disable"})

    # Sources

    def server_of(self, shard: str) -> SqlServer:
        """Give the server of a shard."""
        name = next(name for name, shards in self.servers.items() if shard in shards)
        return self.sources[name]

    def in_shard(self, shard: str, *statements: str) -> None:
        """Run statements in a shard's database."""
        for statement in statements:
            self.server_of(shard).execute(f"{self.prefix}{shard}", statement)

    def make_shards(self) -> Wire:
        """Make the shards' databases, each with an empty dbo.Orders."""
        for shard in self.shards():
            self.server_of(shard).create_database(f"{self.prefix}{shard}")
            self.in_shard(shard, ORDERS)
        return self

    def fill(
        self, rows: int = 10, days: Sequence[date] = (DAY,), shards: Sequence[str] | None = None
    ) -> Wire:
        """Give each shard `rows` orders on each day; ids are unique within a shard."""
        for shard in shards or self.shards():
            for day in days:
                self.in_shard(
                    shard,
                    "INSERT INTO dbo.Orders (id, customer, amount, start_time)"
                    f" SELECT {day.toordinal()} * CAST(1000000 AS BIGINT) + value,"
                    " CASE WHEN value % 7 = 0 THEN NULL ELSE CONCAT(N'клиент ', value) END,"
                    " CAST(value * 1.01 AS DECIMAL(18, 2)),"
                    f" DATEADD(second, value * 86400 / {rows}, CAST('{day}T00:00:00' AS DATETIME2(3)))"
                    f" FROM GENERATE_SERIES(0, {rows} - 1)",
                )
        return self

    def source_rows(
        self, days: Sequence[date] | None = None, shards: Sequence[str] | None = None
    ) -> list[Row]:
        """Give what the warehouse should hold: shard, id, customer, amount, start_time of each row."""
        rows: list[Row] = []
        for shard in shards or self.shards():
            found = self.server_of(shard).execute(
                f"{self.prefix}{shard}", "SELECT id, customer, amount, start_time FROM dbo.Orders"
            )
            rows += [(shard, *row) for row in found if days is None or row[3].date() in days]
        return sorted(rows, key=lambda row: (row[0], row[1], row[4]))

    # Warehouse

    def warehouse(self, sql: str) -> list[Row]:
        """Query the warehouse with the vendor's client; a table that is not there yet has no rows."""
        with closing(self._vertica()) as link, closing(link.cursor()) as cursor:
            try:
                cursor.execute(sql)
                return [tuple(row) for row in cursor.fetchall()]
            except (vertica_python.errors.MissingRelation, vertica_python.errors.MissingSchema):
                return []

    def change_warehouse(self, *statements: str) -> None:
        """Change the warehouse by hand."""
        with closing(self._vertica()) as link, closing(link.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
                cursor.fetchall()
            link.commit()

    def _vertica(self) -> Any:
        if self.dwh is not None:
            one = self.dwh.connection()
            keys: dict[str, Any] = {
                "host": one.host, "port": one.port, "user": one.user, "database": one.database,
                "password": one.password.reveal() if one.password else "",
            }  # fmt: skip
        else:
            keys, password = _vertica_keys()
            keys = {**keys, "password": password}
        link = open_vertica(**keys, tlsmode="disable", session_label="test", connection_timeout=30)
        # The driver makes Python warnings of notices: that there was nothing to drop.
        link.notice_handler = lambda notice: None
        return link

    def target_rows(self, table: str | None = None) -> list[Row]:
        """Give what the warehouse holds, in the form of `source_rows`."""
        rows = self.warehouse(
            f"SELECT etl_source, id, customer, amount, start_time FROM {self.schema}.{table or self.table}"
        )
        return sorted(rows, key=lambda row: (row[0], row[1], row[4]))

    def staging_tables(self) -> list[str]:
        """Name the staging tables that are left."""
        rows = self.warehouse(
            "SELECT table_name FROM v_catalog.tables WHERE table_name LIKE 'dwhctl%'"
            f" AND table_schema = '{self.schema}'"
        )
        return [str(name) for (name,) in rows]

    @property
    def own_sources(self) -> dict[str, TdsServer]:
        """Our own SQL Servers, whose faults can be switched on."""
        return {name: one for name, one in self.sources.items() if isinstance(one, TdsServer)}

    @property
    def own_servers(self) -> list[Server]:
        """Every server that we wrote."""
        return [*self.own_sources.values(), *([self.dwh] if self.dwh is not None else [])]


W = TypeVar("W", bound=Wire)


@contextmanager
def wire_of(
    kind: type[W], root: Path, servers: Mapping[str, Sequence[str]], keys: Mapping[str, Any]
) -> Iterator[W]:
    """A project over these servers and shards, ours or the real ones; its shards are made, and empty."""
    with ExitStack() as stack:
        if REAL_MSSQL:
            sources: dict[str, Any] = {name: RealSqlServer(REAL_MSSQL) for name in servers}
        else:
            sources = {name: stack.enter_context(TdsServer(databases=())) for name in servers}
        dwh = None if REAL_VERTICA else stack.enter_context(VerticaServer())
        mark = f"dwhctl_{uuid.uuid4().hex[:8]}_"
        wire = kind(
            root,
            servers,
            sources=sources,
            dwh=dwh,
            prefix=mark if REAL_MSSQL else "",
            schema=f"{mark}stage" if REAL_VERTICA else "stage",
            **keys,
        )
        stack.callback(_tidy_up, wire)
        wire.write().make_shards()
        yield wire


def a_wire(root: Path, servers: Mapping[str, Sequence[str]], **keys: Any) -> AbstractContextManager[Wire]:
    """The plain project of `wire_of`."""
    return wire_of(Wire, root, servers, keys)


def _tidy_up(wire: Wire) -> None:
    if REAL_MSSQL:
        for shard in wire.shards():
            server = wire.server_of(shard)
            assert isinstance(server, RealSqlServer)
            server.drop_database(f"{wire.prefix}{shard}")
    if REAL_VERTICA:
        wire.warehouse(f"DROP SCHEMA IF EXISTS {wire.schema} CASCADE")


def mssql_toml(server: SqlServer) -> str:
    if isinstance(server, RealSqlServer):
        return _toml_keys({"type": "mssql", **server.keys()})
    assert isinstance(server, TdsServer)
    one = server.connection()
    password = one.password.reveal() if one.password else ""
    keys = {"host": one.host, "port": one.port, "user": one.user, "password": password}
    return _toml_keys({"type": "mssql", **keys})


def _vertica_keys() -> tuple[dict[str, Any], str]:
    parts = urlsplit(REAL_VERTICA or "")
    keys = {
        "host": parts.hostname or "localhost", "port": parts.port or 5433,
        "user": unquote(parts.username or "dbadmin"), "database": parts.path.strip("/") or "docker",
    }  # fmt: skip
    return keys, unquote(parts.password or "")


def _toml_keys(keys: Mapping[str, object]) -> str:
    shown = (
        f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"'
        for name, value in keys.items()
    )
    return "\n".join(shown) + "\n"
