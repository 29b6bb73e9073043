"""The sessions table in a SQLite file: the embedded default, for one machine."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.sessions.schema import ADDED, SEVEN, Schema, read_statements
from dwhctl.sessions.store import Rows, SessionStore
from dwhctl.sessions.values import as_day, as_time, storable
from dwhctl.systems.sqlite import client

_NEW_TABLE = "dwhctl_sessions_anew"
_SQL_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


class SqliteSchema(Schema):
    """The tables in a SQLite file."""

    typed = False
    remedy = "Set another file in the connection"

    def is_ready(self) -> bool:
        return super().is_ready() and self._keeps_ids()

    def make(self) -> None:
        """Create or upgrade the table, within a transaction of the caller's."""
        if not self._has_table():
            self._rows(self._sql["create_table"])
        elif not self._keeps_ids():
            self._make_anew()
        names = {column.name for column in self._columns()}
        for name, statement in zip(ADDED, self._sql["add_columns"].split(";"), strict=True):
            if name not in names:
                self._rows(statement)
        for script in (*self._indexes_to_make().values(), *self._tables_to_make()):
            for statement in script.split(";"):
                self._rows(statement)
        for statement in self._indexes_to_drop().values():
            self._rows(statement)

    def _keeps_ids(self) -> bool:
        # Without AUTOINCREMENT the id of a deleted newest row is handed out again.
        created: str = self._rows(self._sql["table"])[0][1]
        return "AUTOINCREMENT" in _SQL_COMMENT.sub(" ", created).upper().split("(", 1)[-1]

    def _make_anew(self) -> None:
        """Copy the rows into a table whose ids are never handed out twice, and replace the old table by it."""
        if more := [column.name for column in self._columns() if column.name not in SEVEN]:
            raise SessionsError(
                f"{self._place}: the table `sessions` is to be made anew with AUTOINCREMENT, and its columns"
                f" {', '.join(more)} would be lost. Rename it, or make it anew yourself"
            )
        attached = [statement for (statement,) in self._rows(self._sql["attached"])]
        self._rows(self._sql["create_table"].replace("TABLE sessions", f"TABLE {_NEW_TABLE}", 1))
        self._rows(self._sql["copy_rows"])
        # The old way of renaming does not change views and triggers that use `sessions`.
        self._rows("PRAGMA legacy_alter_table = ON")
        try:
            self._rows("DROP TABLE sessions")
            self._rows(f"ALTER TABLE {_NEW_TABLE} RENAME TO sessions")
        finally:
            self._rows("PRAGMA legacy_alter_table = OFF")
        for statement in attached:
            self._rows(statement)


def encode(value: object) -> object:
    """Return a value as SQLite keeps it: times as texts in UTC that sort as the times do, lists as JSON."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
    if isinstance(value, list):
        return json.dumps([encode(item) for item in value])
    if isinstance(value, str):
        return storable(value)
    return value.isoformat() if isinstance(value, date) else value


class SqliteStore(SessionStore):
    """The store in one SQLite file. With `only_reads` this user need not have the right to write the file."""

    joins_writes = True
    _prune = ("fold", "forget")
    _driver_error = sqlite3.Error
    _encode = staticmethod(encode)

    def __init__(self, path: Path, *, host: str, only_reads: bool = False) -> None:
        super().__init__(host, read_statements("sqlite"))
        self.path = path
        self._at_rest: client.AtRest | None = None
        if only_reads and not client.may_write(path):
            self._connection, self._at_rest = client.connect_to_read(path, self._sql["connect"])
        else:
            self._connection = client.connect(path, self._sql["connect"])
        self._identity = client.file_identity(path)

    @property
    def _schema(self) -> Schema:
        return SqliteSchema(
            self._sql, f"sessions in {self.path}", lambda sql: self._connection.execute(sql).fetchall()
        )

    def raise_id_floor(self, above: int) -> None:
        with self.transaction("raising the lowest next id", "raise_id_floor") as execute:
            if execute("raise_id_floor", {"above": above}) == [(0,)]:
                execute("begin_ids", {"above": above})

    def check_alive(self) -> None:
        # A file that was deleted or replaced still accepts writes through its open handle, and they are lost.
        if client.file_identity(self.path) != self._identity:
            raise SessionsLostError(
                f"sessions in {self.path}: the file was removed or replaced while dwhctl used it; "
                "put it back if you can, then start the command again"
            )

    def _begin(self) -> None:
        # IMMEDIATE: a writer waits here. To become a writer later may fail without any wait.
        client.begin_immediate(self._connection, self.path)

    def _fetched(self, cursor: sqlite3.Cursor) -> Rows:
        names = [name for name, *_ in cursor.description]
        decoders = [(place, _DECODERS[name]) for place, name in enumerate(names) if name in _DECODERS]
        return [_decoded(decoders, row) for row in cursor]

    @contextmanager
    def _operation(self, doing: str) -> Iterator[None]:
        with self._lock, client.translate_error(self.path, doing):
            self.check_alive()
            if self._at_rest is not None and client.AtRest.of(self.path) != self._at_rest:
                self._connection.close()
                self._connection, self._at_rest = client.connect_to_read(self.path, self._sql["connect"])
            yield
            if self._at_rest is not None and client.AtRest.of(self.path) != self._at_rest:
                raise SessionsLostError(
                    f"sessions in {self.path}: {doing}: they were changed meanwhile; start the command again"
                )


_TIMES = ("started", "finished", "last_success", "created", "not_before", "sent_at", "told_at")
_DECODERS: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(_TIMES, as_time),
    "slice_date": as_day,
    "day": as_day,
}


def _decoded(decoders: Sequence[tuple[int, Callable[[Any], object]]], row: Sequence[Any]) -> tuple[Any, ...]:
    # dwhctl writes no BLOB: one of another program becomes a text.
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row]
    for place, decode in decoders:
        if values[place] is not None:
            values[place] = decode(values[place])
    return tuple(values)
