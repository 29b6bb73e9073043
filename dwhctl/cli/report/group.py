"""`dwhctl report`: the past at a glance."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.options import (
    AnyFunction,
    CommandEntry,
    LazyGroup,
    common_options,
    complete,
    complete_shards,
)

if TYPE_CHECKING:
    from dwhctl.cli.common.options import Settings
    from dwhctl.project.model import Project
    from dwhctl.sessions import SessionStore


COMMANDS: dict[str, CommandEntry] = {
    # In the order in which a person needs them.
    "failures": CommandEntry(
        "dwhctl.cli.report.slices", "What is failing now, since when and why.", "failures_command"
    ),
    "gaps": CommandEntry(
        "dwhctl.cli.report.slices", "What is missing, and the command that fills it.", "gaps_command"
    ),
    "sla": CommandEntry(
        "dwhctl.cli.report.monitoring", "Deadlines and ages, and who keeps them.", "sla_command"
    ),
    "grid": CommandEntry(
        "dwhctl.cli.report.slices", "Shards down, days across: where every slice stands.", "grid_command"
    ),
    "runs": CommandEntry("dwhctl.cli.report.history", "One line for each run.", "runs_command"),
    "sessions": CommandEntry(
        "dwhctl.cli.report.history", "Each attempt to load a slice.", "sessions_command"
    ),
    "timeline": CommandEntry(
        "dwhctl.cli.report.monitoring", "What a run did when, on which worker.", "timeline_command"
    ),
    "log": CommandEntry(
        "dwhctl.cli.report.monitoring", "What a run wrote down while it worked.", "log_command"
    ),
    "metrics": CommandEntry(
        "dwhctl.cli.report.monitoring", "Numbers for Prometheus, as OpenMetrics text.", "metrics_command"
    ),
    "durations": CommandEntry(
        "dwhctl.cli.report.history", "How long each shard takes, the slowest first.", "durations_command"
    ),
    "alerts": CommandEntry(
        "dwhctl.cli.report.monitoring",
        "What channels were told, and what could not be sent.",
        "alerts_command",
    ),
}


class _Report(LazyGroup):
    table = COMMANDS


@click.group("report", cls=_Report)
@common_options
def command() -> None:
    """Show what was loaded, what fails, and what is missing.

    \b
    Example:
      dwhctl report failures
    """


NO_SESSIONS = "no sessions yet: nothing was loaded in this project"
STATE_STYLES = {
    "running": "cyan",
    "loaded": "green",
    "skipped": "green dim",
    "up_for_retry": "yellow",
    "failed": "red",
    "abandoned": "magenta",
}
MOST_PAST_DAYS = 36_500


def state_style(state: str) -> str:
    """Give the colour of a state; the word stands there too."""
    return STATE_STYLES.get(state, "")


def count_style(state: str, count: int) -> str:
    """Give the colour of how many sessions ended so: none is nothing to look at."""
    return STATE_STYLES[state] if count else "dim"


def load_filter(function: AnyFunction) -> AnyFunction:
    """Give a report its --load."""
    names = complete(lambda project: [*project.loads, *project.reports])
    return click.option(
        "--load",
        "loads",
        multiple=True,
        metavar="LOAD",
        shell_complete=names,
        help="Only this load (or report); may be given several times.",
    )(function)


def shard_filter(function: AnyFunction) -> AnyFunction:
    """Give a report its --shard."""
    return click.option(
        "--shard",
        "globs",
        multiple=True,
        metavar="GLOB",
        shell_complete=complete_shards,
        help="Only shards whose name fits; may be given several times.",
    )(function)


@contextmanager
def open_history(project: Project, settings: Settings) -> Iterator[SessionStore | None]:
    """Open the project's sessions for reading; without any, say so and give None."""
    from dwhctl.cli.common.output import tell
    from dwhctl.sessions import REPORT_TIMEOUT, open_if_there

    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    if store is None:
        if not settings.quiet:
            tell(NO_SESSIONS)
        yield None
        return
    with store:
        yield store


def days_ago(days: int) -> datetime:
    """Give the moment so many times 24 hours ago."""
    return datetime.now(UTC) - timedelta(days=days)


def usual_since_told(store: SessionStore, settings: Settings) -> datetime:
    """Give the moment from which on a report looks by default, and say so where the number of sessions bounds it."""
    from dwhctl.cli.common.output import tell
    from dwhctl.core.words import shown_time
    from dwhctl.sessions.history import USUAL_SESSIONS, usual_since

    since, is_bound = usual_since(store)
    if is_bound and not settings.quiet:
        tell(
            f"the newest {USUAL_SESSIONS:,} sessions, since {shown_time(since)}; --days N looks further back"
        )
    return since


def check_loads(project: Project, names: Sequence[str]) -> None:
    """Raise UsageError for a name that no load and no report has."""
    from dwhctl.core.errors import UsageError
    from dwhctl.core.words import quoted
    from dwhctl.project.names import meant

    known = [*project.loads, *project.reports]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no load {quoted(name)}; {meant(project, name, known)}")


def shards_that_fit(project: Project, loads: Sequence[str], globs: Sequence[str]) -> tuple[str, ...]:
    """Name the shards of these loads (or of all) that fit; none without a glob. Raise UsageError if none does."""
    from dwhctl.core.errors import UsageError
    from dwhctl.core.words import quoted
    from dwhctl.project.names import meant

    chosen = [load for load in project.loads.values() if not loads or load.name in loads]
    names = sorted({shard.name for load in chosen for shard in project.shards_of(load)})
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise UsageError(f"no shard matches {quoted(glob)}; {meant(project, glob, names)}")
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs))


#: So many days a report looks at when nobody says how many.
DAYS = 14
MOST_DAYS = 3660

shard_option = click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
