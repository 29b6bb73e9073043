"""The sessions table in PostgreSQL: for production, and for dwhctl on several machines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errors as pg_errors
from psycopg2.extensions import PYDATE, PYDATETIMETZ, new_type

from dwhctl import __version__
from dwhctl.core import faults
from dwhctl.core.errors import SessionsError
from dwhctl.core.words import shown_time
from dwhctl.sessions.postgres_schema import Upgrade
from dwhctl.sessions.schema import percent_style, read_statements
from dwhctl.sessions.store import Execute, SqlStore, adopted_values, closing_values, refuse_equal_tokens
from dwhctl.sessions.values import (
    COMMENT_LENGTH,
    FIRST,
    LAST,
    Adopted,
    Closing,
    Held,
    NewSession,
    as_day,
    as_time,
    cut_comment,
    storable,
)
from dwhctl.systems.postgres.client import connect, translate_error, where

if TYPE_CHECKING:
    from datetime import timedelta

    from psycopg2.extensions import cursor as Cursor  # noqa: N812

    from dwhctl.systems.postgres.system import PostgresConnection

# Two programs that locked the same rows in a different order: one of them is told to try again.
_DEADLOCK_TRIES = 3


class PostgresStore(SqlStore):
    """The store in one PostgreSQL database, over one connection.

    The connection is in autocommit: every operation is one statement, so one transaction and one round trip. The store
    is lost when one of them is not answered within `answer_timeout`.
    """

    def __init__(self, address: PostgresConnection, *, host: str, answer_timeout: timedelta) -> None:
        super().__init__(host)
        self._address = address
        self._plain = read_statements("postgres")
        self._sql = {name: percent_style(sql) for name, sql in self._plain.items()}
        self._held: set[str] = set()
        self._connection = connect(address, self._plain["connect"], answer_timeout)
        for each in _TYPES:
            self._connection.read_as(each)
        encoding = self._connection.info.parameter_status("server_encoding")
        self._ascii_only = encoding not in {"UTF8", "SQL_ASCII"}

    def prepare(self) -> None:
        place = where(self._address)
        with self._lock, translate_error(self._connection, self._address, "preparing the table"):
            upgrade = Upgrade(self._connection, self._plain, place)
            if not upgrade.is_ready():
                faults.reach("sessions.prepare.begin")
                upgrade.run()
                faults.reach("sessions.prepare.done")

    def is_ready(self) -> bool:
        with self._lock, translate_error(self._connection, self._address, "looking at the table"):
            return Upgrade(self._connection, self._plain, where(self._address)).is_ready()

    def exists(self) -> bool:
        with self._lock, translate_error(self._connection, self._address, "looking at the table"):
            return Upgrade(self._connection, self._plain, where(self._address)).exists()

    def is_readable(self) -> bool:
        with self._lock, translate_error(self._connection, self._address, "looking at the table"):
            return Upgrade(self._connection, self._plain, where(self._address)).is_readable()

    def raise_id_floor(self, above: int) -> None:
        self.read("lifting the ids", "raise_id_floor", {"above": above})

    def open(self, sessions: Sequence[NewSession]) -> list[int]:
        if not sessions:
            return []
        refuse_equal_tokens(sessions)
        rows = self._write("open", f"opening {len(sessions)} sessions", self._new_values(sessions))
        ids: dict[str, int] = dict(rows)
        self.handed_out(max(ids.values()))
        return [ids[session.staged] for session in sessions]

    def _new_values(self, sessions: Sequence[NewSession]) -> dict[str, object]:
        columns = ("task_name", "started", "run_id", "load", "shard", "day", "attempt", "staged", "worker")
        values: dict[str, object] = {
            column: [getattr(session, column) for session in sessions] for column in columns
        }
        return values | {"host": storable(self._host), "pid": os.getpid(), "version": __version__}

    def adopt(self, slices: Sequence[Adopted]) -> None:
        if not slices:
            return
        rows = [adopted_values(one) for one in slices]
        values: dict[str, object] = {name: [row[name] for row in rows] for name in rows[0]}
        values |= {"host": storable(self._host), "pid": os.getpid(), "version": __version__}
        ids = self._write("adopt", f"adopting {len(rows)} slices", values)
        self.handed_out(max(id_ for (id_,) in ids))

    def close(self, closings: Sequence[Closing]) -> None:
        # A session closed twice in one batch: the first closing holds, as if they came one by one.
        rows = [closing_values(closing) for closing in {c.id: c for c in reversed(closings)}.values()]
        if not rows:
            return
        for row in rows:
            row["comment"] = self._told(row["comment"])
        rows.sort(key=_id_of)
        values = {name: [row[name] for row in rows] for name in rows[0]}
        self._write("close", f"closing {len(rows)} sessions", values)

    def fail_waiting(self, run_id: str, comment: str | None = None) -> int:
        ellipsis = "..." if self._ascii_only else "…"
        values = {"run_id": run_id, "comment": self._told(cut_comment(comment)), "ellipsis": ellipsis}
        return int(self._write("fail_waiting", f"ending the retries of run {run_id}", values)[0][0])

    def prune(self, ids: Sequence[int]) -> int:
        return int(self._write("prune", f"pruning {len(ids)} sessions", {"ids": list(ids)})[0][0])

    def try_hold_run(self, run_id: str) -> bool:
        with self._lock:
            if run_id in self._held:
                self.check_alive()
                return True
            doing = f"taking the lock of run {run_id}"
            [(taken, pid)] = self.read(doing, "hold", {"key": lock_key(run_id)})
            self._refuse_pooler(int(pid))
            if taken:
                self._held.add(run_id)
            return bool(taken)

    def _refuse_pooler(self, pid: int) -> None:
        # Behind a pooler the lock belongs to a server connection that is not ours to hold.
        if pid != self._connection.info.backend_pid:
            self.close_connection()
            raise SessionsError(
                f"{where(self._address)}: this is a connection pooler, and the hold on a run needs a direct "
                f"connection; name the server itself in connections.{self._address.name}"
            )

    def release_run(self, run_id: str) -> None:
        with self._lock:
            if run_id in self._held:
                self.read(f"releasing run {run_id}", "release", {"key": lock_key(run_id)})
                self._held.discard(run_id)

    @property
    def is_shared(self) -> bool:
        return True

    def hold_work(self, names: Sequence[str]) -> Held | None:
        values = {"names": list(names), "keys": [work_key(name) for name in names]}
        with self._lock:
            rows = self.read("taking the locks of the work", "hold_work", values)
            refused = next((name for name, taken in rows if not taken), None)
            if refused is None:
                return None
            self.release_work([name for name, taken in rows if taken])
            return Held(refused, self._holder(work_key(refused)))

    def _holder(self, key: int) -> str:
        rows = self.read("looking who holds a lock", "holder", {"key": key})
        if not rows:
            return "another dwhctl, which has just let go of it"
        name, since = rows[0]
        return f"{name} (since {shown_time(since)})"

    def release_work(self, names: Sequence[str]) -> None:
        keys = [work_key(name) for name in names]
        self.read("releasing the locks of the work", "release_work", {"keys": keys})

    def check_alive(self) -> None:
        self.read("looking whether it is there", "alive", {})

    def hurry(self) -> None:
        self._connection.hurry()

    def close_connection(self) -> None:
        with self._lock, suppress(psycopg2.Error):
            self._connection.close()

    def _told(self, text: object) -> str | None:
        """A comment as the database's encoding can hold it: a session must not stay open over a letter."""
        if not isinstance(text, str):
            return None
        if not self._ascii_only:
            return text
        plain = text.replace("…", "...").encode("ascii", "backslashreplace").decode("ascii")
        return plain if len(plain) <= COMMENT_LENGTH else plain[: COMMENT_LENGTH - 3] + "..."

    def _write(self, what: str, doing: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The rows that one writing statement returns, or how many it wrote."""
        with self._lock, translate_error(self._connection, self._address, doing):
            faults.reach(f"sessions.{what}.begin")
            rows = self._again_after_deadlock(self._sql[what], values)
            faults.reach(f"sessions.{what}.done")
        return rows

    def _again_after_deadlock(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        for tries_left in reversed(range(_DEADLOCK_TRIES)):
            try:
                return self._execute(sql, values)
            except (pg_errors.DeadlockDetected, pg_errors.SerializationFailure):
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def read(self, doing: str, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with self._lock, translate_error(self._connection, self._address, doing):
            return self._execute(self._sql[statement], values)

    @contextmanager
    def transaction(self, doing: str, what: str) -> Iterator[Execute]:
        with self._lock, translate_error(self._connection, self._address, doing):
            faults.reach(f"sessions.{what}.begin")
            self._execute("BEGIN", {})
            try:
                yield lambda statement, values: self._execute(self._sql[statement], self._told_values(values))
                faults.reach(f"sessions.{what}.commit")
                self._execute("COMMIT", {})
            except BaseException:
                with suppress(psycopg2.Error):
                    self._execute("ROLLBACK", {})
                raise
            faults.reach(f"sessions.{what}.done")

    def _told_values(self, values: Mapping[str, object]) -> dict[str, object]:
        return {
            name: self._plain_text(value) if isinstance(value, str) else value
            for name, value in values.items()
        }

    def _plain_text(self, text: str) -> str:
        text = storable(text)
        return text.encode("ascii", "backslashreplace").decode("ascii") if self._ascii_only else text

    def _execute(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        return _fetched(self._connection.execute(sql, dict(values)))


def _fetched(cursor: Cursor) -> list[tuple[Any, ...]]:
    if cursor.description is None:
        return [(cursor.rowcount,)]
    return cursor.fetchall()


def _time(text: str | bytes | None, of: Cursor) -> datetime | None:
    """Return a time in UTC, of `infinity` or the year 10000 the bound of what Python's times can do."""
    if text is None:
        return None
    try:
        return as_time(PYDATETIMETZ(text, of))
    except (ValueError, OverflowError, psycopg2.Error):
        return FIRST if _is_before_all(text) else LAST


def _day(text: str | bytes | None, of: Cursor) -> date | None:
    if text is None:
        return None
    try:
        return as_day(PYDATE(text, of))
    except (ValueError, OverflowError, psycopg2.Error):
        return (FIRST if _is_before_all(text) else LAST).date()


def _is_before_all(text: str | bytes) -> bool:
    text = str(text)
    return text.startswith("-") or text.endswith("BC")


_TYPES = (
    new_type(PYDATETIMETZ.values, "dwhctl_time", _time),
    new_type(PYDATE.values, "dwhctl_day", _day),
)


def _id_of(row: Mapping[str, object]) -> int:
    found = row["id"]
    assert isinstance(found, int)
    return found


def lock_key(run_id: str) -> int:
    """The key of the run's advisory lock: the same on every machine and in every version of dwhctl."""
    return _key(f"dwhctl run {run_id}")


def work_key(name: str) -> int:
    """The key of the advisory lock of a load's day, or of a report, by the name of its lock."""
    return _key(f"dwhctl work {name}")


def _key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
