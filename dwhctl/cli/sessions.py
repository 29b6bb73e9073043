"""`dwhctl sessions prune`, and `dwhctl adopt`, which adds sessions for days that another tool loaded."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.objects import ResultObject, show_object
from dwhctl.cli.common.options import (
    CommandGroup,
    Duration,
    Settings,
    chosen_days,
    common_options,
    complete_loads,
    end_option,
    format_option,
    shards_option,
    start_option,
    wait_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell
from dwhctl.cli.common.summary import left_out, nothing_to
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import counted, one_line, shown_command
from dwhctl.monitor.coverage import Gap, fill_command, fold_shards
from dwhctl.monitor.prune import PruneRequest, Removal, run_prune
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.project.names import find_load, in_project
from dwhctl.runtime.events import Event, Notice
from dwhctl.verify.adopt import AdoptReport, AdoptRequest, adopt
from dwhctl.verify.findings import Check, SliceComparison, ranges_of

PRUNE: Listing[Removal] = Listing("what", "looked_at", "removed", "bytes")
ADOPT: Listing[tuple[object, ...]] = Listing(
    "load", "shard", "day", "check", "source", "warehouse",
    ListingColumn("detail", is_text=True),
    ListingColumn("command", in_table=False),  # they are below the table: one for many slices
)  # fmt: skip
_SHOWN_COMMANDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneObject(ResultObject):
    """The result of `sessions prune`."""

    dry_run: bool
    """Whether nothing was removed (`--dry-run`)."""
    removals: tuple[Removal, ...]
    """What was removed, or would be."""


@click.group(
    "sessions", cls=CommandGroup, epilog="\b\nExample:\n  dwhctl sessions prune --keep 400d --dry-run"
)
@common_options
def command() -> None:
    """Prune old sessions and what runs left in the state folder."""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@command.command("prune", short_help="Fold old sessions into daily sums, clean up the state folder.")
@click.option(
    "--keep", type=Duration(), required=True, metavar="DURATION", help="Keep what is younger, such as 400d."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also those by which the state of a slice is known: it then counts as never loaded.",
)
@click.option("--dry-run", is_flag=True, help="Count what would be removed, and touch nothing.")
@format_option
@with_settings
def prune(settings: Settings, keep: timedelta, everything: bool, dry_run: bool, form: str) -> None:
    """Remove sessions that started longer ago than --keep, and old files of the state folder.

    Each removed session is counted in dwhctl_days, a row for each load, shard and slice date, which stays. Sessions
    that run, and rows of other programs, are never touched. Of every slice the last closed session stays, the last
    successful one, and the one by which it is complete: gaps, --only-missing, failing streaks and verify do not
    change. With --all these are removed too: then --only-missing loads such old slices again, and verify does not know
    their rows.

    It runs beside loads, in short transactions, and may be killed at any moment. SQLite uses the space again, its file
    does not shrink. In the state folder it removes, if older than a week, work locks that no process holds and staging
    whose run is over; and logs older than --keep.

    \b
    Examples:
      dwhctl sessions prune --keep 400d --dry-run
      dwhctl sessions prune --keep 400d --format json
    """
    project = settings.open_project()
    removals = run_prune(project, PruneRequest(keep, everything=everything, dry_run=dry_run))
    if dry_run:
        tell("dry run: nothing was removed")
    if form == "json":
        show_object(PruneObject(exit_code=ExitCode.DONE.value, dry_run=dry_run, removals=tuple(removals)))
    else:
        PRUNE.show(removals, form, "nothing to remove")


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("adopt")
@click.argument("load", metavar="LOAD", shell_complete=complete_loads)
@start_option()
@end_option("; it must be over.")
@shards_option
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Questions at once; default: max_workers."
)
@click.option("--dry-run", is_flag=True, help="Compare, show what would be adopted, and write nothing.")
@wait_option
@format_option
@with_settings
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
    """Mark days of LOAD that another tool loaded as complete, where 'verify' finds them equal to the sources.

    Both sides measure each slice as 'dwhctl verify' does: rows, keys, and the load's verify_columns. A slice that is
    equal gets a session in the state loaded (skipped where both sides are empty) and counts as complete from then on;
    its rows do not change, and any etl_id is accepted. What differs is listed with the command that loads it.
    Slices that dwhctl has completed are left out. After an interruption, the same command continues.

    A load without slice_by is adopted as a whole, without -s and -e. Ends with 1 when a slice was not adopted.

    \b
    Examples:
      dwhctl adopt orders -s 2020-02-08 -e yesterday
      dwhctl adopt orders -s -30d -e yesterday --shard 'mos*' --dry-run
    """
    project = settings.open_project()
    found = find_load(project, load)
    days = _days(project, found, start, end)
    request = AdoptRequest(found.name, days, shards, jobs, wait, shown_command(sys.argv[1:]), dry_run)
    report = adopt(project, request, _listener(settings))
    rows = [
        row
        for comparison in (*report.differing, *report.of_no_slice)
        for row in _rows(project, comparison, settings.project)
    ]
    ADOPT.show(rows, form, "")
    if form == "table":
        for line in _commands(project, report, settings.project):
            say(line)
    if not settings.quiet:
        (say if form == "table" else tell)(_summary(report, dry_run=dry_run))
    return ExitCode.FAILED if report.differing else ExitCode.DONE


def _days(project: Project, load: Load, start: str | None, end: str | None) -> tuple[date, ...]:
    if load.slice_by is None:
        if start is not None or end is not None:
            raise UsageError(
                f"load {load.name} has no slice_by: its whole table is adopted at once; leave -s and -e out"
            )
        return (datetime.now(project.zone).date(),)
    if start is None or end is None:
        raise UsageError("give the days to adopt: -s D -e D")
    return chosen_days(project, start, end)


def _listener(settings: Settings) -> Callable[[Event], None]:

    def listen(event: Event) -> None:
        if isinstance(event, Notice | Waiting) and event.text and not settings.quiet:
            tell(one_line(event.text))

    return listen


def _rows(project: Project, compared: SliceComparison, root: Path | None) -> Iterator[tuple[object, ...]]:
    command = next((_command(project, gap, compared, root) for gap in ranges_of([compared])), None)
    for found in compared.findings:
        sides = (found.source, found.warehouse, found.detail)
        yield compared.load, compared.shard, compared.day, found.check.value, *sides, command


def _command(
    project: Project, gap: Gap, example: SliceComparison, root: Path | None, *, named: bool = True
) -> str:
    """Return the command for slices like the example: it loads them where they differ, else adopts them again."""
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
    return in_project(shlex.join(words), root)


def _commands(project: Project, report: AdoptReport, root: Path | None) -> Iterator[str]:
    """Yield the commands for what was not adopted, one for shards that lack the same days."""
    for title, comparisons in (
        ("load what differs:", report.different()),
        ("adopt again, when it answers:", report.not_compared()),
    ):
        gaps = fold_shards(ranges_of(comparisons))
        if gaps:
            yield title
        for gap in gaps[:_SHOWN_COMMANDS]:
            # The shards are in the command unless they are all of the load.
            named = len(gap.shards) < len(list(project.shards_of(project.loads[gap.load])))
            yield "  " + _command(project, gap, comparisons[0], root, named=named)
        if len(gaps) > _SHOWN_COMMANDS:
            yield f"  ... and {len(gaps) - _SHOWN_COMMANDS:,} more: --format json has them all"


def _summary(report: AdoptReport, *, dry_run: bool) -> str:
    plan = report.plan
    if not plan.slices:
        return nothing_to("adopt", plan)
    word = "would be adopted" if dry_run else "adopted"
    parts = [f"{report.adopted + report.empty:,} {word} ({counted(report.rows, 'row')})"]
    parts += [f"{report.empty:,} of them empty on both sides"] if report.empty else []
    parts += [f"{len(report.different()):,} different"] if report.different() else []
    parts += [f"{len(report.not_compared()):,} not compared"] if report.not_compared() else []
    return f"{counted(len(plan.slices), 'slice')}: {', '.join(parts)}{left_out(plan)}"
