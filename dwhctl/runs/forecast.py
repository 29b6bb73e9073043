"""About how long a plan will take, from what past sessions took.

A session lasts from the start of its attempt to its publication, and a staged slice waits for the others of its
group without a worker: many more sessions are open at once than there are workers. So the seconds of the plan's
slices are not divided by the workers alone but by as many sessions as were open at once in the last runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dwhctl.runs.plan import Plan
    from dwhctl.sessions.store import SessionStore

    Seconds = Mapping[tuple[str, str], float]

#: So many sessions of each shard, and so many of all, are looked at: enough to average, few enough to be quick.
_OF_EACH_SHARD = 20
_OF_ALL = 20_000


@dataclass(frozen=True, slots=True)
class Past:
    """Mean seconds of the sessions of a load and shard, and how many sessions a run had open at once."""

    seconds: Seconds
    open_at_once: float = 1.0


NO_PAST = Past({})


@dataclass(frozen=True, slots=True)
class Forecast:
    """About how many seconds a plan takes with so many workers; None when nothing like it was ever loaded."""

    seconds: float | None
    workers: int


def past_of(store: SessionStore, plan: Plan) -> Past:
    """Read what the plan's loads took lately."""
    runs = store.read("reading how long runs took", "runs_lately", {"newest": _OF_ALL})
    return Past(
        seconds_of(store, plan), open_at_once((float(sum_ or 0), float(clock or 0)) for sum_, clock in runs)
    )


def seconds_of(store: SessionStore, plan: Plan) -> dict[tuple[str, str], float]:
    """Read the mean seconds of the plan's slices, by load and shard; one that was never loaded has none."""
    shards: dict[str, set[str]] = {}
    for one in plan.slices:
        shards.setdefault(one.load.name, set()).add(one.shard.name)
    return {
        (load, shard): seconds
        for load, of_load in shards.items()
        for shard, seconds in store.durations(load, _OF_EACH_SHARD * len(of_load)).items()
        if shard in of_load
    }


def open_at_once(runs: Iterable[tuple[float, float]]) -> float:
    """Give how many sessions are open at once in the run to which the middle session second belongs.

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
    """Say about how long the plan takes with `workers`, where past runs had `usual_workers`."""
    counts = Counter((one.load.name, one.shard.name) for one in plan.slices)
    known = [past.seconds[task] for task in counts if task in past.seconds]
    if not known:
        return Forecast(None, workers)
    # What was never loaded is taken for one like the others.
    usual = sum(known) / len(known)
    total = sum(count * past.seconds.get(task, usual) for task, count in counts.items())
    return Forecast(total / past.open_at_once * usual_workers / workers, workers)
