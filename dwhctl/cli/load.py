"""`dwhctl load`: bring a day's rows from every shard into the warehouse."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.options import (
    DATE_HELP,
    Duration,
    Settings,
    common_options,
    complete_loads,
    complete_shards,
    pass_settings,
)
from dwhctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runs.events import RunReport
    from dwhctl.runs.plan import LoadRequest


@click.command("load")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("--date", "day", metavar="D", required=True, help=f"The day to load: {DATE_HELP}")
@click.option(
    "--lookback", type=click.IntRange(0, 3650), default=0, metavar="N", help="Also load the N days before."
)
@click.option(
    "--only-missing", is_flag=True, help="Only slices that are not complete: with --lookback, catching up."
)
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
@click.option("--jobs", type=click.IntRange(1, 1024), metavar="N", help="Workers at once, up to max_workers.")
@click.option("--retries", type=click.IntRange(0, 1000), metavar="N", help="Attempts after a slice's first.")
@click.option("--allow-shrink", is_flag=True, help="Accept sources with far fewer rows than the warehouse.")
@click.option("--dry-run", is_flag=True, help="Show what would be loaded, and touch nothing.")
@click.option(
    "--wait", type=Duration(), default="0s", metavar="DURATION", help="Wait so long for a lock, such as 30m."
)
@click.option(
    "--inline",
    is_flag=True,
    help="Work in this process, for debugging: a worker's crash ends the run and no deadline holds.",
)
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
    """
    from dwhctl.runs.plan import LoadRequest, days_back

    project = settings.open_project()
    days = days_back(chosen_day(project, day), lookback)
    typed = shlex.join(["dwhctl", *sys.argv[1:]])
    request = LoadRequest(days=days, loads=tuple(dict.fromkeys(loads)), command=typed, **asked)
    if dry_run:
        from dwhctl.cli.dry_run import show_plan

        return show_plan(project, request, settings)
    return load_and_tell(project, request, settings)


def load_and_tell(project: Project, request: LoadRequest, settings: Settings) -> ExitCode:
    """Run the load with its progress on stderr and its summary on stdout."""
    from dwhctl.runs.load import exit_code_of

    return exit_code_of(load_and_show(project, request, settings))


def load_and_show(project: Project, request: LoadRequest, settings: Settings) -> RunReport:
    """The same, for who needs to know what came of it."""
    from dwhctl.cli.progress import open_progress
    from dwhctl.cli.summary import show_summary
    from dwhctl.runs.load import run_load

    with open_progress(settings) as progress:
        report = run_load(project, request, progress)
    show_summary(report, settings)
    return report


def chosen_day(project: Project, text: str) -> date:
    """Give the day of a --date. Raise UsageError for one that has not begun anywhere."""
    from dwhctl.project.slices import resolve_day

    now = datetime.now(project.zone)
    day = resolve_day(text, project.zone, now)
    if day > now.date() + timedelta(days=1):
        raise UsageError(
            f"--date {day} lies in the future: today is {now.date()} in {project.timezone};"
            " give a day up to tomorrow"
        )
    return day
