"""`dwhctl report grid`: shards down, days across, a cell for each slice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import Settings, common_options, complete_loads, format_option, pass_settings
from dwhctl.cli.report_options import DAYS, MOST_DAYS, shard_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.runs.coverage import Coverage

COLUMNS = ("load", "shard", "connection", "day", "state", "complete", "started")


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
def command(
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
    from dwhctl.cli.output import paint, screen, show
    from dwhctl.runs.coverage import bearable_days, days_until, sliced_tasks
    from dwhctl.runs.look_back import look_back

    project = settings.open_project()
    now = datetime.now(UTC)
    tasks = sliced_tasks(project, loads, shards)
    span = days_until(now.astimezone(project.zone).date(), days or bearable_days(tasks, DAYS))
    coverage = look_back(project, tasks, span, now)
    if form != "table":
        show(COLUMNS, _rows(coverage), form)
        return
    from dwhctl.cli.grid_picture import grid_picture

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
