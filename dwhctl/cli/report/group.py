"""`dwhctl report`: the group, and what its reports share: options, the period, access to the sessions."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import Struct

from dwhctl.cli.common.options import (
    CommandEntry,
    LazyGroup,
    Option,
    Settings,
    common_options,
    complete,
    format_option,
    pass_settings,
    with_options,
)
from dwhctl.cli.common.output import tell
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.core.words import quoted, shown_time

if TYPE_CHECKING:
    from dwhctl.cli.common.listing import Listing
    from dwhctl.project.model import Project
    from dwhctl.sessions import SessionStore

T = TypeVar("T")
#: In the order in which a person needs them.
COMMANDS = {
    "failures": CommandEntry("slices", "What is failing now, since when and why."),
    "gaps": CommandEntry("slices", "What is missing, and the command that fills it."),
    "sla": CommandEntry("monitoring", "Deadlines and ages, and whether they are kept."),
    "grid": CommandEntry("slices", "Shards down, days across: the state of every slice."),
    "runs": CommandEntry("history", "One line for each run."),
    "sessions": CommandEntry("history", "Each attempt to load a slice."),
    "timeline": CommandEntry("monitoring", "What a run did when, on which worker."),
    "log": CommandEntry("monitoring", "What a run logged while it worked."),
    "metrics": CommandEntry("monitoring", "Numbers for Prometheus, as OpenMetrics text."),
    "durations": CommandEntry("history", "How long each shard takes, the slowest first."),
    "alerts": CommandEntry("monitoring", "What was sent to the channels, and what could not be."),
}


class _Report(LazyGroup):
    package, table = "dwhctl.cli.report", COMMANDS


@click.group("report", cls=_Report)
@common_options
def command() -> None:
    """Show what was loaded, what fails, and what is missing.

    \b
    Example:
      dwhctl report failures
    """


STATE_STYLES = {
    "running": "cyan",
    "loaded": "green",
    "skipped": "green dim",
    "up_for_retry": "yellow",
    "failed": "red",
    "abandoned": "magenta",
}
MOST_PAST_DAYS = 36_500
#: So many days the grid and the gaps cover by default, and at most.
DAYS = 14
MOST_DAYS = 3660
NO_SESSIONS = "no sessions yet: nothing was loaded in this project"
#: Longer texts of a table are cut without --verbose.
LONGEST = 160

load_option = click.option(
    "--load",
    "loads",
    multiple=True,
    metavar="LOAD",
    shell_complete=complete(lambda project: [*project.loads, *project.reports]),
    help="Only this load (or report); may be given several times.",
)


def exit_code_option(help_text: str) -> Option:
    return click.option("--exit-code", is_flag=True, help=help_text)


def state_style(state: str) -> str:
    return STATE_STYLES.get(state, "")


def count_style(state: str) -> Callable[[int], str]:
    """Return the colour of the number of sessions in a state, by the number."""
    return lambda count: STATE_STYLES[state] if count else "dim"


class View(Struct, frozen=True):
    """What every report has: the settings, the project, the moment, and the form of its listing."""

    settings: Settings
    project: Project
    now: datetime
    form: str

    @property
    def is_table(self) -> bool:
        return self.form == "table"

    @property
    def today(self) -> date:
        return self.now.astimezone(self.project.zone).date()

    def tell(self, text: str) -> None:
        """Write a line to stderr, but not with --quiet."""
        if not self.settings.quiet:
            tell(text)

    def show(
        self, listing: Listing[T], rows: Iterable[T | tuple[object, ...]], empty: str, *, cut: bool = False
    ) -> None:
        """Show a listing; `cut` long texts without --verbose. A table without rows is the sentence `empty`."""
        longest = LONGEST if cut and not self.settings.verbose else None
        listing.show(rows, self.form, "" if self.settings.quiet else empty, longest)

    @contextmanager
    def history(self, empty: str = NO_SESSIONS) -> Iterator[SessionStore | None]:
        """Open the project's sessions for reading; without any, write `empty` to stderr and yield None."""
        from dwhctl.monitor.coverage import sessions_of

        with sessions_of(self.project) as store:
            if store is None and empty:
                self.tell(empty)
            yield store

    def since(self, store: SessionStore, days: int | None) -> datetime:
        """Return the moment so many days ago; by default 14 days, or the newest 200,000 sessions, which is shown."""
        if days is not None:
            return self.now - timedelta(days=days)
        from dwhctl.sessions.history import USUAL_SESSIONS, usual_since

        since, is_bound = usual_since(store)
        if is_bound:
            start = shown_time(since)
            self.tell(f"the newest {USUAL_SESSIONS:,} sessions, since {start}; --days N shows older ones")
        return since

    def check_loads(self, names: Sequence[str]) -> None:
        """Raise UsageError for a name that is of no load and of no report."""
        known = [*self.project.loads, *self.project.reports]
        self._refuse("there is no load", [name for name in names if name not in known], known)

    def chosen_shards(self, loads: Sequence[str], globs: Sequence[str]) -> tuple[str, ...]:
        """Return the shards of these loads (or of all) that fit; none without a glob. Raise UsageError if none does."""
        chosen = [load for load in self.project.loads.values() if not loads or load.name in loads]
        names = sorted({shard.name for load in chosen for shard in self.project.shards_of(load)})
        self._refuse("no shard matches", [glob for glob in globs if not fnmatch.filter(names, glob)], names)
        return tuple(name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs))

    def _refuse(self, problem: str, unknown: Sequence[str], known: Sequence[str]) -> None:
        from dwhctl.project.names import meant

        for text in unknown:
            raise UsageError(f"{problem} {quoted(text)}; {meant(self.project, text, known)}")


def define_report(
    name: str, *options: Option, form: Option | None = format_option
) -> Callable[[Callable[..., ExitCode | None]], click.Command]:
    """Make a command of a function of a View and of these options; every report has --format and the common ones."""

    def decorate(function: Callable[..., ExitCode | None]) -> click.Command:
        @functools.wraps(function)
        def invoke(settings: Settings, /, form: str = "table", **values: Any) -> ExitCode | None:
            return function(View(settings, settings.open_project(), datetime.now(UTC), form), **values)

        every = with_options(*options, *([form] if form else []), common_options)
        return click.command(name)(every(pass_settings(invoke)))

    return decorate
