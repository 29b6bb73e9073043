"""The contract of the sessions table: every store keeps it, and one suite of tests runs over them all.

A store is one connection of the parent process and may be used by several of its threads. Every method
that writes is one transaction: killed at any moment, it has happened as a whole or not at all. Rows without
`run_id` belong to other programs; they are neither changed nor listed.

Every method raises SessionsError when the database does not do what it was asked, and SessionsLostError
when the connection is gone. A lost store stays lost, for with its connection went its hold on the run:
a store never reconnects. Whether the last write happened is then for the next run to see.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from dwhctl.sessions.values import (
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

#: Executes a statement by its name with the values that it binds, within a transaction.
Execute = Callable[[str, Mapping[str, object]], list[tuple[Any, ...]]]


class SessionStore(ABC):
    """The sessions table in one database.

    `handed_out` is called with the highest of the ids that `open` is about to return, or that `adopt` has written.
    """

    handed_out: Callable[[int], None] = staticmethod(lambda _etl_id: None)

    @abstractmethod
    def prepare(self) -> None:
        """Create the table, or upgrade the one that stands there; a table of another shape is refused."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether the table stands there as dwhctl needs it; changes nothing."""

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether a run of this or an earlier version has made the table dwhctl's; changes nothing."""

    @abstractmethod
    def is_readable(self) -> bool:
        """Tell whether all can be read: columns and tables are there, whatever indexes the next run will add."""

    @abstractmethod
    def raise_id_floor(self, above: int) -> None:
        """Hand out only ids above this one from now on: a new table must not hand out what a lost one did."""

    @abstractmethod
    def last_id(self) -> int:
        """The highest id that was handed out, or stands in the table."""

    @abstractmethod
    def open(self, sessions: Sequence[NewSession]) -> list[int]:
        """Write running sessions and return their ids, in the order given."""

    @abstractmethod
    def adopt(self, slices: Sequence[Adopted]) -> None:
        """Write the closed sessions of slices that another tool loaded."""

    @abstractmethod
    def close(self, closings: Sequence[Closing]) -> None:
        """End those sessions that are still running; the others stay as they are."""

    @abstractmethod
    def fail_waiting(self, run_id: str, comment: str | None = None) -> int:
        """Nothing will be tried again in this run: make its slices' last `up_for_retry` `failed`.

        The comment is put behind the one that stands there. Returns how many slices that were.
        """

    @abstractmethod
    def prune(self, ids: Sequence[int]) -> int:
        """Fold closed sessions into the daily sums of dwhctl_days and delete them. Returns how many that were."""

    @abstractmethod
    def last_sessions(self, load: str, first: date, last: date) -> list[LastSession]:
        """The latest session of every shard and day that has one, both days included."""

    @abstractmethod
    def durations(self, load: str, newest: int) -> dict[str, float]:
        """Mean seconds of every shard's successful sessions, over so many of the load's newest slices."""

    @abstractmethod
    def unfinished_runs(self) -> list[str]:
        """Runs, oldest first, that may want reaping: alive or dead.

        They have running sessions, or died in the last days while slices waited for their retry.
        """

    @abstractmethod
    def unfinished(self, run_id: str) -> list[Session]:
        """The run's sessions that are still running, oldest first."""

    @abstractmethod
    def of_run(self, run_id: str) -> list[Session]:
        """The run's sessions, oldest first."""

    @abstractmethod
    def recent(self, limit: int) -> list[Session]:
        """The newest sessions, newest first."""

    @abstractmethod
    def read(self, doing: str, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The rows of one reading statement, by its name in the room's SQL files. Days and times come back as such.

        A list among the values is an array in PostgreSQL, and JSON in SQLite. `doing` says for an error's message
        what was tried.
        """

    @abstractmethod
    def transaction(self, doing: str, what: str) -> AbstractContextManager[Execute]:
        """One transaction of several statements, executed by their names; an error in the block takes all back.

        An executed statement gives its rows, times and days as such; one that has none gives how many it wrote.
        `what` names the transaction for the tests' points.
        """

    @abstractmethod
    def try_hold_run(self, run_id: str) -> bool:
        """Take the run's lock in the database, if no other connection holds it.

        It is held until `release_run` or the end of this connection. SQLite has no such locks, and serves
        one machine only: there the lock on a file decides alone, and the answer is always True.
        """

    @abstractmethod
    def release_run(self, run_id: str) -> None:
        """Let go of the run's lock; of no consequence if it is not held."""

    @property
    @abstractmethod
    def is_shared(self) -> bool:
        """Whether runs of several machines may stand in the table: their locks hold in the database then."""

    @abstractmethod
    def hold_work(self, names: Sequence[str]) -> Held | None:
        """Take the locks of all this work in the database, or none: then give one that another holds.

        They are held until `release_work` or the end of this connection. In SQLite there are none to take.
        """

    @abstractmethod
    def release_work(self, names: Sequence[str]) -> None:
        """Let go of the locks of this work; of no consequence for those that are not held."""

    @abstractmethod
    def check_alive(self) -> None:
        """Raise SessionsLostError if the connection, and so the hold on the run, is gone."""

    def hurry(self) -> None:  # noqa: B027 - a file has nothing to hurry
        """Wait two seconds at most for each answer from now on: the command is to stop. Safe in a signal handler."""

    @abstractmethod
    def close_connection(self) -> None:
        """End the connection; never raises, and may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_connection()


# How long a run that died with nothing but waiting slices is looked for.
_WAITING_SINCE = timedelta(days=7)


class SqlStore(SessionStore):
    """A store whose database speaks SQL; the dialect says how a statement by name is executed."""

    def __init__(self, host: str) -> None:
        self._host = host
        # A driver's connection may be shared, a transaction may not: each operation has it alone.
        self._lock = threading.RLock()

    def last_id(self) -> int:
        return int(self.read("looking for the highest id", "last_id", {})[0][0])

    def last_sessions(self, load: str, first: date, last: date) -> list[LastSession]:
        values = {"load": load, "first": first, "last": last}
        rows = self.read(f"reading the last sessions of {load}", "last_sessions", values)
        return [_last_session(row) for row in rows]

    def durations(self, load: str, newest: int) -> dict[str, float]:
        values = {"load": load, "newest": newest}
        rows = self.read(f"reading the durations of {load}", "durations", values)
        found = ((as_text(shard), as_seconds(seconds)) for shard, seconds in rows)
        return {shard: seconds for shard, seconds in found if seconds is not None}

    def unfinished_runs(self) -> list[str]:
        values = {"since": datetime.now(UTC) - _WAITING_SINCE}
        return [run_id for (run_id,) in self.read("looking for unfinished runs", "unfinished_runs", values)]

    def unfinished(self, run_id: str) -> list[Session]:
        return self._sessions("unfinished", {"run_id": run_id})

    def of_run(self, run_id: str) -> list[Session]:
        return self._sessions("of_run", {"run_id": run_id})

    def recent(self, limit: int) -> list[Session]:
        return self._sessions("recent", {"limit": limit})

    def _sessions(self, statement: str, values: Mapping[str, object]) -> list[Session]:
        return [session_of(row) for row in self.read("reading sessions", statement, values)]


def _last_session(row: Sequence[Any]) -> LastSession:
    load, shard, day, state, started, finished, last_success = row
    began = None if last_success is None else as_time(last_success)
    return LastSession(
        as_text(load), as_text(shard), as_day(day), State(state), as_time(started), finished, began
    )


def session_of(row: Sequence[Any]) -> Session:
    """Return the session in a row of `$columns`, whatever stands in it."""
    return Session(*(make(value) for make, value in zip(_FIELDS, row, strict=True)))


def _as_bool(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _as_they_are(value: Any) -> Any:
    return value


#: What each column of `$columns` becomes; ids and `finished` are what the store makes of them.
_FIELDS: tuple[Callable[[Any], Any], ...] = (
    _as_they_are, as_text, as_time, _as_they_are, _as_bool, as_number, as_text_or_none, as_text, as_text,
    as_text_or_none, as_day, lambda value: as_number(value) or 0, State, as_text, as_number, as_number,
    as_text_or_none, as_text_or_none, as_number, as_text_or_none, as_number, as_seconds,
)  # fmt: skip


def refuse_equal_tokens(sessions: Sequence[NewSession]) -> None:
    """Each session is told from the others by its token."""
    if len({session.staged for session in sessions}) < len(sessions):
        raise ValueError("two new sessions have one token")


def adopted_values(one: Adopted) -> dict[str, object]:
    """The values that the statement `adopt` binds for one slice."""
    return {
        "task_name": one.task_name,
        "at": one.at,
        "rows": one.rows,
        "comment": one.comment,
        "run_id": one.run_id,
        "load": one.load,
        "shard": one.shard,
        "day": one.day,
        "state": one.state.value,
    }


def closing_values(closing: Closing) -> dict[str, object]:
    """The values that the statement `close` binds for one session."""
    return {
        "id": closing.id,
        "state": closing.state.value,
        "successful": successful(closing.state),
        "finished": closing.finished,
        "loaded_rows": closing.loaded_rows,
        "extracted_rows": closing.extracted_rows,
        "bytes": closing.bytes,
        "error_class": closing.error_class,
        "comment": cut_comment(closing.comment),
        "busy_seconds": closing.busy_seconds,
    }
