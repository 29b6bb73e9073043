"""The plan of a run before it starts, and its summary after it: what it did, what failed and why, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dwhctl.alerts.delivery import Delivery
from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.options import Settings
from dwhctl.cli.common.output import about, say, tell
from dwhctl.cli.common.progress import end_line, rate_of, reason_text
from dwhctl.core.errors import ExitCode
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import counted, first_of, one_line, shown_path, shown_seconds, shown_time
from dwhctl.monitor.coverage import grouped
from dwhctl.project.days import format_duration
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.events import (
    Event,
    FailedSlice,
    Notice,
    RefreshStarted,
    ReportClosed,
    ReportStarted,
    ReportWaits,
    RunResult,
)
from dwhctl.runtime.failures import FailureGroup
from dwhctl.runtime.plan import LoadRequest, Plan, foresee

if TYPE_CHECKING:  # imported for a plan only: a load that is carried out needs none
    from dwhctl.cli.common.objects import PlannedLoadPart, PlannedSlicePart

_LOADS: Listing[PlannedLoadPart] = Listing("load", "first_day", "last_day", "days", "shards", "slices")
_SLICES: Listing[PlannedSlicePart] = Listing("load", "shard", "day", "connection")


def show_plan(project: Project, request: LoadRequest, settings: Settings) -> ExitCode:
    """Show the plan of a request on stdout; with --verbose every slice of it."""
    from dwhctl.load.run import plan_load

    plan = plan_load(project, request)
    if plan.slices:
        _LOADS.show(planned_loads(plan))
        if settings.verbose:
            _SLICES.show(planned_slices(plan))
        say(f"would load {counted(len(plan.slices), 'slice')}{left_out(plan)}")
        for line in _about(project, request, plan):
            say(line)
    else:
        say(nothing_to("load", plan))
    return ExitCode.DONE


def tell_plan(project: Project, request: LoadRequest, plan: Plan) -> None:
    """Write on stderr what will be loaded."""
    for part in planned_loads(plan):
        span = f"{part.first_day} to {part.last_day}" if part.days > 1 else f"{part.first_day}"
        tell(
            f"plan: {part.load}: {span}, {counted(part.days, 'day')},"
            f" {counted(part.shards, 'shard')}, {counted(part.slices, 'slice')}"
        )
    if plan.slices:
        tell(f"plan: {counted(len(plan.slices), 'slice')}{left_out(plan)}")
        for line in _about(project, request, plan):
            tell(f"plan: {line}")
    else:
        tell(f"plan: {nothing_to('load', plan)}")


def planned_loads(plan: Plan) -> tuple[PlannedLoadPart, ...]:
    """Return the loads of a plan, with the numbers of their days, shards and slices."""
    from dwhctl.cli.common.objects import PlannedLoadPart

    parts = []
    for load, slices in sorted(grouped(plan.slices, lambda planned: planned.load.name).items()):
        days = {planned.slice.day for planned in slices}
        shards = {planned.shard.name for planned in slices}
        parts.append(PlannedLoadPart(load, min(days), max(days), len(days), len(shards), len(slices)))
    return tuple(parts)


def planned_slices(plan: Plan) -> tuple[PlannedSlicePart, ...]:
    from dwhctl.cli.common.objects import PlannedSlicePart

    return tuple(
        PlannedSlicePart(planned.load.name, planned.shard.name, planned.slice.day, planned.shard.connection)
        for planned in plan.slices
    )


def nothing_to(verb: str, plan: Plan) -> str:
    """Return why a plan has no slices to load, or to adopt."""
    first = f"; the first day is {plan.first_day}" if plan.first_day else ""
    return f"nothing to {verb}{left_out(plan)}{first}"


def left_out(plan: Plan) -> str:
    """Return how many slices a plan leaves out, by reason."""
    reasons = {
        "complete": plan.complete,
        "not failed": plan.not_failed,
        "before their start date": plan.before_start,
        "after their shard's last day": plan.after_end,
    }
    parts = [f"{count:,} {reason}" for reason, count in reasons.items() if count]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _about(project: Project, request: LoadRequest, plan: Plan) -> Iterable[str]:
    """Yield how long the plan takes, what its slices wait for, and how they are split; a plan asks no server."""
    forecast = foresee(project, request, plan)
    workers = counted(forecast.workers, "worker")
    if forecast.seconds is None:
        yield f"no past durations to tell how long {workers} will take"
    else:
        yield f"about {about(forecast.seconds)} with {workers}, going by past durations"
    loads = plan.loads()
    for load in loads:
        if load.ready is not None:
            path = shown_path(load.ready, project.root)
            yield f"{load.name}: each slice waits until {path} is true, up to {format_duration(load.ready_timeout)}"
    for load in loads:
        if load.split > 1:
            by = "time" if load.split_by is None else f"ranges of {load.split_by}"
            yield f"{load.name}: each slice in {load.split} parts at once, by {by}"


SHOWN_REASONS = 5
SHOWN_SHARDS = 5


def show_summary(result: RunResult, settings: Settings) -> None:
    """Show what the run did; with --quiet only what failed."""
    if not settings.quiet:
        nothing = result.empty_plan if not result.stopped else None
        say(_counts(result) if nothing is None else nothing_to("load", nothing))
    if result.stopped:
        say(f"stopped before its end: {one_line(result.stopped)}")
    elif result.signal:
        say("interrupted before its end; the same command with --only-missing loads what is not complete")
    if settings.verbose and result.step_seconds:
        steps = sorted(result.step_seconds.items(), key=lambda step: -step[1])
        say("time: " + ", ".join(f"{name} {shown_seconds(seconds)}" for name, seconds in steps))
    for line in () if settings.quiet else _filled(result):
        say(line)
    for line in _failures(result, settings):
        say(line)
    _show_pings_and_alerts(result, settings)


def _show_pings_and_alerts(result: RunResult, settings: Settings) -> None:
    for line in result.pings:  # a monitor outside that misses a ping reports a failure
        say(one_line(line))
    show_alerts(result.alerts, settings)


def show_alerts(alerts: Iterable[Delivery], settings: Settings) -> None:
    """Show the state of the run's messages; with --quiet only of those that did not arrive."""
    shown = [alert for alert in alerts if not settings.quiet or alert.state.value != "sent"]
    if shown:
        say()
    for alert in shown:
        say(one_line(alert.words(settings.project)))


def _counts(result: RunResult) -> str:
    parts = [f"{counted(result.loaded, 'slice')} loaded", f"{result.skipped:,} skipped (no rows)"]
    parts += _ends(result.failed, result.in_doubt, result.retried)
    rate = rate_of(result.rows, result.seconds)
    done = f"{counted(result.rows, 'row')} in {shown_seconds(result.seconds)}"
    return f"{', '.join(parts)}; {done}" + (f" ({rate:,} rows/s)" if rate is not None else "")


def _ends(failed: int, in_doubt: int, retried: int) -> Iterable[str]:
    yield f"{failed:,} failed"
    if in_doubt:
        yield f"{in_doubt:,} in doubt"
    if retried:
        yield counted(retried, "retry")


def _filled(result: RunResult) -> Iterable[str]:
    for (load, column), shards in sorted(result.filled.items()):
        have = "shard has" if len(shards) == 1 else "shards have"
        yield one_line(
            f"{load}: {len(shards):,} {have} no column {column}: NULL ({first_of(sorted(shards), SHOWN_SHARDS)})"
        )


def _failures(result: RunResult, settings: Settings) -> Iterable[str]:
    shown = result.groups if settings.verbose else result.groups[:SHOWN_REASONS]
    for group in shown:
        yield from _failure_lines(group, "slice", settings)
    hidden = result.groups[len(shown) :]
    if hidden:
        yield ""
        count = sum(len(group.slices) for group in hidden)
        reasons = counted(len(hidden), "other reason")
        yield f"and {counted(count, 'slice')} more failed for {reasons} (-v shows them)"


def _failure_lines(group: FailureGroup, thing: str, settings: Settings) -> Iterable[str]:
    """Yield what failed for one reason: how many, an example, which, and what to do; with --verbose each of them."""
    yield ""
    count = len(group.slices)
    where = f" on {group.connection}" if count > 1 and not group.of_load else ""
    how = f"in doubt{where}: the next run checks" if group.example.in_doubt else f"failed{where}"
    yield f"{counted(count, thing)} {how}: {reason_text(group.failure)}"
    if settings.verbose and count > 1:
        for failed in group.slices:
            yield f"  {_named(failed)}: {reason_text(failed.failure)}"
    else:
        yield f"  {_slices(group.slices)}"
    if group.advice:
        command = in_project(group.command, settings.project)
        yield f"  {group.advice}{': ' if command else ''}{command}"


def _slices(slices: Sequence[FailedSlice]) -> str:
    """Return the first of the slices; what all have in common only once."""
    first = slices[0]
    if len({(failed.load, failed.day) for failed in slices}) == 1 and first.shard:
        return f"{first.load} {first.day}: {first_of([failed.shard for failed in slices], SHOWN_SHARDS)}"
    return first_of([_named(failed) for failed in slices], SHOWN_SHARDS)


def _named(failed: FailedSlice) -> str:
    return " ".join(filter(None, (failed.load, failed.shard, str(failed.day))))


# A refresh of reports

_SHOWN_MISSING = 20


class RefreshLines:
    """A timestamped line for each event; nothing with --quiet, the start of each attempt with --verbose."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, event: Event) -> None:
        line = "" if self._settings.quiet else self._line(event)
        if line:
            tell(f"{shown_time()} {line}")

    def _line(self, event: Event) -> str:
        match event:
            case Notice() | Waiting():
                return one_line(event.text)
            case RefreshStarted():
                return f"started: {counted(len(event.reports), 'report')} of {event.day}; run {event.run_id}"
            case ReportWaits():
                unmet = (str(need) for need in event.readiness if not need.is_met)
                return f"waiting: {event.report}: {'; '.join(unmet)}"
            case ReportStarted() if self._settings.verbose:
                return f"refreshing: {event.load} (on {event.connection})"
            case ReportClosed():
                return end_line(event, event.load, "refreshed")
        return ""


def show_refreshed(result: RunResult, settings: Settings) -> None:
    """Show what the run did; with --quiet only what failed."""
    if not settings.quiet:
        say(_refresh_counts(result))
        for line in _incomplete_needs(result):
            say(line)
    if result.stopped:
        say(f"stopped before its end: {one_line(result.stopped)}")
    elif result.signal:
        say("interrupted before its end; the same command again does the rest")
    for group in result.groups:
        for line in _failure_lines(group, "report", settings):
            say(line)
    _show_pings_and_alerts(result, settings)


def _refresh_counts(result: RunResult) -> str:
    parts = [
        f"{counted(len(result.refreshed), 'report')} refreshed",
        *_ends(result.failed, result.in_doubt, result.retried),
    ]
    return f"{', '.join(parts)}; {counted(result.rows, 'row')} in {shown_seconds(result.seconds)}"


def _incomplete_needs(result: RunResult) -> Iterable[str]:
    for closed in result.refreshed:
        for need in closed.without:
            if not need.expected:
                yield f"  {closed.load} has no slice of {need.load}: none is expected on {closed.day}"
                continue
            done = f"{need.complete:,} of {counted(need.expected, 'slice')}"
            missing = first_of(need.missing, _SHOWN_MISSING)
            yield f"  {closed.load} has {done} of {need.load} {closed.day}; it does without {missing}"
