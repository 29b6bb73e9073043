"""The last words of a run, on stdout: what it did, what failed and why, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import counted, one_line, say, shown_seconds
from dwhctl.cli.plan_lines import nothing_to_load
from dwhctl.cli.tally import rate_of
from dwhctl.project.commands import in_project

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.cli.options import Settings
    from dwhctl.runs.events import FailedSlice, RunReport
    from dwhctl.runs.failing import FailureGroup

SHOWN_REASONS = 5
SHOWN_SHARDS = 5


def show_summary(report: RunReport, settings: Settings) -> None:
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


def _counts(report: RunReport) -> str:
    parts = [f"{counted(report.loaded, 'slice')} loaded", f"{report.skipped:,} skipped (no rows)"]
    parts.append(f"{report.failed:,} failed")
    if report.in_doubt:
        parts.append(f"{report.in_doubt:,} in doubt")
    if report.retried:
        parts.append(counted(report.retried, "retry"))
    rate = rate_of(report.rows, report.seconds)
    done = f"{counted(report.rows, 'row')} in {shown_seconds(report.seconds)}"
    return f"{', '.join(parts)}; {done}" + (f" ({rate:,} rows/s)" if rate is not None else "")


def _filled(report: RunReport) -> Iterable[str]:
    """Say once of each column which shards lack it."""
    for (load, column), shards in sorted(report.filled.items()):
        have = "shard has" if len(shards) == 1 else "shards have"
        more = f" and {len(shards) - SHOWN_SHARDS:,} more" if len(shards) > SHOWN_SHARDS else ""
        names = ", ".join(sorted(shards)[:SHOWN_SHARDS])
        yield one_line(f"{load}: {len(shards):,} {have} no column {column}: NULL ({names}{more})")


def _failures(report: RunReport, settings: Settings) -> Iterable[str]:
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
