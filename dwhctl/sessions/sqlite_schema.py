"""Makes the sessions table in SQLite, or makes it out of the one that stands there."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from dwhctl.errors import SessionsError
from dwhctl.sessions.shape import ADDED, SEVEN, Column, is_ours, misfits, missing
from dwhctl.sessions.statements import indexes, scripts_to_make

_ANEW = "dwhctl_sessions_anew"
_SQL_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def is_there(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> bool:
    """Whether dwhctl's own columns stand there, those of this version or of an earlier one."""
    table = connection.execute(sql["table"]).fetchone()
    return table is not None and is_ours(_fitting_columns(connection, sql, path))


def is_ready(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> bool:
    """Whether nothing is left to do."""
    table = connection.execute(sql["table"]).fetchone()
    if table is None:
        return False
    columns = _fitting_columns(connection, sql, path)
    left = [*missing(columns), *_indexes_to_make(connection, sql), *_tables_to_make(connection, sql)]
    return _keeps_ids(table) and not left


def is_readable(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> bool:
    """Whether the table has its columns, and the tables beside it are there."""
    table = connection.execute(sql["table"]).fetchone()
    if table is None or _tables_to_make(connection, sql):
        return False
    return not missing(_fitting_columns(connection, sql, path))


def make_ready(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> None:
    """Create or upgrade the table, within a transaction of the caller's."""
    table = connection.execute(sql["table"]).fetchone()
    if table is None:
        connection.execute(sql["create_table"])
    else:
        columns = _fitting_columns(connection, sql, path)
        if not _keeps_ids(table):
            _make_anew(connection, sql, path, columns)
    _add_columns(connection, sql)
    for statement in (*_indexes_to_make(connection, sql), *_tables_to_make(connection, sql)):
        connection.execute(statement)


def _keeps_ids(table: tuple[str, str]) -> bool:
    # Without AUTOINCREMENT the id of a deleted newest row is handed out again.
    return "AUTOINCREMENT" in _SQL_COMMENT.sub(" ", table[1]).upper().split("(", 1)[-1]


def _fitting_columns(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> list[Column]:
    kind, _ = connection.execute(sql["table"]).fetchone()
    rows = connection.execute(sql["columns"]).fetchall()
    keys = sum(1 for row in rows if row[4])
    columns = [
        Column(name, kind_, bool(required), bool(default) or bool(key), bool(key) and keys == 1)
        for name, kind_, required, default, key in rows
    ]
    problems = ["it is a view"] if kind != "table" else misfits(columns, typed=False)
    if problems:
        raise SessionsError(
            f"sessions in {path}: a table `sessions` of another kind stands there: {'; '.join(problems)}. "
            "Name another file in the connection, or rename that table"
        )
    return columns


def _make_anew(
    connection: sqlite3.Connection, sql: Mapping[str, str], path: Path, columns: list[Column]
) -> None:
    """Copy the rows into a table whose ids are never handed out twice, and put it in the old one's place."""
    more = [column.name for column in columns if column.name not in SEVEN]
    if more:
        raise SessionsError(
            f"sessions in {path}: the table `sessions` is to be made anew with AUTOINCREMENT, and its "
            f"columns {', '.join(more)} would be lost. Rename it, or make it anew yourself"
        )
    attached = [statement for (statement,) in connection.execute(sql["attached"])]
    connection.execute(sql["create_table"].replace("TABLE sessions", f"TABLE {_ANEW}", 1))
    connection.execute(sql["copy_rows"])
    # The old way of renaming leaves views and triggers that speak of `sessions` alone.
    connection.execute("PRAGMA legacy_alter_table = ON")
    try:
        connection.execute("DROP TABLE sessions")
        connection.execute(f"ALTER TABLE {_ANEW} RENAME TO sessions")
    finally:
        connection.execute("PRAGMA legacy_alter_table = OFF")
    for statement in attached:
        connection.execute(statement)


def _add_columns(connection: sqlite3.Connection, sql: Mapping[str, str]) -> None:
    names = {row[0] for row in connection.execute(sql["columns"])}
    for name, statement in zip(ADDED, sql["add_columns"].split(";"), strict=True):
        if name not in names:
            connection.execute(statement)


def _tables_to_make(connection: sqlite3.Connection, sql: Mapping[str, str]) -> list[str]:
    present = {row[0] for row in connection.execute(sql["tables"])}
    return [statement for script in scripts_to_make(sql, present) for statement in script.split(";")]


def _indexes_to_make(connection: sqlite3.Connection, sql: Mapping[str, str]) -> list[str]:
    present = {row[0] for row in connection.execute(sql["indexes"])}
    return [statement for name, statement in indexes(sql).items() if name not in present]
