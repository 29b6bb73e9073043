"""Sessions of the past, by what they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.sessions.sql_store import session_of
from dwhctl.sessions.values import Session, State

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore

#: How far back a report looks that was not told: so many days, and no more than so many sessions. Of a day with
#: 336,000 sessions a person wants an answer now rather than two weeks of it.
USUAL_DAYS = 14
USUAL_SESSIONS = 200_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions: empty fields are no condition. `shards` names shards, so that no report's sessions are found."""

    since: datetime
    limit: int
    run_id: str | None = None
    states: tuple[State, ...] = ()
    loads: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()


def read_history(store: SessionStore, wanted: Wanted) -> list[Session]:
    """The newest of these sessions, newest first."""
    values = {
        "since": wanted.since,
        "limit": wanted.limit,
        "states": _list(wanted.states),
        "loads": _list(wanted.loads),
        "shards": _list(wanted.shards),
    }
    if wanted.run_id is None:
        rows = store.read("reading sessions", "history", values)
    else:
        rows = store.read("reading sessions", "history_of_run", values | {"run_id": wanted.run_id})
    return [session_of(row) for row in rows]


def usual_since(store: SessionStore) -> tuple[datetime, bool]:
    """From when on a report looks that was not told, and whether the number of sessions bounds it."""
    days_ago = datetime.now(UTC) - timedelta(days=USUAL_DAYS)
    newest = store.read("reading the newest session", "newest_id", {})
    if not newest:
        return days_ago, False
    row = store.read("reading sessions", "started_of", {"id": newest[0][0] - USUAL_SESSIONS})
    started: datetime = row[0][0]
    is_bound = newest[0][0] > USUAL_SESSIONS and started > days_ago
    return (started, True) if is_bound else (days_ago, False)


def _list(names: Iterable[str]) -> str | None:
    return "".join(f",{name}" for name in names) + "," if names else None
