"""Which slices a project expects, and the status of each.

A slice is expected from its load's `start_date` and its shard's `from` on (for a load without `start_date`, from the
first day that any run has tried), until its shard's `until`, that day included. `completes` says whether it is
complete; a gap is a slice whose day is over and that is not complete. A complete slice whose reload fails or is running
stays complete, with a status of its own. Loads without `slice_by` have no days, and are not in it.
"""

from __future__ import annotations

import enum
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Self, TypeVar

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.project.days import make_slice
from dwhctl.project.loads import Load, Shard
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.plan import MOST_DAYS, chosen_tasks
from dwhctl.sessions import REPORT_TIMEOUT, open_if_there
from dwhctl.sessions.history import Latest, latest_of_slices
from dwhctl.sessions.history import first_day as first_day_of
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import CLOCKS_APART, State, completes, is_good

_K = TypeVar("_K")
_T = TypeVar("_T")
#: A default period has at most so many slices, so that a report takes about a second.
MANY_SLICES = 100_000


class SliceStatus(enum.StrEnum):
    """The status of a slice, from the best to the worst; its letter in a grid, and its words in the legend."""

    LOADED = "loaded", "L", "loaded"
    SKIPPED = "skipped", "S", "skipped, no rows"
    BEFORE_START = "before_start", "-", "before its start"
    AFTER_END = "after_end", "/", "after its shard's last day"
    NOT_YET = "not_yet", ".", "day not over, not tried"
    OPEN = "open", "o", "day not over, loaded so far"
    RELOADING = "reloading", "r", "complete, being loaded again"
    RELOAD_FAILED = "reload_failed", "f", "complete, its last reload failed"
    RUNNING = "running", "R", "running"
    EARLY = "early", "E", "loaded early, before the day was over"
    UP_FOR_RETRY = "up_for_retry", "U", "up for retry"
    MISSING = "missing", "M", "missing, never tried"
    UNKNOWN = "unknown", "?", "in a state that this version does not know"
    ABANDONED = "abandoned", "A", "abandoned, its run died"
    FAILED = "failed", "F", "failed"

    _value_: str
    letter: str
    words: str
    badness: int

    def __new__(cls, value: str, letter: str, words: str) -> Self:
        status = str.__new__(cls, value)
        status._value_, status.letter, status.words = value, letter, words
        status.badness = len(cls.__members__)
        return status


NOT_EXPECTED = (SliceStatus.BEFORE_START, SliceStatus.AFTER_END)


class Cell(Struct, frozen=True):
    """One slice.

    `over`: it is expected, and its day has ended. `started` and `session`: the start and the id of its latest session,
    if it has one.
    """

    status: SliceStatus
    complete: bool
    over: bool
    started: datetime | None
    session: int | None = None

    @property
    def is_expected(self) -> bool:
        """Return whether the slice must be complete once its day is over."""
        return self.status not in NOT_EXPECTED

    @property
    def is_gap(self) -> bool:
        """Return whether the slice is over and not complete."""
        return self.over and not self.complete


_STATUSES = {state: SliceStatus[state.name] for state in State}


def status_of(state: State) -> SliceStatus:
    """Return the status of a slice by the state of its latest session alone, without its day's end."""
    return _STATUSES.get(state, SliceStatus.UNKNOWN)


_BEFORE_START = Cell(SliceStatus.BEFORE_START, complete=False, over=False, started=None)
_AFTER_END = Cell(SliceStatus.AFTER_END, complete=False, over=False, started=None)
_NOT_YET = Cell(SliceStatus.NOT_YET, complete=False, over=False, started=None)
_MISSING = Cell(SliceStatus.MISSING, complete=False, over=True, started=None)


class Row(Struct, frozen=True):
    """The slices of one load and shard, one for each day of the coverage."""

    load: Load
    shard: Shard
    cells: tuple[Cell, ...]

    @property
    def gaps(self) -> int:
        return sum(cell.is_gap for cell in self.cells)


def completeness(rows: Iterable[Row]) -> tuple[int, int]:
    """Return how many slices of these rows are complete, and how many are over."""
    over = [cell.complete for row in rows for cell in row.cells if cell.over]
    return sum(over), len(over)


class Coverage(Struct, frozen=True):
    """The slices of some loads over some days. Rows come in the order of the configuration."""

    days: tuple[date, ...]
    rows: tuple[Row, ...]

    def slices(self) -> Iterator[tuple[Row, date, Cell]]:
        for row in self.rows:
            for day, cell in zip(self.days, row.cells, strict=True):
                yield row, day, cell


Tasks = list[tuple["Load", list["Shard"]]]


def sliced_tasks(project: Project, loads: Sequence[str], shards: Sequence[str]) -> Tasks:
    """Return the loads that have days, all or those of these names, with their shards. Raise UsageError."""
    tasks = chosen_tasks(project, loads, shards)
    whole = [load.name for load, _ in tasks if load.slice_by is None]
    if loads and whole:
        raise UsageError(f"load '{whole[0]}' has no slice_by: it is loaded whole and has no days")
    if not tasks:
        raise UsageError("the project has no load: write one in config/loads/<name>.toml")
    sliced = [(load, found) for load, found in tasks if load.slice_by is not None and found]
    if not sliced:
        raise UsageError("no load of these shards has slice_by: they are loaded whole and have no days")
    return sliced


def days_until(last: date, count: int) -> tuple[date, ...]:
    """Return so many days up to the last, the oldest first."""
    return tuple(last - timedelta(days=back) for back in reversed(range(count)))


def bearable_days(tasks: Tasks, days: int) -> int:
    """Return the default number of days: fewer for a project with very many slices, at least one."""
    shards = sum(len(found) for _, found in tasks)
    return max(1, min(days, MANY_SLICES // max(shards, 1)))


def cover(
    project: Project, store: SessionStore | None, tasks: Tasks, days: tuple[date, ...], now: datetime
) -> Coverage:
    """Return the status of each slice. Without a store (no run has made its table yet) none was tried."""
    ends: dict[str | None, list[datetime]] = {}  # by the clock: shards of one zone have the same
    rows: list[Row] = []
    until = now + CLOCKS_APART
    for load, shards in tasks:
        first = first_day(store, load)
        names = [shard.name for shard in shards]
        latest = latest_of_slices(store, load.name, names, days, until) if store is not None else {}
        for place, shard in enumerate(shards):
            begins = max(filter(None, (first, shard.from_date)), default=None) if first else None
            found = latest.get(place, {})
            clock = shard.zone if load.slice_zone == "wall" else None
            if clock not in ends:
                ends[clock] = _ends(project, load, shard, days)
            cells = [
                _not_expected(shard, begins, day) or _cell(found.get(number), end, now)
                for number, (day, end) in enumerate(zip(days, ends[clock], strict=True))
            ]
            rows.append(Row(load, shard, tuple(cells)))
    return Coverage(days, tuple(rows))


def _not_expected(shard: Shard, begins: date | None, day: date) -> Cell | None:
    """Return the cell of a day on which the shard is not expected; None for a day on which it is."""
    if begins is None or day < begins:
        return _BEFORE_START
    return _AFTER_END if shard.has_ended(day) else None


def first_day(store: SessionStore | None, load: Load) -> date | None:
    """Return the first day on which the load is expected; None when there is none yet."""
    if load.start_date is not None or store is None:
        return load.start_date
    return first_day_of(store, load.name)


def _ends(project: Project, load: Load, shard: Shard, days: Sequence[date]) -> list[datetime]:
    slices = (make_slice(project, load, shard, day) for day in days)
    return [found.end_at for found in slices if found.end_at is not None]


def _cell(latest: Latest | None, end: datetime, now: datetime) -> Cell:
    over = end <= now
    if latest is None:
        return _MISSING if over else _NOT_YET
    state, started, last_success, session = latest
    complete = completes(last_success, end)
    if complete is is_good(state):
        status = status_of(state)
    elif complete:
        status = SliceStatus.RELOADING if state is State.RUNNING else SliceStatus.RELOAD_FAILED
    else:
        status = SliceStatus.EARLY if over else SliceStatus.OPEN
    return Cell(status, complete, over, started, session)


class Mark(Struct, frozen=True):
    """One day of several slices: how many of those expected are complete, and the worst status."""

    worst: SliceStatus
    complete: int = 0
    expected: int = 0
    gaps: int = 0

    def text(self, width: int) -> str:
        """Return the letter; with counts for several slices that are not all complete."""
        letter = self.worst.letter
        if not self.gaps or self.expected <= 1:
            return letter
        whole = f"{self.complete}/{self.expected}{letter}"
        short = f"{self.gaps}{letter}"
        return next((text for text in (whole, short) if len(text) <= width), letter)


def marks_of(rows: Sequence[Row]) -> tuple[Mark, ...]:
    """Return a mark for each day of these rows."""
    return tuple(_mark(cells) for cells in zip(*(row.cells for row in rows), strict=True))


def _mark(cells: Sequence[Cell]) -> Mark:
    statuses = Counter(cell.status for cell in cells)
    not_expected = {status: statuses.pop(status, 0) for status in NOT_EXPECTED}
    expected = len(cells) - sum(not_expected.values())
    if not expected:
        return Mark(max(not_expected, key=not_expected.__getitem__))
    worst = max(statuses, key=lambda status: status.badness)
    if worst is SliceStatus.SKIPPED and SliceStatus.LOADED in statuses:
        worst = SliceStatus.LOADED
    complete = [cell.complete for cell in cells]
    over = sum(cell.over for cell in cells)
    return Mark(worst, sum(complete), expected, max(over - sum(complete), 0))


class Gap(Struct, frozen=True):
    """Days from `start` to `end`, both included, of which no slice of these shards is complete."""

    load: str
    shards: tuple[str, ...]
    start: date
    end: date

    @property
    def slices(self) -> int:
        return ((self.end - self.start).days + 1) * len(self.shards)


def find_gaps(coverage: Coverage) -> list[Gap]:
    """Return the gaps of each load and shard, consecutive days in one, as many as one backfill takes."""
    gaps = []
    for row in coverage.rows:
        cells = zip(coverage.days, row.cells, strict=True)
        for is_gap, group in groupby(cells, key=lambda cell: cell[1].is_gap):
            if is_gap:
                days = [day for day, _ in group]
                for first in range(0, len(days), MOST_DAYS):
                    last = min(first + MOST_DAYS, len(days)) - 1
                    gaps.append(Gap(row.load.name, (row.shard.name,), days[first], days[last]))
    return gaps


def fold_shards(gaps: Iterable[Gap]) -> list[Gap]:
    """Return one gap for the shards of a load that lack the same days, in the order of load and day."""
    together: dict[tuple[str, date, date], tuple[str, ...]] = {}
    for gap in gaps:
        key = (gap.load, gap.start, gap.end)
        together[key] = together.get(key, ()) + gap.shards
    return [Gap(load, shards, start, end) for (load, start, end), shards in sorted(together.items())]


def grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """Return the items by key, both in the order of the items."""
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def fill_command(gap: Gap, project: Path | None = None, *, named: bool = True) -> str:
    """Return the command that fills the gap, with its shards if they are to be `named`.

    Without them it also fills the other incomplete slices of the load in these days. `project` is the value of
    --project, if it was given.
    """
    words = ["dwhctl", "backfill", gap.load, "-s", str(gap.start), "-e", str(gap.end), "--only-missing"]
    if named:
        words += [word for shard in gap.shards for word in ("--shard", shard)]
    return in_project(shlex.join(words), project)


def look_back(project: Project, tasks: Tasks, days: tuple[date, ...], now: datetime) -> Coverage:
    """Return the status of each slice now. Raise SessionsError."""
    with sessions_of(project) as store:
        return cover(project, store, tasks, days, now)


def sessions_of(project: Project) -> AbstractContextManager[SessionStore | None]:
    """Open the project's sessions for a report; None when no run has made them yet. Raise SessionsError."""
    return open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT) or nullcontext()
