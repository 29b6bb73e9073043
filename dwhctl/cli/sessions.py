"""`dwhctl sessions`: what is done to the sessions themselves."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.options import (
    DATE_HELP,
    CommandGroup,
    Duration,
    Settings,
    common_options,
    complete_loads,
    complete_shards,
    format_option,
    pass_settings,
)
from dwhctl.cli.load import asked_day
from dwhctl.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from dwhctl.monitor.coverage import Gap
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Event
    from dwhctl.verify.adopt import AdoptReport
    from dwhctl.verify.findings import SliceComparison


PRUNE_COLUMNS = ("what", "looked_at", "removed", "bytes")


@click.group(
    "sessions", cls=CommandGroup, epilog="\b\nExample:\n  dwhctl sessions prune --keep 400d --dry-run"
)
@common_options
def command() -> None:
    """Prune old sessions and what runs left in the state folder."""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@command.command("prune", short_help="Fold old sessions into daily sums, tidy the state folder.")
@click.option(
    "--keep", type=Duration(), required=True, metavar="DURATION", help="Keep what is younger, such as 400d."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also those that tell the state of a slice: it then counts as never loaded.",
)
@click.option("--dry-run", is_flag=True, help="Count what would go, and touch nothing.")
@format_option
@common_options
@pass_settings
def prune(settings: Settings, keep: timedelta, everything: bool, dry_run: bool, form: str) -> None:
    """Remove sessions that started longer ago than --keep, and old files of the state folder.

    Each removed session is counted in dwhctl_days, a row for each load, shard and slice date, which stays. Sessions
    that run, and rows of other programs, are never touched. Of every slice the last closed session stays, the last
    successful one, and the one by which it is complete: gaps, --only-missing, failing streaks and verify see what they
    saw before. With --all they go too:
    then --only-missing loads such old slices again, and verify knows nothing of their rows.

    It runs beside loads, in short transactions, and may be killed at any moment. SQLite uses the room again, its file
    does not shrink. In the state folder go, if older than a week: locks of work that nobody holds, staging whose run
    is over; and logs older than --keep.

    \b
    Examples:
      dwhctl sessions prune --keep 400d --dry-run
      dwhctl sessions prune --keep 400d --format json
    """
    from dwhctl.cli.common.output import show, tell
    from dwhctl.monitor.prune import PruneRequest, run_prune

    project = settings.open_project()
    removals = run_prune(project, PruneRequest(keep, everything=everything, dry_run=dry_run))
    if dry_run:
        tell("dry run: nothing was removed")
    show(
        PRUNE_COLUMNS,
        [(one.what, one.looked_at, one.removed, one.bytes) for one in removals],
        form,
        empty="nothing to remove",
    )


COLUMNS = ("load", "shard", "day", "check", "source", "warehouse", "detail", "command")
_SHOWN_COMMANDS = 20


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("adopt")
@click.argument("load", metavar="LOAD", shell_complete=complete_loads)
@click.option("-s", "--start", metavar="D", help=f"The first day: {DATE_HELP}")
@click.option("-e", "--end", metavar="D", help="The last day, included, in the same forms; it must be over.")
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Questions at once; default: max_workers."
)
@click.option("--dry-run", is_flag=True, help="Compare, show what would be adopted, and write nothing.")
@click.option(
    "--wait", type=Duration(), default="0s", metavar="DURATION", help="Wait so long for a lock, such as 30m."
)
@format_option
@common_options
@pass_settings
def adopt_command(
    settings: Settings,
    /,
    load: str,
    start: str | None,
    end: str | None,
    shards: tuple[str, ...],
    jobs: int | None,
    dry_run: bool,
    wait: timedelta,
    form: str,
) -> ExitCode:
    """Take the days of LOAD that another tool loaded as complete, where 'verify' finds them equal to the sources.

    Each side measures each slice as 'dwhctl verify' does: rows, keys, and the load's verify_columns. A slice that is
    equal gets a session in the state loaded (skipped where both sides are empty) and counts as complete from then on;
    its rows stay as they are, and any etl_id is accepted. What differs is listed with the command that loads it.
    Slices that dwhctl has completed are left out. Stopped halfway, the same command goes on where it was.

    A load without slice_by is adopted as a whole, without -s and -e. Ends with 1 when a slice was not adopted.

    \b
    Examples:
      dwhctl adopt orders -s 2020-02-08 -e yesterday
      dwhctl adopt orders -s -30d -e yesterday --shard 'mos*' --dry-run
    """
    from dwhctl.core.words import shown_command
    from dwhctl.project.names import find_load
    from dwhctl.verify.adopt import AdoptRequest, adopt

    project = settings.open_project()
    found = find_load(project, load)
    days = _days(project, found, start, end)
    typed = shown_command(sys.argv[1:])
    request = AdoptRequest(found.name, days, shards, jobs, wait, typed, dry_run)
    report = adopt(project, request, _listener(settings))
    _show(project, report, settings, form, dry_run=dry_run)
    return ExitCode.FAILED if report.differing else ExitCode.DONE


def _days(project: Project, load: Load, start: str | None, end: str | None) -> tuple[date, ...]:
    from dwhctl.runtime.plan import days_between

    now = datetime.now(project.zone)
    if load.slice_by is None:
        if start is not None or end is not None:
            raise UsageError(
                f"load {load.name} has no slice_by: its whole table is adopted at once; leave -s and -e out"
            )
        return (now.date(),)
    if start is None or end is None:
        raise UsageError("give the days to adopt: -s D -e D")
    return days_between(asked_day(project, "--start", start, now), asked_day(project, "--end", end, now))


def _listener(settings: Settings) -> Callable[[Event], None]:
    """Tell notices and waits on stderr."""
    from dwhctl.cli.common.output import tell
    from dwhctl.core.waiting import Waiting
    from dwhctl.core.words import one_line
    from dwhctl.runtime.events import Notice

    def listen(event: Event) -> None:
        if isinstance(event, Notice | Waiting) and event.text and not settings.quiet:
            tell(one_line(event.text))

    return listen


def _show(project: Project, report: AdoptReport, settings: Settings, form: str, *, dry_run: bool) -> None:
    from dwhctl.cli.common.output import TableStyle, say, show, tell

    verdicts = [*report.differing, *report.of_no_slice]
    rows = [row for one in verdicts for row in _rows(project, one, settings.project)]
    if form != "table":
        show(COLUMNS, rows, form)
    elif rows:
        # Its commands are below the table: one for many slices.
        show(COLUMNS[:-1], [row[:-1] for row in rows], form, TableStyle(texts=("detail",)))
    if form == "table":
        for line in _commands(project, report, settings.project):
            say(line)
    if not settings.quiet:
        (say if form == "table" else tell)(_summary(report, dry_run=dry_run))


def _rows(project: Project, one: SliceComparison, root: Path | None) -> Iterator[tuple[object, ...]]:
    from dwhctl.verify.findings import ranges_of

    command = next((_command(project, gap, one, root) for gap in ranges_of([one])), None)
    for found in one.findings:
        check = found.check.value
        yield one.load, one.shard, one.day, check, found.source, found.warehouse, found.detail, command


def _command(
    project: Project, gap: Gap, example: SliceComparison, root: Path | None, *, named: bool = True
) -> str:
    """Give the command for slices of one kind: that loads them where they differ, else that adopts them again."""
    from dwhctl.monitor.coverage import fill_command
    from dwhctl.verify.findings import Check

    again = example.has(Check.NOT_COMPARED)
    sliced = project.loads[gap.load].slice_by is not None
    if sliced and not again:
        return fill_command(gap, root, named=named)
    words = ["dwhctl", "adopt" if again else "load", gap.load]
    if sliced:
        words += ["-s", str(gap.start), "-e", str(gap.end)]
    elif not again:
        words += ["--date", "today"]
    if named:
        words += [word for shard in gap.shards for word in ("--shard", shard)]
    return shlex.join([*words, "--project", str(root)] if root else words)


def _commands(project: Project, report: AdoptReport, root: Path | None) -> Iterator[str]:
    """Write the commands for what was not adopted, shards that lack the same days in one."""
    from dwhctl.monitor.coverage import fold_shards
    from dwhctl.verify.findings import ranges_of

    for title, verdicts in (
        ("load what differs:", report.different()),
        ("adopt again, when it answers:", report.not_compared()),
    ):
        gaps = fold_shards(ranges_of(verdicts))
        if gaps:
            yield title
        for gap in gaps[:_SHOWN_COMMANDS]:
            yield "  " + _command(project, gap, verdicts[0], root, named=_is_named(project, gap))
        if len(gaps) > _SHOWN_COMMANDS:
            yield f"  ... and {len(gaps) - _SHOWN_COMMANDS:,} more: --format json has them all"


def _is_named(project: Project, gap: Gap) -> bool:
    """Return whether a command has to name its shards: not where they are all of the load."""
    return len(gap.shards) < len(list(project.shards_of(project.loads[gap.load])))


def _summary(report: AdoptReport, *, dry_run: bool) -> str:
    from dwhctl.cli.common.output import counted
    from dwhctl.cli.common.summary import left_out

    plan = report.plan
    if not plan.slices:
        first = f"; the first day is {plan.first_day}" if plan.first_day else ""
        return f"nothing to adopt{left_out(plan)}{first}"
    word = "would be adopted" if dry_run else "adopted"
    parts = [f"{report.adopted + report.empty:,} {word} ({counted(report.rows, 'row')})"]
    parts += [f"{report.empty:,} of them empty on both sides"] if report.empty else []
    parts += [f"{len(report.different()):,} different"] if report.different() else []
    parts += [f"{len(report.not_compared()):,} not compared"] if report.not_compared() else []
    return f"{counted(len(plan.slices), 'slice')}: {', '.join(parts)}{left_out(plan)}"
