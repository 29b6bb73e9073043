"""`dwhctl report failures`: what is failing now."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING

import click

from dwhctl.cli.history import MOST_DAYS, load_filter, shard_filter
from dwhctl.cli.options import Settings, common_options, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.cli.output import Look
    from dwhctl.project.model import Project
    from dwhctl.sessions.failures import FailingTask

COLUMNS = (
    "task_name", "load", "shard", "streak", "failed", "up_for_retry", "since", "last_failed", "last_error",
)  # fmt: skip


@click.command("failures")
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    default=2,
    show_default=True,
    metavar="N",
    help="Only tasks whose last failure is no more than N days old.",
)
@load_filter
@shard_filter
@click.option("--exit-code", is_flag=True, help="End with 1 if anything is failing.")
@format_option
@common_options
@pass_settings
def command(
    settings: Settings, days: int, loads: tuple[str, ...], globs: tuple[str, ...], exit_code: bool, form: str
) -> ExitCode:
    """Show the tasks that are failing now, the longest streak first.

    Of each slice the last closed session counts. The streak is how many slices of a task failed (or wait for a retry)
    from the newest one back to the first success, since which slice. A run that is under way does not count. On a
    narrow terminal the error comes first: other columns fall away, and long errors are cut; -v shows them whole.

    \b
    Examples:
      dwhctl report failures
      dwhctl report failures --load orders --shard 'mos*' --exit-code
    """
    from dwhctl.cli.history import check_loads, shards_that_fit
    from dwhctl.cli.output import show, tell

    project = settings.open_project()
    check_loads(project, loads)
    shards = shards_that_fit(project, loads, globs)
    found = [
        task
        for task in _failures(project, settings, days)
        if (not loads or task.load in loads) and (not globs or task.shard in shards)
    ]
    if found or form != "table":
        show(COLUMNS, [astuple(task) for task in found], form, _look(project, settings))
    elif not settings.quiet:
        tell("nothing is failing")
    return ExitCode.FAILED if found and exit_code else ExitCode.DONE


def _failures(project: Project, settings: Settings, days: int) -> list[FailingTask]:
    from dwhctl.cli.history import days_ago, open_history
    from dwhctl.sessions.failures import read_failures

    with open_history(project, settings) as store:
        return read_failures(store, days_ago(days)) if store else []


def _look(project: Project, settings: Settings) -> Look:
    from dwhctl.cli.history import count_style
    from dwhctl.cli.output import Look

    return Look(
        texts={"last_error"},
        spare=("shard", "load", "up_for_retry", "failed", "last_failed"),
        styles={
            "failed": partial(count_style, "failed"),
            "up_for_retry": partial(count_style, "up_for_retry"),
        },
        zone=project.zone,
        longest=None if settings.verbose else 160,
    )
