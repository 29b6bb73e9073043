"""A small valid project in a folder, and what reading it says."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.project.connections import Connection
from dwhctl.project.loads import Load, Shard
from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from dwhctl.systems.vertica.system import VerticaConnection

MAIN = """
[project]
timezone = "Europe/Moscow"

[sessions]
connection = "sessions"

[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"

[connections.server_0]
type = "duckdb"
path = "state/server_0"

[connections.server_1]
type = "duckdb"
path = "state/server_1"

[connections.dwh]
type = "duckdb"
path = "state/warehouse.duckdb"

[shards.cities]
server_0 = ["abakan", { name = "achinsk", database = "Achinsk_2", from = "2020-03-01" }]
server_1 = [{ name = "chita", database = "chita", zone = "Asia/Chita" }]
"""

LOAD = """
shards = "cities"
extract = "orders/extract.sql"
target = "dwh"
table = "stage.orders"
create = "orders/create.sql"
key = ["id"]
slice_by = "start_time"
"""

EXTRACT = "SELECT * FROM orders WHERE start_time >= :start AND start_time < :end\n"


def write_project(root: Path, main: str = MAIN, load: str = LOAD, extract: str = EXTRACT) -> Path:
    """Write a project with the load `orders`."""
    write(root, "config/dwhctl.toml", main)
    write(root, "config/loads/orders.toml", load)
    write(root, "sql/orders/extract.sql", extract)
    write(root, "sql/orders/create.sql", "CREATE SCHEMA IF NOT EXISTS stage;\n")
    return root


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems(root: Path) -> list[str]:
    """The lines of the error that reading this project ends with."""
    with pytest.raises(ConfigError) as caught:
        read_project(root)
    return str(caught.value).splitlines()


def the_problem(root: Path) -> str:
    """The one line of it."""
    (line,) = problems(root)
    return line


def a_load(**keys: Any) -> Load:
    table: dict[str, Any] = {
        "name": "orders",
        "shards": "cities",
        "extract": Path("/nowhere/sql/extract.sql"),
        "target": "dwh",
        "table": "stage.orders",
        "key": ("id",),
        "slice_by": "start_time",
    }
    return Load(**(table | keys))


def a_project(root: Path = Path("/nowhere"), timezone: str = "Europe/Moscow", **fields: Any) -> Project:
    """A project in memory, without files."""
    connections: dict[str, Connection] = {
        "dwh": VerticaConnection(name="dwh", host="dwh-host", user="dbadmin", database="docker"),
        "server_0": DuckdbConnection(name="server_0", path=root / "server_0"),
        "sessions": SqliteConnection(name="sessions", path=root / "sessions.sqlite"),
    }
    return Project(root, timezone, root / "state", 4, "sessions", connections, **fields)


def a_shard(zone: str = "Asia/Chita", from_date: date | None = None) -> Shard:
    return Shard("chita", "Chita_DB", "server_0", zone, from_date)
