"""`dwhctl report failures`, `gaps` and `grid`: what fails, what is missing, and the state of every slice."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import click

from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import (
    chosen_day,
    complete_loads,
    days_option,
    end_option,
    shards_option,
    start_option,
)
from dwhctl.cli.common.output import paint, say, screen
from dwhctl.cli.report.group import (
    DAYS,
    MOST_DAYS,
    MOST_PAST_DAYS,
    View,
    count_style,
    define_report,
    exit_code_option,
    load_option,
)
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.core.words import counted
from dwhctl.monitor.coverage import (
    Tasks,
    bearable_days,
    days_until,
    fill_command,
    find_gaps,
    grouped,
    look_back,
    sliced_tasks,
)
from dwhctl.runtime.failures import DAYS as FAILING_DAYS
from dwhctl.runtime.failures import Failures
from dwhctl.sessions.task_states import FailingTask
from dwhctl.verify.findings import fits

_FEWER = f"Default: {DAYS}, fewer where that is more than 100,000 slices."
loads_argument = click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
GRID: Listing[tuple[object, ...]] = Listing(
    "load", "shard", "connection", "day", "state", "complete", "started"
)


@define_report(
    "grid",
    loads_argument,
    days_option(f"So many days up to today. {_FEWER}", MOST_DAYS),
    shards_option,
    click.option(
        "--fold/--no-fold",
        default=None,
        help="A line for each server, or one for each shard. Default: what the terminal has room for.",
    ),
)
def grid_command(
    view: View, *, loads: tuple[str, ...], days: int | None, shards: tuple[str, ...], fold: bool | None
) -> None:
    """Show the state of every slice: shards down, days across, a letter and a colour for each slice.

    A slice is complete when a session that began after the end of its day has loaded it (or found no rows). A later
    session that fails or is running leaves it complete: the small letters f and r show that.
    With too many shards for the terminal, each line is a server, or a load, and the shards with the most gaps are
    below.

    \b
    Examples:
      dwhctl report grid
      dwhctl report grid orders --days 30 --shard 'mos*'
      dwhctl report grid --no-fold | less -S
      dwhctl report grid --format csv
    """
    tasks = sliced_tasks(view.project, loads, shards)
    span = days_until(view.today, days or bearable_days(tasks, DAYS))
    coverage = look_back(view.project, tasks, span, view.now)
    if view.is_table:
        from dwhctl.cli.report.grid_picture import grid_picture

        paint(grid_picture(coverage, screen(), fold))
    else:
        rows = (
            (
                row.load.name,
                row.shard.name,
                row.shard.connection,
                day,
                cell.status,
                cell.complete,
                cell.started,
            )
            for row, day, cell in coverage.slices()
        )
        GRID.show(rows, view.form)


GAPS: Listing[tuple[object, ...]] = Listing("load", "shard", "start", "end", "slices", "command")


@define_report(
    "gaps",
    loads_argument,
    start_option("The first day to check"),
    end_option("; default: yesterday."),
    days_option(
        f"Without --start: so many days up to --end, or up to today as in the grid. {_FEWER}", MOST_DAYS
    ),
    shards_option,
    exit_code_option("End with 1 if there are gaps, for scripts."),
)
def gaps_command(
    view: View,
    *,
    loads: tuple[str, ...],
    start: str | None,
    end: str | None,
    days: int | None,
    shards: tuple[str, ...],
    exit_code: bool,
) -> ExitCode:
    """Show the slices that are over and not complete, as ranges of days, each with the command that fills it.

    Days before a load's start_date or a shard's `from` are no gaps, nor is a day that is not over yet. JSON and CSV
    have a line for each load, shard and range; the table has one line for shards that lack the same days.

    \b
    Examples:
      dwhctl report gaps
      dwhctl report gaps orders -s 2020-07-01 -e 2020-07-13
      dwhctl report gaps --exit-code --quiet || echo 'something is missing'
    """
    tasks = sliced_tasks(view.project, loads, shards)
    span = _span(view, tasks, start, end, days)
    gaps = find_gaps(look_back(view.project, tasks, span, view.now))
    root = view.settings.project
    if view.is_table:
        from dwhctl.cli.report.pictures import gaps_picture

        size = screen()
        width = size[0] if size else None
        paint(gaps_picture(view.project, gaps, span, root, some_shards=bool(shards), width=width))
    else:
        rows = [
            (gap.load, *gap.shards, gap.start, gap.end, gap.slices, fill_command(gap, root)) for gap in gaps
        ]
        GAPS.show(rows, view.form)
    return ExitCode.FAILED if gaps and exit_code else ExitCode.DONE


def _span(view: View, tasks: Tasks, start: str | None, end: str | None, days: int | None) -> tuple[date, ...]:
    yesterday = view.today - timedelta(days=1)
    last = chosen_day(view.project, "--end", end, view.now, ahead=0) if end else yesterday
    if start is None:
        count = days or bearable_days(tasks, DAYS)
        # Today cannot be a gap yet.
        return days_until(last, count if end else max(count - 1, 1))
    if days is not None:
        raise UsageError("--start and --days both say where to begin; give one of them")
    first = chosen_day(view.project, "--start", start, view.now)
    if first > last:
        raise UsageError(f"--start {first} lies after --end {last}")
    return days_until(last, (last - first).days + 1)


FAILURES: Listing[tuple[object, ...]] = Listing(
    "task_name", "load", "shard", "streak",
    ListingColumn("failed", style=count_style("failed")),
    ListingColumn("up_for_retry", style=count_style("up_for_retry")),
    "since", "last_failed",
    ListingColumn("last_error", is_text=True),
    ListingColumn("failed_slices", in_table=False),
    ListingColumn("command", in_table=False),  # in a table they are below it
    spare=("shard", "load", "up_for_retry", "failed", "last_failed"),
)  # fmt: skip
_MOST_COMMANDS = 5
#: More letters of shards in a line of the table would leave no room for the rest.
_LONGEST_NAMES = 40


@define_report(
    "failures",
    days_option(
        "Slices whose last session ended in the last N days, whatever their date.",
        MOST_PAST_DAYS,
        FAILING_DAYS,
    ),
    load_option,
    shards_option,
    click.option(
        "--all",
        "everything",
        is_flag=True,
        help="Also tasks and days that are no longer in the configuration.",
    ),
    exit_code_option("End with 1 if anything is failing."),
)
def failures_command(
    view: View,
    *,
    days: int,
    loads: tuple[str, ...],
    shards: tuple[str, ...],
    everything: bool,
    exit_code: bool,
) -> ExitCode:
    """Show the tasks that are failing now, the longest streak first, and the commands that try them again.

    A task (a load from one shard, or a report) is failing when the last closed session of any of its slices is
    unsuccessful and ended in the last N days: a slice of today that is loaded does not hide one of yesterday that
    failed, and a backfill of last year that failed an hour ago is shown. A complete slice whose reload failed is shown
    too. A session that is running does not count. Only for what is replaced as a whole, reports and loads without
    slice_by, a later success clears the failures up to its date.

    'failed_slices' are these slices: 'failed' (or abandoned) ones and those that are 'up_for_retry'. The streak counts
    the unsuccessful slices from the newest of them back to the first success, 'since' is its oldest day. A table shows
    times in the project's time zone; on a terminal it has as many columns as fit beside the error. The shards of a
    load with the same last error share a line, with the longest streak, and long errors are cut (-v shows each task,
    and errors whole). JSON and CSV hold each task, in UTC.

    \b
    Examples:
      dwhctl report failures
      dwhctl report failures --load orders --shard 'mos*' --exit-code
    """
    if not everything:
        view.check_loads(loads)
        view.chosen_shards(loads, shards)
    failures = Failures(view.project)
    with view.history() as store:
        since = view.now - timedelta(days=days)
        tasks = failures.read(store, since, everything=everything) if store else ([], [])
    found, left_out = ([task for task in kind if _is_chosen(task, loads, shards)] for kind in tasks)
    root = view.settings.project
    if not view.is_table:
        FAILURES.show([_row([task], failures.command([task], root)) for task in found], view.form)
    else:
        each = view.settings.verbose
        with_one_error = grouped(
            found, lambda task: task.task_name if each or not task.shard else (task.load, task.last.error)
        )
        view.show(FAILURES, map(_row, with_one_error.values()), "nothing is failing", cut=True)
        # One command is for all shards of a load that failed on the same days.
        of_equal_days = grouped(found, lambda task: (task.load, tuple(failed.day for failed in task.slices)))
        _show_commands([failures.command(group, root) for group in of_equal_days.values()])
    if left_out:
        names = counted(len(left_out), "task")
        view.tell(f"left out: {names} that are no longer in the configuration; --all shows them")
    return ExitCode.FAILED if found and exit_code else ExitCode.DONE


def _is_chosen(task: FailingTask, loads: tuple[str, ...], globs: tuple[str, ...]) -> bool:
    is_of_shard = not globs or (task.shard is not None and fits(task.shard, globs))
    return (not loads or task.load in loads) and is_of_shard


def _row(tasks: list[FailingTask], command: str | None = None) -> tuple[object, ...]:
    """Return the row of a task, or of several shards of one load whose last error is the same."""
    first, last = tasks[0], max((task.last for task in tasks), key=lambda failed: failed.finished)
    name, shards = first.task_name, first.shard
    if len(tasks) > 1:
        name, shards = (
            f"{first.load}: {counted(len(tasks), 'shard')}",
            ", ".join(str(task.shard) for task in tasks),
        )
        shards = shards if len(shards) <= _LONGEST_NAMES else f"{first.shard}, ..."
    slices, retried = sum(len(task.slices) for task in tasks), sum(task.up_for_retry for task in tasks)
    streak, since = max(task.streak for task in tasks), min(task.since for task in tasks)
    counts = (streak, slices - retried, retried, since)
    return (name, first.load, shards, *counts, last.finished, last.error, slices, command)


def _show_commands(commands: Iterable[str | None]) -> None:
    known = [command for command in commands if command is not None]
    for line in ("", "try again:", *(f"  {command}" for command in known[:_MOST_COMMANDS])) if known else ():
        say(line)
    if len(known) > _MOST_COMMANDS:
        more = counted(len(known) - _MOST_COMMANDS, "other command")
        say(f"  and {more}; --format json shows the one of each task")
