"""What a run will do: which slices of which loads, in which order, and about how long it takes."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import date, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.errors import UsageError
from dwhctl.core.words import quoted
from dwhctl.project.days import Slice, make_slice
from dwhctl.project.names import as_asked, find_load, in_project, meant
from dwhctl.sessions import open_if_there
from dwhctl.sessions.values import LastSession, is_complete, is_good

if TYPE_CHECKING:
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore


Name = tuple[str, str, "date"]


class LoadRequest(Struct, frozen=True):
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


class PlannedSlice(Struct, frozen=True):
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


class Plan(Struct, frozen=True):
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
    newest = max(request.days, default=None)
    for day in dict.fromkeys(request.days):
        for load, shards in tasks:
            # Its rows are those of now: the newest day decides which shards are expected.
            if load.slice_by is None and day != newest:
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


def narrowed(plan: Plan, request: LoadRequest, store: SessionStore | None) -> Plan:
    """Leave out the slices that the request excludes by their sessions; without a store there are none."""
    last = _last_sessions(store, plan) if store and (request.only_missing or request.only_failed) else {}
    if request.only_missing:
        done = (
            planned.name
            for planned in plan.slices
            if is_complete(last.get(planned.name), planned.slice.end_at)
        )
        plan = without_complete(plan, done)
    if request.only_failed:
        # A running session may be that of a dead run: it is reaped before the slice is checked again.
        plan = only_failed(plan, (name for name, session in last.items() if not is_good(session.state)))
    return plan


def _last_sessions(store: SessionStore, plan: Plan) -> dict[Name, LastSession]:
    """Return the last session of each slice of the plan's loads and days."""
    days: dict[str, list[date]] = {}
    for planned in plan.slices:
        days.setdefault(planned.load.name, []).append(planned.slice.day)
    return {
        (session.load, session.shard, session.day): session
        for load, of_load in days.items()
        for session in store.last_sessions(load, min(of_load), max(of_load))
    }


def seconds_of(store: SessionStore, plan: Plan) -> dict[tuple[str, str], float]:
    """Read the mean seconds of the plan's slices, by load and shard; one that was never loaded has none."""
    shards: dict[str, set[str]] = {}
    for planned in plan.slices:
        shards.setdefault(planned.load.name, set()).add(planned.shard.name)
    return {
        (load, shard): seconds
        for load, of_load in shards.items()
        for shard, seconds in store.durations(load, _OF_EACH_SHARD * len(of_load)).items()
        if shard in of_load
    }


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


#: So many sessions of each shard, and so many of all, are read: enough to average, few enough to be quick.
_OF_EACH_SHARD = 20
_OF_ALL = 20_000


class Past(Struct, frozen=True):
    """Mean seconds of the sessions of a load and shard, and how many sessions a run had open at once."""

    seconds: Mapping[tuple[str, str], float]
    open_at_once: float = 1.0


NO_PAST = Past({})


class Forecast(Struct, frozen=True):
    """About how many seconds a plan takes with so many workers; None when nothing like it was ever loaded."""

    seconds: float | None
    workers: int


def foresee(project: Project, request: LoadRequest, plan: Plan) -> Forecast:
    """Return about how long a plan takes with the workers of the request. Touches nothing."""
    store = open_if_there(project.sessions)
    with store or nullcontext():
        past = past_of(store, plan) if store is not None else NO_PAST
    return forecast(plan, past, jobs_at_once(project, request, plan), project.max_workers)


def jobs_at_once(project: Project, request: LoadRequest, plan: Plan) -> int:
    """Return how many workers the run has at most."""
    wanted = request.jobs or project.max_workers
    return max(1, min(wanted, project.max_workers, sum(planned.load.split for planned in plan.slices)))


def past_of(store: SessionStore, plan: Plan) -> Past:
    """Read how long the plan's loads took recently."""
    return Past(seconds_of(store, plan), open_at_once(store.run_durations(_OF_ALL)))


def open_at_once(runs: Iterable[tuple[float, float]]) -> float:
    """Return how many sessions are open at once in the run to which the median session second belongs.

    Each run is its sessions' seconds added up, and its seconds by the clock: many small runs, or one that waited
    an hour for a retry, say little about a large one.
    """
    rates = sorted((sum_ / clock, sum_) for sum_, clock in runs if sum_ > 0 and clock > 0)
    left = sum(sum_ for _, sum_ in rates) / 2
    for rate, sum_ in rates:
        left -= sum_
        if left <= 0:
            return rate
    return 1.0


def forecast(plan: Plan, past: Past, workers: int, usual_workers: int) -> Forecast:
    """Return about how long the plan takes with `workers`, where past runs had `usual_workers`."""
    counts = Counter((planned.load.name, planned.shard.name) for planned in plan.slices)
    known = [past.seconds[task] for task in counts if task in past.seconds]
    if not known:
        return Forecast(None, workers)
    # A slice that was never loaded counts as an average one.
    usual = sum(known) / len(known)
    total = sum(count * past.seconds.get(task, usual) for task, count in counts.items())
    return Forecast(total / past.open_at_once * usual_workers / workers, workers)
