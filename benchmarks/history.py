"""Two weeks of the planned scale in the sessions table: 200 loads of 70 shards each hour, 5,000,000 sessions.

They end with a last hour under way, three dead shards since two days, and retries, failures and empty slices as they
come. Written by the databases themselves, so that it takes seconds.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dwhctl.project.model import Project
from dwhctl.sessions import open_store
from dwhctl.sessions.schema import indexes, read_statements
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from tests.postgres import PostgresServer
from tests.support.projects import CREATE, Sandbox

_TIME = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000+00:00', {0}, 'unixepoch')",
    "postgres": "to_timestamp({0})",
}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {0} - 1)",
    "postgres": "WITH numbers (n) AS (SELECT generate_series(0::bigint, {0} - 1))",
}
_DATE = {"sqlite": "date({0}, 'unixepoch')", "postgres": "to_timestamp({0})::date"}
_PADDED = {"sqlite": "printf('%0{1}d', {0})", "postgres": "lpad(({0})::text, {1}, '0')"}
_RUN = {
    "sqlite": "strftime('%Y%m%dT%H%M%S', {0}, 'unixepoch')",
    "postgres": "to_char(to_timestamp({0}), 'YYYYMMDD\"T\"HH24MISS')",
}


@dataclass(frozen=True)
class History:
    """How much there is. `dead` shards fail in each load, for the last `dead_hours`; with `ended` nothing runs."""

    loads: int = 200
    shards: int = 70
    hours: int = 352
    dead: int = 3
    dead_hours: int = 50
    ended: bool = False

    @property
    def slices(self) -> int:
        """Give the number of first attempts."""
        return self.loads * self.shards * self.hours

    @property
    def _digits(self) -> int:
        return max(2, len(str(self.shards - 1)))

    def shard(self, number: int) -> str:
        """Give the name of a shard."""
        return f"city_{number:0{self._digits}}"

    def project(self, root: Path, sessions: str) -> Sandbox:
        """Write a project with these loads and shards; nothing of it can be loaded."""
        shards = [self.shard(number) for number in range(self.shards)]
        sandbox = Sandbox(root, servers={"server_0": shards}, sessions=sessions).write()
        load = (root / "config" / "loads" / "orders.toml").read_text()
        for number in range(self.loads):
            name = f"load_{number:03}"
            promises = 'deadline = "07:00"\nmax_age = "8h"\n'
            text = load.replace("stage.orders", f"stage.{name}") + promises
            sandbox.put(f"config/loads/{name}.toml", text)
        sandbox.put("sql/orders/create.sql", CREATE)
        return sandbox

    def statement(self, dialect: str, now: datetime) -> str:
        """Give the statement that writes all of it, the newest hour ending now."""
        first = int((now - timedelta(hours=self.hours)).timestamp())
        tasks = self.loads * self.shards
        hour = f"n / {tasks}"
        begins = f"({first} + 3600 * ({hour}) + 0.2 * (n % {tasks}))"
        seconds = f"(1 + (n * 7919 % 1000) / 250.0 + n / {self.shards} % {self.loads} / 20)"
        day, run = (
            f"({first} + 3600 * ({hour}))",
            _RUN[dialect].format(f"({first} + 3600 * ({hour}))") + " || '-00000000'",
        )
        load = "'load_' || " + _PADDED[dialect].format(f"n / {self.shards} % {self.loads}", 3)
        shard = "'city_' || " + _PADDED[dialect].format(f"n % {self.shards}", self._digits)
        is_dead = (
            f"n % {self.shards} >= {self.shards - self.dead} AND {hour} >= {self.hours - self.dead_hours}"
        )
        return f"""
            INSERT INTO sessions (task_name, started, finished, successful, loaded_rows, comment, run_id, load, shard,
                slice_date, attempt, state, staged, extracted_rows, bytes, error_class, host, pid, dwhctl_version)
            {_NUMBERS[dialect].format(self.slices)},
            facts AS (
                SELECT n, {load} AS load, {shard} AS shard, {run} AS run_id, {_DATE[dialect].format(day)} AS slice_date,
                    {begins} AS begins, {seconds} AS seconds,
                    CASE WHEN {is_dead} THEN 'failed'
                         WHEN {int(not self.ended)} = 1 AND {hour} = {self.hours - 1} AND n % 200 = 3 THEN 'running'
                         WHEN n % 1009 = 5 THEN 'failed'
                         WHEN n % 5003 = 9 THEN 'abandoned'
                         WHEN n % 10 = 1 THEN 'skipped'
                         ELSE 'loaded' END AS state
                FROM numbers
            ),
            attempts AS (
                SELECT n, load, shard, run_id, slice_date, begins, seconds, 1 AS attempt,
                    CASE WHEN n % 50 = 7 THEN 'up_for_retry' ELSE state END AS state
                FROM facts
                UNION ALL
                SELECT n, load, shard, run_id, slice_date, begins + 10, seconds, 2, state FROM facts WHERE n % 50 = 7
            )
            SELECT load || '__' || shard, {_TIME[dialect].format("begins")},
                CASE WHEN state <> 'running' THEN {_TIME[dialect].format("begins + seconds")} END,
                CASE WHEN state <> 'running' THEN state IN ('loaded', 'skipped') END,
                CASE WHEN state IN ('loaded', 'skipped') THEN n % 10 * 1000 END,
                CASE WHEN state IN ('failed', 'up_for_retry') THEN 'server_0: the server cannot be reached' END,
                run_id, load, shard, slice_date, attempt, state, 'token-' || n || '-' || attempt,
                CASE WHEN state = 'loaded' THEN n % 10 * 1000 END, CASE WHEN state = 'loaded' THEN n % 10 * 65536 END,
                CASE WHEN state IN ('failed', 'up_for_retry') THEN 'ConnectError' END, 'etl-1', 4711, '0.1.0'
            FROM attempts ORDER BY n, attempt"""


def fill_sqlite(history: History, project: Project) -> None:
    """Write the history into the project's SQLite file; the indexes come after the rows."""
    with open_store(project.sessions) as store:
        store.prepare()
    sessions = project.sessions
    assert isinstance(sessions, SqliteConnection)
    with closing(sqlite3.connect(sessions.path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for name in indexes(read_statements("sqlite")):
            db.execute(f"DROP INDEX {name}")
        db.execute(history.statement("sqlite", datetime.now(UTC)))
    with open_store(project.sessions) as store:
        store.prepare()


def fill_postgres(history: History, project: Project, server: PostgresServer) -> None:
    """Write the history into the project's PostgreSQL database, and look at it as its autovacuum would."""
    with open_store(project.sessions) as store:
        store.prepare()
    sessions = project.sessions
    assert isinstance(sessions, PostgresConnection)
    with closing(server.connect(sessions.database)) as db, db.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        for name in indexes(read_statements("postgres")):
            cursor.execute(f"DROP INDEX {name}")
        cursor.execute(history.statement("postgres", datetime.now(UTC)))
        for statement in indexes(read_statements("postgres")).values():
            cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE sessions")
