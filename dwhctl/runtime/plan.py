"""What a run will do: which slices of which loads, in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.core.words import quoted, shown_time
from dwhctl.project.days import Slice, make_slice
from dwhctl.project.names import as_asked, find_load, in_project, meant
from dwhctl.sessions.values import is_complete

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.project.loads import Load, Need, Report, Shard
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore


Name = tuple[str, str, "date"]


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What the user asked for. Empty `loads` means every load, empty `shards` every shard."""

    days: tuple[date, ...]
    loads: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    only_missing: bool = False
    only_failed: bool = False
    jobs: int | None = None
    retries: int | None = None
    allow_shrink: bool = False
    wait: timedelta = timedelta(0)
    command: str = "dwhctl load"
    inline: bool = False
    executor: str | None = None
    scheduler: str | None = None
    pings: bool = True
    scheduled: bool = False


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """One slice to load."""

    load: Load
    shard: Shard
    slice: Slice

    @property
    def name(self) -> Name:
        """Its load, shard and day."""
        return self.load.name, self.shard.name, self.slice.day

    @property
    def load_and_day(self) -> tuple[str, date]:
        """Its load and day."""
        return self.load.name, self.slice.day


@dataclass(frozen=True, slots=True)
class Plan:
    """The slices in the order in which they start; what was left out is counted.

    `first_day` is the first day that a slice which was left out would have, if any was left out for its day.
    """

    slices: tuple[PlannedSlice, ...]
    before_start: int = 0
    complete: int = 0
    not_failed: int = 0
    after_end: int = 0
    first_day: date | None = None

    def loads(self) -> list[Load]:
        """Return the loads of the plan, in the order of their first slice."""
        return list({planned.load.name: planned.load for planned in self.slices}.values())

    def work(self) -> list[tuple[Load, date]]:
        """Return the loads and days of the plan, sorted: every run takes its locks in this order."""
        found = {planned.load_and_day: planned.load for planned in self.slices}
        return [(found[key], key[1]) for key in sorted(found)]


def candidates(project: Project, request: LoadRequest) -> Plan:
    """Return every slice of the request, complete or not, day by day in the order of its days.

    Raise UsageError for an unknown load or shard.
    """
    chosen_loads(project, request.loads)
    tasks = chosen_tasks(project, request.loads, request.shards)
    slices, starts, before_start, after_end = [], set(), 0, 0
    for day in dict.fromkeys(request.days):
        for load, shards in tasks:
            # Its rows are those of now: the newest day decides which shards are expected.
            if load.slice_by is None and day != max(request.days):
                continue
            for shard in shards:
                if is_before_start(load, shard, day):
                    before_start += 1
                    starts.add(first_day(load, shard))
                elif shard.has_ended(day):
                    after_end += 1
                else:
                    slices.append(PlannedSlice(load, shard, make_slice(project, load, shard, day)))
    first = min(filter(None, starts), default=None)
    return Plan(tuple(slices), before_start=before_start, after_end=after_end, first_day=first)


def chosen_loads(project: Project, names: Sequence[str]) -> list[Load]:
    """Return the loads of these names, or every load. Raise UsageError for an unknown one, and when there is none."""
    loads = _loads(project, names)
    if not loads:
        raise UsageError("the project has no load: write one in config/loads/<name>.toml")
    return loads


def _loads(project: Project, names: Sequence[str]) -> list[Load]:
    if not names:
        return list(project.loads.values())
    return [find_load(project, name) for name in dict.fromkeys(names)]


def without_complete(plan: Plan, complete: Iterable[Name]) -> Plan:
    """Leave out the complete slices, given as load, shard and day."""
    kept = _kept(plan, set(complete), wanted=False)
    return replace(plan, slices=kept, complete=plan.complete + len(plan.slices) - len(kept))


def only_failed(plan: Plan, failed: Iterable[Name]) -> Plan:
    """Keep the slices whose last session failed, given as load, shard and day."""
    kept = _kept(plan, set(failed), wanted=True)
    return replace(plan, slices=kept, not_failed=plan.not_failed + len(plan.slices) - len(kept))


def _kept(plan: Plan, known: set[Name], *, wanted: bool) -> tuple[PlannedSlice, ...]:
    return tuple(planned for planned in plan.slices if (planned.name in known) is wanted)


def slowest_first(plan: Plan, seconds: Mapping[tuple[str, str], float]) -> Plan:
    """Sort each load's day by what its shards took recently, the unknown first: they may be the slowest."""
    keys = dict.fromkeys(planned.load_and_day for planned in plan.slices)
    place = {key: number for number, key in enumerate(keys)}

    def rank(planned: PlannedSlice) -> tuple[int, float]:
        name, shard, _ = planned.name
        return place[planned.load_and_day], -seconds.get((name, shard), float("inf"))

    return replace(plan, slices=tuple(sorted(plan.slices, key=rank)))


def days_back(day: date, lookback: int) -> tuple[date, ...]:
    """Return the day and the `lookback` days before it, newest first."""
    return tuple(day - timedelta(days=back) for back in range(lookback + 1))


def _wanted(shard: Shard, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatch.fnmatchcase(shard.name, glob) for glob in globs)


def first_day(load: Load, shard: Shard) -> date | None:
    """Return the first day that is expected of a load and shard, if they have one."""
    return max((start for start in (load.start_date, shard.from_date) if start is not None), default=None)


def is_before_start(load: Load, shard: Shard, day: date) -> bool:
    """Return whether a day lies before the first one that is expected of a load and shard."""
    start = first_day(load, shard)
    return start is not None and day < start


def chosen_tasks(
    project: Project, names: Sequence[str], globs: Sequence[str]
) -> list[tuple[Load, list[Shard]]]:
    """Return the loads of these names (or every load) with their shards that fit the globs (or every shard).

    Raise UsageError for an unknown load or shard.
    """
    shards = {load.name: project.shards_of(load) for load in _loads(project, names)}
    known = [shard.name for of_load in shards.values() for shard in of_load]
    for glob in globs:
        if not fnmatch.filter(known, glob):
            raise UsageError(f"no shard matches {quoted(glob)}; {meant(project, glob, known)}")
    return [
        (project.loads[name], [shard for shard in of_load if _wanted(shard, globs)])
        for name, of_load in shards.items()
    ]


#: As many as `--lookback` reaches: a mistyped year is more probable than a backfill of so many days.
MOST_DAYS = 3651


def days_between(start: date, end: date, *, newest_first: bool = False) -> tuple[date, ...]:
    """Return every day from `start` to `end`, both included. Raise UsageError for an empty or too long range."""
    count = (end - start).days + 1
    if count < 1:
        raise UsageError(
            f"--end {end} lies before --start {start}: give the first day as --start and the last as --end"
        )
    if count > MOST_DAYS:
        raise UsageError(
            f"{start} to {end} are {count:,} days: a backfill takes {MOST_DAYS:,} at most; give a shorter range"
        )
    days = tuple(start + timedelta(days=number) for number in range(count))
    return days[::-1] if newest_first else days


def loads_with_days(project: Project, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the loads that can be filled day by day, and of those that have no days.

    Raise UsageError when a load of `names` has no days, and when no load has any.
    """
    loads = chosen_loads(project, names)
    whole = tuple(load.name for load in loads if load.slice_by is None)
    if whole and names:
        command = in_project(f"dwhctl load {as_asked(whole[0])} --date today", project.place)
        raise UsageError(
            f"load {whole[0]} has no slice_by: it replaces its whole table whatever the day, so there are no days"
            f" to fill; load it once with: {command}"
        )
    if len(whole) == len(loads):
        raise UsageError(
            "no load of the project has slice_by, so there are no days to fill; each replaces its whole table:"
            f" {in_project('dwhctl load --date today', project.place)}"
        )
    return tuple(load.name for load in loads if load.slice_by is not None), whole


_SHOWN_SHARDS = 5


@dataclass(frozen=True, slots=True)
class Readiness:
    """How many slices of a needed load are complete for a day: of `expected` those of the shards `missing` are not.

    `over_at` is the end of the day in the last of these shards, where it is still to come.
    """

    load: str
    at_least: float
    expected: int
    missing: tuple[str, ...] = ()
    over_at: datetime | None = None

    @property
    def complete(self) -> int:
        """How many slices are complete."""
        return self.expected - len(self.missing)

    @property
    def is_met(self) -> bool:
        """Whether that is enough. A date before every shard's first one has nothing to wait for."""
        # As written in the configuration: 0.98 * 150 is more than 147 in binary fractions.
        return self.complete >= Fraction(str(self.at_least)) * self.expected

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.load}: no slice is expected on this day"
        done = f"{self.load}: {self.complete} of {self.expected} slices are complete"
        shown = ", ".join(self.missing[:_SHOWN_SHARDS])
        more = f" and {len(self.missing) - _SHOWN_SHARDS} more" if len(self.missing) > _SHOWN_SHARDS else ""
        return f"{done}, missing {shown}{more}" if self.missing else done


def readiness(
    project: Project, store: SessionStore | None, report: Report, day: date
) -> tuple[Readiness, ...]:
    """Return how far the loads are that a report needs; without a sessions table nothing is complete."""
    return tuple(_readiness(project, store, need, day) for need in report.needs)


def _readiness(project: Project, store: SessionStore | None, need: Need, day: date) -> Readiness:
    plan = candidates(project, LoadRequest(days=(day,), loads=(need.load,)))
    found = store.last_sessions(need.load, day, day) if store is not None else []
    last = {session.shard: session for session in found}
    missing = [
        planned
        for planned in plan.slices
        if not is_complete(last.get(planned.shard.name), planned.slice.end_at)
    ]
    ends = [end for planned in missing if (end := planned.slice.end_at) is not None]
    over_at = max(ends, default=None)
    return Readiness(
        need.load,
        need.at_least,
        len(plan.slices),
        tuple(planned.shard.name for planned in missing),
        over_at if over_at is not None and over_at > datetime.now(UTC) else None,
    )


def not_met(found: Sequence[Readiness], day: date, place: Path | None = None) -> str:
    """Return which needs are not met, and what to do about it. `place` is the project's, for the command."""
    unmet = [need for need in found if not need.is_met]
    words = "; ".join(
        f"{need}{f' (at_least = {need.at_least:g})' if need.at_least < 1 else ''}" for need in unmet
    )
    loads = " ".join(need.load for need in unmet)
    if ends := [need.over_at for need in unmet if need.over_at is not None]:
        return (
            f"{words}. A slice is complete when it was loaded after its end, and {day} ends at"
            f" {shown_time(max(ends))}: load and refresh it then"
        )
    command = in_project(f"dwhctl load {loads} --date {day} --only-missing", place)
    return (
        f"{words}. A slice is complete when it was loaded after its end: {command}; or wait longer (--wait, or wait"
        " in the configuration)"
    )


def lacking(found: Sequence[Readiness]) -> str:
    """Return the needs that are not met, in words."""
    return "; ".join(str(need) for need in found if not need.is_met)


def longest_wait(project: Project, report: Report, asked: timedelta | None) -> float:
    """Return for how many seconds a report waits for its needs: `asked` (--wait) wins, then its own key."""
    waits = (asked, report.wait, project.refreshing.wait)
    return next(wait for wait in waits if wait is not None).total_seconds()
