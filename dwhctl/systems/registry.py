"""Open the source, target or console of a connection, whatever its system; drivers are imported only then."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import InternalError, QueryError, UsageError
from dwhctl.core.sql import replace_binds, unclosed
from dwhctl.core.words import quoted
from dwhctl.project.connections import DuckdbConnection, MssqlConnection, PostgresConnection, SqliteConnection
from dwhctl.systems.base.inspection import VERTICA_NAME_OCTETS

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.connections import Connection
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.target import Target


def open_source(
    connection: Connection,
    database: str,
    zone: str,
    timeout: float | None = None,
    *,
    login_known: bool | None = None,
    state_dir: Path | None = None,
) -> Source:
    """Open a shard's database; naive bounds of a query are read in `zone`.

    A server that is silent for `timeout` seconds is given up; None leaves that to the deadline of the attempt.
    `login_known` says whether the connection's login was let in, or refused, a moment ago. An embedded source spills
    into `state_dir`; without one it keeps to its memory.

    Raise AttemptError.
    """
    if connection.type == "duckdb":
        from dwhctl.systems.duckdb.source import DuckdbSource

        return DuckdbSource(connection, database, zone, state_dir)
    if connection.type == "mssql":
        from dwhctl.systems.mssql.source import MssqlSource

        return MssqlSource(connection, database, zone, timeout, login_known=login_known)
    raise InternalError(f"connection {connection.name}: {connection.type} is no source")


def probe(connection: Connection) -> None:
    """Wait for the answer to a probe of a source whose system has one. Raise ConnectError."""
    if connection.type == "mssql":
        from dwhctl.systems.mssql.errors import probe as probe_mssql

        probe_mssql(connection)


def extract_problem(connection: Connection, sql: str) -> str | None:
    """Return why a source of this type would refuse the extract, as far as its text alone shows it."""
    if connection.type == "duckdb":
        from dwhctl.systems.duckdb.client import query_problem

        return query_problem(replace_binds(sql, lambda name: f"${name}"))
    if connection.type == "mssql":
        from dwhctl.systems.mssql.sql import one_select

        try:
            one_select(sql)
        except QueryError as error:
            return str(error)
    return unclosed(sql)


def list_databases(connection: Connection, timeout: float) -> list[str]:
    """Name the databases behind a connection that shards could be; none where a connection is one database.

    Raise AttemptError.
    """
    if connection.type == "duckdb":
        return sorted(path.stem for path in connection.path.glob("*.duckdb")) if connection.is_folder else []
    if connection.type == "mssql":
        from dwhctl.systems.mssql import console

        return console.list_databases(connection, timeout)
    return []


_DUCKDBS_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")

#: How long an answer of the warehouse is waited for when nobody says.
TIMEOUT = timedelta(minutes=30)


def open_target(
    connection: Connection, state_dir: Path, timeout: timedelta = TIMEOUT, label: str = "dwhctl"
) -> Target:
    """Give the target behind a connection; what it stages outside the warehouse stands in the state folder.

    `timeout` bounds every wait for an answer of a server; `label` begins the labels of the sessions there.
    """
    if connection.type == "duckdb":
        from dwhctl.systems.duckdb.target import DuckdbTarget

        return DuckdbTarget(connection, state_dir)
    if connection.type == "vertica":
        from dwhctl.systems.vertica.target import VerticaTarget

        return VerticaTarget(connection, timeout, label)
    raise InternalError(f"connection {connection.name}: {connection.type} is no target")


def table_problem(connection: Connection, table: str) -> str | None:
    """Return why a target of this type can have no table of this name."""
    schema, _, name = table.lower().partition(".")
    if connection.type == "duckdb":
        if schema in _DUCKDBS_SCHEMAS:
            return f"the schema {schema} is DuckDB's own; name another one"
        if schema == connection.path.stem.lower():
            return (
                f"DuckDB takes {schema} for the file {connection.path.name} itself, and cannot tell it from a schema of"
                " that name; give the schema or the file another name"
            )
    if connection.type == "vertica":
        if schema.startswith("v_"):
            return f"the schema {schema} is Vertica's own; name another one"
        if len(max(schema, name, key=len).encode()) > VERTICA_NAME_OCTETS:
            return f"a name in Vertica has at most {VERTICA_NAME_OCTETS} octets; shorten it"
    return None


def statement_problem(connection: Connection, statement: str) -> str | None:
    """Return why a target of this type would refuse a statement, as far as its text alone shows it."""
    if connection.type == "duckdb":
        from dwhctl.systems.duckdb.client import syntax_problem

        return syntax_problem(statement)
    return unclosed(statement)


def open_cursor(
    connection: Connection,
    database: str | None,
    *,
    write: bool,
    timeout: timedelta | None,
    state_dir: Path | None = None,
) -> Cursor:
    """The cursor for a connection; it does not connect before `open`.

    `database` is one behind the connection, None for its own. `timeout` is how long the server may be silent, where
    the driver asks for it. DuckDB spills into `state_dir`; without one it keeps to its memory.

    Raise UsageError for a database that the connection cannot have.
    """
    if isinstance(connection, DuckdbConnection):
        from dwhctl.systems.duckdb.console import DuckdbCursor

        path = _database_file(connection, database)
        return DuckdbCursor(connection, path, write=write, state_dir=state_dir)
    if isinstance(connection, MssqlConnection):
        from dwhctl.systems.mssql.console import MssqlCursor

        return MssqlCursor(connection, database or connection.database, write=write)
    if isinstance(connection, PostgresConnection):
        from dwhctl.systems.postgres.console import PostgresCursor

        own = connection if database is None else connection.model_copy(update={"database": database})
        return PostgresCursor(own, write=write)
    if database is not None and database != getattr(connection, "database", None):
        raise UsageError(f"connection {connection.name} has one database; leave --database out")
    if isinstance(connection, SqliteConnection):
        from dwhctl.systems.sqlite.client import SqliteCursor

        return SqliteCursor(connection, write=write)
    from dwhctl.systems.vertica.console import VerticaCursor

    return VerticaCursor(connection, write=write, timeout=timeout)


def _database_file(connection: DuckdbConnection, database: str | None) -> str:
    if not connection.is_folder:
        if database is not None:
            raise UsageError(f"connection {connection.name} is one file; leave --database out")
        return str(connection.path)
    if database is None:
        known = sorted(path.stem for path in connection.path.glob("*.duckdb"))
        shown = ", ".join(known[:12]) or "none yet"
        raise UsageError(
            f"connection {connection.name} is a folder of databases; name one with --database or --shard"
            f" (there: {shown}{', ...' if len(known) > 12 else ''})"
        )
    file = connection.database_file(database)
    if file.parent.resolve() != connection.path.resolve():
        raise UsageError(f"{quoted(database)} is no name of a database in {connection.path}")
    return str(file)
