"""The period that a command works on: one day (`--date`), or a range of days (`-s`, `-e`)."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.options import DATE_HELP, Option
from dwhctl.core.errors import UsageError

if TYPE_CHECKING:
    from dwhctl.project.model import Project


class _Day(click.types.StringParamType):
    """A day as text, which is resolved in the project's zone; its error when it is missing has an example."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        return f"For example: {param.opts[-1]} yesterday"


def date_option(what: str, default: str | None = None) -> Option:
    """Return the --date of a command; without a default it is required."""
    # click takes an explicit None for a default.
    more: dict[str, Any] = {"default": default, "show_default": True} if default else {"required": True}
    return click.option("--date", "day", type=_Day(), metavar="D", help=f"{what}: {DATE_HELP}", **more)


def start_option(what: str = "The first day", *, required: bool = False) -> Option:
    """Return the --start of a range."""
    text = f"{what}: {DATE_HELP}"
    return click.option("-s", "--start", type=_Day(), metavar="D", required=required, help=text)


def end_option(rest: str = ".", *, required: bool = False) -> Option:
    """Return the --end of a range."""
    text = f"The last day, included, in the same forms{rest}"
    return click.option("-e", "--end", type=_Day(), metavar="D", required=required, help=text)


def chosen_day(
    project: Project, option: str, text: str, now: datetime | None = None, *, ahead: int = 1
) -> date:
    """Return the day of an option. Raise UsageError for one that is more than so many days ahead."""
    from dwhctl.project.days import resolve_day

    now = now or datetime.now(project.zone)
    day = resolve_day(text, project.zone, now)
    today = now.astimezone(project.zone).date()
    if day > today + timedelta(days=ahead):
        remedy = "; give a day up to tomorrow" if ahead else ""
        raise UsageError(f"{option} {day} lies in the future: today is {today} in {project.timezone}{remedy}")
    return day


def chosen_days(project: Project, start: str, end: str, *, newest_first: bool = False) -> tuple[date, ...]:
    """Return the days of --start and --end, both included. Raise UsageError for a range that cannot be."""
    from dwhctl.runtime.plan import days_between

    now = datetime.now(project.zone)
    first, last = (
        chosen_day(project, option, text, now) for option, text in (("--start", start), ("--end", end))
    )
    return days_between(first, last, newest_first=newest_first)
