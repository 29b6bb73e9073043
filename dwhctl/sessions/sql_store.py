"""What the two stores share: one connection, one lock for its threads, and the reading queries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dwhctl.sessions.cells import as_day, as_number, as_seconds, as_text, as_text_or_none, as_time
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.texts import cut_comment
from dwhctl.sessions.values import Adopted, Closing, LastSession, NewSession, Session, State, successful

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
