"""The result objects of a load and a refresh, and of their plans, from what the runs return."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dwhctl.alerts.delivery import Delivery
from dwhctl.cli.common.objects import (
    AlertPart,
    FailurePart,
    LeftOutPart,
    LoadObject,
    NeedPart,
    NullColumnPart,
    PlanObject,
    ReadyPart,
    RefreshObject,
    ReportPart,
    RunState,
    SlicePart,
    part_of,
)
from dwhctl.cli.common.progress import RunWatcher
from dwhctl.cli.common.summary import planned_loads, planned_slices
from dwhctl.core.errors import ExitCode
from dwhctl.core.words import is_whole_command, shown_path
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.events import FailedSlice, Readiness, ReportClosed, RunResult
from dwhctl.runtime.failures import FailureGroup
from dwhctl.runtime.plan import LoadRequest, Plan, foresee
from dwhctl.sessions.values import State

_REST = {"--only-missing", "--only-failed"}


def load_object(result: RunResult, run: RunWatcher, command: str, place: Path | None) -> LoadObject:
    """Return the result of a load; `place` is the value of --project, if it was given."""
    filled = sorted(result.filled.items())
    # What the plan leaves out is not complete when the run is interrupted.
    rest = command if _REST & set(shlex.split(command)) else f"{command} --only-missing"
    return part_of(
        LoadObject,
        result,
        **_of_run(result, run, rest, place),
        slices=len(run.plan.slices),
        left_out=part_of(LeftOutPart, run.plan),
        step_seconds={name: round(seconds, 3) for name, seconds in result.step_seconds.items()},
        null_columns=tuple(
            NullColumnPart(load, column, tuple(sorted(shards))) for (load, column), shards in filled
        ),
    )


def refresh_object(result: RunResult, run: RunWatcher, command: str, place: Path | None) -> RefreshObject:
    closed = {event.load: event for event in result.closed}
    return part_of(
        RefreshObject,
        result,
        **_of_run(result, run, command, place),
        refreshed=len(result.refreshed),
        reports=tuple(_report(name, closed.get(name)) for name in result.reports),
    )


def _of_run(result: RunResult, run: RunWatcher, rest: str, place: Path | None) -> dict[str, Any]:
    state = state_of(result)
    return {
        "exit_code": result.exit_code.value,
        "state": state,
        "started": run.began,
        "finished": datetime.now(UTC),
        "seconds": round(result.seconds, 3),
        "failures": tuple(_failure(group, place) for group in result.groups),
        "command": rest if state in ("stopped", "interrupted") and is_whole_command(rest) else None,
        "alerts": alert_parts(result.alerts),
        "pings": tuple(result.pings),
    }


def state_of(result: RunResult) -> RunState:
    if result.signal is not None:
        return "interrupted"
    if result.stopped is not None:
        return "stopped"
    if result.exit_code is not ExitCode.DONE:
        return "failed"
    return "done" if result.empty_plan is None else "nothing_to_do"


def _failure(group: FailureGroup, place: Path | None) -> FailurePart:
    return part_of(
        FailurePart,
        group.failure,
        connection=group.connection,
        advice=group.advice.removesuffix(", then") or None,
        command=in_project(group.command, place) or None,
        slices=tuple(map(_slice, group.slices)),
    )


def _slice(failed: FailedSlice) -> SlicePart:
    failure = failed.failure
    return part_of(
        SlicePart,
        failed,
        shard=failed.shard or None,
        error_class=failure.error_class,
        message=failure.message,
    )


def alert_parts(alerts: Iterable[Delivery]) -> tuple[AlertPart, ...]:
    return tuple(part_of(AlertPart, alert, state=alert.state.value) for alert in alerts)


def _report(name: str, closed: ReportClosed | None) -> ReportPart:
    if closed is None:
        return ReportPart(name, "not_done", None, None, None, None, None, ())
    is_refreshed = closed.failure is None
    failed = "in_doubt" if closed.state is State.RUNNING else "failed"
    return part_of(
        ReportPart,
        closed,
        report=name,
        state="refreshed" if is_refreshed else failed,
        rows=closed.rows if is_refreshed else None,
        seconds=round(closed.seconds, 3),
        without=need_parts(closed.without),
    )


def need_parts(needs: Iterable[Readiness]) -> tuple[NeedPart, ...]:
    return tuple(part_of(NeedPart, need) for need in needs)


def plan_object(project: Project, request: LoadRequest, plan: Plan, *, every_slice: bool) -> PlanObject:
    """Return what a load would do. The sessions are read for the estimate."""
    forecast = foresee(project, request, plan)
    waiting = [(load, load.ready) for load in plan.loads() if load.ready is not None]
    return PlanObject(
        exit_code=ExitCode.DONE.value,
        slices=len(plan.slices),
        loads=planned_loads(plan),
        planned=planned_slices(plan) if every_slice else None,
        left_out=part_of(LeftOutPart, plan),
        first_day=plan.first_day,
        workers=forecast.workers,
        estimated_seconds=None if forecast.seconds is None else round(forecast.seconds, 1),
        waits=tuple(
            ReadyPart(load.name, shown_path(ready, project.root), load.ready_timeout.total_seconds())
            for load, ready in waiting
        ),
    )
