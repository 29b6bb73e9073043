"""Load slices: the whole of a run, from the plan to the report.

plan ▶ lock load and day ▶ reap dead runs ▶ create and describe the targets ▶ dispatch ▶ report
"""

from __future__ import annotations

import queue
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypedDict

from dwhctl.errors import AttemptError, ExitCode, InternalError, SessionsError, StateDirError
from dwhctl.faults import reach
from dwhctl.project.templates import render_extract
from dwhctl.runs.closing import Closer
from dwhctl.runs.crew import Crew
from dwhctl.runs.dispatch import Dispatcher, Happening
from dwhctl.runs.events import Listener, Notice, RunReport, RunStarted
from dwhctl.runs.forecast import NO_PAST, Forecast, forecast, past_of, seconds_of
from dwhctl.runs.groups import Groups
from dwhctl.runs.jobs import Job, JobQueue
from dwhctl.runs.knocker import Knocker
from dwhctl.runs.locks import Lock, held_in_sessions, held_work, work_name
from dwhctl.runs.opener import Opener
from dwhctl.runs.parking import Parking
from dwhctl.runs.plan import LoadRequest, Plan, candidates, slowest_first, without_complete
from dwhctl.runs.prepare import check_create, describe_targets, targets_of
from dwhctl.runs.publish import Rules
from dwhctl.runs.publisher import Publisher
from dwhctl.runs.reap import Reaper
from dwhctl.runs.signals import Signals, caught_signals
from dwhctl.runs.slots import WORKERS, Slots, connection_limits
from dwhctl.runs.starting import Starter
from dwhctl.runs.state_dir import StateDir
from dwhctl.runs.workers import InlineWorker, ProcessWorker
from dwhctl.sessions import open_if_there, open_store
from dwhctl.sessions.values import is_complete
from dwhctl.sources import KNOCKABLE, check_source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore
    from dwhctl.targets.contract import Target

_LOCK_SECONDS = 30.0
_DROP_PATIENCE = timedelta(seconds=5)
_LAST_PATIENCE = timedelta(seconds=3)


def plan_load(project: Project, request: LoadRequest) -> Plan:
    """Say what a run would do. Touches nothing: the sessions are read only for `only_missing`, and only if there."""
    plan = candidates(project, request)
    check_sources(project, plan)
    check_templates(project, plan)
    if request.only_missing:
        store = open_if_there(project.sessions)
        if store is not None:
            with store:
                plan = without_complete(plan, complete_slices(store, plan))
    return plan


def foresee(project: Project, request: LoadRequest, plan: Plan) -> Forecast:
    """Say about how long a plan takes with the workers of the request. Touches nothing."""
    store = open_if_there(project.sessions)
    if store is None:
        return forecast(plan, NO_PAST, jobs_at_once(project, request, plan), project.max_workers)
    with store:
        past = past_of(store, plan)
    return forecast(plan, past, jobs_at_once(project, request, plan), project.max_workers)


def run_load(project: Project, request: LoadRequest, listen: Listener, plan: Plan | None = None) -> RunReport:
    """Load the slices of the request: those of `plan`, which plan_load gave for it, that still need it.

    Raise ConfigError or UsageError before anything is touched, LockHeldError when another run has a load's day,
    StateDirError, SessionsError when the sessions database cannot be used at the start, and Interrupted.
    """
    plan = plan or plan_load(project, request)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    targets = targets_of(project, f"dwhctl:{run_id}")
    with caught_signals() as signals, ExitStack() as stack:
        run = _Run(run_id, project, request, targets, listen, signals)
        run.enter(stack, plan)
        return run.load(plan)


def exit_code_of(report: RunReport) -> ExitCode:
    """Give the exit code that a report ends with."""
    if report.signal is not None:
        return report.signal
    return ExitCode.FAILED if report.failed or report.stopped else ExitCode.DONE


def jobs_at_once(project: Project, request: LoadRequest, plan: Plan) -> int:
    """Tell how many workers the run will have at most."""
    wanted = request.jobs or project.max_workers
    return max(1, min(wanted, project.max_workers, len(plan.slices)))


def check_sources(project: Project, plan: Plan) -> None:
    """Raise ConfigError for a shard behind a connection that this version cannot read."""
    for name in sorted({one.shard.connection for one in plan.slices}):
        check_source(project.connections[name])


def check_templates(project: Project, plan: Plan) -> None:
    """Render every load's `create`, and its query for each of its shards once. Raise ConfigError."""
    check_create(project, plan)
    seen = set()
    for one in plan.slices:
        if (one.load.name, one.shard.name) not in seen:
            seen.add((one.load.name, one.shard.name))
            render_extract(project, one.load, one.shard, one.slice)


def complete_slices(store: SessionStore, plan: Plan) -> Iterator[tuple[str, str, date]]:
    """Give the load, shard and day of the plan's slices that are complete."""
    days: dict[str, list[date]] = {}
    for one in plan.slices:
        days.setdefault(one.load.name, []).append(one.slice.day)
    last = {
        (session.load, session.shard, session.day): session
        for load, of_load in days.items()
        for session in store.last_sessions(load, min(of_load), max(of_load))
    }
    for one in plan.slices:
        name = (one.load.name, one.shard.name, one.slice.day)
        if is_complete(last.get(name), one.slice.end_at):
            yield name


class _Parts(TypedDict):
    """What the starter and the dispatcher share."""

    jobs: JobQueue
    crew: Crew
    parking: Parking
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
        self._slots = Slots(self._state.slots, self._limits())
        self._report = RunReport(self.id)
        self._blocked: dict[str, AttemptError] = {}
        self._leaves_lock = False

    def enter(self, stack: ExitStack, plan: Plan) -> None:
        """Take what the run holds until its end: sessions, the locks of its work, its run lock. Reap dead runs."""
        self._state.make()
        project, request = self._project, self._request
        work, wait = plan.work(), request.wait.total_seconds()
        until = time.monotonic() + wait
        stack.enter_context(held_work(self._state.work_locks, work, request.command, wait))
        self._store = stack.enter_context(open_store(project.sessions))
        self._store.prepare()
        stack.enter_context(held_in_sessions(self._store, work, until - time.monotonic()))
        self._never_reuse_ids()
        self._hold_run(stack)
        reach("run.held")
        reaper = Reaper(project, self._state, self._store, self._targets, self._slots, self._notice)
        reaper.reap_dead_runs(self.id, {work_name(load, day) for load, day in work})
        self._blocked = reaper.blocked

    def _never_reuse_ids(self) -> None:
        """In a sessions table that no run has used go on above the etl_ids that stand in the warehouse."""
        if self._store.recent(1):
            return
        tables = {(load.target, load.table) for load in self._project.loads.values()}
        try:
            highest = max(self._highest_etl_id(target, table) for target, table in tables)
        except AttemptError as error:
            if self._store.recent(1):
                return  # a run that could ask has lifted the ids by now, and keeps the warehouse busy
            raise SessionsError(
                f"the sessions table is new, and the warehouse cannot be asked which etl_ids it holds: {error}"
            ) from error
        if highest:
            self._store.lift_ids(highest)

    def _highest_etl_id(self, target: str, table: str) -> int:
        with self._slots.held(target):
            return self._targets[target].highest_etl_id(table)

    def _notice(self, text: str) -> None:
        self._listen(Notice(text))

    def _hold_run(self, stack: ExitStack) -> None:
        lock = Lock(self._state.run_locks / f"{self.id}.lock")
        # The id is new and random: only a run that looks for dead ones can hold its locks, and only for a moment.
        until = time.monotonic() + _LOCK_SECONDS
        while not lock.try_take(self._request.command) or not self._store.try_hold_run(self.id):
            if time.monotonic() > until:
                raise StateDirError(
                    f"cannot take the run's own lock {lock.path}: it is held by {lock.holder()}"
                )
            lock.release()
            time.sleep(0.05)
        # The file is left behind when the run does not end in order: the next run reaps it then.
        stack.callback(lambda: lock.release(remove=self._report.stopped is None and not self._leaves_lock))

    def load(self, plan: Plan) -> RunReport:
        """Load what is not left out, and report."""
        started = time.monotonic()
        if self._request.only_missing:
            # Again, now that the locks are held: another run may have completed what was missing before.
            plan = without_complete(plan, complete_slices(self._store, plan))
        seconds = seconds_of(self._store, plan)
        plan = slowest_first(plan, seconds)
        self._listen(RunStarted(self.id, plan, seconds))
        self._dispatch(plan)
        self._report.seconds = time.monotonic() - started
        return self._report

    def _dispatch(self, plan: Plan) -> None:
        happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        slots = self._slots
        # Who has lost the sessions database has lost its hold on the run: nothing may be published any more.
        rules = Rules(self._request.allow_shrink, fence=self._store.check_alive)
        sweepers = targets_of(self._project, f"dwhctl:{self.id}", _DROP_PATIENCE)
        publisher = Publisher(self._targets, slots, happenings.put, rules, sweepers)
        opener = Opener(self._targets, happenings.put)
        jobs = jobs_at_once(self._project, self._request, plan)
        crew = Crew(jobs, InlineWorker if self._request.inline else ProcessWorker, slots)
        closer = Closer(self._store, self._report, self._listen, self._request.retries)
        described = describe_targets(self._project, plan, self._targets, slots, self._blocked, closer.retries)
        parts: _Parts = {
            "jobs": JobQueue(Job(one) for one in plan.slices if one.load.name in described.tables),
            "crew": crew,
            "parking": Parking(self._knockable()),
            "groups": Groups(self.id, opener.open),
            "publisher": publisher,
            "store": self._store,
        }
        starter = Starter(self._project, self.id, slots=slots, **parts)
        knocker = Knocker(self._project.connections, slots, happenings.put)
        dispatcher = Dispatcher(
            starter, described.tables, knocker=knocker, closer=closer, happenings=happenings, **parts
        )
        # From here on a signal is one of the things that happen to the loop.
        self._signals.listener = happenings.put
        publisher.start()
        try:
            for load, failure in described.failures.items():
                dispatcher.fail_unstarted([Job(one) for one in plan.slices if one.load.name == load], failure)
            self._loop(dispatcher, publisher)
        except (SessionsError, StateDirError, InternalError) as error:
            self._report.stopped = str(error)
        finally:
            crew.dismiss_all()
            publisher.stop()
            opener.stop()
            dispatcher.let_go()
            self._drop_staging(parts["groups"].targets)

    def _loop(self, dispatcher: Dispatcher, publisher: Publisher) -> None:
        self._report.signal = dispatcher.run()
        if self._report.signal is None:
            publisher.finish()
        else:
            dispatcher.stop()

    def _drop_staging(self, used: Collection[str]) -> None:
        patience = _DROP_PATIENCE if self._report.signal is None else _LAST_PATIENCE
        # Not those of the run: they may have been interrupted, for good.
        targets = targets_of(self._project, f"dwhctl-drop:{self.id}", patience)
        for name in sorted(used):
            try:
                with self._slots.held(name, wait=patience.total_seconds()):
                    targets[name].drop_run(self.id)
            except AttemptError:
                # Dropped by whoever reaps this run.
                self._leaves_lock = True

    def _knockable(self) -> frozenset[str]:
        connections = self._project.connections.values()
        return frozenset(one.name for one in connections if one.type in KNOCKABLE)

    def _limits(self) -> dict[str, int | None]:
        return connection_limits(self._project) | {WORKERS: self._project.max_workers}
