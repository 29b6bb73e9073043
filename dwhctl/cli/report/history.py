"""`dwhctl report runs`, `sessions` and `durations`: the history of runs and attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import days_option, limit_option, shards_option
from dwhctl.cli.report.group import (
    MOST_PAST_DAYS,
    STATE_STYLES,
    View,
    count_style,
    define_report,
    load_option,
    state_style,
)
from dwhctl.core.words import counted
from dwhctl.sessions import Session, State
from dwhctl.sessions.history import (
    USUAL_DAYS,
    PastRun,
    TaskDurations,
    Wanted,
    find_run,
    read_durations,
    read_history,
    read_runs,
)

SESSIONS: Listing[Session] = Listing(
    ListingColumn("id", is_id=True),
    "task_name", "started", "finished", "successful", "loaded_rows",
    ListingColumn("comment", is_text=True),
    "run_id", "load", "shard",
    ListingColumn("slice_date", lambda session: session.day),
    "attempt",
    ListingColumn("state", style=state_style),
    "staged", "extracted_rows", "bytes", "error_class", "host",
    ListingColumn("pid", is_id=True),
    "dwhctl_version",
    spare=(
        "staged", "dwhctl_version", "load", "shard", "successful", "host", "pid", "bytes", "extracted_rows",
        "run_id", "error_class", "attempt", "finished", "loaded_rows", "id", "started",
    ),
)  # fmt: skip


@define_report(
    "sessions",
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(tuple(STATE_STYLES)),
        help="Only sessions that are in this state; may be given several times.",
    ),
    load_option,
    shards_option,
    click.option(
        "--run", "run_id", metavar="RUN", help="Only sessions of this run: its id, its beginning, or 'last'."
    ),
    days_option(
        "Only sessions that began in the last N days; by default 14 days, but the newest 200,000 sessions at most,"
        " or the whole run.",
        MOST_PAST_DAYS,
    ),
    limit_option(50, "The newest N of them."),
)
def sessions_command(
    view: View,
    *,
    states: tuple[str, ...],
    loads: tuple[str, ...],
    shards: tuple[str, ...],
    run_id: str | None,
    days: int | None,
    limit: int,
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
    view.check_loads(loads)
    chosen = view.chosen_shards(loads, shards)
    found: Sequence[Session] = ()
    with view.history() as store:
        if store:
            run_id = None if run_id is None else find_run(store, run_id)
            whole_run = run_id and days is None
            since = datetime.min.replace(tzinfo=UTC) if whole_run else view.since(store, days)
            found = read_history(
                store, Wanted(since, limit, run_id, tuple(map(State, states)), loads, chosen)
            )
    span = f"run {run_id}" if run_id else f"the last {counted(days or USUAL_DAYS, 'day')}"
    view.show(SESSIONS, found, f"no such session in {span}" if store else "", cut=True)


def _works(run: PastRun) -> str:
    works = []
    for kind, names in (("load", run.loads), ("report", run.reports)):
        if len(names) > 2:
            works.append(counted(len(names), kind))
        elif names:
            word = "" if kind == "load" else "report " if len(names) == 1 else "reports "
            works.append(word + ", ".join(names))
    return ", ".join(works)


RUNS: Listing[PastRun] = Listing(
    "run_id", "started", "finished",
    ListingColumn("loads", lambda run: ", ".join(run.loads), in_table=_works, is_text=True),
    ListingColumn("reports", lambda run: ", ".join(run.reports), in_table=False),
    "slices",
    *(
        ListingColumn(state, style=count_style(state))
        for state in ("loaded", "skipped", "failed", "up_for_retry", "abandoned", "running")
    ),
    "rows", "seconds", "host",
    ListingColumn("pid", is_id=True),
    spare=(
        "pid", "host", "finished", "skipped", "up_for_retry", "abandoned", "running", "started", "rows", "seconds",
    ),
)  # fmt: skip


@define_report(
    "runs",
    limit_option(20, "The newest N runs.", 100_000),
    days_option("Only runs that began in the last N days.", MOST_PAST_DAYS),
)
def runs_command(view: View, *, limit: int, days: int | None) -> None:
    """Show the newest runs, newest first: what they loaded, what failed, how long they took.

    'slices' counts slices (of a refresh, reports), 'loaded' to 'running' count attempts: a slice that was tried again
    has several. A table shows times in the project's time zone, reports in the column of loads, and as many columns as
    the terminal is wide; JSON and CSV hold all, in UTC.

    \b
    Example:
      dwhctl report runs --days 7 --limit 100
    """
    with view.history() as store:
        runs = read_runs(store, limit, view.since(store, days) if days else None) if store else []
    span = f"in the last {counted(days, 'day')}" if days else "yet"
    view.show(RUNS, runs, f"no run {span}" if store else "")


def sparkline(values: Sequence[float]) -> str:
    """Draw values as bars between their least and their greatest; nearly equal ones are a flat line."""
    least, greatest = min(values), max(values)
    spread = greatest - least
    if spread <= _FLAT * greatest:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((value - least) / spread * (len(_BARS) - 1))] for value in values)


_BARS = "▁▂▃▄▅▆▇█"
#: A smaller share of the greatest value is no change.
_FLAT = 0.1
DURATIONS: Listing[TaskDurations] = Listing(
    "load",
    "shard",
    ListingColumn("sessions", lambda task: len(task.seconds)),
    "median",
    "p95",
    ListingColumn("last", lambda task: task.seconds[-1]),
    ListingColumn("trend", lambda task: sparkline(task.trend)),
    spare=("sessions", "trend"),
)


@define_report(
    "durations",
    days_option(
        "Sessions of the last N days; by default 14 days, but the newest 200,000 sessions at most.",
        MOST_PAST_DAYS,
    ),
    load_option,
    shards_option,
    limit_option(50, "The slowest N."),
)
def durations_command(
    view: View, *, days: int | None, loads: tuple[str, ...], shards: tuple[str, ...], limit: int
) -> None:
    """Show how many seconds the sessions of each load and shard take, the slowest first.

    Of the successful sessions: the median, the time that 95 of 100 do not exceed ('p95'), the last one, and the trend
    from the oldest to the last as bars.

    \b
    Example:
      dwhctl report durations --days 7 --limit 20
    """
    view.check_loads(loads)
    chosen = view.chosen_shards(loads, shards)
    with view.history() as store:
        tasks = read_durations(store, view.since(store, days)) if store else []
    found = [
        task for task in tasks if (not loads or task.load in loads) and (not shards or task.shard in chosen)
    ]
    view.show(DURATIONS, found[:limit], "no successful session in this time")
