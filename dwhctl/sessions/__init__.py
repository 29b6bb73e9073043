"""The sessions table: one row for each attempt to load a slice or to refresh a report.

Read in this order:
- `values`: states, sessions, completeness, and the checks on what the table returns.
- `schema`: the columns that the table must have, and the named statements of the `.sql` files beside it.
- `store`: what can be written and read. `sqlite_store` (default, one machine) and `postgres_store` (several machines).
- This file opens a store; the drivers are imported only then.
- `task_states`: what fails now. `history`: past sessions and runs, what a comparison asks, and the look-up of a run.
Only the parent process of a run writes here; the workers never do.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import ConfigError
from dwhctl.sessions.store import SessionStore as SessionStore
from dwhctl.sessions.values import Closing as Closing
from dwhctl.sessions.values import LastSession as LastSession
from dwhctl.sessions.values import NewSession as NewSession
from dwhctl.sessions.values import Session as Session
from dwhctl.sessions.values import State as State
from dwhctl.sessions.values import is_complete as is_complete
from dwhctl.sessions.values import successful as successful
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection

if TYPE_CHECKING:
    from dwhctl.project.connections import Connection


#: The answer_timeout of a PostgreSQL connection that has none of its own: for work, and for reports.
WORK_TIMEOUT = timedelta(seconds=60)
REPORT_TIMEOUT = timedelta(seconds=10)


def open_store(
    connection: Connection,
    *,
    host: str | None = None,
    answer_timeout: timedelta = WORK_TIMEOUT,
    only_reads: bool = False,
) -> SessionStore:
    """Open the store of a connection. `host` is written into the sessions; by default it is this machine's name.

    `answer_timeout` is for a connection without its own. With `only_reads` this user need not have the right to write.
    """
    host = host or socket.gethostname()
    if isinstance(connection, SqliteConnection):
        from dwhctl.sessions.sqlite_store import SqliteStore

        return SqliteStore(connection.path, host=host, only_reads=only_reads)
    if not isinstance(connection, PostgresConnection):
        raise ConfigError(f"connection {connection.name}: {connection.type} keeps no sessions")
    from dwhctl.sessions.postgres_store import PostgresStore

    return PostgresStore(connection, host=host, answer_timeout=connection.answer_timeout or answer_timeout)


def open_if_there(connection: Connection, *, answer_timeout: timedelta = WORK_TIMEOUT) -> SessionStore | None:
    """Open the store of a connection for reading. Return None when no run has made its table yet.

    Make only what this version adds to the table of an earlier one.
    """
    if isinstance(connection, SqliteConnection) and _is_missing(connection):
        return None
    store = open_store(connection, answer_timeout=answer_timeout, only_reads=True)
    with ExitStack() as closing:
        closing.callback(store.close_connection)
        if not store.make_readable():
            return None
        closing.pop_all()
    return store


def _is_missing(connection: SqliteConnection) -> bool:
    from dwhctl.systems.sqlite.client import translate_error

    with translate_error(connection.path, "reading the file"):
        try:
            connection.path.stat()  # `exists` takes a folder that may not be entered for an empty one in newer Pythons
        except (FileNotFoundError, NotADirectoryError):
            # Neither is a new project: a link that leads nowhere may be a disk that is not mounted.
            for path in (connection.path, *connection.path.parents):
                if path.is_symlink() and not path.exists():
                    raise OSError(f"{path} is a link to {path.readlink()}, which does not exist") from None
                if path != connection.path and path.is_file():
                    raise OSError(f"{path} is a file in the place of a folder; move it away") from None
            return True
        return False
