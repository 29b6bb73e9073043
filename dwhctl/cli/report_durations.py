"""`dwhctl report durations`: how long each load takes on each shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dwhctl.cli.history import MOST_DAYS, load_filter, shard_filter
from dwhctl.cli.options import Settings, common_options, format_option, pass_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.model import Project
    from dwhctl.sessions.durations import TaskDurations

COLUMNS = ("load", "shard", "sessions", "median", "p95", "last", "trend")
_BARS = "▁▂▃▄▅▆▇█"
#: Ups and downs below this share of the longest are none.
_FLAT = 0.1


@click.command("durations")
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    metavar="N",
    help="Sessions of the last N days; by default 14 days, but the newest 200,000 sessions at most.",
)
@load_filter
@shard_filter
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The slowest N.",
)
@format_option
@common_options
@pass_settings
def command(
    settings: Settings,
    days: int | None,
    loads: tuple[str, ...],
    globs: tuple[str, ...],
    limit: int,
    form: str,
) -> None:
    """Show how many seconds the sessions of each load and shard take, the slowest first.

    Of the successful sessions: median, the time that 95 of 100 keep ('p95'), the last one, and their way there from
    the oldest to the last as little bars.

    \b
    Example:
      dwhctl report durations --days 7 --limit 20
    """
    from dwhctl.cli.history import check_loads, shards_that_fit
    from dwhctl.cli.output import Look, show

    project = settings.open_project()
    check_loads(project, loads)
    shards = shards_that_fit(project, loads, globs)
    found = [
        task
        for task in _durations(project, settings, days)
        if (not loads or task.load in loads) and (not globs or task.shard in shards)
    ]
    empty = "" if settings.quiet else "no successful session in this time"
    show(COLUMNS, [_row(task) for task in found[:limit]], form, Look(spare=("sessions", "trend")), empty)


def _durations(project: Project, settings: Settings, days: int | None) -> list[TaskDurations]:
    from dwhctl.cli.history import days_ago, open_history, usual_since_told
    from dwhctl.sessions.durations import read_durations

    with open_history(project, settings) as store:
        if store is None:
            return []
        return read_durations(store, days_ago(days) if days else usual_since_told(store, settings))


def _row(task: TaskDurations) -> tuple[object, ...]:
    seconds = task.seconds
    return task.load, task.shard, len(seconds), task.median, task.p95, seconds[-1], sparkline(task.trend)


def sparkline(values: Sequence[float]) -> str:
    """Draw values as bars between their least and their greatest; nearly equal ones are a flat line."""
    least, greatest = min(values), max(values)
    spread = greatest - least
    if spread <= _FLAT * greatest:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((value - least) / spread * (len(_BARS) - 1))] for value in values)
