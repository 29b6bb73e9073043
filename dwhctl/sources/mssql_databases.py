"""Name the databases of a SQL Server."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pymssql

from dwhctl.engines.mssql_errors import query_error
from dwhctl.engines.mssql_link import open_link

if TYPE_CHECKING:
    from dwhctl.project.model import MssqlConnection

#: SQL Server's own: https://learn.microsoft.com/en-us/sql/relational-databases/databases/system-databases
_ITS_OWN = frozenset({"master", "tempdb", "model", "msdb"})


def list_databases(connection: MssqlConnection, patience: float) -> list[str]:
    """Ask the server, its own databases left out; `patience` as in MssqlSource. Raise AttemptError.

    There may be some among them that its login cannot open.
    """
    link = open_link(connection, connection.database, patience)
    try:
        with link.cursor() as cursor:
            cursor.execute("SELECT name FROM sys.databases ORDER BY name")
            return [str(name) for (name,) in cursor.fetchall() if str(name).lower() not in _ITS_OWN]
    except pymssql.Error as error:
        raise query_error(error) from error
    finally:
        with suppress(pymssql.Error):
            link.close()
