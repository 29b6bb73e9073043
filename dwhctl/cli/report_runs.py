"""`dwhctl report runs`: one line for each run."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING

import click

from dwhctl.cli.history import MOST_DAYS
from dwhctl.cli.options import Settings, common_options, format_option, pass_settings

if TYPE_CHECKING:
    from dwhctl.cli.output import Look
    from dwhctl.project.model import Project
    from dwhctl.sessions.runs import PastRun

COLUMNS = (
    "run_id", "started", "finished", "loads", "slices", "loaded", "skipped", "failed", "up_for_retry", "abandoned",
    "running", "rows", "seconds", "host", "pid",
)  # fmt: skip
_STATES = ("loaded", "skipped", "failed", "up_for_retry", "abandoned", "running")
_NAMED_LOADS = 2


@click.command("runs")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="The newest N runs.",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), metavar="N", help="Only runs that began in the last N days."
)
@format_option
@common_options
@pass_settings
def command(settings: Settings, limit: int, days: int | None, form: str) -> None:
    """Show the newest runs, newest first: what they loaded, what failed, how long they took.

    'slices' counts slices, 'loaded' to 'running' count attempts: a slice that was tried again has several. A table
    shows times in the project's time zone, and as many columns as the terminal is wide; JSON and CSV hold all, in UTC.

    \b
    Example:
      dwhctl report runs --days 7 --limit 100
    """
    from dwhctl.cli.history import days_ago, open_history
    from dwhctl.cli.output import counted, show
    from dwhctl.sessions.runs import read_runs

    project = settings.open_project()
    with open_history(project, settings) as store:
        runs = read_runs(store, limit, days_ago(days) if days else None) if store else []
    span = f"in the last {counted(days, 'day')}" if days else "yet"
    empty = "" if store is None or settings.quiet else f"no run {span}"
    show(COLUMNS, [_row(run, form) for run in runs], form, _look(project), empty)


def _row(run: PastRun, form: str) -> tuple[object, ...]:
    run_id, started, finished, _, *rest = astuple(run)
    return (run_id, started, finished, _loads(run.loads, form), *rest)


def _loads(names: tuple[str, ...], form: str) -> str:
    is_short = form != "table" or len(names) <= _NAMED_LOADS
    return ", ".join(names) if is_short else f"{len(names):,} loads"


def _look(project: Project) -> Look:
    from dwhctl.cli.history import count_style
    from dwhctl.cli.output import Look

    return Look(
        texts={"loads"},
        spare=(
            "pid",
            "host",
            "finished",
            "skipped",
            "up_for_retry",
            "abandoned",
            "running",
            "started",
            "rows",
            "seconds",
        ),
        names={"pid"},
        styles={state: partial(count_style, state) for state in _STATES},
        zone=project.zone,
    )
