"""What `refresh-reports` tells while it works, on stderr, and in the end, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import counted, one_line, say, shown_seconds, tell
from dwhctl.cli.summary import failure_lines
from dwhctl.runs.events import Notice, RefreshStarted, ReportClosed, ReportStarted, ReportWaits, RunEnded
from dwhctl.sessions.values import State
from dwhctl.times import shown_time
from dwhctl.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dwhctl.cli.options import Settings
    from dwhctl.runs.events import RefreshEvent, RefreshReport
    from dwhctl.runs.needs import Readiness

_SHOWN_SHARDS = 20


class RefreshLines:
    """A timestamped line for each event; nothing with --quiet, the start of each attempt with --verbose."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, event: RefreshEvent) -> None:
        """Write the event's line, if it has one."""
        if self._settings.quiet or (isinstance(event, ReportStarted) and not self._settings.verbose):
            return
        if isinstance(event, RunEnded):  # the summary tells
            return
        if isinstance(event, Waiting) and not event.text:
            return
        tell(f"{shown_time()} {_line(event)}")


def _line(event: Notice | Waiting | RefreshStarted | ReportWaits | ReportStarted | ReportClosed) -> str:
    if isinstance(event, Notice | Waiting):
        return one_line(event.text)
    if isinstance(event, RefreshStarted):
        return f"started: {counted(len(event.reports), 'report')} of {event.day}; run {event.run_id}"
    if isinstance(event, ReportWaits):
        return f"waiting: {event.report}: " + "; ".join(str(one) for one in event.readiness if not one.is_met)
    if isinstance(event, ReportStarted):
        return f"refreshing: {event.report} (on {event.connection})"
    return _closed_line(event)


def _closed_line(event: ReportClosed) -> str:
    took = shown_seconds(event.seconds)
    if event.failure is None:
        return f"refreshed: {event.report}: {counted(event.rows, 'row')} in {took}"
    reason = one_line(f"{event.failure.error_class}: {event.failure.message}")
    ended = f"{event.report}: attempt {event.attempt} failed after {took}: {reason}"
    if event.state is State.UP_FOR_RETRY:
        again = f" at {shown_time(event.retry_at)}" if event.retry_at else ""
        return f"will retry{again}: {ended}"
    return f"{'in doubt' if event.state is State.RUNNING else 'failed'}: {ended}"


def show_refreshed(report: RefreshReport, settings: Settings) -> None:
    """Say what the run did; with --quiet only what failed."""
    if not settings.quiet:
        say(_counts(report))
        for one in report.refreshed:
            for line in _without(one):
                say(line)
    if report.stopped:
        say(f"stopped before its end: {one_line(report.stopped)}")
    elif report.signal:
        say("interrupted before its end; the same command again does the rest")
    for line in _failures(report, settings):
        say(line)


def _counts(report: RefreshReport) -> str:
    failed = len(report.failures) - report.in_doubt
    parts = [f"{counted(len(report.refreshed), 'report')} refreshed", f"{failed:,} failed"]
    if report.in_doubt:
        parts.append(f"{report.in_doubt:,} in doubt")
    if report.retried:
        parts.append(counted(report.retried, "retry"))
    rows = sum(one.rows for one in report.refreshed)
    return f"{', '.join(parts)}; {counted(rows, 'row')} in {shown_seconds(report.seconds)}"


def _without(one: ReportClosed) -> Iterable[str]:
    for need in one.without:
        if not need.expected:
            yield f"  {one.report} has no slice of {need.load}: none is expected on {one.day}"
            continue
        done = f"{need.complete:,} of {counted(need.expected, 'slice')}"
        yield f"  {one.report} has {done} of {need.load} {one.day}; it does without {_shards(need)}"


def _shards(need: Readiness) -> str:
    shown, more = need.missing[:_SHOWN_SHARDS], len(need.missing) - _SHOWN_SHARDS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _failures(report: RefreshReport, settings: Settings) -> Iterable[str]:
    for group in report.groups:
        yield ""
        yield from failure_lines(group, "report", settings)
