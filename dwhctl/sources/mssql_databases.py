"""Name the databases of a SQL Server that its login can read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pymssql

from dwhctl.engines.mssql_errors import query_error
from dwhctl.engines.mssql_link import open_link

if TYPE_CHECKING:
    from dwhctl.project.model import MssqlConnection

#: The first four are SQL Server's own: master, tempdb, model, msdb.
#: https://learn.microsoft.com/en-us/sql/relational-databases/databases/system-databases
_DATABASES = """
SELECT name FROM sys.databases
WHERE database_id > 4 AND state = 0 AND HAS_DBACCESS(name) = 1
ORDER BY name
"""


def list_databases(connection: MssqlConnection, patience: float) -> list[str]:
    """Ask the server; `patience` as in MssqlSource. Raise AttemptError."""
    link = open_link(connection, connection.database, patience)
    try:
        with link.cursor() as cursor:
            cursor.execute(_DATABASES)
            return [str(name) for (name,) in cursor.fetchall()]
    except pymssql.Error as error:
        raise query_error(error) from error
    finally:
        with suppress(pymssql.Error):
            link.close()
