"""Small projects on the embedded default: DuckDB shards, a DuckDB warehouse, sessions in SQLite (or PostgreSQL)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from dwhctl.load.run import run_load
from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.runtime.events import Event, RunResult
from dwhctl.runtime.plan import LoadRequest
from dwhctl.sessions import Session, open_store
from tests.support.duckdb_files import opened
from tests.support.prefork import DwhctlProcess

DAY = date(2020, 7, 14)

CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.orders (
    id BIGINT, customer VARCHAR, amount DECIMAL(18, 2), start_time TIMESTAMP,
    etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT
);
"""
EXTRACT = """\
SELECT id, customer, amount, start_time
FROM orders
WHERE start_time >= :start AND start_time < :end
"""
ORDERS = "CREATE TABLE orders (id BIGINT, customer VARCHAR, amount DECIMAL(18, 2), start_time TIMESTAMP)"


@dataclass
class Sandbox:
    """A project folder with servers (folders of DuckDB files), a warehouse and the load `orders`."""

    root: Path
    servers: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"server_0": ["abakan", "achinsk"], "server_1": ["chita"]}
    )
    timezone: str = "Europe/Moscow"
    max_workers: int = 2
    sessions: str = 'type = "sqlite"\npath = "state/sessions.sqlite"'
    connection_keys: str = ""
    load_keys: str = 'retries = 1\nretry_delay = "1s"'
    create: str = CREATE
    extract: str = EXTRACT

    def write(self) -> Sandbox:
        """Write the configuration and SQL files."""
        self.put("config/dwhctl.toml", self._toml())
        self.put(
            "config/loads/orders.toml",
            'shards = "cities"\nextract = "orders/extract.sql"\ntarget = "warehouse"\ntable = "stage.orders"\n'
            f'{self.create_key("orders")}key = ["id"]\nslice_by = "start_time"\n{self.load_keys}\n',
        )
        self.put("sql/orders/create.sql", self.create)
        self.put("sql/orders/extract.sql", self.extract)
        return self

    def create_key(self, load: str) -> str:
        """The line with a load's `create`; without statements it is left out."""
        return f'create = "{load}/create.sql"\n' if self.create else ""

    def put(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _toml(self) -> str:
        lines = [
            f'[project]\ntimezone = "{self.timezone}"\nmax_workers = {self.max_workers}\n',
            f'[sessions]\nconnection = "sessions"\n\n[connections.sessions]\n{self.sessions}\n',
            '[connections.warehouse]\ntype = "duckdb"\npath = "state/warehouse.duckdb"\nlock_wait = "5s"\n',
        ]
        lines += [
            f'[connections.{server}]\ntype = "duckdb"\npath = "servers/{server}"\n{self.connection_keys}\n'
            for server in self.servers
        ]
        groups = "\n".join(f"{server} = {list(shards)!r}" for server, shards in self.servers.items())
        return "\n".join([*lines, f"[shards.cities]\n{groups}\n"])

    # Sources

    def shards(self) -> list[str]:
        """Name every shard."""
        return [shard for shards in self.servers.values() for shard in shards]

    def shard_file(self, shard: str) -> Path:
        """Give the file of a shard."""
        server = next(name for name, shards in self.servers.items() if shard in shards)
        return self.root / "servers" / server / f"{shard}.duckdb"

    def in_shard(self, shard: str, *statements: str) -> None:
        """Run statements in a shard's database."""
        self.shard_file(shard).parent.mkdir(parents=True, exist_ok=True)
        with opened(self.shard_file(shard)) as db:
            for statement in statements:
                db.execute(statement)

    def fill(
        self, rows: int = 10, days: Sequence[date] = (DAY,), shards: Sequence[str] | None = None
    ) -> Sandbox:
        """Give each shard `rows` orders on each day; ids are unique within a shard."""
        inserts = [
            "INSERT INTO orders SELECT (SELECT coalesce(max(id), -1) FROM orders) + 1 + range,"
            " CASE WHEN range % 7 = 0 THEN NULL ELSE 'клиент ' || range END, (range * 1.01)::DECIMAL(18, 2),"
            f" TIMESTAMP '{day}' + to_seconds(range * 86400 // {rows}) FROM range({rows})"
            for day in days
        ]
        for shard in shards or self.shards():
            self.in_shard(shard, ORDERS.replace("TABLE", "TABLE IF NOT EXISTS", 1), *inserts)
        return self

    def source_rows(
        self, days: Sequence[date] | None = None, shards: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Give what the warehouse should hold: shard, id, customer, amount, start_time of each row."""
        rows: list[tuple[Any, ...]] = []
        for shard in shards or self.shards():
            with opened(self.shard_file(shard), read_only=True) as db:
                found = db.execute("SELECT id, customer, amount, start_time FROM orders").fetchall()
            rows += [(shard, *row) for row in found if days is None or row[3].date() in days]
        return sorted(rows, key=lambda row: (row[0], row[1], row[4]))

    # Warehouse and sessions

    @property
    def warehouse_file(self) -> Path:
        """Give the warehouse's file."""
        return self.root / "state" / "warehouse.duckdb"

    def warehouse(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the warehouse; nothing there yet is no rows."""
        if not self.warehouse_file.exists():
            return []
        with opened(self.warehouse_file, read_only=True) as db:
            try:
                return db.execute(sql).fetchall()
            except duckdb.CatalogException:
                return []

    def change_warehouse(self, *statements: str) -> None:
        """Change the warehouse by hand."""
        with opened(self.warehouse_file) as db:
            for statement in statements:
                db.execute(statement)

    def target_rows(self) -> list[tuple[Any, ...]]:
        """Give what the warehouse holds, in the form of `source_rows`."""
        rows = self.warehouse("SELECT etl_source, id, customer, amount, start_time FROM stage.orders")
        return sorted(rows, key=lambda row: (row[0], row[1], row[4]))

    def sessions_newest_first(self, limit: int = 10_000) -> list[Session]:
        """Give the sessions."""
        with open_store(self.project().sessions) as store:
            return store.recent(limit)

    # Running

    def project(self) -> Project:
        """Read the project."""
        return read_project(self.root)

    def load(
        self,
        *days: date,
        listen: Callable[[Event], None] = lambda event: None,
        inline: bool = True,
        **options: Any,
    ) -> RunResult:
        """Load days (default: DAY) in this process."""
        request = LoadRequest(days=days or (DAY,), inline=inline, **options)
        return run_load(self.project(), request, listen)

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start `dwhctl ARGUMENTS` as a process of its own, in a session (process group) of its own."""
        return DwhctlProcess(
            *arguments,
            "--project",
            str(self.root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1", **(env or {})},
            **options,
        )

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 200, plain: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `dwhctl ARGUMENTS` to its end."""
        process = self.start(*arguments, env=env, plain=plain)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def days_from(first: date, count: int) -> list[date]:
    """Give `count` days from `first`."""
    return [first + timedelta(days=number) for number in range(count)]
