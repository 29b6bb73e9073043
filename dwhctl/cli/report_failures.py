"""`dwhctl report failures`: what is failing now."""

from __future__ import annotations

import fnmatch
from functools import partial
from typing import TYPE_CHECKING

import click

from dwhctl.cli.history import (
    MOST_DAYS,
    check_loads,
    count_style,
    days_ago,
    load_filter,
    open_history,
    shard_filter,
    shards_that_fit,
)
from dwhctl.cli.options import Settings, common_options, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwhctl.cli.output import Look
    from dwhctl.project.model import Project
    from dwhctl.runs.failures import Failures
    from dwhctl.sessions.failures import FailingTask

#: Of a table; the commands are below it.
TABLE_COLUMNS = (
    "task_name", "load", "shard", "streak", "failed", "up_for_retry", "since", "last_failed", "last_error",
)  # fmt: skip
COLUMNS = (*TABLE_COLUMNS, "failed_slices", "command")
_MOST_COMMANDS = 5
#: More letters of shards in a line of the table would leave no room for the rest.
_LONGEST_NAMES = 40


@click.command("failures")
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
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
def command(
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
    from dwhctl.cli.output import show, tell
    from dwhctl.runs.failures import Failures

    project = settings.open_project()
    if not everything:
        check_loads(project, loads)
    is_chosen = _chosen(project, loads, globs, everything=everything)
    failures = Failures(project)
    with open_history(project, settings) as store:
        tasks = failures.read(store, days_ago(days), everything=everything) if store else ([], [])
    found, left_out = ([task for task in each if is_chosen(task)] for each in tasks)
    if form != "table":
        show(COLUMNS, [_row(failures, task, settings) for task in found], form)
    elif found:
        show(TABLE_COLUMNS, _rows_of_table(found, settings), form, _look(project, settings))
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


def _row(failures: Failures, task: FailingTask, settings: Settings) -> tuple[object, ...]:
    return (*_row_of_table(task), len(task.slices), failures.command([task], settings.project))


def _row_of_table(task: FailingTask) -> tuple[object, ...]:
    failed, last = len(task.slices) - task.up_for_retry, task.last
    counts = (task.streak, failed, task.up_for_retry, task.since)
    return (task.task_name, task.load, task.shard, *counts, last.finished, last.error)


def _rows_of_table(found: list[FailingTask], settings: Settings) -> list[tuple[object, ...]]:
    """Give a row for each reason: what a dead server stops on fifty shards is one. With --verbose for each task."""
    if settings.verbose:
        return [_row_of_table(task) for task in found]
    groups: dict[object, list[FailingTask]] = {}
    for task in found:
        groups.setdefault((task.load, task.last.error) if task.shard else task.task_name, []).append(task)
    return [_row_of_group(group) if len(group) > 1 else _row_of_table(group[0]) for group in groups.values()]


def _row_of_group(tasks: list[FailingTask]) -> tuple[object, ...]:
    """Give the row of several shards of one load, whose last error is the same."""
    from dwhctl.cli.output import counted

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

    from dwhctl.cli.output import counted, paint

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


def _look(project: Project, settings: Settings) -> Look:
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
