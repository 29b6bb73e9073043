"""The sessions table in a SQLite file: the embedded default, for one machine."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dwhctl import __version__
from dwhctl.core import faults
from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.sessions.schema import (
    ADDED,
    SEVEN,
    ExistingColumn,
    indexes,
    is_ours,
    misfits,
    missing,
    read_statements,
    scripts_to_make,
)
from dwhctl.sessions.store import Execute, SqlStore, adopted_values, closing_values, refuse_equal_tokens
from dwhctl.sessions.values import Adopted, Closing, Held, NewSession, as_day, as_time, cut_comment, storable
from dwhctl.systems.sqlite.client import (
    AtRest,
    begin_immediate,
    connect,
    connect_to_read,
    file_identity,
    may_write,
    translate_error,
)

_ANEW = "dwhctl_sessions_anew"
_SQL_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def exists(connection: sqlite3.Connection, sql: Mapping[str, str], path: Path) -> bool:
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


def _fitting_columns(
    connection: sqlite3.Connection, sql: Mapping[str, str], path: Path
) -> list[ExistingColumn]:
    kind, _ = connection.execute(sql["table"]).fetchone()
    rows = connection.execute(sql["columns"]).fetchall()
    keys = sum(1 for row in rows if row[4])
    columns = [
        ExistingColumn(name, kind_, bool(required), bool(default) or bool(key), bool(key) and keys == 1)
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
    connection: sqlite3.Connection, sql: Mapping[str, str], path: Path, columns: list[ExistingColumn]
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


class SqliteStore(SqlStore):
    """The store in one SQLite file. To read it, the file need not be one that this user may write."""

    def __init__(self, path: Path, *, host: str, only_reads: bool = False) -> None:
        super().__init__(host)
        self.path = path
        self._sql = read_statements("sqlite")
        self._at_rest: AtRest | None = None
        if only_reads and not may_write(path):
            self._connection, self._at_rest = connect_to_read(path, self._sql["connect"])
        else:
            self._connection = connect(path, self._sql["connect"])
        self._identity = file_identity(path)

    def prepare(self) -> None:
        with self._operation("preparing the table"):
            if is_ready(self._connection, self._sql, self.path):
                return
            with self._transaction("prepare"):
                make_ready(self._connection, self._sql, self.path)

    def is_ready(self) -> bool:
        with self._operation("looking at the table"):
            return is_ready(self._connection, self._sql, self.path)

    def exists(self) -> bool:
        with self._operation("looking at the table"):
            return exists(self._connection, self._sql, self.path)

    def is_readable(self) -> bool:
        with self._operation("looking at the table"):
            return is_readable(self._connection, self._sql, self.path)

    def raise_id_floor(self, above: int) -> None:
        with self._operation("raising the lowest next id"), self._transaction("raise_id_floor"):
            if not self._connection.execute(self._sql["raise_id_floor"], {"above": above}).rowcount:
                self._connection.execute(self._sql["begin_ids"], {"above": above})

    def open(self, sessions: Sequence[NewSession]) -> list[int]:
        if not sessions:
            return []
        refuse_equal_tokens(sessions)
        with self._operation(f"opening {len(sessions)} sessions"), self._transaction("open"):
            ids = [self._insert(session) for session in sessions]
        self.handed_out(max(ids))
        return ids

    def _insert(self, session: NewSession) -> int:
        values = {
            "task_name": session.task_name,
            "started": encode(session.started),
            "run_id": session.run_id,
            "load": session.load,
            "shard": session.shard,
            "day": encode(session.day),
            "attempt": session.attempt,
            "staged": session.staged,
            "host": storable(self._host),
            "pid": os.getpid(),
            "version": __version__,
            "worker": session.worker,
        }
        row_id = self._connection.execute(self._sql["open"], values).lastrowid
        assert row_id is not None
        return row_id

    def adopt(self, slices: Sequence[Adopted]) -> None:
        if not slices:
            return
        own = {"host": storable(self._host), "pid": os.getpid(), "version": __version__}
        rows = [_encoded(adopted_values(one) | own) for one in slices]
        with self._operation(f"adopting {len(rows)} slices"), self._transaction("adopt"):
            self._connection.executemany(self._sql["adopt"], rows)
            [(last,)] = self._execute("last_id", {})
        self.handed_out(last)

    def close(self, closings: Sequence[Closing]) -> None:
        if not closings:
            return
        rows = [_encoded(closing_values(closing)) for closing in closings]
        with self._operation(f"closing {len(rows)} sessions"), self._transaction("close"):
            self._connection.executemany(self._sql["close"], rows)

    def fail_waiting(self, run_id: str, comment: str | None = None) -> int:
        values = {"run_id": run_id, "comment": cut_comment(comment), "ellipsis": "…"}
        with self._operation(f"ending the retries of run {run_id}"), self._transaction("fail_waiting"):
            return self._connection.execute(self._sql["fail_waiting"], values).rowcount

    def prune(self, ids: Sequence[int]) -> int:
        values = {"ids": json.dumps(list(ids))}
        with self._operation(f"pruning {len(ids)} sessions"), self._transaction("prune"):
            self._connection.execute(self._sql["fold"], values)
            return self._connection.execute(self._sql["forget"], values).rowcount

    def try_hold_run(self, run_id: str) -> bool:  # noqa: ARG002
        return True

    def release_run(self, run_id: str) -> None:
        pass

    @property
    def is_shared(self) -> bool:
        return False

    def hold_work(self, names: Sequence[str]) -> Held | None:  # noqa: ARG002
        return None

    def release_work(self, names: Sequence[str]) -> None:
        pass

    def check_alive(self) -> None:
        # A file that was deleted or replaced still takes writes through its open handle: into nothing.
        if file_identity(self.path) != self._identity:
            raise SessionsLostError(
                f"sessions in {self.path}: the file was removed or replaced while dwhctl used it; "
                "put it back if you can, then start the command again"
            )

    def close_connection(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    def read(self, doing: str, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with self._operation(doing):
            return self._execute(statement, values)

    @contextmanager
    def transaction(self, doing: str, what: str) -> Iterator[Execute]:
        with self._operation(doing), self._transaction(what):
            yield self._execute

    def _execute(self, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(self._sql[statement], _encoded(values))
        if cursor.description is None:
            return [(cursor.rowcount,)]
        decoders = [
            (place, _DECODERS[column[0]])
            for place, column in enumerate(cursor.description)
            if column[0] in _DECODERS
        ]
        return [_decoded(decoders, row) for row in cursor]

    @contextmanager
    def _operation(self, doing: str) -> Iterator[None]:
        with self._lock, translate_error(self.path, doing):
            self.check_alive()
            if self._at_rest is not None and AtRest.of(self.path) != self._at_rest:
                self._connection.close()
                self._connection, self._at_rest = connect_to_read(self.path, self._sql["connect"])
            yield
            if self._at_rest is not None and AtRest.of(self.path) != self._at_rest:
                raise SessionsLostError(
                    f"sessions in {self.path}: {doing}: they were changed meanwhile; start the command again"
                )

    @contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        faults.reach(f"sessions.{what}.begin")
        # IMMEDIATE: whoever will write waits here; to become a writer later may fail without any wait.
        begin_immediate(self._connection, self.path)
        try:
            yield
            faults.reach(f"sessions.{what}.commit")
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        faults.reach(f"sessions.{what}.done")


def encode(value: object) -> object:
    """A value as SQLite keeps it; times as texts in UTC that sort as the times do, lists as JSON."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
    if isinstance(value, list):
        return json.dumps([encode(each) for each in value])
    if isinstance(value, str):
        return storable(value)
    return value.isoformat() if isinstance(value, date) else value


def _encoded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: encode(value) for name, value in values.items()}


_TIMES = ("started", "finished", "last_success", "created", "not_before", "sent_at", "told_at")
_DECODERS: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(_TIMES, as_time),
    "slice_date": as_day,
    "day": as_day,
}


def _decoded(decoders: Sequence[tuple[int, Callable[[Any], object]]], row: Sequence[Any]) -> tuple[Any, ...]:
    # dwhctl writes no BLOB: one that stands there becomes a text.
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row]
    for place, decode in decoders:
        if values[place] is not None:
            values[place] = decode(values[place])
    return tuple(values)
