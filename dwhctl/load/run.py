"""Load slices: the plan, the checks of it, and the run of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import RunKind
from dwhctl.core.errors import AttemptError, ExitCode, UsageError
from dwhctl.core.files import remove_left_behind
from dwhctl.engine.jobs import Attempts
from dwhctl.engine.run import Run
from dwhctl.load.attempts import SliceParts, slice_jobs
from dwhctl.load.publish import Publisher, PublishRules
from dwhctl.load.scheduler import SliceScheduler
from dwhctl.load.staging import Groups, StagingCreator
from dwhctl.load.worker_process import modules_of
from dwhctl.load.worker_server import WorkerServer, WorkersReady
from dwhctl.load.workers import InlineWorker, WorkerPool
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.model import DASK_REMEDY, ExecutorTable
from dwhctl.project.names import shadow_name
from dwhctl.project.parts import check_split
from dwhctl.project.templates import render_extract, render_ready
from dwhctl.runtime.circuit_breaker import CircuitBreaker, Prober
from dwhctl.runtime.events import Listener, RunResult, RunStarted
from dwhctl.runtime.locks import work_names
from dwhctl.runtime.plan import (
    LoadRequest,
    Plan,
    candidates,
    jobs_at_once,
    narrowed,
    seconds_of,
    slowest_first,
)
from dwhctl.runtime.prepare import DeliveredColumns, check_create, describe_targets, targets_of
from dwhctl.sessions import open_if_there

if TYPE_CHECKING:
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore

_DROP_TIMEOUT = timedelta(seconds=5)
_LAST_TIMEOUT = timedelta(seconds=3)


def plan_load(
    project: Project, request: LoadRequest, certain: Callable[[Plan], None] = lambda _: None
) -> Plan:
    """Return what a run would do. Touches nothing; the sessions are read only where the request depends on them.

    `certain` is called with the plan when all of it is to be done, before its templates are checked.
    """
    plan = candidates(project, request)
    refuse_local_files(project, request, plan)
    depends = request.only_missing or request.only_failed
    if not depends:
        certain(plan)
    check_templates(project, plan)
    if depends:
        store = open_if_there(project.sessions)
        with store or nullcontext():
            plan = narrowed(plan, request, store)
    return plan


def run_load(
    project: Project,
    request: LoadRequest,
    listen: Listener,
    plan: Plan | None = None,
    workers: WorkerServer | None = None,
) -> RunResult:
    """Load the slices of the request: those of `plan`, which plan_load returned for it, that still need it.

    `workers` may have been started early; it is closed at the end. Raises what `Run.carry_out` raises.
    """
    # A part of the shards or slices, or a backfill, does not show that the load is up to date.
    pings = request.pings and not request.shards and not request.only_failed
    run = _Load(project, request, plan, workers or WorkerServer())
    with closing(run.workers):
        return run.carry_out(
            listen, request.loads or tuple(project.loads), pings=pings, scheduled=request.scheduled
        )


def executor_of(project: Project, request: LoadRequest) -> ExecutorTable:
    """Return where the attempts run: as the request says, else the project. Raise UsageError."""
    if request.inline and (request.executor == "dask" or request.scheduler):
        raise UsageError("--inline works in this process, and --executor dask on a cluster; give one of them")
    if request.inline:
        return ExecutorTable()
    executor = project.executor
    if request.executor == "dask" or request.scheduler is not None:
        given = {
            "type": request.executor or executor.type,
            "scheduler": request.scheduler or executor.scheduler,
        }
        executor = executor.model_copy(update=given)
        if executor.type == "local":
            raise UsageError("--scheduler is the address of a Dask cluster; add --executor dask")
        if problem := executor.problem():
            key, what = problem
            raise UsageError(f"{'--scheduler' if key == 'scheduler' else f'[executor] {key}'} {what}")
    elif request.executor == "local":
        return ExecutorTable()
    if executor.type == "dask" and find_spec("distributed") is None:
        raise UsageError(f"the executor dask needs a package that is not installed; {DASK_REMEDY}")
    return executor


def refuse_local_files(project: Project, request: LoadRequest, plan: Plan) -> None:
    """Raise UsageError for a source or target in files of this machine, when the workers are on others."""
    names = {name for planned in plan.slices for name in (planned.shard.connection, planned.load.target)}
    used = (project.connections[name] for name in sorted(names))
    if problem := executor_of(project, request).files_problem(used):
        raise UsageError(problem)


def check_templates(project: Project, plan: Plan) -> None:
    """Render every load's `create`, and its queries for each of its shards once. Raise ConfigError."""
    check_create(project, plan)
    seen = set()
    for planned in plan.slices:
        load, shard = planned.load, planned.shard
        if (load.name, shard.name) not in seen:
            seen.add((load.name, shard.name))
            render_extract(project, load, shard, planned.slice)
            check_split(project, load, shard, planned.slice)
            if load.ready is not None:
                render_ready(project, load, shard, planned.slice)


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
    """Return the shadows of the plan that have no session yet: their tables may be older than the sessions table."""
    return [shadow for shadow in _shadows(plan) if not store.has_sessions(shadow.name)]


def _shadows(plan: Plan) -> list[Load]:
    return [load for load in plan.loads() if load.shadow_of is not None]


class _Load(Run):
    """One run of `load` or `backfill`."""

    kind = RunKind.LOAD

    def __init__(
        self, project: Project, request: LoadRequest, plan: Plan | None, workers: WorkerServer
    ) -> None:
        super().__init__(project, request.command, request.wait.total_seconds())
        self._request = request
        self._planned = plan
        self.workers = workers

    def prepare(self) -> None:
        # The server imports while the templates are checked.
        self._plan = self._planned or plan_load(self.project, self._request, self._start_workers)
        self._executor = executor_of(self.project, self._request)
        if not self.workers.is_started:
            self._start_workers(self._plan)

    def _start_workers(self, plan: Plan) -> None:
        executor = executor_of(self.project, self._request)
        if not plan.slices or executor.type != "local" or self._request.inline:
            self.workers.close()  # it may have been started early
            return
        connections = self.project.connections
        modules = modules_of(
            {connections[planned.shard.connection].type for planned in plan.slices},
            {connections[load.target].type for load in plan.loads()},
        )
        self.workers.start(modules, lambda: self.events.put(WorkersReady()))

    def locks(self) -> Mapping[str, str]:
        return work_names(self._plan.work())

    def check(self, store: SessionStore) -> None:
        refuse_shared_shadows(self.project, store, self._plan)

    def unknown_loads(self, store: SessionStore) -> Sequence[Load]:
        return first_shadows(store, self._plan)

    def work(self) -> None:
        # Again, now that the locks are held: another run may have completed what was missing before.
        plan = narrowed(self._plan, self._request, self.store)
        seconds = seconds_of(self.store, plan)
        plan = slowest_first(plan, seconds)
        self.listen(RunStarted(self.id, plan, seconds))
        if not plan.slices:
            self.result.empty_plan = plan
            return
        creator = StagingCreator(self.targets, self.events.put)
        groups = Groups(self.id, creator.open)
        scheduler = self._scheduler(plan, groups, creator)
        used = groups.targets
        try:
            self.loop(scheduler)
            if self.result.exit_code is ExitCode.DONE and not self.result.retried:
                # A direct slice that nothing disturbed leaves no table, and no database session that still writes.
                used = groups.staging_targets
        finally:
            self.workers.close()
            # Workers that were ended in the middle of their work.
            remove_left_behind(self.state.path)
            self._drop_staging(used)

    def _publisher(self, columns: DeliveredColumns) -> Publisher:
        # A run that cannot reach the sessions database may no longer publish.
        rules = PublishRules(
            self._request.allow_shrink, self.store.check_alive, delivered=columns, place=self.project.place
        )
        sweepers = targets_of(self.project, f"dwhctl:{self.id}", _DROP_TIMEOUT)
        return Publisher(self.targets, self.slots, self.events.put, rules, sweepers)

    def _scheduler(self, plan: Plan, groups: Groups, creator: StagingCreator) -> SliceScheduler:
        project, request, slots = self.project, self._request, self.slots
        columns = DeliveredColumns(self.store)
        attempts = Attempts(self.store, self.result, self.listen, request.retries)
        jobs = jobs_at_once(project, request, plan)
        prepared = describe_targets(
            project, plan, self.targets, slots, self.blocked, attempts.retries, self.listen
        )
        with_probe = (name for name, keys in project.connections.items() if SYSTEMS[keys.type].has_probe)
        parts = SliceParts(
            pool=self._pool(jobs),
            breaker=CircuitBreaker(frozenset(with_probe)),
            prober=Prober(project.connections, slots, self.events.put),
            groups=groups,
            creator=creator,
            publisher=self._publisher(columns),
            delivered=columns,
        )
        return SliceScheduler(
            project,
            prepared,
            parts,
            self.result.filled,
            run_id=self.id,
            jobs=slice_jobs(plan, self.targets, local=self._executor.type == "local"),
            attempts=attempts,
            slots=slots,
            events=self.events,
        )

    def _pool(self, jobs: int) -> WorkerPool:
        if self._executor.type == "local":
            make = InlineWorker if self._request.inline else self.workers.fork
            self.workers.answered = self.events.put
            return WorkerPool(jobs, make, self.slots, lambda: self.events.put(WorkersReady()))
        from dwhctl.load.cluster import ClusterPool, DaskCluster

        cluster = DaskCluster(self._executor, self.id, lambda: self.events.put(WorkersReady()))
        return ClusterPool(jobs, cluster, self.slots)

    def _drop_staging(self, used: Iterable[str]) -> None:
        timeout = _DROP_TIMEOUT if self.result.signal is None else _LAST_TIMEOUT
        # Not those of the run: they may have been interrupted, permanently.
        targets = targets_of(self.project, f"dwhctl-drop:{self.id}", timeout)
        for name in sorted(used):
            try:
                with self.slots.held(name, wait=timeout.total_seconds()):
                    targets[name].drop_run(self.id)
            except AttemptError:
                # The run that reaps this one drops it.
                self.leaves_lock = True
