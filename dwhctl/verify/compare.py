"""Compare a load's table with one that another tool filled: `verify --against`.

plan ▶ which slices are complete ▶ what both tables are ▶ measure both, day by day ▶ which sessions came meanwhile

The sources are not asked. The other tool has no sessions here: its table is taken as it stands.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.project.fields import table_problem
from dwhctl.runtime.plan import LoadRequest, candidates, chosen_loads
from dwhctl.runtime.prepare import targets_of
from dwhctl.sessions import open_if_there
from dwhctl.verify.findings import (
    Check,
    SliceComparison,
    SliceFinding,
    ever_loaded,
    incomplete,
    is_loaded_whole,
    last_sessions_of,
    may_have_changed,
    not_compared,
    verdict_on,
)
from dwhctl.verify.run import LOOKS, VerifyReport, VerifyRequest, asker_for
from dwhctl.verify.table_questions import SlicesQuestion, TablesQuestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date

    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.sessions.store import SessionStore
    from dwhctl.verify.findings import Sessions
    from dwhctl.verify.table_questions import Measures


def verify_against(
    project: Project, request: VerifyRequest, table: str, listen: Callable[[str], None] = lambda _: None
) -> VerifyReport:
    """Compare the slices of the one load of the request with those of `table`. `listen` is told what is being done.

    In a finding `source` is what the load's table holds, `warehouse` what `table` holds. Raise UsageError, also for a
    table that lacks a column by which the two are compared, AttemptError when the tables cannot be described,
    SessionsError when the sessions cannot be read, and Interrupted.
    """
    load = _the_load(project, request, table)
    plan = candidates(project, LoadRequest(request.days, request.loads, request.shards))
    with caught_signals():
        store = open_if_there(project.sessions)
        if store is None:
            report = VerifyReport([verdict_on(one, incomplete(None)) for one in plan.slices])
        else:
            with store:
                report = _Comparison(project, request, store, load, table, listen).run(plan.slices)
    report.before_start, report.after_end = plan.before_start, plan.after_end
    return report


def _the_load(project: Project, request: VerifyRequest, table: str) -> Load:
    if len(request.loads) != 1:
        raise UsageError(
            "--against compares the table of one load; name it: verify NAME --against SCHEMA.TABLE --date D"
        )
    if problem := table_problem(table):
        raise UsageError(f"--against: {problem}")
    load = chosen_loads(project, request.loads)[0]
    if load.table.lower() == table.lower():
        raise UsageError(f"--against {table} is the table that is to be compared with it: name the other one")
    return load


class _Comparison:
    """One comparison: its verdicts, look by look."""

    def __init__(
        self,
        project: Project,
        request: VerifyRequest,
        store: SessionStore,
        load: Load,
        table: str,
        listen: Callable[[str], None],
    ) -> None:
        self._project = project
        self._globs = request.shards
        self._store = store
        self._load = load
        self._table = table
        self._listen = listen
        self._asker = asker_for(project, request.jobs)
        self._target = targets_of(project, "dwhctl:verify")[load.target]
        self._verdicts: dict[Slice, SliceComparison] = {}
        self._strangers: dict[date, list[SliceComparison]] = {}

    def run(self, slices: Sequence[PlannedSlice]) -> VerifyReport:
        """Look until nothing changes any more, three times at most."""
        try:
            left, _ = self._complete(slices)
            measures = self._measures() if left else None
            for _ in range(LOOKS):
                if left and measures is not None:
                    left = self._look(left, slices, measures)
        finally:
            self._target.interrupt()
            self._asker.wait_for_the_rest()
        for one in left:
            self._verdicts[one.slice] = verdict_on(one, ever_loaded())
        unknown_sources = [one for day in sorted(self._strangers) for one in self._strangers[day]]
        return VerifyReport([*(self._verdicts[one.slice] for one in slices), *unknown_sources])

    def _complete(self, slices: Sequence[PlannedSlice]) -> tuple[list[PlannedSlice], Sessions]:
        """Give the complete slices, and the sessions that say so; the others have their verdict."""
        last = last_sessions_of(self._project, self._store, slices)
        for one in slices:
            if not is_loaded_whole(one, last[one.slice]):
                self._verdicts[one.slice] = verdict_on(one, incomplete(last[one.slice]))
        return [one for one in slices if is_loaded_whole(one, last[one.slice])], last

    def _measures(self) -> Measures:
        question = TablesQuestion(self._project, self._load, self._target, self._table)
        self._asker.run([question])
        return question.measures()

    def _look(
        self, slices: Sequence[PlannedSlice], planned: Sequence[PlannedSlice], measures: Measures
    ) -> list[PlannedSlice]:
        """Look at the slices once; give those of which something is to be told, but that were loaded meanwhile."""
        chosen, before = self._complete(slices)
        self._listen(f"comparing {len(chosen):,} slices of {self._load.table} and {self._table}")
        questions = list(self._questions(chosen, measures))
        self._asker.run(questions)
        for question in questions:
            self._judge(question, planned)
        after = last_sessions_of(self._project, self._store, chosen)
        return [
            one
            for one in chosen
            if not self._verdicts[one.slice].is_equal
            and may_have_changed(before[one.slice], after[one.slice])
        ]

    def _questions(self, slices: Iterable[PlannedSlice], measures: Measures) -> Iterator[SlicesQuestion]:
        days: dict[date, list[PlannedSlice]] = {}
        for one in slices:
            days.setdefault(one.slice.day, []).append(one)
        for of_day in days.values():
            yield SlicesQuestion(self._project, self._load, self._target, self._table, of_day, measures)

    def _judge(self, question: SlicesQuestion, planned: Sequence[PlannedSlice]) -> None:
        for one in question.slices:
            if question.failure is not None:
                self._verdicts[one.slice] = verdict_on(one, not_compared(question.failure))
                continue
            rows = question.ours[one.shard.name].rows
            self._verdicts[one.slice] = verdict_on(one, *question.findings(one), rows=rows)
        if question.failure is None:
            day = question.slices[0].slice.day
            known = {one.shard.name for one in planned if one.slice.day == day}
            self._strangers[day] = list(self._only_there(question, day, known))

    def _only_there(self, question: SlicesQuestion, day: date, known: set[str]) -> Iterator[SliceComparison]:
        """Tell of the etl_sources that stand in the other table alone."""
        for name, rows in sorted(question.unknown_sources.items()):
            if name in known or (
                self._globs and not any(fnmatch.fnmatchcase(name, each) for each in self._globs)
            ):
                continue
            detail = f"the load has no such shard on that day, and {self._load.table} no such rows"
            found = SliceFinding(Check.SHARD_ONLY_THERE, "0", str(rows), detail)
            yield SliceComparison(self._load.name, name, day, [found])
