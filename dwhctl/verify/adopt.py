"""Take the days that another tool loaded as complete, where sources and warehouse are equal: `adopt`.

plan ▶ lock load and day ▶ reap dead runs ▶ leave out what is complete ▶ compare a batch ▶ write its sessions ▶ the next

The rows stay as they are. Each equal slice gets a closed session of its own, in the state `loaded` (`skipped` where
neither side has a row), with the attempt 0. The sessions of a batch are one transaction: a run that is killed has
adopted whole batches, and the same command goes on from there.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, UsageError
from dwhctl.core.faults import reach
from dwhctl.core.waiting import caught_signals
from dwhctl.load.run import check_templates
from dwhctl.runtime.events import Notice, RunEnded, RunResult, RunStarted
from dwhctl.runtime.locks import StateDir, work_names
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.plan import LoadRequest, candidates, without_complete
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.run_context import RunContext, limits_of, new_run_id
from dwhctl.runtime.slots import Slots
from dwhctl.sessions import open_if_there
from dwhctl.sessions.values import Adopted
from dwhctl.verify.findings import (
    Check,
    SliceComparison,
    is_loaded_whole,
    last_sessions_of,
    not_compared,
    verdict_on,
)
from dwhctl.verify.run import Verification, VerifyRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Listener
    from dwhctl.runtime.plan import Plan, PlannedSlice
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Target

#: A batch takes whole days until it has so many slices: each shard is connected to once for each batch.
BATCH_SLICES = 5_000
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class AdoptRequest:
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
    """What was adopted, and what was not: `differing` has the slices that are not equal or could not be compared.

    `adopted` counts the slices with rows, `empty` those without any. `of_no_slice` are rows that belong to no slice.
    """

    run_id: str
    plan: Plan
    adopted: int = 0
    empty: int = 0
    rows: int = 0
    seconds: float = 0.0
    differing: list[SliceComparison] = field(default_factory=list)
    of_no_slice: list[SliceComparison] = field(default_factory=list)

    def take(self, verdicts: Iterable[SliceComparison]) -> list[SliceComparison]:
        """Count the verdicts, and return those on slices that are equal."""
        equal = []
        for one in verdicts:
            if not one.is_equal:
                self.differing.append(one)
                continue
            equal.append(one)
            self.adopted += bool(one.rows)
            self.empty += not one.rows
            self.rows += one.rows or 0
        return equal

    def different(self) -> list[SliceComparison]:
        """Return the verdicts on slices that a load has to replace."""
        return [one for one in self.differing if not one.has(Check.NOT_COMPARED)]

    def not_compared(self) -> list[SliceComparison]:
        """Return the verdicts on slices of which one side did not answer."""
        return [one for one in self.differing if one.has(Check.NOT_COMPARED)]

    def as_run(self) -> RunResult:
        """Return what the run's log says of it."""
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
    with logged_run(project, run_id, request.command, listen) as log:
        targets = targets_of(project, f"dwhctl:{run_id}")
        with caught_signals(), ExitStack() as stack:
            run = _Adoption(run_id, project, request, targets, log)
            run.enter(stack, plan)
            # Its progress is for who looks on, and not for the log.
            return run.adopt(plan, _comparison(project, request, listen))


def plan_adoption(project: Project, request: AdoptRequest, now: datetime) -> Plan:
    """Return the slices that were asked for, complete or not. Raise UsageError for a day that is not over."""
    plan = candidates(project, LoadRequest(request.days, (request.load,), request.shards))
    check_templates(project, plan)
    for one in plan.slices:
        if one.slice.end_at is not None and one.slice.end_at > now:
            over = [day for day, slices in _by_day(plan.slices) if _are_over(slices, now)]
            remedy = f"give -e {over[-1]}" if over else "adopt it when it is"
            raise UsageError(
                f"the day {one.slice.day} of load {one.load.name} is not over in shard {one.shard.name}"
                f" ({one.slice.zone}): its source may still get rows, so nothing proves it complete; {remedy}"
            )
    return plan


def _are_over(slices: Iterable[PlannedSlice], now: datetime) -> bool:
    return all(one.slice.end_at is None or one.slice.end_at <= now for one in slices)


def _by_day(slices: Iterable[PlannedSlice]) -> Iterator[tuple[date, list[PlannedSlice]]]:
    for day, of_day in groupby(slices, key=lambda one: one.slice.day):
        yield day, list(of_day)


def batches_of(slices: Sequence[PlannedSlice]) -> list[list[PlannedSlice]]:
    """Put whole days into batches."""
    batches: list[list[PlannedSlice]] = []
    for _, of_day in _by_day(slices):
        if not batches or len(batches[-1]) + len(of_day) > BATCH_SLICES:
            batches.append([])
        batches[-1] += of_day
    return batches


def _without_done(project: Project, store: SessionStore | None, plan: Plan) -> Plan:
    """Leave out the slices that are complete by a session of dwhctl."""
    if store is None:
        return plan
    last = last_sessions_of(project, store, plan.slices)
    done = [one.name for one in plan.slices if is_loaded_whole(one, last[one.slice])]
    return without_complete(plan, done)


def _dry_run(project: Project, request: AdoptRequest, plan: Plan, listen: Listener) -> AdoptReport:
    with caught_signals():
        store = open_if_there(project.sessions)
        with store or nullcontext():
            plan = _without_done(project, store, plan)
        report = AdoptReport("", plan)
        comparison = _comparison(project, request, listen)
        with closing(comparison.in_batches(batches_of(plan.slices))) as batches:
            for verdicts in batches:
                report.take(verdicts)
    report.of_no_slice = comparison.of_no_slice()
    return report


def _comparison(project: Project, request: AdoptRequest, listen: Listener) -> Verification:
    asked = VerifyRequest(request.days, (request.load,), request.shards, request.jobs)
    return Verification(project, asked, None, lambda text: listen(Notice(text)))


class _Adoption:
    """One run that adopts."""

    def __init__(
        self,
        run_id: str,
        project: Project,
        request: AdoptRequest,
        targets: Mapping[str, Target],
        listen: Listener,
    ) -> None:
        self._id = run_id
        self._project = project
        self._request = request
        self._targets = targets
        self._listen = listen
        self._slots = Slots(StateDir(project.state_dir).slots, limits_of(project))
        self._blocked: Mapping[str, AttemptError] = {}

    def enter(self, stack: ExitStack, plan: Plan) -> None:
        """Take what the run holds until its end: sessions, the locks of its work, its run lock. Reap dead runs."""
        entry = RunContext(
            self._id,
            self._request.command,
            self._project,
            StateDir(self._project.state_dir),
            self._slots,
            self._targets,
            tell=self._listen,
            # It stages nothing and leaves no session open: there is nothing to reap.
            leaves_lock=lambda: False,
        )
        self._store = entry.enter(stack, work_names(plan.work()), self._request.wait.total_seconds())
        self._blocked = entry.blocked

    def adopt(self, plan: Plan, comparison: Verification) -> AdoptReport:
        """Compare batch after batch, and write the sessions of what is equal."""
        began = time.monotonic()
        plan = _without_done(self._project, self._store, plan)
        self._listen(RunStarted(self._id, plan))
        report = AdoptReport(self._id, plan)
        if (error := self._blocked.get(self._request.load)) is not None:
            report.take(verdict_on(one, not_compared(error)) for one in plan.slices)
        elif plan.slices:
            self._adopt_equal(plan, comparison, report)
        report.seconds = time.monotonic() - began
        self._listen(RunEnded(report.as_run()))
        return report

    def _adopt_equal(self, plan: Plan, comparison: Verification, report: AdoptReport) -> None:
        raised = False
        at = datetime.now(UTC)
        with closing(comparison.in_batches(batches_of(plan.slices))) as batches:
            for verdicts in batches:
                reach("adopt.compared")
                equal = report.take(verdicts)
                if equal and not raised:
                    raised = self._raise_ids()
                self._store.adopt([self._adopted(one, at) for one in equal])
                at = datetime.now(UTC)
        report.of_no_slice = comparison.of_no_slice()

    def _raise_ids(self) -> bool:
        """Hand out only ids above those of the adopted rows: an id must not be that of two sessions."""
        load = self._project.loads[self._request.load]
        with self._slots.held(load.target):
            highest = self._targets[load.target].highest_etl_id(load.table)
        if highest > self._store.last_id():
            self._store.raise_id_floor(highest)
        return True

    def _adopted(self, one: SliceComparison, at: datetime) -> Adopted:
        assert one.day is not None
        return Adopted(self._id, one.load, one.shard, one.day, at, one.rows or 0)
