"""Which slices a project expects, and where each of them stands.

A slice is expected from its load's `start_date` and its shard's `from` on (for a load without `start_date`, from the
first day on that any run has tried), and to its shard's `until`, that day included. It is complete as `completes` says;
a gap is a slice that is over and not complete. A complete slice whose reload fails or is running stays complete, and
has a standing of its own.
Loads without `slice_by` have no days, and do not appear.
"""

from __future__ import annotations

import enum
import shlex
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.project.days import make_slice
from dwhctl.runtime.plan import chosen_tasks
from dwhctl.sessions import REPORT_TIMEOUT, open_if_there
from dwhctl.sessions.history import Latest, latest_of_slices
from dwhctl.sessions.history import first_day as first_day_of
from dwhctl.sessions.values import State, completes, is_good

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore


#: So many slices are looked at when nobody says how many days: an answer for the eye must come at once.
MANY_SLICES = 100_000


class SliceStatus(enum.StrEnum):
    """Where a slice stands, from the best to the worst."""

    LOADED = "loaded"
    SKIPPED = "skipped"  # no rows at the source
    BEFORE_START = "before_start"  # not expected
    AFTER_END = "after_end"  # after the shard's last day: not expected
    NOT_YET = "not_yet"  # its day is not over, and nobody has tried it
    OPEN = "open"  # its day is not over; loaded so far
    RELOADING = "reloading"  # complete; a run loads it again
    RELOAD_FAILED = "reload_failed"  # complete; its last session is unsuccessful
    RUNNING = "running"
    EARLY = "early"  # loaded, but before its day was over
    UP_FOR_RETRY = "up_for_retry"
    MISSING = "missing"  # over, and never tried
    UNKNOWN = "unknown"  # its session is in a state of another version
    ABANDONED = "abandoned"
    FAILED = "failed"


NOT_EXPECTED = (SliceStatus.BEFORE_START, SliceStatus.AFTER_END)
BADNESS: Mapping[SliceStatus, int] = {standing: place for place, standing in enumerate(SliceStatus)}


@dataclass(frozen=True, slots=True)
class Cell:
    """One slice.

    `over`: it is expected, and its day has ended. `started`: its latest session's start, if it has one.
    """

    standing: SliceStatus
    complete: bool
    over: bool
    started: datetime | None

    @property
    def is_expected(self) -> bool:
        """Tell whether the slice should be there, once it is over."""
        return self.standing not in NOT_EXPECTED

    @property
    def is_gap(self) -> bool:
        """Tell whether the slice is over and not complete."""
        return self.over and not self.complete


_STANDINGS = {state: SliceStatus(state.value) for state in State}


def status_of(state: State) -> SliceStatus:
    """Return where a slice stands whose latest session is in this state, if no day's end matters."""
    return _STANDINGS.get(state, SliceStatus.UNKNOWN)


_BEFORE_START = Cell(SliceStatus.BEFORE_START, complete=False, over=False, started=None)
_AFTER_END = Cell(SliceStatus.AFTER_END, complete=False, over=False, started=None)
_NOT_YET = Cell(SliceStatus.NOT_YET, complete=False, over=False, started=None)
_MISSING = Cell(SliceStatus.MISSING, complete=False, over=True, started=None)


@dataclass(frozen=True, slots=True)
class Row:
    """The slices of one load and shard, one for each day of the coverage."""

    load: Load
    shard: Shard
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The slices of some loads over some days. Rows come in the order of the configuration."""

    days: tuple[date, ...]
    rows: tuple[Row, ...]

    def slices(self) -> Iterator[tuple[Row, date, Cell]]:
        """Give every slice, those that are not expected too."""
        for row in self.rows:
            for day, cell in zip(self.days, row.cells, strict=True):
                yield row, day, cell


Tasks = list[tuple["Load", list["Shard"]]]


def sliced_tasks(project: Project, loads: Sequence[str], shards: Sequence[str]) -> Tasks:
    """Give the loads that have days, all or those named, with their shards. Raise UsageError for what is not there."""
    tasks = chosen_tasks(project, loads, shards)
    whole = [load.name for load, _ in tasks if load.slice_by is None]
    if loads and whole:
        raise UsageError(f"load '{whole[0]}' has no slice_by: it is loaded whole and has no days to look at")
    if not tasks:
        raise UsageError("the project has no load: write one in config/loads/<name>.toml")
    sliced = [(load, found) for load, found in tasks if load.slice_by is not None and found]
    if not sliced:
        raise UsageError(
            "no load of these shards has slice_by: they are loaded whole and have no days to look at"
        )
    return sliced


def days_until(last: date, count: int) -> tuple[date, ...]:
    """Give so many days, the oldest first, up to the last."""
    return tuple(last - timedelta(days=back) for back in reversed(range(count)))


def bearable_days(tasks: Tasks, days: int) -> int:
    """Give how many days to look at by default: fewer for a project with very many slices, at least one."""
    shards = sum(len(found) for _, found in tasks)
    return max(1, min(days, MANY_SLICES // max(shards, 1)))


def cover(
    project: Project, store: SessionStore | None, tasks: Tasks, days: tuple[date, ...], now: datetime
) -> Coverage:
    """Look where each slice stands. Without a store (no run has made its table yet) nobody has tried any."""
    ends = _Ends(project, days)
    rows: list[Row] = []
    for load, shards in tasks:
        first = first_day(store, load)
        names = [shard.name for shard in shards]
        latest = latest_of_slices(store, load.name, names, days) if store is not None else {}
        for place, shard in enumerate(shards):
            begins = max(filter(None, (first, shard.from_date)), default=None) if first else None
            found = latest.get(place, {})
            cells = [
                _not_expected(shard, begins, day) or _cell(found.get(number), end, now)
                for number, (day, end) in enumerate(zip(days, ends.of(load, shard), strict=True))
            ]
            rows.append(Row(load, shard, tuple(cells)))
    return Coverage(days, tuple(rows))


def _not_expected(shard: Shard, begins: date | None, day: date) -> Cell | None:
    """Give the cell of a day on which the shard is not expected; None for one on which it is."""
    if begins is None or day < begins:
        return _BEFORE_START
    return _AFTER_END if shard.has_ended(day) else None


def first_day(store: SessionStore | None, load: Load) -> date | None:
    """Give the first day on which the load is expected; None when there is none yet."""
    if load.start_date is not None or store is None:
        return load.start_date
    return first_day_of(store, load.name)


class _Ends:
    """When the days of a load and shard end: worked out once for each clock."""

    def __init__(self, project: Project, days: tuple[date, ...]) -> None:
        self._project = project
        self._days = days
        self._known: dict[str | None, list[datetime]] = {}

    def of(self, load: Load, shard: Shard) -> list[datetime]:
        """Give the instants, in UTC, at which the slices of the days are over."""
        clock = shard.zone if load.slice_zone == "wall" else None
        if clock not in self._known:
            slices = [make_slice(self._project, load, shard, day) for day in self._days]
            self._known[clock] = [one.end_at for one in slices if one.end_at is not None]
        return self._known[clock]


def _cell(latest: Latest | None, end: datetime, now: datetime) -> Cell:
    over = end <= now
    if latest is None:
        return _MISSING if over else _NOT_YET
    state, started, last_success = latest
    complete = completes(last_success, end)
    return Cell(_standing(state, complete=complete, over=over), complete, over, started)


def _standing(state: State, *, complete: bool, over: bool) -> SliceStatus:
    """Return where a slice stands whose latest session has this state."""
    if not complete and is_good(state):
        return SliceStatus.EARLY if over else SliceStatus.OPEN
    if not complete or is_good(state):
        return status_of(state)
    return SliceStatus.RELOADING if state is State.RUNNING else SliceStatus.RELOAD_FAILED


_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """Days from `start` to `end`, both included, of which no slice of these shards is complete."""

    load: str
    shards: tuple[str, ...]
    start: date
    end: date

    @property
    def slices(self) -> int:
        """Count the slices."""
        return ((self.end - self.start).days + 1) * len(self.shards)


def find_gaps(coverage: Coverage) -> list[Gap]:
    """Fold the incomplete slices into ranges, each as long as it can be, by load and shard."""
    return [gap for row in coverage.rows for gap in _ranges(row, coverage.days)]


def _ranges(row: Row, days: Sequence[date]) -> Iterator[Gap]:
    shards = (row.shard.name,)
    start = end = None
    for day, cell in zip(days, row.cells, strict=True):
        if not cell.is_gap:
            continue
        if start is not None and end == day - _ONE_DAY:
            end = day
            continue
        if start is not None and end is not None:
            yield Gap(row.load.name, shards, start, end)
        start = end = day
    if start is not None and end is not None:
        yield Gap(row.load.name, shards, start, end)


def fold_shards(gaps: Iterable[Gap]) -> list[Gap]:
    """Put the shards of a load that lack the same days into one gap, in the order of load and day."""
    together: dict[tuple[str, date, date], tuple[str, ...]] = {}
    for gap in gaps:
        key = (gap.load, gap.start, gap.end)
        together[key] = together.get(key, ()) + gap.shards
    return [Gap(load, shards, start, end) for (load, start, end), shards in sorted(together.items())]


def fill_command(gap: Gap, project: Path | None = None, *, named: bool = True) -> str:
    """Give the command that fills the gap.

    Its shards need not be `named` where no other slice of the load in its days is incomplete. `project` is the
    project's folder, where the command was told it, as it was told.
    """
    words = ["dwhctl", "backfill", gap.load, "-s", str(gap.start), "-e", str(gap.end), "--only-missing"]
    if named:
        words += [word for shard in gap.shards for word in ("--shard", shard)]
    return shlex.join([*words, "--project", str(project)] if project else words)


def look_back(project: Project, tasks: Tasks, days: tuple[date, ...], now: datetime) -> Coverage:
    """Say where each slice stands now. Raise SessionsError."""
    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    if store is None:
        return cover(project, None, tasks, days, now)
    with store:
        return cover(project, store, tasks, days, now)
