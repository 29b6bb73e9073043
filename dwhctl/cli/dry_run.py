"""`dwhctl load --dry-run`: what would be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import counted, say, show
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.cli.options import Settings
    from dwhctl.project.model import Project
    from dwhctl.runs.plan import LoadRequest, Plan, PlannedSlice

COLUMNS = ("load", "first_day", "last_day", "days", "shards", "slices")
SLICE_COLUMNS = ("load", "shard", "day", "connection")


def show_plan(project: Project, request: LoadRequest, settings: Settings) -> ExitCode:
    """Show the plan of a request; with --verbose each slice of it."""
    from dwhctl.runs.load import plan_load

    plan = plan_load(project, request)
    if plan.slices:
        show(COLUMNS, _rows_by_load(plan))
    if plan.slices and settings.verbose:
        show(SLICE_COLUMNS, [_slice_row(one) for one in plan.slices])
    say(_last_line(plan))
    return ExitCode.DONE


def _rows_by_load(plan: Plan) -> list[tuple[object, ...]]:
    groups: dict[str, list[PlannedSlice]] = {}
    for one in plan.slices:
        groups.setdefault(one.load.name, []).append(one)
    return [(name, *_row(slices)) for name, slices in sorted(groups.items())]


def _row(slices: list[PlannedSlice]) -> tuple[object, ...]:
    days = {one.slice.day for one in slices}
    shards = {one.shard.name for one in slices}
    return (min(days), max(days), len(days), len(shards), len(slices))


def _slice_row(one: PlannedSlice) -> tuple[object, ...]:
    return (one.load.name, one.shard.name, one.slice.day, one.shard.connection)


def _last_line(plan: Plan) -> str:
    left_out = [f"{plan.complete:,} complete"] if plan.complete else []
    left_out += [f"{plan.before_start:,} before their start date"] if plan.before_start else []
    start = f"would load {counted(len(plan.slices), 'slice')}" if plan.slices else "nothing to load"
    return start + (f"; left out: {', '.join(left_out)}" if left_out else "")
