"""The systems that dwhctl reads from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.errors import InternalError, QueryError
from dwhctl.project.sql import replace_binds, unclosed

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.model import Connection
    from dwhctl.sources.contract import Source


def open_source(
    connection: Connection,
    database: str,
    zone: str,
    patience: float | None = None,
    *,
    login_known: bool | None = None,
    state_dir: Path | None = None,
) -> Source:
    """Open a shard's database; naive bounds of a query are read in `zone`.

    A server that is silent for `patience` seconds is given up; None leaves that to the deadline of the attempt.
    `login_known` says whether the connection's login was let in, or refused, a moment ago. An embedded source spills
    into `state_dir`; without one it keeps to its memory.

    Raise AttemptError.
    """
    if connection.type == "duckdb":
        from dwhctl.sources.duckdb import DuckdbSource

        return DuckdbSource(connection, database, zone, state_dir)
    if connection.type == "mssql":
        from dwhctl.sources.mssql import MssqlSource

        return MssqlSource(connection, database, zone, patience, login_known=login_known)
    raise InternalError(f"connection {connection.name}: {connection.type} is no source")


def knock(connection: Connection) -> None:
    """Wait for the answer to a probe of a source whose system has one. Raise ConnectError."""
    if connection.type == "mssql":
        from dwhctl.engines.mssql_knock import knock as knock_at_mssql

        knock_at_mssql(connection)


def extract_problem(connection: Connection, sql: str) -> str | None:
    """Return why a source of this type would refuse the extract, as far as its text alone shows it."""
    if connection.type == "duckdb":
        from dwhctl.engines.duckdb_syntax import query_problem

        return query_problem(replace_binds(sql, lambda name: f"${name}"))
    if connection.type == "mssql":
        from dwhctl.sources.mssql_sql import one_select

        try:
            one_select(sql)
        except QueryError as error:
            return str(error)
    return unclosed(sql)


def list_databases(connection: Connection, patience: float) -> list[str]:
    """Name the databases behind a connection that shards could be; none where a connection is one database.

    Raise AttemptError.
    """
    if connection.type == "duckdb":
        return sorted(path.stem for path in connection.path.glob("*.duckdb")) if connection.is_folder else []
    if connection.type == "mssql":
        from dwhctl.sources import mssql_databases

        return mssql_databases.list_databases(connection, patience)
    return []
