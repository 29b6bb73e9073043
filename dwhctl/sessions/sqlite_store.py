"""The sessions table in a SQLite file: the embedded default, for one machine."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dwhctl import __version__, faults
from dwhctl.errors import SessionsLostError
from dwhctl.sessions import sqlite_schema
from dwhctl.sessions.cells import as_day, as_time
from dwhctl.sessions.sql_store import SqlStore, adopted_values, closing_values, refuse_equal_tokens
from dwhctl.sessions.sqlite_link import (
    AtRest,
    begin_immediate,
    connect,
    connect_to_read,
    file_identity,
    in_words,
    may_write,
)
from dwhctl.sessions.statements import read_statements
from dwhctl.sessions.store import Execute
from dwhctl.sessions.texts import cut_comment, storable
from dwhctl.sessions.values import Adopted, Closing, Held, NewSession


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
            if sqlite_schema.is_ready(self._connection, self._sql, self.path):
                return
            with self._transaction("prepare"):
                sqlite_schema.make_ready(self._connection, self._sql, self.path)

    def is_ready(self) -> bool:
        with self._operation("looking at the table"):
            return sqlite_schema.is_ready(self._connection, self._sql, self.path)

    def is_there(self) -> bool:
        with self._operation("looking at the table"):
            return sqlite_schema.is_there(self._connection, self._sql, self.path)

    def is_readable(self) -> bool:
        with self._operation("looking at the table"):
            return sqlite_schema.is_readable(self._connection, self._sql, self.path)

    def lift_ids(self, above: int) -> None:
        with self._operation("lifting the ids"), self._transaction("lift_ids"):
            if not self._connection.execute(self._sql["lift_ids"], {"above": above}).rowcount:
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
        with self._lock, in_words(self.path, doing):
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
