"""`dwhctl load`: bring a day's rows from every shard into the warehouse."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.options import (
    DATE_HELP,
    AnyFunction,
    Duration,
    Settings,
    common_options,
    complete_loads,
    complete_shards,
    pass_settings,
    scheduled_option,
)
from dwhctl.cli.common.output import tell
from dwhctl.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runtime.events import RunResult
    from dwhctl.runtime.plan import LoadRequest, Plan


_OPTIONS = (
    click.option(
        "--only-missing", is_flag=True, help="Only slices that are not complete: to catch up, or to go on."
    ),
    click.option(
        "--only-failed",
        is_flag=True,
        help="Only slices whose last session failed, also complete ones whose reload failed.",
    ),
    click.option(
        "--shard",
        "shards",
        multiple=True,
        metavar="GLOB",
        shell_complete=complete_shards,
        help="Only shards whose name fits; may be given several times.",
    ),
    click.option(
        "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Workers at once, up to max_workers."
    ),
    click.option(
        "--retries", type=click.IntRange(0, 1000), metavar="N", help="Attempts after a slice's first."
    ),
    click.option(
        "--allow-shrink", is_flag=True, help="Accept sources with far fewer rows than the warehouse."
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be loaded, and touch nothing."),
    click.option(
        "--table",
        metavar="SCHEMA.TABLE",
        help="A shadow run: into this table instead of the one load's own, which stays as it is.",
    ),
    click.option(
        "--wait",
        type=Duration(),
        default="0s",
        metavar="DURATION",
        help="Wait so long for a lock, such as 30m.",
    ),
    click.option(
        "--inline",
        is_flag=True,
        help="Work in this process, for debugging: a worker's crash ends the run and no deadline holds.",
    ),
)


def loading_options(function: AnyFunction) -> AnyFunction:
    """Give a command the options of every command that loads slices."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def open_for(
    settings: Settings, loads: tuple[str, ...], asked: dict[str, Any]
) -> tuple[Project, tuple[str, ...]]:
    """Open the project, and name the loads: with --table the shadow of the one that is named."""
    from dwhctl.project.names import with_shadow

    project, table = settings.open_project(), asked.pop("table")
    return (project, loads) if table is None else with_shadow(project, loads, table)


def request_of(days: tuple[date, ...], loads: tuple[str, ...], asked: dict[str, Any]) -> LoadRequest:
    """Put together what was asked for."""
    from dwhctl.core.words import shown_command
    from dwhctl.runtime.plan import LoadRequest

    typed = shown_command(sys.argv[1:])
    return LoadRequest(days=days, loads=tuple(dict.fromkeys(loads)), command=typed, **asked)


def asked_day(project: Project, option: str, text: str, now: datetime) -> date:
    """Read the day of an option. Raise UsageError for one beyond tomorrow."""
    from dwhctl.project.days import resolve_day

    day = resolve_day(text, project.zone, now)
    today = now.astimezone(project.zone).date()
    if day > today + timedelta(days=1):
        raise UsageError(
            f"{option} {day} lies in the future: today is {today} in {project.timezone};"
            " give a day up to tomorrow"
        )
    return day


def load_and_tell(
    project: Project, request: LoadRequest, settings: Settings, plan: Plan | None = None
) -> ExitCode:
    """Run the load with its progress on stderr and its summary on stdout."""
    return load_and_show(project, request, settings, plan).exit_code


def load_and_show(
    project: Project, request: LoadRequest, settings: Settings, plan: Plan | None = None
) -> RunResult:
    """The same, for who needs to know what came of it."""
    from dwhctl.cli.common.progress import open_progress
    from dwhctl.cli.common.summary import show_summary
    from dwhctl.load.run import run_load

    with open_progress(settings) as progress:
        report = run_load(project, request, progress, plan)
    show_summary(report, settings)
    return report


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
    from dwhctl.runtime.plan import days_back

    project, loads = open_for(settings, loads, asked)
    newest = asked_day(project, "--date", day, datetime.now(project.zone))
    request = request_of(days_back(newest, lookback), loads, asked)
    if dry_run:
        from dwhctl.cli.common.summary import show_plan

        return show_plan(project, request, settings)
    return load_and_tell(project, request, settings)


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("backfill")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("-s", "--start", metavar="D", required=True, help=f"The first day: {DATE_HELP}")
@click.option("-e", "--end", metavar="D", required=True, help="The last day, included, in the same forms.")
@click.option("--reverse", is_flag=True, help="The newest day first.")
@loading_options
@common_options
@pass_settings
def backfill_command(
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
    from dwhctl.runtime.plan import loads_with_days

    project, loads = open_for(settings, loads, asked)
    days = _days(project, start, end, reverse=reverse)
    filled, without_days = loads_with_days(project, loads)
    for name in without_days:
        tell(f"left out: load {name} has no slice_by, so it has no days to fill")
    # A ping would say that the day's load is well: of that a backfill knows nothing.
    request = request_of(days, filled, {**asked, "pings": False})
    if dry_run:
        from dwhctl.cli.common.summary import show_plan

        return show_plan(project, request, settings)
    from dwhctl.load.run import plan_load

    plan = plan_load(project, request)
    if not settings.quiet:
        from dwhctl.cli.common.summary import tell_plan

        tell_plan(project, request, plan)
    return load_and_tell(project, request, settings, plan)


def _days(project: Project, start: str, end: str, *, reverse: bool) -> tuple[date, ...]:
    from dwhctl.runtime.plan import days_between

    now = datetime.now(project.zone)
    first, last = asked_day(project, "--start", start, now), asked_day(project, "--end", end, now)
    return days_between(first, last, newest_first=reverse)
