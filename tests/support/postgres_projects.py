"""The small project on PostgreSQL: shards and warehouse are databases of one server; sessions in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg2

from tests.postgres import PostgresServer
from tests.support.projects import DAY, ORDERS, Sandbox


@dataclass
class PostgresSandbox(Sandbox):
    """A project whose shards and warehouse are databases of `server`; drop them with `drop`."""

    server: PostgresServer | None = None
    databases: dict[str, str] = field(default_factory=dict)

    def write(self) -> PostgresSandbox:
        for name in ("warehouse", *self.shards()):
            self.databases[name] = self._server.make_database()
        super().write()
        return self

    @property
    def _server(self) -> PostgresServer:
        assert self.server is not None
        return self.server

    def drop(self) -> None:
        """Drop the databases."""
        for name in self.databases.values():
            self._server.drop_database(name)

    def _toml(self) -> str:
        def connection(name: str, database: str) -> str:
            keys = [f"[connections.{name}]", 'type = "postgres"', f'database = "{database}"']
            keys += [f'host = "{self._server.host}"', f"port = {self._server.port}"]
            keys += [f'user = "{self._server.user}"']
            if self._server.password:
                keys.append(f'password = "{self._server.password}"')
            return "\n".join([*keys, ""])

        groups = "\n".join(
            f"{server} = [{', '.join(map(self._shard, shards))}]" for server, shards in self.servers.items()
        )
        return "\n".join(
            [
                f'[project]\ntimezone = "{self.timezone}"\nmax_workers = {self.max_workers}\n',
                f'[sessions]\nconnection = "sessions"\n\n[connections.sessions]\n{self.sessions}\n',
                connection("warehouse", self.databases["warehouse"]),
                *(connection(server, self._server.admin_database) for server in self.servers),
                f"[shards.cities]\n{groups}\n",
            ]
        )

    def _shard(self, shard: str) -> str:
        return f'{{ name = "{shard}", database = "{self.databases[shard]}" }}'

    def in_shard(self, shard: str, *statements: str) -> None:
        with closing(self._server.connect(self.databases[shard])) as db:
            for statement in statements:
                db.cursor().execute(statement)

    def fill(
        self, rows: int = 10, days: Sequence[date] = (DAY,), shards: Sequence[str] | None = None
    ) -> PostgresSandbox:
        for shard in shards or self.shards():
            inserts = (
                "INSERT INTO orders SELECT (SELECT coalesce(max(id), -1) FROM orders) + 1 + n,"
                " CASE WHEN n % 7 <> 0 THEN 'клиент ' || n END, n * 1.01,"
                f" TIMESTAMP '{day}' + n * INTERVAL '1 day' / {rows} FROM generate_series(0, {rows} - 1) AS n"
                for day in days
            )
            self.in_shard(shard, ORDERS.replace("TABLE", "TABLE IF NOT EXISTS", 1), *inserts)
        return self

    def source_rows(
        self, days: Sequence[date] | None = None, shards: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for shard in shards or self.shards():
            with closing(self._server.connect(self.databases[shard])) as db, db.cursor() as cursor:
                cursor.execute("SELECT id, customer, amount, start_time FROM orders")
                rows += [(shard, *row) for row in cursor.fetchall() if days is None or row[3].date() in days]
        return sorted(rows, key=lambda row: (row[0], row[1], row[4]))

    def warehouse(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._server.connect(self.databases["warehouse"])) as db, db.cursor() as cursor:
            try:
                cursor.execute(sql)
            except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):
                return []
            return list(cursor.fetchall())

    def change_warehouse(self, *statements: str) -> None:
        with closing(self._server.connect(self.databases["warehouse"])) as db:
            for statement in statements:
                db.cursor().execute(statement)
