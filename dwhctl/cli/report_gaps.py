"""`dwhctl report gaps`: what is missing, and the command that fills it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads,
    format_option,
    pass_settings,
)
from dwhctl.cli.report_options import DAYS, MOST_DAYS, shard_option
from dwhctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runs.coverage import Tasks
    from dwhctl.runs.gaps import Gap

COLUMNS = ("load", "shard", "start", "end", "slices", "command")


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
def command(
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
    from dwhctl.cli.output import paint, screen, show
    from dwhctl.runs.coverage import sliced_tasks
    from dwhctl.runs.gaps import fill_command, find_gaps
    from dwhctl.runs.look_back import look_back

    project = settings.open_project()
    now = datetime.now(UTC)
    tasks = sliced_tasks(project, loads, shards)
    span = _span(project, tasks, (start, end, days), now)
    gaps = find_gaps(look_back(project, tasks, span, now))
    if form != "table":
        show(COLUMNS, [_row(gap, fill_command(gap, settings.project)) for gap in gaps], form)
    else:
        from dwhctl.cli.gaps_picture import gaps_picture

        size = screen()
        width = size[0] if size else None
        paint(gaps_picture(project, gaps, span, settings.project, some_shards=bool(shards), width=width))
    return ExitCode.FAILED if gaps and exit_code else ExitCode.DONE


def _row(gap: Gap, command: str) -> tuple[object, ...]:
    [shard] = gap.shards
    return gap.load, shard, gap.start, gap.end, gap.slices, command


def _span(
    project: Project, tasks: Tasks, asked: tuple[str | None, str | None, int | None], now: datetime
) -> tuple[date, ...]:
    """Give the days to look at. Raise UsageError for a range that cannot be."""
    from dwhctl.project.slices import resolve_day
    from dwhctl.runs.coverage import bearable_days, days_until

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
