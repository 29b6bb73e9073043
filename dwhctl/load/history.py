"""Which columns each shard has delivered: `on_new_column = "add"` fills only the others with NULL.

The memory is the table `dwhctl_columns` of the sessions database. A column is delivered when a slice with it, and with
rows, is published. Of a shard that the memory does not know (an upgrade, a new sessions database) the target is asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.errors import SchemaDriftError, UsageError
from dwhctl.project.names import shadow_name
from dwhctl.runtime.messages import Failure

if TYPE_CHECKING:
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import Plan
    from dwhctl.sessions.store import SessionStore


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.project.loads import Load
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Publication, StagedSlice

    #: Asks a target which of these columns hold a value in any row of these shards, by shard.
    HeldValues = Callable[[Sequence[str], Sequence[str]], Mapping[str, frozenset[str]]]


class DeliveredColumns:
    """The columns that shards have delivered, in lower case, with their declared types. Any thread may use it."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._known: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, load: Load, shard: str) -> Mapping[str, str]:
        """Return the columns that a shard has delivered; none when it has delivered nothing yet."""
        own = self._of_name(load.name).get(shard, {})
        # A shadow run reads the same shards with the same extract.
        return self._of_name(load.shadow_of).get(shard, {}) | own if load.shadow_of else own

    def dropped(
        self, publication: Publication, load: Load, slices: Sequence[StagedSlice]
    ) -> dict[str, Failure]:
        """Return the failure of each slice, by token, in which NULL would replace a column that its shard delivered."""
        slices = [one for one in slices if one.filled]
        if not slices:
            return {}
        self.read_again(load)
        return {
            one.token: Failure.of(dropped_error(one.slice.shard, gone))
            for one in slices
            if (gone := lost_columns(self, load, one.slice.shard, one.filled, publication.held_values))
        }

    def remember(self, load: Load, slices: Sequence[StagedSlice]) -> None:
        """Remember the columns of slices that are about to be committed: a crash after the commit forgets none."""
        known = self._of_name(load.name)
        new = [
            (one.slice.shard, name, declared)
            for one in slices
            if one.rows
            for name, declared in one.columns.items()
            if known.get(one.slice.shard, {}).get(name) != declared
        ]
        if not new:
            return
        self._store.remember_columns(load.name, new)
        for shard, name, declared in new:
            known.setdefault(shard, {})[name] = declared

    def read_again(self, load: Load) -> None:
        """Forget what was read: other runs may have published since."""
        for name in (load.name, load.shadow_of):
            self._known.pop(name or "", None)

    def _of_name(self, load: str) -> dict[str, dict[str, str]]:
        if load not in self._known:
            self._known[load] = self._store.delivered_columns(load)
        return self._known[load]


def lost_columns(
    delivered: DeliveredColumns | None,
    load: Load,
    shard: str,
    filled: Mapping[str, str],
    held_values: HeldValues,
) -> dict[str, str]:
    """Return those of the columns to be filled with NULL that the shard has delivered before."""
    if delivered is not None and (known := delivered.of(load, shard)):
        return {name: known[name] for name in filled if name in known}
    held = held_values([shard], list(filled)).get(shard, frozenset())
    return {name: declared for name, declared in filled.items() if name in held}


def dropped_error(shard: str, columns: Mapping[str, str]) -> SchemaDriftError:
    """Say that a shard lacks columns that it delivered before, and what to do."""
    return SchemaDriftError(dropped_words(shard, columns))


def dropped_words(shard: str, columns: Mapping[str, str]) -> str:
    """Name the columns, and the two remedies: `columns` are declared types by name."""
    names = ", ".join(columns)
    # An ENUM's declaration does not carry its values.
    casts = ", ".join(
        f"CAST(NULL AS {'VARCHAR' if declared == 'ENUM' else declared}) AS {name}"
        for name, declared in columns.items()
    )
    return (
        f"column {names} is missing in the shard {shard}, which delivered it before: NULL would replace its values."
        f" Restore the column; or, if {shard} has it no longer, say so in the extract: {casts}"
        f" (between {{% if shard.name == '{shard}' %}} and {{% endif %}} where other shards have it)"
    )


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dwhctl.runtime.plan import Plan
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
    return Past(seconds_of(store, plan), open_at_once(store.run_durations(_OF_ALL)))


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


def refuse_shared_shadows(project: Project, store: SessionStore, plan: Plan) -> None:
    """Raise UsageError for a table that another load's shadow run goes into: each would replace the other's rows."""
    for shadow in _shadows(plan):
        for other in project.loads.values():
            if other.target != shadow.target or other.name in (shadow.name, shadow.shadow_of):
                continue
            if store.has_sessions(shadow_name(other.name, shadow.table)):
                raise UsageError(
                    f"--table {shadow.table}: shadow runs of the load '{other.name}' went into it;"
                    f" give '{shadow.shadow_of}' a table of its own"
                )


def first_shadows(store: SessionStore, plan: Plan) -> list[Load]:
    """Give the shadows of the plan that have no session yet: their tables may be older than the sessions table."""
    return [shadow for shadow in _shadows(plan) if not store.has_sessions(shadow.name)]


def _shadows(plan: Plan) -> list[Load]:
    loads = {one.load.name: one.load for one in plan.slices}
    return [load for load in loads.values() if load.shadow_of is not None]
