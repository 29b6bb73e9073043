"""The last words of a run, on stdout: what it did, what failed and why, and what to do about it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from dwhctl.cli.output import counted, one_line, say, shown_seconds
from dwhctl.errors import CommitInDoubtError, InterruptedAttemptError, ShrunkSourceError
from dwhctl.project.shadows import as_asked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dwhctl.alerts.delivery import Delivery
    from dwhctl.cli.options import Settings
    from dwhctl.runs.events import FailedSlice, RunReport

SHOWN_REASONS = 5
SHOWN_SHARDS = 5
SHOWN_COMMANDS = 3
_INTERRUPTED = InterruptedAttemptError.__name__


def show_summary(report: RunReport, settings: Settings) -> None:
    """Say what the run did; with --quiet only what failed."""
    if not settings.quiet:
        say(_counts(report))
    if report.stopped:
        say(f"stopped before its end: {one_line(report.stopped)}")
    elif report.signal:
        say("interrupted before its end; the same command with --only-missing does the rest")
    if settings.verbose and report.step_seconds:
        steps = sorted(report.step_seconds.items(), key=lambda step: -step[1])
        say("time: " + ", ".join(f"{name} {shown_seconds(seconds)}" for name, seconds in steps))
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
    rate = round(report.rows / max(report.seconds, 0.001))
    done = f"{counted(report.rows, 'row')} in {shown_seconds(report.seconds)} ({rate:,} rows/s)"
    return f"{', '.join(parts)}; {done}"


def _failures(report: RunReport, settings: Settings) -> Iterable[str]:
    # What an interruption failed needs no reason and no command of its own.
    groups = _by_reason([one for one in report.failures if one.failure.error_class != _INTERRUPTED])
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
    """Give the commands that try the group again: its own when it is one, else one for each load."""
    if group[0].failure.error_class == ShrunkSourceError.__name__:
        return []  # it would fail again: its message names the command that accepts it
    place = f" --project {shlex.quote(str(settings.project))}" if settings.project else ""
    if len(group) == 1:
        return [group[0].command + place]
    by_load: dict[str, list[FailedSlice]] = {}
    for one in group:
        by_load.setdefault(one.load, []).append(one)
    return [f"{_again(load, slices)}{place}" for load, slices in by_load.items()]


def _again(load: str, slices: list[FailedSlice]) -> str:
    """Write the command that loads these slices; where it would load more, the complete ones are left out."""
    first, last = min(one.day for one in slices), max(one.day for one in slices)
    shards = list(dict.fromkeys(one.shard for one in slices))
    exact = first == last and len(shards) <= SHOWN_SHARDS
    asked = as_asked(load)
    command = (
        f"dwhctl load {asked} --date {last}"
        if first == last
        else f"dwhctl backfill {asked} -s {first} -e {last}"
    )
    command += "".join(f" --shard {shard}" for shard in shards) if len(shards) <= SHOWN_SHARDS else ""
    return command if exact else f"{command} --only-missing"
