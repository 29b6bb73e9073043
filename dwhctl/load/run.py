"""Load slices: the whole of a run, from the plan to the report.

plan ▶ lock load and day ▶ reap dead runs ▶ create and describe the targets ▶ dispatch ▶ report
"""

from __future__ import annotations

import queue
import time
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

from dwhctl.alerts.digest import RunKind
from dwhctl.core.errors import (
    AttemptError,
    ExitCode,
    InternalError,
    SessionsError,
    StateDirError,
    WorkersError,
)
from dwhctl.core.waiting import Signals, caught_signals
from dwhctl.load.attempts import Starter
from dwhctl.load.dispatcher import Dispatcher, Happening
from dwhctl.load.history import (
    NO_PAST,
    DeliveredColumns,
    Forecast,
    first_shadows,
    forecast,
    past_of,
    refuse_shared_shadows,
    seconds_of,
)
from dwhctl.load.publish import PublishRules
from dwhctl.load.publisher import Publisher
from dwhctl.load.queue import JobQueue, SliceJob
from dwhctl.load.results import Closer
from dwhctl.load.staging import Groups, StagingCreator
from dwhctl.load.workers import InlineWorker, ProcessWorker, WorkerPool
from dwhctl.notify.run import RunNotifier, run_notifier
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.templates import render_extract
from dwhctl.runtime.circuit_breaker import CircuitBreaker, Prober
from dwhctl.runtime.events import Listener, RunEnded, RunResult, RunStarted
from dwhctl.runtime.failures import group_failures
from dwhctl.runtime.locks import StateDir, work_names
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.plan import (
    LoadRequest,
    Plan,
    candidates,
    name_of,
    only_failed,
    slowest_first,
    without_complete,
)
from dwhctl.runtime.prepare import check_create, describe_targets, targets_of
from dwhctl.runtime.run_context import RunContext, limits_of, new_run_id
from dwhctl.runtime.slots import Slots
from dwhctl.sessions import open_if_there
from dwhctl.sessions.values import is_complete, is_good
from dwhctl.systems.duckdb.spill import remove_left_behind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import Name
    from dwhctl.sessions.store import SessionStore
    from dwhctl.sessions.values import LastSession
    from dwhctl.systems.base.target import Target

_DROP_TIMEOUT = timedelta(seconds=5)
_LAST_TIMEOUT = timedelta(seconds=3)


def plan_load(project: Project, request: LoadRequest) -> Plan:
    """Return what a run would do. Touches nothing: the sessions are read only where the request goes by them."""
    plan = candidates(project, request)
    check_templates(project, plan)
    if request.only_missing or request.only_failed:
        store = open_if_there(project.sessions)
        with store or nullcontext():
            plan = narrowed(plan, request, store)
    return plan


def foresee(project: Project, request: LoadRequest, plan: Plan) -> Forecast:
    """Say about how long a plan takes with the workers of the request. Touches nothing."""
    store = open_if_there(project.sessions)
    if store is None:
        return forecast(plan, NO_PAST, jobs_at_once(project, request, plan), project.max_workers)
    with store:
        past = past_of(store, plan)
    return forecast(plan, past, jobs_at_once(project, request, plan), project.max_workers)


def run_load(project: Project, request: LoadRequest, listen: Listener, plan: Plan | None = None) -> RunResult:
    """Load the slices of the request: those of `plan`, which plan_load gave for it, that still need it.

    Raise ConfigError or UsageError before anything is touched, LockHeldError when another run has a load's day,
    StateDirError, SessionsError when the sessions database cannot be used at the start, and Interrupted.
    """
    run_id = new_run_id()
    works = request.loads or tuple(project.loads)
    # A part of the shards or slices, or a backfill, is no sign that the load is well.
    pings = request.pings and not request.shards and not request.only_failed
    with (
        logged_run(project, run_id, request.command, listen) as log,
        run_notifier(
            project, request.command, works, log, RunKind.LOAD, pings=pings, scheduled=request.scheduled
        ) as told,
    ):
        plan = plan or plan_load(project, request)
        targets = targets_of(project, f"dwhctl:{run_id}")
        with caught_signals() as signals, ExitStack() as stack:
            run = _Run(run_id, project, request, targets, told.listen, signals)
            run.enter(stack, plan)
            report = run.load(plan)
            run.write_alerts(told)
        # Its locks are free: a channel that hangs holds up nobody.
        report.pings = told.ping()
        report.alerts = told.send()
    return report


def exit_code_of(report: RunResult) -> ExitCode:
    """Give the exit code that a report ends with."""
    if report.signal is not None:
        return report.signal
    return ExitCode.FAILED if report.failed or report.in_doubt or report.stopped else ExitCode.DONE


def jobs_at_once(project: Project, request: LoadRequest, plan: Plan) -> int:
    """Tell how many workers the run will have at most."""
    wanted = request.jobs or project.max_workers
    return max(1, min(wanted, project.max_workers, len(plan.slices)))


def check_templates(project: Project, plan: Plan) -> None:
    """Render every load's `create`, and its query for each of its shards once. Raise ConfigError."""
    check_create(project, plan)
    seen = set()
    for one in plan.slices:
        if (one.load.name, one.shard.name) not in seen:
            seen.add((one.load.name, one.shard.name))
            render_extract(project, one.load, one.shard, one.slice)


def narrowed(plan: Plan, request: LoadRequest, store: SessionStore | None) -> Plan:
    """Leave out what the request does not want by the sessions; without a store there are none."""
    last = _last_sessions(store, plan) if store and (request.only_missing or request.only_failed) else {}
    if request.only_missing:
        done = (name_of(one) for one in plan.slices if is_complete(last.get(name_of(one)), one.slice.end_at))
        plan = without_complete(plan, done)
    if request.only_failed:
        # A running session may be that of a dead run: it is reaped before the slice is looked at again.
        plan = only_failed(plan, (name for name, one in last.items() if not is_good(one.state)))
    return plan


def _last_sessions(store: SessionStore, plan: Plan) -> dict[Name, LastSession]:
    """Return the last session of each slice of the plan's loads and days."""
    days: dict[str, list[date]] = {}
    for one in plan.slices:
        days.setdefault(one.load.name, []).append(one.slice.day)
    return {
        (session.load, session.shard, session.day): session
        for load, of_load in days.items()
        for session in store.last_sessions(load, min(of_load), max(of_load))
    }


class _Parts(TypedDict):
    """What the starter and the dispatcher share."""

    jobs: JobQueue
    pool: WorkerPool
    breaker: CircuitBreaker
    groups: Groups
    publisher: Publisher
    store: SessionStore


class _Run:
    """One run: what it holds, and its parts put together."""

    def __init__(
        self,
        run_id: str,
        project: Project,
        request: LoadRequest,
        targets: Mapping[str, Target],
        listen: Listener,
        signals: Signals,
    ) -> None:
        self.id = run_id
        self._project = project
        self._request = request
        self._listen = listen
        self._signals = signals
        self._state = StateDir(project.state_dir)
        self._targets = targets
        self._slots = Slots(self._state.slots, limits_of(project))
        self._report = RunResult(self.id)
        self._blocked: dict[str, AttemptError] = {}
        self._leaves_lock = False

    def enter(self, stack: ExitStack, plan: Plan) -> None:
        """Take what the run holds until its end: sessions, the locks of its work, its run lock. Reap dead runs."""
        entry = RunContext(
            self.id,
            self._request.command,
            self._project,
            self._state,
            self._slots,
            self._targets,
            tell=self._listen,
            leaves_lock=self._leaves_work,
            check=lambda store: refuse_shared_shadows(self._project, store, plan),
            unknown=lambda store: first_shadows(store, plan),
        )
        self._store = entry.enter(stack, work_names(plan.work()), self._request.wait.total_seconds())
        self._blocked = entry.blocked

    def load(self, plan: Plan) -> RunResult:
        """Load what is not left out, and report."""
        started = time.monotonic()
        # Again, now that the locks are held: another run may have completed what was missing before.
        plan = narrowed(plan, self._request, self._store)
        if not plan.slices:
            self._report.empty_plan = plan
        seconds = seconds_of(self._store, plan)
        plan = slowest_first(plan, seconds)
        self._listen(RunStarted(self.id, plan, seconds))
        self._dispatch(plan)
        self._report.seconds = time.monotonic() - started
        self._report.groups = group_failures(self._project, self._report.failures)
        self._listen(RunEnded(self._report))
        return self._report

    def _leaves_work(self) -> bool:
        """Tell whether the next run has something to reap."""
        return self._leaves_lock or bool(self._report.stopped is not None or self._report.in_doubt)

    def write_alerts(self, told: RunNotifier) -> None:
        """Write what is to be told of the run into the outbox."""
        told.write(self._store, self._report)

    def _dispatch(self, plan: Plan) -> None:
        happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        slots = self._slots
        # Who has lost the sessions database has lost its hold on the run: nothing may be published any more.
        columns = DeliveredColumns(self._store)
        rules = PublishRules(self._request.allow_shrink, fence=self._store.check_alive, delivered=columns)
        sweepers = targets_of(self._project, f"dwhctl:{self.id}", _DROP_TIMEOUT)
        publisher = Publisher(self._targets, slots, happenings.put, rules, sweepers)
        creator = StagingCreator(self._targets, happenings.put)
        jobs = jobs_at_once(self._project, self._request, plan)
        pool = WorkerPool(jobs, InlineWorker if self._request.inline else ProcessWorker, slots)
        closer = Closer(self._store, self._report, self._listen, self._request.retries)
        described = describe_targets(
            self._project, plan, self._targets, slots, self._blocked, closer.retries, self._listen
        )
        parts: _Parts = {
            "jobs": JobQueue(SliceJob(one) for one in plan.slices if one.load.name in described.tables),
            "pool": pool,
            "breaker": CircuitBreaker(self._with_probe()),
            "groups": Groups(self.id, creator.open),
            "publisher": publisher,
            "store": self._store,
        }
        starter = Starter(self._project, self.id, slots=slots, delivered=columns, **parts)
        prober = Prober(self._project.connections, slots, happenings.put)
        dispatcher = Dispatcher(
            starter, described.tables, prober=prober, closer=closer, happenings=happenings, **parts
        )
        # From here on a signal is one of the things that happen to the loop.
        self._signals.listener = lambda code: self._stop_soon(code, happenings)
        publisher.start()
        try:
            for load, failure in described.failures.items():
                dispatcher.fail_unstarted(
                    [SliceJob(one) for one in plan.slices if one.load.name == load], failure
                )
            self._loop(dispatcher, publisher)
        except (SessionsError, StateDirError, WorkersError, InternalError) as error:
            self._report.stopped = str(error)
            self._report.signal = self._signals.received
        finally:
            pool.dismiss_all()
            # Workers that were ended in the middle of their work.
            remove_left_behind(self._state.path)
            publisher.stop()
            creator.stop()
            dispatcher.let_go()
            self._drop_staging(parts["groups"].targets)

    def _stop_soon(self, code: ExitCode, happenings: queue.SimpleQueue[Happening]) -> None:
        """Take a signal: the loop may be waiting for the sessions database."""
        self._store.hurry()
        happenings.put(code)

    def _loop(self, dispatcher: Dispatcher, publisher: Publisher) -> None:
        self._report.signal = dispatcher.run()
        if self._report.signal is None:
            publisher.finish()
        else:
            dispatcher.stop()

    def _drop_staging(self, used: Collection[str]) -> None:
        timeout = _DROP_TIMEOUT if self._report.signal is None else _LAST_TIMEOUT
        # Not those of the run: they may have been interrupted, for good.
        targets = targets_of(self._project, f"dwhctl-drop:{self.id}", timeout)
        for name in sorted(used):
            try:
                with self._slots.held(name, wait=timeout.total_seconds()):
                    targets[name].drop_run(self.id)
            except AttemptError:
                # Dropped by whoever reaps this run.
                self._leaves_lock = True

    def _with_probe(self) -> frozenset[str]:
        connections = self._project.connections.values()
        return frozenset(one.name for one in connections if SYSTEMS[one.type].has_probe)
