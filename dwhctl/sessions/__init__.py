"""The sessions table: one row for each attempt to load a slice or to refresh a report.

Read in this order:
- `values`: states, sessions, and the checks on what the table returns.
- `store`: the contract of a store, and the queries that both stores share.
- `sqlite_store` (default, one machine), `postgres_store` with `postgres_schema` (several machines).
- `schema`: the columns that the table must have, and the reader of the `.sql` files beside it.
- This file opens a store; the drivers are imported only then.
- `task_states`: what fails now. `history`: past sessions and runs, durations, and the look-up of a run by id.
Only the parent process of a run writes here; the workers never do.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import ConfigError
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import Closing, LastSession, NewSession, Session, State, is_complete, successful
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection

if TYPE_CHECKING:
    from dwhctl.project.connections import Connection


#: How long an answer of PostgreSQL is waited for, where the connection has no answer_timeout: work, and reports.
WORK_TIMEOUT = timedelta(seconds=60)
REPORT_TIMEOUT = timedelta(seconds=10)


def open_store(
    connection: Connection,
    *,
    host: str | None = None,
    answer_timeout: timedelta = WORK_TIMEOUT,
    only_reads: bool = False,
) -> SessionStore:
    """The store behind a connection; `host` is what the sessions say of this machine, by default its name.

    `answer_timeout` holds where the connection has none of its own. A store that `only_reads` opens a file that this
    user may not write.
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
    """The store behind a connection for reading; None when no run has made its table yet.

    Makes nothing but what this version adds to a table that an earlier one uses: its sessions are as good as ever.
    """
    if isinstance(connection, SqliteConnection) and _is_missing(connection):
        return None
    store = open_store(connection, answer_timeout=answer_timeout, only_reads=True)
    try:
        if store.exists():
            if not store.is_readable():
                store.prepare()
            return store
    except BaseException:
        store.close_connection()
        raise
    store.close_connection()
    return None


def _is_missing(connection: SqliteConnection) -> bool:
    from dwhctl.systems.sqlite.client import translate_error

    with translate_error(connection.path, "looking for the file"):
        try:
            connection.path.stat()  # `exists` takes a folder that may not be entered for an empty one in newer Pythons
        except (FileNotFoundError, NotADirectoryError):
            return True
        return False


__all__ = [
    "REPORT_TIMEOUT",
    "Closing",
    "LastSession",
    "NewSession",
    "Session",
    "SessionStore",
    "State",
    "is_complete",
    "open_if_there",
    "open_store",
    "successful",
]
