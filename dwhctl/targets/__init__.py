"""The warehouses that dwhctl writes to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import InternalError

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.model import Connection
    from dwhctl.targets.contract import Target

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
