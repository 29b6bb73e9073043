"""`dwhctl report grid`: shards down, days across, a cell for each slice."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads,
    format_option,
    pass_settings,
)
from dwhctl.cli.report.group import (
    DAYS,
    MOST_DAYS,
    MOST_PAST_DAYS,
    check_loads,
    count_style,
    days_ago,
    load_filter,
    open_history,
    shard_filter,
    shard_option,
    shards_that_fit,
)
from dwhctl.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from dwhctl.cli.common.output import TableStyle
    from dwhctl.monitor.coverage import Coverage, Gap, Tasks
    from dwhctl.project.model import Project
    from dwhctl.runtime.failures import Failures
    from dwhctl.sessions.task_states import FailingTask


GRID_COLUMNS = ("load", "shard", "connection", "day", "state", "complete", "started")


@click.command("grid")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    metavar="N",
    help=f"So many days up to today. Default: {DAYS}, fewer where that is more than 100,000 slices.",
)
@shard_option
@click.option(
    "--fold/--no-fold",
    default=None,
    help="A line for each server, or one for each shard. Default: what the terminal has room for.",
)
@format_option
@common_options
@pass_settings
def grid_command(
    settings: Settings,
    /,
    loads: tuple[str, ...],
    days: int | None,
    shards: tuple[str, ...],
    fold: bool | None,
    form: str,
) -> None:
    """Show where every slice stands: shards down, days across, a letter and a colour for each slice.

    A slice is complete when a session that began after its day was over has loaded it (or found no rows). A later
    session that fails or is running leaves it complete: small letters, f and r, show that.
    Where there are too many shards for the terminal, a line stands for a server, or for a load, with the shards that
    have the most gaps below.

    \b
    Examples:
      dwhctl report grid
      dwhctl report grid orders --days 30 --shard 'mos*'
      dwhctl report grid --no-fold | less -S
      dwhctl report grid --format csv
    """
    from dwhctl.cli.common.output import paint, screen, show
    from dwhctl.monitor.coverage import bearable_days, days_until, look_back, sliced_tasks

    project = settings.open_project()
    now = datetime.now(UTC)
    tasks = sliced_tasks(project, loads, shards)
    span = days_until(now.astimezone(project.zone).date(), days or bearable_days(tasks, DAYS))
    coverage = look_back(project, tasks, span, now)
    if form != "table":
        show(GRID_COLUMNS, _rows(coverage), form)
        return
    from dwhctl.cli.report.grid_picture import grid_picture

    paint(grid_picture(coverage, screen(), fold))


def _rows(coverage: Coverage) -> Iterator[tuple[object, ...]]:
    for row, day, cell in coverage.slices():
        yield (
            row.load.name,
            row.shard.name,
            row.shard.connection,
            day,
            cell.standing.value,
            cell.complete,
            cell.started,
        )


GAPS_COLUMNS = ("load", "shard", "start", "end", "slices", "command")


@click.command("gaps")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("-s", "--start", metavar="D", help=f"The first day to look at: {DATE_HELP}")
@click.option(
    "-e", "--end", metavar="D", help="The last day, included, in the same forms; default: yesterday."
)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    metavar="N",
    help=f"Without --start: so many days up to --end, or up to today as in the grid. "
    f"Default: {DAYS}, fewer where that is more than 100,000 slices.",
)
@shard_option
@click.option("--exit-code", is_flag=True, help="End with 1 if there are gaps, for scripts.")
@format_option
@common_options
@pass_settings
def gaps_command(
    settings: Settings,
    /,
    loads: tuple[str, ...],
    start: str | None,
    end: str | None,
    days: int | None,
    shards: tuple[str, ...],
    exit_code: bool,
    form: str,
) -> ExitCode:
    """Show the slices that are over and not complete, as ranges of days, each with the command that fills it.

    Days before a load's start_date or a shard's `from` are no gaps, nor is a day that is not over yet. JSON and CSV
    have a line for each load, shard and range; the table puts shards that lack the same days into one.

    \b
    Examples:
      dwhctl report gaps
      dwhctl report gaps orders -s 2020-07-01 -e 2020-07-13
      dwhctl report gaps --exit-code --quiet || echo 'something is missing'
    """
    from dwhctl.cli.common.output import paint, screen, show
    from dwhctl.monitor.coverage import fill_command, find_gaps, look_back, sliced_tasks

    project = settings.open_project()
    now = datetime.now(UTC)
    tasks = sliced_tasks(project, loads, shards)
    span = _span(project, tasks, (start, end, days), now)
    gaps = find_gaps(look_back(project, tasks, span, now))
    if form != "table":
        show(GAPS_COLUMNS, [_gaps_row(gap, fill_command(gap, settings.project)) for gap in gaps], form)
    else:
        from dwhctl.cli.report.pictures import gaps_picture

        size = screen()
        width = size[0] if size else None
        paint(gaps_picture(project, gaps, span, settings.project, some_shards=bool(shards), width=width))
    return ExitCode.FAILED if gaps and exit_code else ExitCode.DONE


def _gaps_row(gap: Gap, command: str) -> tuple[object, ...]:
    [shard] = gap.shards
    return gap.load, shard, gap.start, gap.end, gap.slices, command


def _span(
    project: Project, tasks: Tasks, asked: tuple[str | None, str | None, int | None], now: datetime
) -> tuple[date, ...]:
    """Give the days to look at. Raise UsageError for a range that cannot be."""
    from dwhctl.monitor.coverage import bearable_days, days_until
    from dwhctl.project.days import resolve_day

    start, end, days = asked
    today = now.astimezone(project.zone).date()
    last = resolve_day(end, project.zone, now) if end else today - timedelta(days=1)
    if last > today:
        raise UsageError(f"--end {last} lies in the future: today is {today} in {project.timezone}")
    if start is None:
        count = days or bearable_days(tasks, DAYS)
        # Today cannot be a gap yet.
        return days_until(last, count if end else max(count - 1, 1))
    if days is not None:
        raise UsageError("--start and --days say both where to begin; give one of them")
    first = resolve_day(start, project.zone, now)
    if first > last:
        raise UsageError(f"--start {first} lies after --end {last}")
    return days_until(last, (last - first).days + 1)


#: Of a table; the commands are below it.
TABLE_COLUMNS = (
    "task_name", "load", "shard", "streak", "failed", "up_for_retry", "since", "last_failed", "last_error",
)  # fmt: skip
FAILURES_COLUMNS = (*TABLE_COLUMNS, "failed_slices", "command")
_MOST_COMMANDS = 5
#: More letters of shards in a line of the table would leave no room for the rest.
_LONGEST_NAMES = 40


@click.command("failures")
@click.option(
    "--days",
    type=click.IntRange(1, MOST_PAST_DAYS),
    default=2,  # as runs.failures.DAYS, by which the metrics go
    show_default=True,
    metavar="N",
    help="Slices whose last session ended in the last N days, whatever their date.",
)
@load_filter
@shard_filter
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also tasks and days that are no longer in the configuration.",
)
@click.option("--exit-code", is_flag=True, help="End with 1 if anything is failing.")
@format_option
@common_options
@pass_settings
def failures_command(
    settings: Settings,
    days: int,
    loads: tuple[str, ...],
    globs: tuple[str, ...],
    everything: bool,
    exit_code: bool,
    form: str,
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
    from dwhctl.cli.common.output import show, tell
    from dwhctl.runtime.failures import Failures

    project = settings.open_project()
    if not everything:
        check_loads(project, loads)
    is_chosen = _chosen(project, loads, globs, everything=everything)
    failures = Failures(project)
    with open_history(project, settings) as store:
        tasks = failures.read(store, days_ago(days), everything=everything) if store else ([], [])
    found, left_out = ([task for task in each if is_chosen(task)] for each in tasks)
    if form != "table":
        show(FAILURES_COLUMNS, [_failures_row(failures, task, settings) for task in found], form)
    elif found:
        show(TABLE_COLUMNS, _rows_of_table(found, settings), form, _failures_style(project, settings))
        _show_commands(failures, found, settings)
    elif not settings.quiet:
        tell("nothing is failing")
    if left_out and not settings.quiet:
        names = "task" if len(left_out) == 1 else "tasks"
        tell(f"left out: {len(left_out):,} {names} that are no longer in the configuration; --all shows them")
    return ExitCode.FAILED if found and exit_code else ExitCode.DONE


def _chosen(
    project: Project, loads: tuple[str, ...], globs: tuple[str, ...], *, everything: bool
) -> Callable[[FailingTask], bool]:
    """Return whether a task is asked for. Raise UsageError for a glob that no shard of the configuration fits."""
    shards = () if everything else shards_that_fit(project, loads, globs)

    def is_chosen(task: FailingTask) -> bool:
        fits = task.shard in shards or (
            everything and any(fnmatch.fnmatchcase(task.shard or "", glob) for glob in globs)
        )
        return (not loads or task.load in loads) and (not globs or fits)

    return is_chosen


def _failures_row(failures: Failures, task: FailingTask, settings: Settings) -> tuple[object, ...]:
    return (*_failures_table_row(task), len(task.slices), failures.command([task], settings.project))


def _failures_table_row(task: FailingTask) -> tuple[object, ...]:
    failed, last = len(task.slices) - task.up_for_retry, task.last
    counts = (task.streak, failed, task.up_for_retry, task.since)
    return (task.task_name, task.load, task.shard, *counts, last.finished, last.error)


def _rows_of_table(found: list[FailingTask], settings: Settings) -> list[tuple[object, ...]]:
    """Give a row for each reason: what a dead server stops on fifty shards is one. With --verbose for each task."""
    if settings.verbose:
        return [_failures_table_row(task) for task in found]
    groups: dict[object, list[FailingTask]] = {}
    for task in found:
        groups.setdefault((task.load, task.last.error) if task.shard else task.task_name, []).append(task)
    return [
        _row_of_group(group) if len(group) > 1 else _failures_table_row(group[0]) for group in groups.values()
    ]


def _row_of_group(tasks: list[FailingTask]) -> tuple[object, ...]:
    """Give the row of several shards of one load, whose last error is the same."""
    from dwhctl.cli.common.output import counted

    load, last = tasks[0].load, max(tasks, key=lambda task: task.last.finished).last
    shards = ", ".join(str(task.shard) for task in tasks)
    if len(shards) > _LONGEST_NAMES:
        shards = f"{tasks[0].shard}, ..."
    retried = sum(task.up_for_retry for task in tasks)
    counts = (
        max(task.streak for task in tasks),
        sum(len(task.slices) for task in tasks) - retried,
        retried,
        min(task.since for task in tasks),
    )
    name = f"{load}: {counted(len(tasks), 'shard')}"
    return (name, load, shards, *counts, last.finished, last.error)


def _show_commands(failures: Failures, found: list[FailingTask], settings: Settings) -> None:
    """Show the commands that try the tasks again: one for the shards of a load that failed on the same days."""
    from rich.text import Text

    from dwhctl.cli.common.output import counted, paint

    groups: dict[object, list[FailingTask]] = {}
    for task in found:
        groups.setdefault((task.load, tuple(one.day for one in task.slices)), []).append(task)
    commands = [failures.command(group, settings.project) for group in groups.values()]
    known = [one for one in commands if one is not None]
    if not known:
        return
    paint([Text(), Text("try again:"), *(Text(f"  {one}") for one in known[:_MOST_COMMANDS])])
    if len(known) > _MOST_COMMANDS:
        more = counted(len(known) - _MOST_COMMANDS, "other command")
        paint([Text(f"  and {more}; --format json shows the one of each task")])


def _failures_style(project: Project, settings: Settings) -> TableStyle:
    from dwhctl.cli.common.output import TableStyle

    return TableStyle(
        texts={"last_error"},
        spare=("shard", "load", "up_for_retry", "failed", "last_failed"),
        styles={
            "failed": partial(count_style, "failed"),
            "up_for_retry": partial(count_style, "up_for_retry"),
        },
        zone=project.zone,
        longest=None if settings.verbose else 160,
    )
