"""`dwhctl report sessions`: the sessions themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from dwhctl.cli.history import MOST_DAYS, STATE_STYLES, load_filter, shard_filter
from dwhctl.cli.options import Settings, common_options, format_option, pass_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.cli.output import Look
    from dwhctl.project.model import Project
    from dwhctl.sessions import Session, SessionStore

COLUMNS = (
    "id", "task_name", "started", "finished", "successful", "loaded_rows", "comment", "run_id", "load", "shard",
    "slice_date", "attempt", "state", "staged", "extracted_rows", "bytes", "error_class", "host", "pid",
    "dwhctl_version",
)  # fmt: skip
_SPARE = (
    "staged", "dwhctl_version", "load", "shard", "successful", "host", "pid", "bytes", "extracted_rows", "run_id",
    "error_class", "attempt", "finished", "loaded_rows", "id", "started",
)  # fmt: skip


@click.command("sessions")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(tuple(STATE_STYLES)),
    help="Only sessions that are in this state; may be given several times.",
)
@load_filter
@shard_filter
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    help="Only sessions of this run: its id, its beginning, or 'last'.",
)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    metavar="N",
    help="Only sessions that began in the last N days; by default 14 days, but the newest 200,000 sessions at most,"
    " or the whole run.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The newest N of them.",
)
@format_option
@common_options
@pass_settings
def command(
    settings: Settings,
    /,
    states: tuple[str, ...],
    loads: tuple[str, ...],
    globs: tuple[str, ...],
    run_id: str | None,
    days: int | None,
    limit: int,
    form: str,
) -> None:
    """Show sessions, newest first: each attempt to load a slice.

    A table shows times in the project's time zone, and as many columns as the terminal is wide; JSON and CSV hold the
    whole row, in UTC.

    \b
    Examples:
      dwhctl report sessions --state failed --state abandoned --days 7
      dwhctl report sessions --load orders --shard abakan --format json
      dwhctl report sessions --run last --state failed
    """
    from dwhctl.cli.history import check_loads, open_history, shards_that_fit
    from dwhctl.cli.output import show
    from dwhctl.runs.find_run import SessionRuns, find_run
    from dwhctl.sessions import State
    from dwhctl.sessions.history import Wanted, read_history

    project = settings.open_project()
    check_loads(project, loads)
    shards = shards_that_fit(project, loads, globs)
    found: Sequence[Session] = ()
    with open_history(project, settings) as store:
        if store:
            if run_id is not None:
                run_id = find_run(SessionRuns(store), run_id)
            since = _since(store, settings, run_id, days)
            found = read_history(
                store, Wanted(since, limit, run_id, tuple(map(State, states)), loads, shards)
            )
    empty = "" if store is None or settings.quiet else _empty(run_id, days)
    show(COLUMNS, [_row(session) for session in found], form, _look(project, settings), empty)


def _empty(run_id: str | None, days: int | None) -> str:
    from dwhctl.cli.output import counted
    from dwhctl.sessions.history import USUAL_DAYS

    span = f"run {run_id}" if run_id else f"the last {counted(days or USUAL_DAYS, 'day')}"
    return f"no such session in {span}"


def _since(store: SessionStore, settings: Settings, run_id: str | None, days: int | None) -> datetime:
    from dwhctl.cli.history import days_ago, usual_since_told

    if days is not None:
        return days_ago(days)
    return datetime.min.replace(tzinfo=UTC) if run_id else usual_since_told(store, settings)


def _row(session: Session) -> list[object]:
    return [session.day if name == "slice_date" else getattr(session, name) for name in COLUMNS]


def _look(project: Project, settings: Settings) -> Look:
    from dwhctl.cli.history import state_style
    from dwhctl.cli.output import Look

    return Look(
        texts={"comment"},
        spare=_SPARE,
        names={"id", "pid"},
        styles={"state": state_style},
        zone=project.zone,
        longest=None if settings.verbose else 160,
    )
