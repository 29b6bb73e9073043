"""The warehouses that dwhctl writes to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.model import Connection
    from dwhctl.targets.contract import Target

#: The types of connections that a load can write to.
TARGET_TYPES = ("duckdb", "vertica")
#: Those of them that take one writer at a time.
ONE_WRITER = ("duckdb",)

#: How long an answer of the warehouse is waited for when nobody says.
PATIENCE = timedelta(minutes=30)


def open_target(
    connection: Connection, state_dir: Path, patience: timedelta = PATIENCE, label: str = "dwhctl"
) -> Target:
    """Give the target behind a connection; what it stages outside the warehouse stands in the state folder.

    `patience` bounds every wait for an answer of a server; `label` begins the labels of the sessions there.
    Raise ConfigError for a type that this version cannot write to.
    """
    if connection.type == "duckdb":
        from dwhctl.targets.duckdb import DuckdbTarget

        return DuckdbTarget(connection, state_dir)
    if connection.type == "vertica":
        from dwhctl.targets.vertica import VerticaTarget

        return VerticaTarget(connection, patience, label)
    raise ConfigError(
        f"connection {connection.name}: this version cannot write to {connection.type} yet"
        f" (it writes to {', '.join(TARGET_TYPES)})"
    )
