"""Compare sources and warehouse, slice by slice: `verify`.

plan ▶ which slices are complete ▶ ask sources and warehouse at once ▶ compare ▶ which sessions came meanwhile

Only complete slices are compared. A difference counts only when no session of the slice began, ended or ran while the
slice was measured: the session is opened before a load stages anything and closed after its publication, so without one
nothing was published in between. Else the slice is measured again. Nothing is written, and no lock is taken.

`adopt` compares in the same way, without sessions: whatever is complete, and whoever loaded the rows.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError
from dwhctl.core.waiting import caught_signals
from dwhctl.load.run import check_templates
from dwhctl.project.days import FIRST_DAY, LAST_DAY
from dwhctl.runtime.fanout import Asker
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.plan import LoadRequest, candidates
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.slots import Slots
from dwhctl.sessions import open_if_there
from dwhctl.verify.findings import (
    Check,
    Sessions,
    SliceComparison,
    SliceFinding,
    differences,
    ever_loaded,
    incomplete,
    is_loaded_whole,
    last_sessions_of,
    may_have_changed,
    missing,
    not_compared,
    odd_keys,
    unknown_sources,
    verdict_on,
)
from dwhctl.verify.questions import SourceQuestion, TableQuestion, TargetQuestion
from dwhctl.verify.row_differences import Case, SecondLook, chosen_cases, not_looked_into

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.sessions.store import SessionStore
    from dwhctl.sessions.values import LastSession
    from dwhctl.systems.base.fingerprint import Measure
    from dwhctl.systems.base.target import Target

LOOKS = 3
_IDS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What the user asked for. Empty `loads` means every load, empty `shards` every shard."""

    days: tuple[date, ...]
    loads: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    jobs: int | None = None


@dataclass(slots=True)
class VerifyReport:
    """What was found out; `unseen` names the loads whose extract hides the rows without a day."""

    verdicts: list[SliceComparison] = field(default_factory=list)
    unseen: tuple[str, ...] = ()
    before_start: int = 0
    after_end: int = 0

    def unknown_sources(self) -> tuple[int, int]:
        """Count the etl_sources that no shard has, and their rows."""
        rows = [
            int(each.warehouse or 0)
            for one in self.verdicts
            for each in one.findings
            if each.check is Check.UNKNOWN_SOURCE
        ]
        return len(rows), sum(rows)

    @property
    def is_fine(self) -> bool:
        """Tell whether every complete slice was compared and found equal."""
        return all(one.is_fine for one in self.verdicts)


def verify(
    project: Project, request: VerifyRequest, listen: Callable[[str], None] = lambda _: None
) -> VerifyReport:
    """Compare the slices of the request. `listen` is told what is being done.

    Raise ConfigError, UsageError, SessionsError when the sessions cannot be read, and Interrupted.
    """
    plan = candidates(project, LoadRequest(request.days, request.loads, request.shards))
    check_templates(project, plan)
    with caught_signals():
        store = open_if_there(project.sessions)
        if store is None:
            return VerifyReport([verdict_on(one, incomplete(None)) for one in plan.slices])
        with store:
            report = Verification(project, request, store, listen).run(plan.slices)
    report.before_start, report.after_end = plan.before_start, plan.after_end
    return report


def asker_for(project: Project, jobs: int | None) -> Asker:
    """Make what asks, within the limits of the project's connections."""
    state = StateDir(project.state_dir)
    limits = {name: connection.max_connections for name, connection in project.connections.items()}
    # Without a state folder there is no run beside which limits could be passed; reading makes none.
    slots = Slots(state.slots, limits if state.slots.is_dir() else {})
    return Asker(slots, jobs or project.max_workers)


class Verification:
    """One verification: its verdicts, look by look. Without a store it compares every slice, whoever loaded it."""

    def __init__(
        self,
        project: Project,
        request: VerifyRequest,
        store: SessionStore | None,
        listen: Callable[[str], None],
    ) -> None:
        self._project = project
        self._store = store
        self._listen = listen
        self._asker = asker_for(project, request.jobs)
        self._targets: Mapping[str, Target] = targets_of(project, "dwhctl:verify")
        self._known = _KnownSessions(store) if store is not None else None
        self._globs = request.shards
        self._unknown: list[SliceComparison] = []
        self._nulls: dict[tuple[str, str], int | AttemptError | None] = {}
        self._verdicts: dict[Slice, SliceComparison] = {}

    def run(self, slices: Sequence[PlannedSlice]) -> VerifyReport:
        """Look until nothing changes any more, three times at most."""
        with self._ended():
            measures = self._measures(slices)
            left = [one for one in slices if one.load.name in measures]
            for look in range(LOOKS):
                left = self._look(left, measures, first=look == 0, explain=True)
        for one in left:
            self._verdicts[one.slice] = verdict_on(one, ever_loaded())
        unseen = {load for (load, _), found in self._nulls.items() if found is None}
        verdicts = [self._verdicts[one.slice] for one in slices]
        return VerifyReport([*verdicts, *self.of_no_slice()], tuple(sorted(unseen)))

    def in_batches(self, batches: Sequence[Sequence[PlannedSlice]]) -> Generator[list[SliceComparison]]:
        """Give the verdicts of one batch of slices after the other: no more of them are kept."""
        with self._ended():
            measures = self._measures([one for batch in batches for one in batch])
            for number, batch in enumerate(batches):
                known = [one for one in batch if one.load.name in measures]
                self._look(known, measures, first=number == 0)
                yield [self._verdicts.pop(one.slice) for one in batch]

    def of_no_slice(self) -> list[SliceComparison]:
        """Give the verdicts on rows that belong to no slice: without a day, or of an unknown source."""
        return [*self._without_day(), *self._unknown]

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """End what is still being asked when the block ends."""
        try:
            yield
        finally:
            for target in self._targets.values():
                target.interrupt()
            self._asker.wait_for_the_rest()

    def _is_compared(self, one: PlannedSlice, last: LastSession | None) -> bool:
        return self._store is None or is_loaded_whole(one, last)

    def _without_day(self) -> Iterator[SliceComparison]:
        """Tell of the rows whose day is NULL."""
        for (load, shard), found in sorted(self._nulls.items(), key=lambda item: item[0]):
            column = self._project.loads[load].slice_by
            if isinstance(found, AttemptError):
                detail = f"rows whose {column} is NULL: {found}"
                yield SliceComparison(load, shard, None, [SliceFinding(Check.NOT_COMPARED, detail=detail)])
            elif found:
                detail = f"{column} is NULL: no slice will ever take these rows"
                yield SliceComparison(
                    load, shard, None, [SliceFinding(Check.ROWS_IN_NO_SLICE, str(found), None, detail)]
                )

    # Asking

    def _measures(self, slices: Sequence[PlannedSlice]) -> dict[str, Measure]:
        """Find what is measured of each load; the slices of one that has no table are not compared."""
        last = self._last(slices)
        loads = {one.load.name: one.load for one in slices}
        questions = [
            TableQuestion(self._project, load, self._targets[load.target]) for load in loads.values()
        ]
        self._asker.run(questions)
        failed = {each.load.name: each.failure for each in questions if each.failure is not None}
        for one in slices:
            if not self._is_compared(one, last[one.slice]):
                self._verdicts[one.slice] = verdict_on(one, incomplete(last[one.slice]))
            elif one.load.name in failed:
                self._verdicts[one.slice] = verdict_on(one, not_compared(failed[one.load.name]))
        for each in questions:
            self._unknown += unknown_sources(self._project, each.load, each.sources, self._globs)
        return {each.load.name: each.measure for each in questions if each.measure is not None}

    def _look(
        self,
        slices: Sequence[PlannedSlice],
        measures: Mapping[str, Measure],
        *,
        first: bool,
        explain: bool = False,
    ) -> list[PlannedSlice]:
        """Look at the slices once; give those of which something is to be told, but that were loaded meanwhile.

        `explain`: also find which rows differ.
        """
        before = self._last(slices)
        for one in slices:
            if not self._is_compared(one, before[one.slice]):
                self._verdicts[one.slice] = verdict_on(one, incomplete(before[one.slice]))
        chosen = [one for one in slices if self._is_compared(one, before[one.slice])]
        if not chosen:
            return []
        self._listen(f"comparing {len(chosen):,} slices")
        sources = list(self._source_questions(chosen, measures, nulls=first))
        targets = list(self._target_questions(chosen, measures))
        busy = self._busy()
        self._asker.run([*targets, *sources])
        busy |= self._busy()
        for question in sources:
            self._nulls |= {(load, question.shard.name): found for load, found in question.nulls.items()}
        cases = self._judge(sources, targets, busy)
        if explain and cases:
            self._explain(cases, measures)
        after = self._last(chosen)
        return [
            one
            for one in chosen
            if not self._verdicts[one.slice].is_equal
            and may_have_changed(before[one.slice], after[one.slice])
        ]

    def _source_questions(
        self, slices: Sequence[PlannedSlice], measures: Mapping[str, Measure], *, nulls: bool
    ) -> Iterator[SourceQuestion]:
        by_shard: dict[Shard, list[PlannedSlice]] = {}
        for one in slices:
            by_shard.setdefault(one.shard, []).append(one)
        for shard, of_shard in by_shard.items():
            yield SourceQuestion(self._project, shard, of_shard, measures, nulls=nulls)

    def _target_questions(
        self, slices: Sequence[PlannedSlice], measures: Mapping[str, Measure]
    ) -> Iterator[TargetQuestion]:
        by_work: dict[tuple[str, date], list[PlannedSlice]] = {}
        for one in slices:
            by_work.setdefault((one.load.name, one.slice.day), []).append(one)
        for (name, _), of_work in by_work.items():
            load = of_work[0].load
            yield TargetQuestion(self._project, load, self._targets[load.target], of_work, measures[name])

    # Judging

    def _judge(
        self, sources: Iterable[SourceQuestion], targets: Sequence[TargetQuestion], busy: set[tuple[str, str]]
    ) -> list[Case]:
        """Give each slice its verdict; return those with rows on both sides that differ."""
        cases = []
        fingerprints = {one: found for question in sources for one, found in question.fingerprints.items()}
        failures = {one: error for question in sources for one, error in question.failures.items()}
        for question in targets:
            for one in question.slices:
                failure = question.failure or failures.get(one.slice)
                if failure is not None:
                    self._verdicts[one.slice] = verdict_on(one, not_compared(failure))
                    continue
                source, warehouse = fingerprints[one.slice], question.fingerprints[one.shard.name]
                findings = differences(question.measure, source, warehouse)
                if findings and source.rows and warehouse.rows:
                    cases.append(Case(one, max(source.rows, warehouse.rows)))
                elif findings:
                    table = one.load.table if source.rows else "the source"
                    findings = [missing(table, source.rows or warehouse.rows, here=not source.rows)]
                findings += self._oddities(question, one, busy)
                self._verdicts[one.slice] = verdict_on(one, *findings, rows=source.rows)
        return cases

    def _explain(self, cases: Sequence[Case], measures: Mapping[str, Measure]) -> None:
        """Look into slices that differ, and put what was found into their verdicts."""
        chosen = chosen_cases(cases)
        self._listen(f"looking for the rows that differ in {len(chosen):,} of {len(cases):,} slices")
        SecondLook(self._project, self._asker, self._targets, measures).look_into(chosen)
        looked_into = {case.planned.slice for case in chosen}
        for case in cases:
            load = case.planned.load
            verdict = self._verdicts[case.planned.slice]
            if case.planned.slice in looked_into:
                verdict.findings = case.explained(verdict.findings, measures[load.name], load.table)
            else:
                verdict.findings = not_looked_into(verdict.findings)

    def _oddities(
        self, question: TargetQuestion, one: PlannedSlice, busy: set[tuple[str, str]]
    ) -> Iterator[SliceFinding]:
        """Tell what the warehouse should not hold, whatever the source says."""
        shard = one.shard.name
        if (odd := question.doubled.get(shard)) is not None:
            yield odd_keys(Check.DOUBLED_KEYS, question.measure, odd)
        # Of a shard that is being loaded another day may be about to give up a row that this day has by now.
        if (odd := question.elsewhere.get(shard)) is not None and (one.load.name, shard) not in busy:
            yield odd_keys(Check.KEYS_IN_OTHER_SLICES, question.measure, odd)
        strange = {
            etl_id: rows
            for (of, etl_id), rows in question.sessions.items()
            if of == shard and self._known is not None and not self._known(one, etl_id)
        }
        if strange:
            ids = ", ".join(map(str, sorted(strange)[:_IDS_SHOWN]))
            more = f" and {len(strange) - _IDS_SHOWN} more" if len(strange) > _IDS_SHOWN else ""
            yield SliceFinding(
                Check.ROWS_OF_NO_SESSION, None, str(sum(strange.values())), f"etl_id {ids}{more}"
            )

    # Sessions

    def _busy(self) -> set[tuple[str, str]]:
        """Name the loads and shards of which some day is being loaded."""
        return set() if self._store is None else self._store.running_tasks()

    def _last(self, slices: Sequence[PlannedSlice]) -> Sessions:
        if self._store is None:
            return {one.slice: None for one in slices}
        return last_sessions_of(self._project, self._store, slices)


class _KnownSessions:
    """Tells whether an etl_id may be in a slice: that of a successful session of its load and shard.

    Of a slice that was adopted, and not loaded since, another tool wrote the rows: any etl_id may be in it.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._of_days: dict[tuple[str, date], set[tuple[str, int]]] = {}
        self._others: set[tuple[str, str, int]] = set()
        self._adopted: dict[tuple[str, date | None], set[str]] = {}

    def __call__(self, one: PlannedSlice, etl_id: int) -> bool:
        load, shard = one.load.name, one.shard.name
        if (shard, etl_id) in self._of_day(load, one.slice.day) or (load, shard, etl_id) in self._others:
            return True
        if self._is_adopted(one):
            return True
        # Of another day, or newer than what was read of this one.
        if found := self._store.is_successful(load, shard, etl_id):
            self._others.add((load, shard, etl_id))
        return found

    def _is_adopted(self, one: PlannedSlice) -> bool:
        load, day = one.load.name, one.slice.day if one.load.slice_by else None
        if (load, day) not in self._adopted:
            self._adopted[load, day] = self._store.adopted_shards(load, day or FIRST_DAY, day or LAST_DAY)
        return one.shard.name in self._adopted[load, day]

    def _of_day(self, load: str, day: date) -> set[tuple[str, int]]:
        if (load, day) not in self._of_days:
            self._of_days[load, day] = self._store.successful_ids(load, day, day)
        return self._of_days[load, day]
