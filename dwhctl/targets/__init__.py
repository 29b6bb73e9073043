"""The warehouses that dwhctl writes to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import InternalError
from dwhctl.project.sql import unclosed

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.model import Connection
    from dwhctl.targets.contract import Target

_DUCKDBS_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp")
#: The most octets of a name: https://docs.vertica.com/24.2.x/en/sql-reference/language-elements/identifiers/
VERTICA_NAME_OCTETS = 128

#: How long an answer of the warehouse is waited for when nobody says.
PATIENCE = timedelta(minutes=30)


def open_target(
    connection: Connection, state_dir: Path, patience: timedelta = PATIENCE, label: str = "dwhctl"
) -> Target:
    """Give the target behind a connection; what it stages outside the warehouse stands in the state folder.

    `patience` bounds every wait for an answer of a server; `label` begins the labels of the sessions there.
    """
    if connection.type == "duckdb":
        from dwhctl.targets.duckdb import DuckdbTarget

        return DuckdbTarget(connection, state_dir)
    if connection.type == "vertica":
        from dwhctl.targets.vertica import VerticaTarget

        return VerticaTarget(connection, patience, label)
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
        from dwhctl.engines.duckdb_syntax import syntax_problem

        return syntax_problem(statement)
    return unclosed(statement)
