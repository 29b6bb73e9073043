"""What a backfill asks for: which days in which order, and which loads have days at all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import UsageError
from dwhctl.project.shadows import as_asked
from dwhctl.runs.plan import chosen_loads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from dwhctl.project.model import Project

#: As many as `--lookback` reaches: a mistyped year is more probable than a backfill of so many days.
MOST_DAYS = 3651


def days_between(start: date, end: date, *, newest_first: bool = False) -> tuple[date, ...]:
    """Give every day from `start` to `end`, both included. Raise UsageError for a range that is none."""
    count = (end - start).days + 1
    if count < 1:
        raise UsageError(
            f"--end {end} lies before --start {start}: give the first day as --start and the last as --end"
        )
    if count > MOST_DAYS:
        raise UsageError(
            f"{start} to {end} are {count:,} days: a backfill takes {MOST_DAYS:,} at most; give a shorter range"
        )
    days = tuple(start + timedelta(days=number) for number in range(count))
    return days[::-1] if newest_first else days


def loads_with_days(project: Project, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the loads that can be filled day by day, and those that are left out because they have no days.

    Raise UsageError when a load that was asked for by name has no days, and when no load has any.
    """
    loads = chosen_loads(project, names)
    whole = tuple(load.name for load in loads if load.slice_by is None)
    if whole and names:
        raise UsageError(
            f"load {whole[0]} has no slice_by: it replaces its whole table whatever the day, so there are no days"
            f" to fill; load it once with: dwhctl load {as_asked(whole[0])} --date today"
        )
    if len(whole) == len(loads):
        raise UsageError(
            "no load of the project has slice_by, so there are no days to fill; each replaces its whole table:"
            " dwhctl load --date today"
        )
    return tuple(load.name for load in loads if load.slice_by is not None), whole
