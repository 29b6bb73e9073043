"""What the tests of commands share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from tests.support.duckdb_files import opened
from tests.support.prefork import DwhctlProcess

PROJECT = """\
[project]
timezone = "Europe/Moscow"

[sessions]
connection = "sessions"

[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"

[connections.server_0]
type = "duckdb"
path = "server_0"

[connections.server_1]
type = "duckdb"
path = "server_1"

[connections.dwh]
type = "duckdb"
path = "dwh.duckdb"

[shards.cities]
server_0 = ["abakan", "achinsk"]
server_1 = ["chita"]
"""
LOAD = """\
shards = "cities"
extract = "orders.sql"
create = "create.sql"
target = "dwh"
table = "stage.orders"
key = ["id"]
slice_by = "ordered"
start_date = 2020-07-01
retries = 0
"""
EXTRACT = "SELECT id, ordered FROM orders WHERE ordered >= :start AND ordered < :end\n"
CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.orders (
    etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT, id BIGINT, ordered TIMESTAMP
);
"""
SHARDS = (("server_0", "abakan"), ("server_0", "achinsk"), ("server_1", "chita"))


def dwh(*arguments: object) -> int:
    """Run a command in this process and give its exit code."""
    return run(dwhctl, [str(argument) for argument in arguments])


def dwh_process(
    *arguments: object, folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does: a process of its own."""
    process = DwhctlProcess(
        *map(str, arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **(environment or {})},
    )
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def small_project(folder: Path, **changed: str) -> Path:
    """Write a project of one load over three shards, without the databases."""
    texts = {"project": PROJECT, "load": LOAD, "extract": EXTRACT, "create": CREATE, **changed}
    files = {
        "config/dwhctl.toml": texts["project"],
        "config/loads/orders.toml": texts["load"],
        "sql/orders.sql": texts["extract"],
        "sql/create.sql": texts["create"],
    }
    return write(folder, files)


def make_databases(folder: Path) -> None:
    """Make the small project's databases: two orders on 2020-07-13 in each, none on other days."""
    for server, city in SHARDS:
        (folder / server).mkdir(exist_ok=True)
        with opened(folder / server / f"{city}.duckdb") as db:
            db.execute("CREATE TABLE orders (id BIGINT, ordered TIMESTAMP)")
            db.execute("INSERT INTO orders VALUES (1, '2020-07-13 00:00:00'), (2, '2020-07-13 23:59:59')")
