"""What `load` and `backfill` share: their options, the days they take, the work itself."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.options import AnyFunction, Duration, Settings, complete_shards
from dwhctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from datetime import date, datetime

    from dwhctl.project.model import Project
    from dwhctl.runs.events import RunReport
    from dwhctl.runs.plan import LoadRequest, Plan

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
    from dwhctl.project.shadows import with_shadow

    project, table = settings.open_project(), asked.pop("table")
    return (project, loads) if table is None else with_shadow(project, loads, table)


def request_of(days: tuple[date, ...], loads: tuple[str, ...], asked: dict[str, Any]) -> LoadRequest:
    """Put together what was asked for."""
    from dwhctl.project.words import shown_command
    from dwhctl.runs.plan import LoadRequest

    typed = shown_command(sys.argv[1:])
    return LoadRequest(days=days, loads=tuple(dict.fromkeys(loads)), command=typed, **asked)


def asked_day(project: Project, option: str, text: str, now: datetime) -> date:
    """Read the day of an option. Raise UsageError for one beyond tomorrow."""
    from dwhctl.project.slices import resolve_day

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
    from dwhctl.runs.load import exit_code_of

    return exit_code_of(load_and_show(project, request, settings, plan))


def load_and_show(
    project: Project, request: LoadRequest, settings: Settings, plan: Plan | None = None
) -> RunReport:
    """The same, for who needs to know what came of it."""
    from dwhctl.cli.progress import open_progress
    from dwhctl.cli.summary import show_summary
    from dwhctl.runs.load import run_load

    with open_progress(settings) as progress:
        report = run_load(project, request, progress, plan)
    show_summary(report, settings)
    return report
