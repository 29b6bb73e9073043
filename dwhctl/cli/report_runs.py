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
    "run_id", "started", "finished", "loads", "reports", "slices", "loaded", "skipped", "failed", "up_for_retry",
    "abandoned", "running", "rows", "seconds", "host", "pid",
)  # fmt: skip
_STATES = ("loaded", "skipped", "failed", "up_for_retry", "abandoned", "running")
_MOST_NAMES = 2


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

    'slices' counts slices (of a refresh, reports), 'loaded' to 'running' count attempts: a slice that was tried again
    has several. A table shows times in the project's time zone, reports in the column of loads, and as many columns as
    the terminal is wide; JSON and CSV hold all, in UTC.

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
    if form != "table":
        show(COLUMNS, [_row(run) for run in runs], form)
        return
    columns = [name for name in COLUMNS if name != "reports"]
    span = f"in the last {counted(days, 'day')}" if days else "yet"
    empty = "" if store is None or settings.quiet else f"no run {span}"
    show(columns, [_row_of_table(run) for run in runs], form, _look(project), empty)


def _row(run: PastRun) -> tuple[object, ...]:
    run_id, started, finished, loads, reports, *rest = astuple(run)
    return (run_id, started, finished, ", ".join(loads), ", ".join(reports), *rest)


def _row_of_table(run: PastRun) -> tuple[object, ...]:
    run_id, started, finished, _, _, *rest = astuple(run)
    works = [_works("load", run.loads), _works("report", run.reports)]
    return (run_id, started, finished, ", ".join(filter(None, works)), *rest)


def _works(kind: str, names: tuple[str, ...]) -> str:
    """Return the names, reports with their word; or how many there are, if they are many."""
    if len(names) > _MOST_NAMES:
        from dwhctl.cli.output import counted

        return counted(len(names), kind)
    word = "" if kind == "load" or not names else "report " if len(names) == 1 else "reports "
    return word + ", ".join(names)


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
