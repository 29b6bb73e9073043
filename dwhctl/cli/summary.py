"""The last words of a run, on stdout: what it did, what failed and why, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import counted, one_line, say, shown_seconds
from dwhctl.cli.plan_lines import nothing_to_load
from dwhctl.cli.tally import rate_of
from dwhctl.errors import CommitInDoubtError, InterruptedAttemptError, ShrunkSourceError
from dwhctl.runs.failures import retry_slices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.cli.options import Settings
    from dwhctl.runs.events import FailedSlice, RunReport

SHOWN_REASONS = 5
SHOWN_SHARDS = 5
SHOWN_COMMANDS = 3


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
    # What an interruption failed needs no reason and no command of its own.
    groups = _by_reason([one for one in report.failures if not one.failure.is_a(InterruptedAttemptError)])
    for group in groups[:SHOWN_REASONS]:
        failure = group[0].failure
        yield ""
        reason = one_line(f"{failure.error_class}: {failure.message}")
        in_doubt = failure.error_class == CommitInDoubtError.__name__
        how = "in doubt: the next run looks" if in_doubt else "failed"
        yield f"{counted(len(group), 'slice')} {how}: {reason}"
        yield f"  {_shards(group)}"
        for command in _commands(group, settings)[:SHOWN_COMMANDS]:
            yield f"  try again: {command}"
    hidden = sum(map(len, groups[SHOWN_REASONS:]))
    if hidden:
        yield ""
        reasons = counted(len(groups) - SHOWN_REASONS, "other reason")
        yield f"and {counted(hidden, 'slice')} more failed for {reasons}"


def _by_reason(failures: list[FailedSlice]) -> list[list[FailedSlice]]:
    """Put slices that failed for one reason together, the most frequent reason first."""
    groups: dict[tuple[str, str], list[FailedSlice]] = {}
    for one in failures:
        groups.setdefault((one.failure.error_class, one.failure.message), []).append(one)
    return sorted(groups.values(), key=lambda group: -len(group))


def _shards(group: list[FailedSlice]) -> str:
    names = [f"{one.load} {one.shard} {one.day}" for one in group[:SHOWN_SHARDS]]
    more = len(group) - SHOWN_SHARDS
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _commands(group: list[FailedSlice], settings: Settings) -> list[str]:
    """Return the commands that try the group again, one for each load."""
    if group[0].failure.is_a(ShrunkSourceError):
        return []  # it would fail again: its message names the command that accepts it
    by_load: dict[str, list[FailedSlice]] = {}
    for one in group:
        by_load.setdefault(one.load, []).append(one)
    return [
        retry_slices(load, [(one.shard, one.day) for one in slices], settings.project)
        for load, slices in by_load.items()
    ]
