"""The sessions table: what can be written and read there, the same for every database.

A store is one connection of the parent process; several of its threads may use it. Every method that writes is one
transaction: after a kill at any moment all of it happened, or nothing. Rows without `run_id` belong to other programs:
they are neither changed nor listed.

Every method raises SessionsError when the database refuses, and SessionsLostError when the connection is gone. A store
never reconnects: the connection held the locks of the run. The next run finds out whether the last write happened.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, ClassVar, Self

from msgspec.structs import asdict

from dwhctl import __version__
from dwhctl.core import faults
from dwhctl.sessions.schema import Schema
from dwhctl.sessions.values import (
    CLOCKS_APART,
    FIRST,
    Adopted,
    Closing,
    Held,
    LastSession,
    NewSession,
    Session,
    State,
    as_day,
    as_number,
    as_seconds,
    as_text,
    as_text_or_none,
    as_time,
    cut_comment,
    successful,
)

Rows = list[tuple[Any, ...]]
#: Executes a statement by its name with the values that it binds, within a transaction.
Execute = Callable[[str, Mapping[str, object]], Rows]
_Steps = Sequence[tuple[str, Mapping[str, object]]]
#: How long after its death a run is found that left only slices that wait for a retry.
_WAITING_SINCE = timedelta(days=7)


class SessionStore(ABC):
    """The sessions table in one database.

    `handed_out` is called with the highest of the ids that `open` is about to return, or that `adopt` has written.
    """

    handed_out: Callable[[int], None] = staticmethod(lambda _etl_id: None)
    #: Whether runs of several machines may use the table: their locks are in the database then.
    is_shared: ClassVar[bool] = False
    #: Whether `open` closes other sessions in its transaction, which waits for the disk once.
    joins_writes: ClassVar[bool] = False
    #: The statements that prune; the last one returns how many sessions are gone.
    _prune: ClassVar[Sequence[str]]
    #: Whether a statement writes many rows at once, each of its values an array.
    _writes_arrays: ClassVar[bool] = False
    _driver_error: ClassVar[type[Exception]]
    _ellipsis = "…"
    _connection: Any

    def __init__(self, host: str, sql: Mapping[str, str]) -> None:
        self._host = host
        self._sql = sql
        # Several threads may share the connection, but not a transaction: each operation holds this lock.
        self._lock = threading.RLock()

    # What each database does in its own way

    @property
    @abstractmethod
    def _schema(self) -> Schema: ...

    def _make(self) -> None:
        with self._transaction("prepare"):
            self._schema.make()

    @abstractmethod
    def _operation(self, doing: str) -> AbstractContextManager[None]:
        """Hold the connection, and translate its errors; `doing` is for their messages."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin a transaction."""

    @abstractmethod
    def _encode(self, value: object) -> object:
        """Return a value as the driver binds it; a list is an array."""

    @abstractmethod
    def raise_id_floor(self, above: int) -> None:
        """Hand out only ids above this one from now on: a new table must not hand out those of a lost one."""

    @abstractmethod
    def check_alive(self) -> None:
        """Raise SessionsLostError if the connection, and so the lock on the run, is gone."""

    # Locks in the database, against runs on other machines. SQLite serves one machine: there the locks on files do.

    def try_hold_run(self, run_id: str) -> bool:  # noqa: ARG002
        """Take the run's lock, if no other connection holds it, until `release_run` or the end of this connection."""
        return True

    def release_run(self, run_id: str) -> None:  # noqa: B027
        """Release the run's lock. Idempotent."""

    def hold_work(self, names: Sequence[str]) -> Held | None:  # noqa: ARG002
        """Take the locks of all this work, or none: then return one that another connection holds.

        They are held until `release_work` or the end of this connection.
        """
        return None

    def release_work(self, names: Sequence[str]) -> None:  # noqa: B027
        """Release the locks of this work. Idempotent."""

    def hurry(self) -> None:  # noqa: B027
        """Wait two seconds at most for each answer from now on: the command is to stop. Safe in a signal handler."""

    def close_connection(self) -> None:
        """Close the connection. Never raises; idempotent."""
        with self._lock, suppress(self._driver_error):
            self._connection.close()

    # The table

    def prepare(self) -> None:
        """Create the table, or upgrade it. Raise SessionsError for a table of another shape."""
        with self._operation("preparing the table"):
            if not self._schema.is_ready():
                self._make()

    def make_readable(self) -> bool:
        """Add what this version needs to the table of an earlier one. Return whether a run has made the table."""
        with self._operation("reading the table's columns"):
            exists = self._schema.exists()
            if exists and not self._schema.is_readable():
                self._make()
            return exists

    def last_id(self) -> int:
        """Return the highest id that was handed out, or is in the table."""
        return int(self.read("reading the highest id", "last_id", {})[0][0])

    # Sessions

    def open(self, sessions: Sequence[NewSession], closings: Sequence[Closing] = ()) -> list[int]:
        """Write running sessions and return their ids, in the order given; one that `joins_writes` closes others."""
        with self.opening(sessions, closings) as ids:
            return ids

    @contextmanager
    def opening(
        self, sessions: Sequence[NewSession], closings: Sequence[Closing] = ()
    ) -> Iterator[list[int]]:
        """Do what `open` does, and yield the ids as soon as they are known: all is written at the end of the block."""
        if not sessions:
            self.close(closings)
            yield []
            return
        if len({session.staged for session in sessions}) < len(sessions):
            raise ValueError("two new sessions have one token")
        rows = [asdict(session) | {"task_name": session.task_name} for session in sessions]
        steps = [*self._closing(closings), *self._steps("open", rows, self._own())]
        whats = ("close", "open") if closings else ("open",)
        with self._written(f"opening {len(rows)} sessions", whats, steps) as found:
            ids: dict[str, int] = dict(found[-len(rows) :])
            yield [ids[session.staged] for session in sessions]
        # Not before: the next run would take ids that were noted and never written for those of a lost database.
        self.handed_out(max(ids.values()))

    def adopt(self, slices: Sequence[Adopted]) -> None:
        """Write the closed sessions of slices that another tool loaded."""
        if not slices:
            return
        rows = [
            asdict(adopted)
            | {"task_name": adopted.task_name, "state": adopted.state, "comment": adopted.comment}
            for adopted in slices
        ]
        ids = self._write(f"adopting {len(rows)} slices", ("adopt",), self._steps("adopt", rows, self._own()))
        self.handed_out(max(id_ for (id_,) in ids))

    def close(self, closings: Sequence[Closing]) -> None:
        """End those sessions that are still running; the others stay as they are."""
        if closings:
            self._write(f"closing {len(closings)} sessions", ("close",), self._closing(closings))

    def _closing(self, closings: Sequence[Closing]) -> _Steps:
        # Of two closings of a session the first one holds. Two programs that lock the rows in one order never deadlock.
        first = {closing.id: closing for closing in reversed(closings)}
        rows = [
            asdict(closing)
            | {"successful": successful(closing.state), "comment": self._comment(closing.comment)}
            for _, closing in sorted(first.items())
        ]
        return self._steps("close", rows, {}) if rows else []

    def fail_waiting(self, run_id: str, comment: str | None = None) -> int:
        """Make the last `up_for_retry` of each slice of this run `failed`: nothing in it will be tried again.

        The comment is appended to the existing one. Return how many slices those were.
        """
        values = {"run_id": run_id, "comment": self._comment(comment), "ellipsis": self._ellipsis}
        doing = f"ending the retries of run {run_id}"
        return int(self._write(doing, ("fail_waiting",), [("fail_waiting", values)])[0][0])

    def prune(self, ids: Sequence[int]) -> int:
        """Add closed sessions to the daily sums of dwhctl_days and delete them. Return how many those were."""
        steps = [(statement, {"ids": list(ids)}) for statement in self._prune]
        return int(self._write(f"pruning {len(ids)} sessions", ("prune",), steps)[-1][0])

    def last_sessions(self, load: str, first: date, last: date) -> list[LastSession]:
        """Return the latest session of every shard and day that has one, both days included."""
        until = datetime.now(UTC) + CLOCKS_APART
        values = {"load": load, "first": first, "last": last, "until": until, "unknown": FIRST}
        rows = self.read(f"reading the last sessions of {load}", "last_sessions", values)
        return [
            LastSession(
                as_text(load), as_text(shard), as_day(day), State(state), as_time(started), finished,
                None if success is None else as_time(success),
            )
            for load, shard, day, state, started, finished, success in rows
        ]  # fmt: skip

    def durations(self, load: str, newest: int) -> dict[str, float]:
        """Return the mean seconds of every shard's successful sessions, over so many of the load's newest slices."""
        rows = self.read(f"reading the durations of {load}", "durations", {"load": load, "newest": newest})
        found = ((as_text(shard), as_seconds(seconds)) for shard, seconds in rows)
        return {shard: seconds for shard, seconds in found if seconds is not None}

    def run_durations(self, newest: int) -> list[tuple[float, float]]:
        """Return of each run among so many newest sessions: the sum of their seconds, and its seconds by the clock."""
        rows = self.read("reading how long runs took", "runs_lately", {"newest": newest})
        return [(float(total or 0), float(elapsed or 0)) for total, elapsed in rows]

    def unfinished_runs(self) -> list[str]:
        """Return the runs, alive or dead, that may have to be reaped, oldest first.

        They have running sessions, or died in the last days while slices waited for their retry.
        """
        values = {"since": datetime.now(UTC) - _WAITING_SINCE}
        return [run_id for (run_id,) in self.read("reading the unfinished runs", "unfinished_runs", values)]

    def unfinished(self, run_id: str) -> list[Session]:
        """Return the run's sessions that are still running, oldest first."""
        return self.sessions("unfinished", {"run_id": run_id})

    def of_run(self, run_id: str) -> list[Session]:
        """Return the run's sessions, oldest first."""
        return self.sessions("of_run", {"run_id": run_id})

    def of_ids(self, ids: Sequence[int]) -> list[Session]:
        """Return the sessions of these ids, those that exist, in no order."""
        return self.sessions("of_ids", {"ids": list(ids)})

    def recent(self, limit: int) -> list[Session]:
        """Return the newest sessions, newest first."""
        return self.sessions("recent", {"limit": limit})

    def newest_runs(self, count: int) -> list[str]:
        """Return the ids of the newest runs, newest first."""
        return [run_id for (run_id,) in self.read("reading the runs", "newest_run_ids", {"limit": count})]

    def runs_beginning_with(self, text: str, count: int) -> list[str]:
        """Return so many of the ids of runs that begin with the text, in order, by one step in the index for each."""
        found: list[str] = []
        rows = self.read("reading the runs", "next_run", {"text": text})
        while rows and rows[0][0].startswith(text) and len(found) < count:
            found.append(rows[0][0])
            rows = self.read("reading the runs", "run_after", {"text": found[-1]})
        return found

    def has_sessions(self, load: str) -> bool:
        """Return whether the load has any session."""
        return bool(self.read("reading sessions", "any_of_load", {"load": load}))

    def delivered_columns(self, load: str) -> dict[str, dict[str, str]]:
        """Return the columns that each shard has delivered: shard -> name -> declared type."""
        found: dict[str, dict[str, str]] = {}
        doing = f"reading the delivered columns of {load}"
        for shard, name, declared in self.read(doing, "delivered_columns", {"load": load}):
            found.setdefault(shard, {})[name] = declared
        return found

    def remember_columns(self, load: str, columns: Sequence[tuple[str, str, str]]) -> None:
        """Write delivered columns, given as shard, name and declared type."""
        now = datetime.now(UTC)
        with self.transaction(f"writing the delivered columns of {load}", "remember_columns") as execute:
            for shard, name, declared in columns:
                values = {"load": load, "shard": shard, "name": name, "declared": declared, "first_seen": now}
                execute("remember_column", values)

    def read(self, doing: str, statement: str, values: Mapping[str, object]) -> Rows:
        """Return the rows of one reading statement, days and times as such; `doing` is for an error's message."""
        with self._operation(doing):
            return self._execute(statement, values)

    def sessions(self, statement: str, values: Mapping[str, object]) -> list[Session]:
        """Return the sessions that a statement selects by `$columns`."""
        rows = self.read("reading sessions", statement, values)
        return [Session(*(make(value) for make, value in zip(_FIELDS, row, strict=True))) for row in rows]

    @contextmanager
    def transaction(self, doing: str, *whats: str) -> Iterator[Execute]:
        """Execute several statements in one transaction; an error in the block rolls all of them back."""
        with self._operation(doing), self._transaction(*whats):
            yield self._execute

    @contextmanager
    def _transaction(self, *whats: str) -> Iterator[None]:
        """Commit at the end of the block, roll back on an error; `whats` are part of the names of the fault points."""
        for what in whats:
            faults.reach(f"sessions.{what}.begin")
        self._begin()
        try:
            yield
            for what in whats:
                faults.reach(f"sessions.{what}.commit")
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(self._driver_error):
                self._connection.execute("ROLLBACK")
            raise
        for what in whats:
            faults.reach(f"sessions.{what}.done")

    def _execute(self, statement: str, values: Mapping[str, object]) -> Rows:
        encoded = {name: self._encode(value) for name, value in values.items()}
        cursor = self._connection.execute(self._sql[statement], encoded)
        return [(cursor.rowcount,)] if cursor.description is None else self._fetched(cursor)

    def _fetched(self, cursor: Any) -> Rows:
        rows: Rows = cursor.fetchall()
        return rows

    def _steps(self, statement: str, rows: Sequence[dict[str, object]], shared: dict[str, object]) -> _Steps:
        """Return the steps that write these rows, which have the shared values in common."""
        if self._writes_arrays:
            rows = [{name: [row[name] for row in rows] for name in rows[0]}]
        return [(statement, row | shared) for row in rows]

    def _write(self, doing: str, whats: Sequence[str], steps: _Steps) -> Rows:
        with self._written(doing, whats, steps) as rows:
            return rows

    @contextmanager
    def _written(self, doing: str, whats: Sequence[str], steps: _Steps) -> Iterator[Rows]:
        """Execute the steps and yield what they return; they are written at the end of the block."""
        with self.transaction(doing, *whats) as execute:
            yield [row for statement, values in steps for row in execute(statement, values)]

    def _own(self) -> dict[str, object]:
        return {"host": self._host, "pid": os.getpid(), "version": __version__}

    def _comment(self, text: str | None) -> str | None:
        return cut_comment(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_connection()


#: What each column of `$columns` becomes; ids and `finished` are what the store makes of them.
_FIELDS: tuple[Callable[[Any], Any], ...] = (
    lambda value: value, as_text, as_time, lambda value: value, lambda value: None if value is None else bool(value),
    as_number, as_text_or_none, as_text, as_text, as_text_or_none, as_day, lambda value: as_number(value) or 0, State,
    as_text, as_number, as_number, as_text_or_none, as_text_or_none, as_number, as_text_or_none, as_number, as_seconds,
)  # fmt: skip
