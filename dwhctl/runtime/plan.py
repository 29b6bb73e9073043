"""What a run will do: which slices of which loads, in which order."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.core.words import quoted
from dwhctl.project.days import Slice, make_slice
from dwhctl.project.names import as_asked, find_load, meant
from dwhctl.sessions.values import is_complete

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    pings: bool = True
    scheduled: bool = False


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """One slice to load, with all that names it."""

    load: Load
    shard: Shard
    slice: Slice


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

    def work(self) -> list[tuple[Load, date]]:
        """Give the loads and days of the plan, each once, in an order that every run shares."""
        found = {(one.load.name, one.slice.day): one.load for one in self.slices}
        return [(load, day) for (_, day), load in sorted(found.items(), key=lambda item: item[0])]


def candidates(project: Project, request: LoadRequest) -> Plan:
    """Give every slice that was asked for, complete or not, day by day in the order of the days asked for.

    Raise UsageError for an unknown load or shard.
    """
    loads = chosen_loads(project, request.loads)
    _check_globs(project, loads, request.shards)
    shards = {
        load.name: [shard for shard in project.shards_of(load) if _wanted(shard, request.shards)]
        for load in loads
    }
    slices, starts, before_start, after_end = [], set(), 0, 0
    for day in dict.fromkeys(request.days):
        for load in loads:
            if load.slice_by is None and day != request.days[0]:
                continue
            for shard in shards[load.name]:
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
    """Give the loads of these names, or every load. Raise UsageError for an unknown one, and when there is none."""
    loads = (
        [find_load(project, name) for name in dict.fromkeys(names)] if names else list(project.loads.values())
    )
    if not loads:
        raise UsageError("the project has no load: write one in config/loads/<name>.toml")
    return loads


def without_complete(plan: Plan, complete: Iterable[Name]) -> Plan:
    """Leave out the complete slices, given as load, shard and day."""
    kept = _kept(plan, set(complete), wanted=False)
    return replace(plan, slices=kept, complete=plan.complete + len(plan.slices) - len(kept))


def only_failed(plan: Plan, failed: Iterable[Name]) -> Plan:
    """Keep the slices whose last session failed, given as load, shard and day."""
    kept = _kept(plan, set(failed), wanted=True)
    return replace(plan, slices=kept, not_failed=plan.not_failed + len(plan.slices) - len(kept))


def _kept(plan: Plan, known: set[Name], *, wanted: bool) -> tuple[PlannedSlice, ...]:
    return tuple(one for one in plan.slices if (name_of(one) in known) is wanted)


def name_of(one: PlannedSlice) -> Name:
    """Return a slice's load, shard and day."""
    return one.load.name, one.shard.name, one.slice.day


def slowest_first(plan: Plan, seconds: Mapping[tuple[str, str], float]) -> Plan:
    """Order each load's day by what its shards took lately, the unknown first: they may be the slowest."""
    place = {work: number for number, work in enumerate(dict.fromkeys(_work(one) for one in plan.slices))}

    def rank(one: PlannedSlice) -> tuple[int, float]:
        return place[_work(one)], -seconds.get((one.load.name, one.shard.name), float("inf"))

    return replace(plan, slices=tuple(sorted(plan.slices, key=rank)))


def _work(one: PlannedSlice) -> tuple[str, date]:
    return one.load.name, one.slice.day


def days_back(day: date, lookback: int) -> tuple[date, ...]:
    """Give the day and the `lookback` days before it, newest first."""
    return tuple(day - timedelta(days=back) for back in range(lookback + 1))


def _check_globs(project: Project, loads: Sequence[Load], globs: Sequence[str]) -> None:
    names = [shard.name for load in loads for shard in project.shards_of(load)]
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise UsageError(f"no shard matches {quoted(glob)}; {meant(project, glob, names)}")


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
    """Give the loads of these names (or every load) with their shards that fit the globs (or every shard).

    Raise UsageError for an unknown load or shard.
    """
    loads = (
        [find_load(project, name) for name in dict.fromkeys(names)] if names else list(project.loads.values())
    )
    _check_globs(project, loads, globs)
    return [(load, [shard for shard in project.shards_of(load) if _wanted(shard, globs)]) for load in loads]


#: As many as `--lookback` reaches: a mistyped year is more probable than a backfill of so many days.
MOST_DAYS = 3651


def days_between(start: date, end: date, *, newest_first: bool = False) -> tuple[date, ...]:
    """Give every day from `start` to `end`, both included. Raise UsageError for a range that is none."""
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
    """Name the loads that can be filled day by day, and those that are left out because they have no days.

    Raise UsageError when a load that was asked for by name has no days, and when no load has any.
    """
    loads = chosen_loads(project, names)
    whole = tuple(load.name for load in loads if load.slice_by is None)
    if whole and names:
        raise UsageError(
            f"load {whole[0]} has no slice_by: it replaces its whole table whatever the day, so there are no days"
            f" to fill; load it once with: dwhctl load {as_asked(whole[0])} --date today"
        )
    if len(whole) == len(loads):
        raise UsageError(
            "no load of the project has slice_by, so there are no days to fill; each replaces its whole table:"
            " dwhctl load --date today"
        )
    return tuple(load.name for load in loads if load.slice_by is not None), whole


_SHOWN_SHARDS = 5


@dataclass(frozen=True, slots=True)
class Readiness:
    """How far a needed load is with a date: of `expected` slices those of the shards `missing` are not complete."""

    load: str
    at_least: float
    expected: int
    missing: tuple[str, ...] = ()

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
    """Look how far the loads are that a report needs; without a sessions table nothing is complete."""
    return tuple(_readiness(project, store, need, day) for need in report.needs)


def _readiness(project: Project, store: SessionStore | None, need: Need, day: date) -> Readiness:
    plan = candidates(project, LoadRequest(days=(day,), loads=(need.load,)))
    found = store.last_sessions(need.load, day, day) if store is not None else []
    last = {one.shard: one for one in found}
    missing = (
        one.shard.name for one in plan.slices if not is_complete(last.get(one.shard.name), one.slice.end_at)
    )
    return Readiness(need.load, need.at_least, len(plan.slices), tuple(missing))


def not_met(found: Sequence[Readiness], day: date) -> str:
    """Say which needs are not met, and what to do about it."""
    lacking = [one for one in found if not one.is_met]
    words = "; ".join(
        f"{one}{f' (at_least = {one.at_least:g})' if one.at_least < 1 else ''}" for one in lacking
    )
    loads = " ".join(one.load for one in lacking)
    return (
        f"{words}. A slice is complete when it was loaded after its end: dwhctl load {loads} --date {day}"
        " --only-missing; or wait longer (--wait, or wait in the configuration)"
    )


def lacking(found: Sequence[Readiness]) -> str:
    """Return the needs that are not met, in words."""
    return "; ".join(str(one) for one in found if not one.is_met)


def longest_wait(project: Project, report: Report, asked: timedelta | None) -> float:
    """Return for how many seconds a report waits for its needs: `asked` (--wait) wins, then its own key."""
    return next(
        each for each in (asked, report.wait, project.refreshing.wait) if each is not None
    ).total_seconds()
