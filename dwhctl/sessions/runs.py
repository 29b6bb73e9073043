"""The runs of the past, each as one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dwhctl.sessions.cells import as_number, as_text, as_text_or_none, as_time

if TYPE_CHECKING:
    from dwhctl.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class PastRun:
    """What a run left in the sessions table.

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
    """The newest runs, newest first; with `since` only those that began since then."""
    # A run's id begins with the moment in which the run did.
    first = f"{since.astimezone(UTC):%Y%m%dT%H%M%S}" if since else ""
    rows = store.read("reading the runs", "newest_runs", {"limit": limit, "first": first})
    in_order = sorted(((as_text(row[0]), as_text(row[1]), *row[2:]) for row in rows), key=lambda row: row[:2])
    runs = [_run(run_id, list(loads)) for run_id, loads in groupby(in_order, key=lambda row: row[0])]
    return runs[::-1]


def newest_run_ids(store: SessionStore, limit: int) -> list[str]:
    """The ids of the newest runs, newest first."""
    return [run_id for (run_id,) in store.read("reading the runs", "newest_run_ids", {"limit": limit})]


def _run(run_id: str, loads: Sequence[Sequence[Any]]) -> PastRun:
    """Return a run from its rows, one for each load or report."""
    _, names, are_reports, started, finished, *counts, hosts, pids = zip(*loads, strict=True)
    slices, loaded, skipped, failed, up_for_retry, abandoned, running, rows = map(_total, counts)
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


def _total(column: Iterable[Any]) -> int:
    return sum(as_number(value) or 0 for value in column)
