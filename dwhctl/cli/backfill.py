"""`dwhctl backfill`: load every day of a range, after an outage or for the first time."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.loading import asked_day, load_and_tell, loading_options, open_for, request_of
from dwhctl.cli.options import DATE_HELP, Settings, common_options, complete_loads, pass_settings
from dwhctl.cli.output import tell
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Project


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("backfill")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("-s", "--start", metavar="D", required=True, help=f"The first day: {DATE_HELP}")
@click.option("-e", "--end", metavar="D", required=True, help="The last day, included, in the same forms.")
@click.option("--reverse", is_flag=True, help="The newest day first.")
@loading_options
@common_options
@pass_settings
def command(
    settings: Settings, /, loads: tuple[str, ...], start: str, end: str, reverse: bool, dry_run: bool, **asked: Any
) -> ExitCode:  # fmt: skip
    """Load every day from START to END of every LOAD (or of the named ones) from all shards.

    The days come in order, the oldest first, and slices of several days are under way at once. Each load and day
    is locked by itself, so today's load may run beside it. Stopped halfway, the same command with --only-missing
    loads what is not complete. Days before a load's start_date or a shard's `from` are left out.

    \b
    Examples:
      dwhctl backfill -s 2020-07-01 -e 2020-07-13 --only-missing
      dwhctl backfill orders -s -14d -e yesterday --reverse
      dwhctl backfill orders -s 2020-07-01 -e 2020-07-13 --shard 'mos*' --dry-run
    """
    from dwhctl.runs.backfill import loads_with_days

    project, loads = open_for(settings, loads, asked)
    days = _days(project, start, end, reverse=reverse)
    filled, without_days = loads_with_days(project, loads)
    for name in without_days:
        tell(f"left out: load {name} has no slice_by, so it has no days to fill")
    # A ping would say that the day's load is well: of that a backfill knows nothing.
    request = request_of(days, filled, {**asked, "pings": False})
    if dry_run:
        from dwhctl.cli.plan_lines import show_plan

        return show_plan(project, request, settings)
    from dwhctl.runs.load import plan_load

    plan = plan_load(project, request)
    if not settings.quiet:
        from dwhctl.cli.plan_lines import tell_plan

        tell_plan(project, request, plan)
    return load_and_tell(project, request, settings, plan)


def _days(project: Project, start: str, end: str, *, reverse: bool) -> tuple[date, ...]:
    from dwhctl.runs.backfill import days_between

    now = datetime.now(project.zone)
    first, last = asked_day(project, "--start", start, now), asked_day(project, "--end", end, now)
    return days_between(first, last, newest_first=reverse)
