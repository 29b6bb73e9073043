"""Record the days that another tool loaded as complete, where sources and warehouse are equal: `adopt`.

plan ▶ lock load and day ▶ reap dead runs ▶ leave out what is complete ▶ compare a batch ▶ write its sessions ▶ the next

The rows stay as they are. Each equal slice gets a closed session of its own, in the state `loaded` (`skipped` where
neither side has a row), with the attempt 0. The sessions of a batch are one transaction: a run that is killed has
adopted whole batches, and the same command continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import chain, groupby

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.faults import reach
from dwhctl.core.waiting import caught_signals
from dwhctl.load.run import check_templates
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.runtime.events import Listener, Notice, RunEnded, RunResult, RunStarted
from dwhctl.runtime.locks import StateDir, work_names
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.plan import LoadRequest, Plan, PlannedSlice, candidates, without_complete
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.run_context import RunContext, new_run_id
from dwhctl.runtime.slots import slots_of_run
from dwhctl.sessions import open_if_there
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import Adopted, is_complete
from dwhctl.verify.checks import batches
from dwhctl.verify.compare import Comparison, last_sessions_of
from dwhctl.verify.findings import Check, SliceComparison, not_compared, result_of
from dwhctl.verify.sources import SourceAndWarehouse

#: A batch takes whole days until it has so many slices: each shard is connected to once for each batch.
BATCH_SLICES = 5_000


class AdoptRequest(Struct, frozen=True):
    """What the user asked for. Empty `shards` means every shard of the load."""

    load: str
    days: tuple[date, ...]
    shards: tuple[str, ...] = ()
    jobs: int | None = None
    wait: timedelta = timedelta(0)
    command: str = "dwhctl adopt"
    dry_run: bool = False


@dataclass(slots=True)
class AdoptReport:
    """The result: `adopted` counts the slices with rows, `empty` those without any.

    `differing` has the slices that are not equal or could not be compared, `of_no_slice` rows that belong to no slice.
    """

    run_id: str
    plan: Plan
    adopted: int = 0
    empty: int = 0
    rows: int = 0
    seconds: float = 0.0
    differing: list[SliceComparison] = field(default_factory=list)
    of_no_slice: list[SliceComparison] = field(default_factory=list)

    def take(self, results: Iterable[SliceComparison]) -> list[SliceComparison]:
        """Count the results, and return those on slices that are equal."""
        equal = []
        for result in results:
            if not result.is_equal:
                self.differing.append(result)
                continue
            equal.append(result)
            self.adopted += bool(result.rows)
            self.empty += not result.rows
            self.rows += result.rows or 0
        return equal

    def different(self) -> list[SliceComparison]:
        """Return the results on slices that a load has to replace."""
        return [result for result in self.differing if not result.has(Check.NOT_COMPARED)]

    def not_compared(self) -> list[SliceComparison]:
        """Return the results on slices of which one side did not answer."""
        return [result for result in self.differing if result.has(Check.NOT_COMPARED)]

    def as_run(self) -> RunResult:
        return RunResult(
            self.run_id,
            loaded=self.adopted,
            skipped=self.empty,
            failed=len(self.differing),
            rows=self.rows,
            seconds=self.seconds,
        )


def adopt(project: Project, request: AdoptRequest, listen: Listener) -> AdoptReport:
    """Adopt the slices of the request that are equal; a dry run only compares.

    Raise ConfigError or UsageError before anything is touched, LockHeldError when another run has a day of the load,
    StateDirError, SessionsError and Interrupted.
    """
    plan = plan_adoption(project, request, datetime.now(UTC))
    if request.dry_run:
        return _dry_run(project, request, plan, listen)
    run_id = new_run_id()
    with logged_run(project, run_id, request.command, listen) as log, caught_signals(), ExitStack() as stack:
        context = RunContext(
            run_id,
            request.command,
            project,
            StateDir(project.state_dir),
            slots_of_run(project),
            targets_of(project, f"dwhctl:{run_id}"),
            notify=log,
            # It stages nothing and leaves no session open: there is nothing to reap.
            leaves_lock=lambda: False,
        )
        store = context.enter(stack, work_names(plan.work()), request.wait.total_seconds())
        began = time.monotonic()
        report = AdoptReport(run_id, _without_done(project, store, plan))
        log(RunStarted(run_id, report.plan))
        if (error := context.blocked.get(request.load)) is not None:
            report.take(result_of(planned, not_compared(error)) for planned in report.plan.slices)
        elif report.plan.slices:
            # The progress of the comparison is shown, and not logged.
            _adopt_equal(context, store, request, report, listen)
        report.seconds = time.monotonic() - began
        log(RunEnded(report.as_run()))
        return report


def _adopt_equal(
    context: RunContext, store: SessionStore, request: AdoptRequest, report: AdoptReport, listen: Listener
) -> None:
    at = datetime.now(UTC)
    with closing(_compared(context.project, request, report, listen)) as batches_compared:
        for results in batches_compared:
            reach("adopt.compared")
            is_first = not report.adopted + report.empty
            equal = report.take(results)
            if equal and is_first:
                _raise_ids(context, store, context.project.loads[request.load])
            store.adopt(
                [
                    Adopted(report.run_id, result.load, result.shard, result.day, at, result.rows or 0)
                    for result in equal
                    if result.day is not None
                ]
            )
            at = datetime.now(UTC)


def _raise_ids(context: RunContext, store: SessionStore, load: Load) -> None:
    """Let new sessions have ids above those of the adopted rows: an id must not be that of two sessions."""
    with context.slots.held(load.target):
        highest = context.targets[load.target].highest_etl_id(load.table)
    if highest > store.last_id():
        store.raise_id_floor(highest)


def plan_adoption(project: Project, request: AdoptRequest, now: datetime) -> Plan:
    """Return the slices that were asked for, complete or not. Raise UsageError for a day that is not over."""
    plan = candidates(project, LoadRequest(request.days, (request.load,), request.shards))
    check_templates(project, plan)
    running = [planned for planned in plan.slices if planned.slice.end_at and planned.slice.end_at > now]
    if running:
        planned = running[0]
        days, running_days = ({other.slice.day for other in slices} for slices in (plan.slices, running))
        over = sorted(days - running_days)
        remedy = f"give -e {over[-1]}" if over else "adopt it when it is"
        raise UsageError(
            f"the day {planned.slice.day} of load {planned.load.name} is not over in shard {planned.shard.name}"
            f" ({planned.slice.zone}): its source may still get rows, so nothing proves it complete; {remedy}"
        )
    return plan


def batches_of(slices: Sequence[PlannedSlice]) -> list[list[PlannedSlice]]:
    """Put whole days into batches."""
    days = [list(of_day) for _, of_day in groupby(slices, key=lambda planned: planned.slice.day)]
    return [list(chain.from_iterable(batch)) for batch in batches(days, len, BATCH_SLICES)]


def _without_done(project: Project, store: SessionStore | None, plan: Plan) -> Plan:
    if store is None:
        return plan
    last = last_sessions_of(project, store, plan.slices)
    done = [planned.name for planned in plan.slices if is_complete(last[planned.slice], planned.slice.end_at)]
    return without_complete(plan, done)


def _dry_run(project: Project, request: AdoptRequest, plan: Plan, listen: Listener) -> AdoptReport:
    with caught_signals():
        store = open_if_there(project.sessions)
        with store or nullcontext():
            plan = _without_done(project, store, plan)
        report = AdoptReport("", plan)
        for results in _compared(project, request, report, listen):
            report.take(results)
    return report


def _compared(
    project: Project, request: AdoptRequest, report: AdoptReport, listen: Listener
) -> Generator[list[SliceComparison]]:
    sides = SourceAndWarehouse(project, request.jobs, None, request.shards)
    comparison = Comparison(project, sides, None, lambda text: listen(Notice(text)))
    with closing(comparison.in_batches(batches_of(report.plan.slices))) as found:
        yield from found
    report.of_no_slice = sides.of_no_slice()
