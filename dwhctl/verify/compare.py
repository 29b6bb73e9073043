"""The comparison of two sides, slice by slice, whatever the sides are.

plan ▶ which slices are complete ▶ measure both sides ▶ compare ▶ explain ▶ which sessions came meanwhile

Only complete slices are compared. A difference counts only when no session of the slice began, ended or ran while the
slice was measured: the session is opened before a load stages anything and closed after its publication, so without one
nothing was published in between. Otherwise the slice is measured again. Nothing is written, and no lock is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from datetime import date
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.errors import AttemptError
from dwhctl.monitor.coverage import grouped
from dwhctl.project.days import FIRST_DAY, LAST_DAY, Slice
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import LastSession, State, is_complete
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from dwhctl.verify.checks import SliceReader
from dwhctl.verify.findings import (
    Check,
    Explanation,
    SliceComparison,
    SliceFinding,
    differences,
    incomplete,
    missing,
    not_compared,
    result_of,
)

Sessions = Mapping[Slice, LastSession | None]

_MOST_ROUNDS = 3


class Pair(Struct, frozen=True):
    """What the two sides hold of a slice, and findings that are no differences between them."""

    planned: PlannedSlice
    measure: Measure
    ours: Fingerprint
    theirs: Fingerprint
    others: Sequence[SliceFinding] = ()


class Sides(ABC):
    """Supplies what the two sides of a comparison hold. In a finding `source` is the first, `warehouse` the second."""

    #: Follows "comparing N slices".
    what = ""

    def __init__(self, project: Project, jobs: int | None) -> None:
        self._project = project
        self._reader = SliceReader(project, jobs)
        self.close = self._reader.close

    @abstractmethod
    def names(self, load: Load) -> tuple[str, str]:
        """Return what the sides are called in messages."""

    @abstractmethod
    def describe(
        self, slices: Sequence[PlannedSlice], *, are_some_complete: bool
    ) -> Mapping[str, AttemptError]:
        """Find out what the tables of all slices are, complete or not; return the failures by load."""

    @abstractmethod
    def measure(self, slices: Sequence[PlannedSlice]) -> Mapping[Slice, Pair | AttemptError]:
        """Measure each slice on both sides."""

    @abstractmethod
    def explain(self, pairs: Sequence[Pair]) -> Mapping[Slice, Explanation]:
        """Find the rows that differ in slices of which both sides have rows."""

    @abstractmethod
    def of_no_slice(self) -> list[SliceComparison]:
        """Return the results on rows that belong to no slice that was compared."""

    def unseen(self) -> tuple[str, ...]:
        """Return the loads whose extract hides the rows without a day."""
        return ()


class Comparison:
    """One comparison. Without a store it compares every slice, whatever loaded it."""

    def __init__(
        self,
        project: Project,
        sides: Sides,
        store: SessionStore | None,
        listen: Callable[[str], None],
    ) -> None:
        self._project = project
        self._sides = sides
        self._store = store
        self._listen = listen
        self._results: dict[Slice, SliceComparison] = {}

    def run(self, slices: Sequence[PlannedSlice]) -> list[SliceComparison]:
        """Compare until nothing changes any more, three times at most."""
        with closing(self._sides):
            left = self._describe(slices)
            for _ in range(_MOST_ROUNDS):
                left = self._compare(left, explain=True)
        for planned in left:
            detail = "it was loaded during each comparison; verify it again"
            self._results[planned.slice] = result_of(planned, SliceFinding(Check.NOT_COMPARED, detail=detail))
        return [*(self._results[planned.slice] for planned in slices), *self._sides.of_no_slice()]

    def in_batches(self, batches: Sequence[Sequence[PlannedSlice]]) -> Generator[list[SliceComparison]]:
        """Yield the results of one batch after another, and keep none of them."""
        with closing(self._sides):
            described = {planned.slice for planned in self._describe([*chain.from_iterable(batches)])}
            for batch in batches:
                self._compare([planned for planned in batch if planned.slice in described])
                yield [self._results.pop(planned.slice) for planned in batch]

    def _describe(self, slices: Sequence[PlannedSlice]) -> list[PlannedSlice]:
        complete, _ = self._complete(slices)
        failed = self._sides.describe(slices, are_some_complete=bool(complete))
        for planned in complete:
            if (error := failed.get(planned.load.name)) is not None:
                self._results[planned.slice] = result_of(planned, not_compared(error))
        return [planned for planned in complete if planned.load.name not in failed]

    def _complete(self, slices: Sequence[PlannedSlice]) -> tuple[list[PlannedSlice], Sessions]:
        if self._store is None:
            return list(slices), dict.fromkeys(planned.slice for planned in slices)
        last = last_sessions_of(self._project, self._store, slices)
        complete = []
        for planned in slices:
            if is_complete(last[planned.slice], planned.slice.end_at):
                complete.append(planned)
            else:
                self._results[planned.slice] = result_of(planned, incomplete(last[planned.slice]))
        return complete, last

    def _compare(self, slices: Sequence[PlannedSlice], *, explain: bool = False) -> list[PlannedSlice]:
        chosen, before = self._complete(slices)
        if not chosen:
            return []
        self._listen(f"comparing {len(chosen):,} slices{self._sides.what}")
        pairs = self._sides.measure(chosen)
        differing = [pair for planned in chosen if (pair := self._record(planned, pairs[planned.slice]))]
        if explain and differing:
            for slice_, explanation in self._sides.explain(differing).items():
                result = self._results[slice_]
                result.findings = explanation.put_into(result.findings)
        changed = [planned for planned in chosen if not self._results[planned.slice].is_equal]
        if self._store is None or not changed:
            return []
        after = last_sessions_of(self._project, self._store, changed)
        return [
            planned for planned in changed if _may_have_changed(before[planned.slice], after[planned.slice])
        ]

    def _record(self, planned: PlannedSlice, pair: Pair | AttemptError) -> Pair | None:
        """Record the result on a slice; return the pair when both sides have rows, and differ."""
        if not isinstance(pair, Pair):
            self._results[planned.slice] = result_of(planned, not_compared(pair))
            return None
        ours, theirs = pair.ours.rows, pair.theirs.rows
        found = differences(pair.measure, pair.ours, pair.theirs)
        is_explained = bool(found and ours and theirs)
        if found and not is_explained:
            name = self._sides.names(planned.load)[bool(ours)]
            found = [missing(name, ours or theirs, here=not ours)]
        self._results[planned.slice] = result_of(planned, *found, *pair.others, rows=ours)
        return pair if is_explained else None


def last_sessions_of(project: Project, store: SessionStore, slices: Sequence[PlannedSlice]) -> Sessions:
    """Return the latest session of each slice; the slice of a load without days has the sessions of all days."""
    last: dict[tuple[str, str, date | None], LastSession] = {}
    for name, of_load in grouped(slices, lambda planned: planned.load.name).items():
        sliced = project.loads[name].slice_by is not None
        days = {planned.slice.day for planned in of_load}
        first, final = (min(days), max(days)) if sliced else (FIRST_DAY, LAST_DAY)
        found = store.last_sessions(name, first, final)
        for session in sorted(found, key=lambda session: session.started):
            key = (name, session.shard, session.day if sliced else None)
            successes = [session.last_success, last[key].last_success if key in last else None]
            last[key] = replace(session, last_success=max(filter(None, successes), default=None))
    return {
        planned.slice: last.get(
            (planned.load.name, planned.shard.name, planned.slice.day if planned.load.slice_by else None)
        )
        for planned in slices
    }


def _may_have_changed(before: LastSession | None, after: LastSession | None) -> bool:
    """Return whether a load may have published the slice in between: a running one may publish at any time."""
    return after != before or (after is not None and after.state is State.RUNNING)
