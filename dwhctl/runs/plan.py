"""What a run will do: which slices of which loads, in which order."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import UsageError
from dwhctl.project.names import find_load, meant
from dwhctl.project.slices import Slice, make_slice
from dwhctl.project.words import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dwhctl.project.model import Load, Project, Shard

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
