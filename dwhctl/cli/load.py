"""`dwhctl load`: bring a day's rows from every shard into the warehouse."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.loading import asked_day, load_and_tell, loading_options, open_for, request_of
from dwhctl.cli.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads,
    pass_settings,
    scheduled_option,
)
from dwhctl.errors import ExitCode


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("load")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("--date", "day", metavar="D", required=True, help=f"The day to load: {DATE_HELP}")
@click.option(
    "--lookback", type=click.IntRange(0, 3650), default=0, metavar="N", help="Also load the N days before."
)
@loading_options
@scheduled_option
@common_options
@pass_settings
def command(
    settings: Settings, /, loads: tuple[str, ...], day: str, lookback: int, dry_run: bool, **asked: Any
) -> ExitCode:
    """Load the day D of every LOAD (or of the named ones) from all shards.

    A slice that was loaded before is replaced, so loading a day again is always safe.

    \b
    Examples:
      dwhctl load --date yesterday
      dwhctl load orders --date today --lookback 1
      dwhctl load --date -1d --lookback 14 --only-missing
      dwhctl load orders --date 2020-07-13 --shard 'mos*' --dry-run
      dwhctl load orders --date yesterday --table stage.orders_new
    """
    from dwhctl.runs.plan import days_back

    project, loads = open_for(settings, loads, asked)
    newest = asked_day(project, "--date", day, datetime.now(project.zone))
    request = request_of(days_back(newest, lookback), loads, asked)
    if dry_run:
        from dwhctl.cli.plan_lines import show_plan

        return show_plan(project, request, settings)
    return load_and_tell(project, request, settings)
