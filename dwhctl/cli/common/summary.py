"""The last words of a run, on stdout: what it did, what failed and why, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.common.output import about, counted, say, show, shown_seconds, tell
from dwhctl.cli.common.progress import rate_of
from dwhctl.core.errors import ExitCode
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import one_line, shown_time
from dwhctl.project.names import in_project
from dwhctl.runtime.events import Notice, RefreshStarted, ReportClosed, ReportStarted, ReportWaits
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.cli.common.options import Settings
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Event, FailedSlice, RunResult
    from dwhctl.runtime.failures import FailureGroup
    from dwhctl.runtime.plan import LoadRequest, Plan, PlannedSlice, Readiness


COLUMNS = ("load", "first_day", "last_day", "days", "shards", "slices")
SLICE_COLUMNS = ("load", "shard", "day", "connection")


def show_plan(project: Project, request: LoadRequest, settings: Settings) -> ExitCode:
    """Show the plan of a request on stdout; with --verbose each slice of it."""
    from dwhctl.load.run import plan_load

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
    from dwhctl.load.run import foresee

    seen = foresee(project, request, plan)
    workers = counted(seen.workers, "worker")
    if seen.seconds is None:
        return f"no past durations to tell how long {workers} will take"
    return f"about {about(seen.seconds)} with {workers}, going by past durations"


SHOWN_REASONS = 5
SHOWN_SHARDS = 5


def show_summary(report: RunResult, settings: Settings) -> None:
    """Say what the run did; with --quiet only what failed."""
    if not settings.quiet:
        nothing = report.empty_plan if not report.stopped else None
        say(_counts(report) if nothing is None else nothing_to_load(nothing))
    if report.stopped:
        say(f"stopped before its end: {one_line(report.stopped)}")
    elif report.signal:
        say("interrupted before its end; the same command with --only-missing loads what is not complete")
    if settings.verbose and report.step_seconds:
        steps = sorted(report.step_seconds.items(), key=lambda step: -step[1])
        say("time: " + ", ".join(f"{name} {shown_seconds(seconds)}" for name, seconds in steps))
    for line in () if settings.quiet else _filled(report):
        say(line)
    for line in _failures(report, settings):
        say(line)
    show_pings(report.pings)
    show_alerts(report.alerts, settings)


def show_pings(failed: Iterable[str]) -> None:
    """Say which pings failed: whoever waits for them outside takes the work for dead."""
    for line in failed:
        say(one_line(line))


def show_alerts(alerts: Iterable[Delivery], settings: Settings) -> None:
    """Say what became of the run's messages; with --quiet only of those that did not arrive."""
    shown = [one for one in alerts if not settings.quiet or one.state.value != "sent"]
    if shown:
        say()
    for one in shown:
        say(one_line(one.words()))


def _counts(report: RunResult) -> str:
    parts = [f"{counted(report.loaded, 'slice')} loaded", f"{report.skipped:,} skipped (no rows)"]
    parts.append(f"{report.failed:,} failed")
    if report.in_doubt:
        parts.append(f"{report.in_doubt:,} in doubt")
    if report.retried:
        parts.append(counted(report.retried, "retry"))
    rate = rate_of(report.rows, report.seconds)
    done = f"{counted(report.rows, 'row')} in {shown_seconds(report.seconds)}"
    return f"{', '.join(parts)}; {done}" + (f" ({rate:,} rows/s)" if rate is not None else "")


def _filled(report: RunResult) -> Iterable[str]:
    """Say once of each column which shards lack it."""
    for (load, column), shards in sorted(report.filled.items()):
        have = "shard has" if len(shards) == 1 else "shards have"
        more = f" and {len(shards) - SHOWN_SHARDS:,} more" if len(shards) > SHOWN_SHARDS else ""
        names = ", ".join(sorted(shards)[:SHOWN_SHARDS])
        yield one_line(f"{load}: {len(shards):,} {have} no column {column}: NULL ({names}{more})")


def _failures(report: RunResult, settings: Settings) -> Iterable[str]:
    shown = report.groups if settings.verbose else report.groups[:SHOWN_REASONS]
    for group in shown:
        yield ""
        yield from failure_lines(group, "slice", settings)
    hidden = report.groups[len(shown) :]
    if hidden:
        yield ""
        count = sum(len(group.slices) for group in hidden)
        reasons = counted(len(hidden), "other reason")
        yield f"and {counted(count, 'slice')} more failed for {reasons} (-v shows them)"


def failure_lines(group: FailureGroup, thing: str, settings: Settings) -> Iterable[str]:
    """Say what failed for one reason: how many, an example, which, and what to do; with --verbose each of them."""
    failure, count = group.failure, len(group.slices)
    where = f" on {group.connection}" if count > 1 and not group.of_load else ""
    reason = one_line(f"{failure.error_class}: {failure.message}")
    if group.example.in_doubt:
        yield f"{counted(count, thing)} in doubt{where}: the next run looks: {reason}"
    else:
        yield f"{counted(count, thing)} failed{where}: {reason}"
    if settings.verbose and count > 1:
        for one in group.slices:
            message = one_line(f"{one.failure.error_class}: {one.failure.message}")
            yield f"  {_name(one)} {one.day}: {message}"
    else:
        yield f"  {_names(group.slices)}"
    if group.advice:
        command = in_project(group.command, settings.project)
        yield f"  {group.advice}{': ' if command else ''}{command}"


def _names(slices: Sequence[FailedSlice]) -> str:
    """Name the slices, or the first of them; what all have in common once."""
    more = len(slices) - SHOWN_SHARDS
    end = f" and {more:,} more" if more > 0 else ""
    if len({(one.load, one.day) for one in slices}) == 1 and slices[0].shard:
        names = ", ".join(one.shard for one in slices[:SHOWN_SHARDS])
        return f"{slices[0].load} {slices[0].day}: {names}{end}"
    return ", ".join(f"{_name(one)} {one.day}" for one in slices[:SHOWN_SHARDS]) + end


def _name(one: FailedSlice) -> str:
    return f"{one.load} {one.shard}".rstrip()


_SHOWN_SHARDS = 20


class RefreshLines:
    """A timestamped line for each event; nothing with --quiet, the start of each attempt with --verbose."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        if self._settings.quiet or (isinstance(event, ReportStarted) and not self._settings.verbose):
            return
        if isinstance(event, Waiting) and not event.text:
            return
        if isinstance(event, Notice | Waiting | RefreshStarted | ReportWaits | ReportStarted | ReportClosed):
            tell(f"{shown_time()} {_line(event)}")


def _line(event: Notice | Waiting | RefreshStarted | ReportWaits | ReportStarted | ReportClosed) -> str:
    if isinstance(event, Notice | Waiting):
        return one_line(event.text)
    if isinstance(event, RefreshStarted):
        return f"started: {counted(len(event.reports), 'report')} of {event.day}; run {event.run_id}"
    if isinstance(event, ReportWaits):
        return f"waiting: {event.report}: " + "; ".join(str(one) for one in event.readiness if not one.is_met)
    if isinstance(event, ReportStarted):
        return f"refreshing: {event.load} (on {event.connection})"
    return _closed_line(event)


def _closed_line(event: ReportClosed) -> str:
    took = shown_seconds(event.seconds)
    if event.failure is None:
        return f"refreshed: {event.load}: {counted(event.rows, 'row')} in {took}"
    reason = one_line(f"{event.failure.error_class}: {event.failure.message}")
    ended = f"{event.load}: attempt {event.attempt} failed after {took}: {reason}"
    if event.state is State.UP_FOR_RETRY:
        again = f" at {shown_time(event.retry_at)}" if event.retry_at else ""
        return f"will retry{again}: {ended}"
    return f"{'in doubt' if event.state is State.RUNNING else 'failed'}: {ended}"


def show_refreshed(report: RunResult, settings: Settings) -> None:
    """Say what the run did; with --quiet only what failed."""
    if not settings.quiet:
        say(_refresh_counts(report))
        for one in report.refreshed:
            for line in _without(one):
                say(line)
    if report.stopped:
        say(f"stopped before its end: {one_line(report.stopped)}")
    elif report.signal:
        say("interrupted before its end; the same command again does the rest")
    for line in _refresh_failures(report, settings):
        say(line)


def _refresh_counts(report: RunResult) -> str:
    parts = [f"{counted(len(report.refreshed), 'report')} refreshed", f"{report.failed:,} failed"]
    if report.in_doubt:
        parts.append(f"{report.in_doubt:,} in doubt")
    if report.retried:
        parts.append(counted(report.retried, "retry"))
    return f"{', '.join(parts)}; {counted(report.rows, 'row')} in {shown_seconds(report.seconds)}"


def _without(one: ReportClosed) -> Iterable[str]:
    for need in one.without:
        if not need.expected:
            yield f"  {one.load} has no slice of {need.load}: none is expected on {one.day}"
            continue
        done = f"{need.complete:,} of {counted(need.expected, 'slice')}"
        yield f"  {one.load} has {done} of {need.load} {one.day}; it does without {_shards(need)}"


def _shards(need: Readiness) -> str:
    shown, more = need.missing[:_SHOWN_SHARDS], len(need.missing) - _SHOWN_SHARDS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _refresh_failures(report: RunResult, settings: Settings) -> Iterable[str]:
    for group in report.groups:
        yield ""
        yield from failure_lines(group, "report", settings)
