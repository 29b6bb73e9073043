"""`dwhctl report timeline`: what a run did when, on which worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import Settings, common_options, format_option, pass_settings

if TYPE_CHECKING:
    from dwhctl.runs.timeline import Bar

COLUMNS = (
    "worker",
    "load",
    "shard",
    "day",
    "attempt",
    "state",
    "started",
    "busy_until",
    "finished",
    "busy_seconds",
    "waited_seconds",
    "loaded_rows",
    "error_class",
    "id",
)


@click.command("timeline")
@click.argument("run", metavar="RUN")
@format_option
@common_options
@pass_settings
def command(settings: Settings, /, run: str, form: str) -> None:
    """Show what the run RUN did when, on which worker. RUN is its id, the beginning of it, or 'last'.

    A bar is the time for which a slice held its worker; below stands how many staged slices waited to be published,
    and how many for their next attempt. JSON and CSV have a line for each session.

    \b
    Examples:
      dwhctl report timeline last
      dwhctl report timeline 20200714T0600
    """
    from dwhctl.cli.output import paint, screen, show
    from dwhctl.runs.timeline import read_run, timeline_of

    project = settings.open_project()
    run_id, sessions = read_run(project, run)
    timeline = timeline_of(project, run_id, sessions, datetime.now(UTC))
    if form != "table":
        show(COLUMNS, [_row(bar) for bar in timeline.bars], form)
        return
    from dwhctl.cli.timeline_picture import timeline_picture

    paint(timeline_picture(timeline, screen()))


def _row(bar: Bar) -> tuple[object, ...]:
    one = bar.session
    known = one.busy_seconds is not None
    return (
        one.worker,
        one.load,
        one.shard,
        one.day,
        one.attempt,
        one.state.value,
        one.started,
        bar.end if known else None,
        one.finished,
        one.busy_seconds,
        (bar.closed - bar.end).total_seconds() if known and one.finished else None,
        one.loaded_rows,
        one.error_class,
        one.id,
    )
