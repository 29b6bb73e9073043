"""`dwhctl report sessions`: the sessions themselves."""

from __future__ import annotations

from dataclasses import astuple
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.options import Settings, common_options, format_option, pass_settings
from dwhctl.cli.report.group import MOST_PAST_DAYS, STATE_STYLES, load_filter, shard_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.cli.common.output import TableStyle
    from dwhctl.project.model import Project
    from dwhctl.sessions import Session, SessionStore
    from dwhctl.sessions.history import PastRun, TaskDurations


SESSIONS_COLUMNS = (
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
    type=click.IntRange(1, MOST_PAST_DAYS),
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
def sessions_command(
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
    from dwhctl.cli.common.output import show
    from dwhctl.cli.report.group import check_loads, open_history, shards_that_fit
    from dwhctl.sessions import State
    from dwhctl.sessions.history import Wanted, find_run, read_history

    project = settings.open_project()
    check_loads(project, loads)
    shards = shards_that_fit(project, loads, globs)
    found: Sequence[Session] = ()
    with open_history(project, settings) as store:
        if store:
            if run_id is not None:
                run_id = find_run(store, run_id)
            since = _since(store, settings, run_id, days)
            found = read_history(
                store, Wanted(since, limit, run_id, tuple(map(State, states)), loads, shards)
            )
    empty = "" if store is None or settings.quiet else _empty(run_id, days)
    show(
        SESSIONS_COLUMNS,
        [_session_row(session) for session in found],
        form,
        _session_style(project, settings),
        empty,
    )


def _empty(run_id: str | None, days: int | None) -> str:
    from dwhctl.cli.common.output import counted
    from dwhctl.sessions.history import USUAL_DAYS

    span = f"run {run_id}" if run_id else f"the last {counted(days or USUAL_DAYS, 'day')}"
    return f"no such session in {span}"


def _since(store: SessionStore, settings: Settings, run_id: str | None, days: int | None) -> datetime:
    from dwhctl.cli.report.group import days_ago, usual_since_told

    if days is not None:
        return days_ago(days)
    return datetime.min.replace(tzinfo=UTC) if run_id else usual_since_told(store, settings)


def _session_row(session: Session) -> list[object]:
    return [session.day if name == "slice_date" else getattr(session, name) for name in SESSIONS_COLUMNS]


def _session_style(project: Project, settings: Settings) -> TableStyle:
    from dwhctl.cli.common.output import TableStyle
    from dwhctl.cli.report.group import state_style

    return TableStyle(
        texts={"comment"},
        spare=_SPARE,
        names={"id", "pid"},
        styles={"state": state_style},
        zone=project.zone,
        longest=None if settings.verbose else 160,
    )


RUNS_COLUMNS = (
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
    "--days",
    type=click.IntRange(1, MOST_PAST_DAYS),
    metavar="N",
    help="Only runs that began in the last N days.",
)
@format_option
@common_options
@pass_settings
def runs_command(settings: Settings, limit: int, days: int | None, form: str) -> None:
    """Show the newest runs, newest first: what they loaded, what failed, how long they took.

    'slices' counts slices (of a refresh, reports), 'loaded' to 'running' count attempts: a slice that was tried again
    has several. A table shows times in the project's time zone, reports in the column of loads, and as many columns as
    the terminal is wide; JSON and CSV hold all, in UTC.

    \b
    Example:
      dwhctl report runs --days 7 --limit 100
    """
    from dwhctl.cli.common.output import counted, show
    from dwhctl.cli.report.group import days_ago, open_history
    from dwhctl.sessions.history import read_runs

    project = settings.open_project()
    with open_history(project, settings) as store:
        runs = read_runs(store, limit, days_ago(days) if days else None) if store else []
    if form != "table":
        show(RUNS_COLUMNS, [_run_row(run) for run in runs], form)
        return
    columns = [name for name in RUNS_COLUMNS if name != "reports"]
    span = f"in the last {counted(days, 'day')}" if days else "yet"
    empty = "" if store is None or settings.quiet else f"no run {span}"
    show(columns, [_row_of_table(run) for run in runs], form, _run_style(project), empty)


def _run_row(run: PastRun) -> tuple[object, ...]:
    run_id, started, finished, loads, reports, *rest = astuple(run)
    return (run_id, started, finished, ", ".join(loads), ", ".join(reports), *rest)


def _row_of_table(run: PastRun) -> tuple[object, ...]:
    run_id, started, finished, _, _, *rest = astuple(run)
    works = [_works("load", run.loads), _works("report", run.reports)]
    return (run_id, started, finished, ", ".join(filter(None, works)), *rest)


def _works(kind: str, names: tuple[str, ...]) -> str:
    """Return the names, reports with their word; or how many there are, if they are many."""
    if len(names) > _MOST_NAMES:
        from dwhctl.cli.common.output import counted

        return counted(len(names), kind)
    word = "" if kind == "load" or not names else "report " if len(names) == 1 else "reports "
    return word + ", ".join(names)


def _run_style(project: Project) -> TableStyle:
    from dwhctl.cli.common.output import TableStyle
    from dwhctl.cli.report.group import count_style

    return TableStyle(
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


DURATIONS_COLUMNS = ("load", "shard", "sessions", "median", "p95", "last", "trend")
_BARS = "▁▂▃▄▅▆▇█"
#: Ups and downs below this share of the longest are none.
_FLAT = 0.1


@click.command("durations")
@click.option(
    "--days",
    type=click.IntRange(1, MOST_PAST_DAYS),
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
def durations_command(
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
    from dwhctl.cli.common.output import TableStyle, show
    from dwhctl.cli.report.group import check_loads, shards_that_fit

    project = settings.open_project()
    check_loads(project, loads)
    shards = shards_that_fit(project, loads, globs)
    found = [
        task
        for task in _durations(project, settings, days)
        if (not loads or task.load in loads) and (not globs or task.shard in shards)
    ]
    empty = "" if settings.quiet else "no successful session in this time"
    show(
        DURATIONS_COLUMNS,
        [_duration_row(task) for task in found[:limit]],
        form,
        TableStyle(spare=("sessions", "trend")),
        empty,
    )


def _durations(project: Project, settings: Settings, days: int | None) -> list[TaskDurations]:
    from dwhctl.cli.report.group import days_ago, open_history, usual_since_told
    from dwhctl.sessions.history import read_durations

    with open_history(project, settings) as store:
        if store is None:
            return []
        return read_durations(store, days_ago(days) if days else usual_since_told(store, settings))


def _duration_row(task: TaskDurations) -> tuple[object, ...]:
    seconds = task.seconds
    return task.load, task.shard, len(seconds), task.median, task.p95, seconds[-1], sparkline(task.trend)


def sparkline(values: Sequence[float]) -> str:
    """Draw values as bars between their least and their greatest; nearly equal ones are a flat line."""
    least, greatest = min(values), max(values)
    spread = greatest - least
    if spread <= _FLAT * greatest:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((value - least) / spread * (len(_BARS) - 1))] for value in values)
