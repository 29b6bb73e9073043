"""What would be loaded, and about how long that takes: all of `--dry-run`, and the first lines of a backfill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import about, counted, say, show, tell
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.cli.options import Settings
    from dwhctl.project.model import Project
    from dwhctl.runs.plan import LoadRequest, Plan, PlannedSlice

COLUMNS = ("load", "first_day", "last_day", "days", "shards", "slices")
SLICE_COLUMNS = ("load", "shard", "day", "connection")


def show_plan(project: Project, request: LoadRequest, settings: Settings) -> ExitCode:
    """Show the plan of a request on stdout; with --verbose each slice of it."""
    from dwhctl.runs.load import plan_load

    plan = plan_load(project, request)
    if plan.slices:
        show(COLUMNS, _rows_by_load(plan))
    if plan.slices and settings.verbose:
        show(SLICE_COLUMNS, [_slice_row(one) for one in plan.slices])
    start = f"would load {counted(len(plan.slices), 'slice')}"
    say(start + left_out(plan) if plan.slices else nothing_to_load(plan))
    if plan.slices:
        say(_estimate(project, request, plan))
    return ExitCode.DONE


def tell_plan(project: Project, request: LoadRequest, plan: Plan) -> None:
    """Tell on stderr what is about to be loaded."""
    for load, first, last, days, shards, slices in _rows_by_load(plan):
        span = f"{first} to {last}" if first != last else f"{first}"
        tell(
            f"plan: {load}: {span}, {counted(days, 'day')},"
            f" {counted(shards, 'shard')}, {counted(slices, 'slice')}"
        )
    start = counted(len(plan.slices), "slice")
    tell(f"plan: {start + left_out(plan) if plan.slices else nothing_to_load(plan)}")
    if plan.slices:
        tell(f"plan: {_estimate(project, request, plan)}")


def _rows_by_load(plan: Plan) -> list[tuple[str, date, date, int, int, int]]:
    groups: dict[str, list[PlannedSlice]] = {}
    for one in plan.slices:
        groups.setdefault(one.load.name, []).append(one)
    return [(name, *_row(slices)) for name, slices in sorted(groups.items())]


def _row(slices: list[PlannedSlice]) -> tuple[date, date, int, int, int]:
    days = {one.slice.day for one in slices}
    shards = {one.shard.name for one in slices}
    return (min(days), max(days), len(days), len(shards), len(slices))


def _slice_row(one: PlannedSlice) -> tuple[object, ...]:
    return (one.load.name, one.shard.name, one.slice.day, one.shard.connection)


def nothing_to_load(plan: Plan) -> str:
    """Return why a plan has no slices."""
    first = f"; the first day is {plan.first_day}" if plan.first_day else ""
    return f"nothing to load{left_out(plan)}{first}"


def left_out(plan: Plan) -> str:
    """Return how many slices a plan leaves out, by reason."""
    parts = [f"{plan.complete:,} complete"] if plan.complete else []
    parts += [f"{plan.not_failed:,} not failed"] if plan.not_failed else []
    parts += [f"{plan.before_start:,} before their start date"] if plan.before_start else []
    parts += [f"{plan.after_end:,} after their shard's last day"] if plan.after_end else []
    return f"; left out: {', '.join(parts)}" if parts else ""


def _estimate(project: Project, request: LoadRequest, plan: Plan) -> str:
    from dwhctl.runs.load import foresee

    seen = foresee(project, request, plan)
    workers = counted(seen.workers, "worker")
    if seen.seconds is None:
        return f"no past durations to tell how long {workers} will take"
    return f"about {about(seen.seconds)} with {workers}, going by past durations"
