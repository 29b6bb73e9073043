"""Past sessions and runs, durations, slices; and the look-up of a run by its id, the beginning of it or `last`."""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.files import is_run_id
from dwhctl.core.words import quoted
from dwhctl.sessions.values import Session, State, as_number, as_text, as_text_or_none, as_time

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore


#: How far back a report goes by default: so many days, and at most so many sessions. Of a day with 336,000 sessions a
#: person wants an answer now rather than two weeks of it.
USUAL_DAYS = 14
USUAL_SESSIONS = 200_000


class Wanted(Struct, frozen=True):
    """Which sessions: empty fields are no condition. With `shards` no report's session is found."""

    since: datetime
    limit: int
    run_id: str | None = None
    states: tuple[State, ...] = ()
    loads: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()


def read_history(store: SessionStore, wanted: Wanted) -> list[Session]:
    """Return the newest of these sessions, newest first."""
    values: dict[str, object] = {"since": wanted.since, "limit": wanted.limit}
    for name in ("states", "loads", "shards"):
        items = getattr(wanted, name)
        values[name] = f",{','.join(items)}," if items else None
    if wanted.run_id is None:
        return store.sessions("history", values)
    return store.sessions("history_of_run", values | {"run_id": wanted.run_id})


def usual_since(store: SessionStore) -> tuple[datetime, bool]:
    """Return from when on a report goes by default, and whether the number of sessions limits it."""
    return recent_since(store, datetime.now(UTC) - timedelta(days=USUAL_DAYS), USUAL_SESSIONS)


def recent_since(store: SessionStore, days_ago: datetime, most: int) -> tuple[datetime, bool]:
    """Return that moment, or the one from which on so many sessions began, and whether that is later."""
    newest = store.read("reading the newest session", "newest_id", {})
    if not newest:
        return days_ago, False
    row = store.read("reading sessions", "started_of", {"id": newest[0][0] - most})
    started: datetime = row[0][0]
    is_limited = newest[0][0] > most and started > days_ago
    return (started, True) if is_limited else (days_ago, False)


class PastRun(Struct, frozen=True):
    """A run as its sessions show it.

    `slices` counts slices (of a refresh, reports), `loaded` to `running` count sessions: a slice that was tried again
    has several. `finished` and `seconds` are None while one of them is running.
    """

    run_id: str
    started: datetime
    finished: datetime | None
    loads: tuple[str, ...]
    reports: tuple[str, ...]
    slices: int
    loaded: int
    skipped: int
    failed: int
    up_for_retry: int
    abandoned: int
    running: int
    rows: int
    seconds: float | None
    host: str | None
    pid: int | None


def read_runs(store: SessionStore, limit: int, since: datetime | None = None) -> list[PastRun]:
    """Return the newest runs, newest first; with `since` only those that began since then."""
    # A run's id begins with the moment in which the run did.
    first = f"{since.astimezone(UTC):%Y%m%dT%H%M%S}" if since else ""
    rows = store.read("reading the runs", "newest_runs", {"limit": limit, "first": first})
    in_order = sorted(((as_text(row[0]), as_text(row[1]), *row[2:]) for row in rows), key=lambda row: row[:2])
    runs = [_run(run_id, list(loads)) for run_id, loads in groupby(in_order, key=lambda row: row[0])]
    return runs[::-1]


def _run(run_id: str, loads: Sequence[Sequence[Any]]) -> PastRun:
    _, names, are_reports, started, finished, *counts, hosts, pids = zip(*loads, strict=True)
    slices, loaded, skipped, failed, up_for_retry, abandoned, running, rows = (
        sum(as_number(value) or 0 for value in column) for column in counts
    )
    begun = min(map(as_time, started))
    ended = None if running else max((moment for moment in finished if moment), default=None)
    seconds = round((ended - begun).total_seconds(), 3) if ended else None
    of_loads, reports = (
        tuple(name for name, is_report in zip(names, are_reports, strict=True) if bool(is_report) is wanted)
        for wanted in (False, True)
    )
    return PastRun(
        run_id, begun, ended, of_loads, reports, slices, loaded, skipped, failed, up_for_retry, abandoned, running,
        rows, seconds, as_text_or_none(hosts[0]), as_number(pids[0]),
    )  # fmt: skip


#: The largest number of parts of a trend.
STEPS = 12


class TaskDurations(Struct, frozen=True):
    """Seconds of a task's successful sessions, in the order of the sessions. A report has no shard."""

    load: str
    shard: str | None
    seconds: tuple[float, ...]
    median: float

    @property
    def p95(self) -> float:
        """Return the least value that 95 of 100 sessions do not exceed."""
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]

    @property
    def trend(self) -> list[float]:
        """Return the medians of up to `STEPS` parts, in order."""
        count = min(len(self.seconds), STEPS)
        borders = [len(self.seconds) * step // count for step in range(count + 1)]
        return [statistics.median(self.seconds[start:end]) for start, end in pairwise(borders)]


def read_durations(store: SessionStore, since: datetime) -> list[TaskDurations]:
    """Return the durations of every task with a successful session since then, the slowest median first."""
    rows = store.read("reading the durations", "task_durations", {"since": since})
    found = [_durations(as_text(load), as_text_or_none(shard), text) for load, shard, text in rows if text]
    return sorted(found, key=lambda task: (-task.median, task.load, task.shard or ""))


def _durations(load: str, shard: str | None, text: str) -> TaskDurations:
    pairs = sorted((int(number), int(ms)) for number, ms in (pair.split(" ") for pair in text.split(",")))
    seconds = tuple(max(ms, 0) / 1000 for _, ms in pairs)
    return TaskDurations(load, shard, seconds, round(statistics.median(seconds), 3))


def first_day(store: SessionStore, load: str) -> date | None:
    """Return the first day of a load that has a session."""
    rows = store.read(f"reading the first day of {load}", "first_day", {"load": load})
    day: date | None = rows[0][0] if rows else None
    return day


#: The state and the start of a slice's latest session, the start of its last successful one, and the latest one's id.
Latest = tuple[State, datetime, datetime | None, int]


def latest_of_slices(
    store: SessionStore, load: str, shards: Sequence[str], days: Sequence[date], until: datetime
) -> dict[int, dict[int, Latest]]:
    """Return each slice's latest session, by the positions of its shard and its day."""
    found: dict[int, dict[int, Latest]] = {}
    values = {"load": load, "days": list(days), "shards": list(shards), "until": until}
    rows = store.read(f"reading the latest sessions of {load}", "latest_of_slices", values)
    for day, shard, state, started, success, session in rows:
        last_success = None if success is None else as_time(success)
        found.setdefault(shard, {})[day] = (State(state), as_time(started), last_success, session)
    return found


def last_successes(
    store: SessionStore, tasks: list[str], until: datetime
) -> dict[str, tuple[tuple[date, datetime], ...]]:
    """Return day and start of each task's last success on the newest day that has one, and on the day before."""
    rows = store.read("reading the last successes", "last_good", {"tasks": tasks, "until": until})
    return {
        tasks[place]: ((day, started), *(((older, before),) if older is not None else ()))
        for place, day, started, older, before in rows
    }


def running_tasks(store: SessionStore) -> set[tuple[str, str]]:
    """Return load and shard of the sessions that are running."""
    rows = store.read("reading the running sessions", "running_tasks", {})
    return {(as_text(load), as_text(shard)) for load, shard in rows}


def successful_ids(store: SessionStore, load: str, first: date, last: date) -> set[tuple[str, int]]:
    """Return shard and id of the successful sessions of these days."""
    values = {"load": load, "first": first, "last": last}
    rows = store.read("reading the successful sessions", "successful_sessions", values)
    return {(as_text(shard), int(id_)) for id_, shard in rows}


def is_successful(store: SessionStore, load: str, shard: str, id_: int) -> bool:
    """Return whether this is the id of a successful session of the load and shard, whatever its day."""
    values = {"load": load, "shard": shard, "id": id_}
    return bool(store.read("reading a session", "successful_session", values))


def adopted_shards(store: SessionStore, load: str, first: date, last: date) -> set[str]:
    """Return the shards whose last successful session of these days adopted the rows of another tool."""
    values = {"load": load, "first": first, "last": last}
    return {as_text(shard) for (shard,) in store.read("reading adopted slices", "adopted_shards", values)}


def prunable(
    store: SessionStore, before: datetime, size: int, *, everything: bool
) -> Iterator[tuple[int, list[int]]]:
    """Yield of each window of so many rows how many it has, and the ids that may be pruned, oldest first."""
    doing, after = "reading old sessions", -(2**62)
    statement = "prune_all" if everything else "prune_superseded"
    [(end,)] = store.read(doing, "prune_end", {})
    while end is not None:
        [(count, last)] = store.read(doing, "prune_window", {"after": after, "end": end, "size": size})
        if not count:
            return
        found = store.read(doing, statement, {"after": after, "last": last, "before": before})
        yield int(count), [int(session_id) for (session_id,) in found]
        after = last


LAST = "last"
_CANDIDATES = 5
_SUGGESTED_AMONG = 1000
_NO_RUN = "there is no run yet: dwhctl load makes one"


class RunIds(Protocol):
    """The ids of the runs in one place: those with sessions, those with a log."""

    def newest_runs(self, count: int) -> Sequence[str]:
        """Return so many ids, the newest first."""
        ...

    def runs_beginning_with(self, text: str, count: int) -> Sequence[str]:
        """Return so many of the ids that begin with the text, in order."""
        ...


def find_run(runs: RunIds, text: str, *, none: str = _NO_RUN, missing: str = "there is no run") -> str:
    """Return the id of the run that the text means.

    Raise UsageError when there is no run at all (message `none`), no such run, or more than one.
    """
    if text == LAST:
        return _last(runs, none)
    found = runs.runs_beginning_with(text, _CANDIDATES + 1) if text else []
    if text in found or len(found) == 1:
        return text if text in found else found[0]
    if found:
        more = ", ..." if len(found) > _CANDIDATES else ""
        candidates = ", ".join(found[:_CANDIDATES])
        raise UsageError(f"'{text}' is the beginning of several runs: {candidates}{more}; write more of it")
    last = _last(runs, none)
    if close := difflib.get_close_matches(text, runs.newest_runs(_SUGGESTED_AMONG), n=1):
        raise UsageError(f"{missing} {quoted(text)}; did you mean '{close[0]}'?")
    raise UsageError(f"{missing} {quoted(text)}: the last one is {last}; or write '{LAST}'")


def _last(runs: RunIds, none: str) -> str:
    newest = runs.newest_runs(_SUGGESTED_AMONG)
    if not newest:
        raise UsageError(none)
    # An id that dwhctl does not give to runs is not the last run, however it sorts.
    return next((run_id for run_id in newest if is_run_id(run_id)), newest[0])
