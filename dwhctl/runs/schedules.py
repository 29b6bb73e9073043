"""When cron starts what: the schedules of loads and reports, and the times at which they come due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

from dwhctl.project.fields import SCHEDULE_WORDS
from dwhctl.runs.sla import promised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.project.model import Load, Project

_LOCALTIME = Path("/etc/localtime")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the crontab: what dwhctl is started with, and when. Loads that share both share a line."""

    schedule: str
    names: tuple[str, ...]
    command: str
    options: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """What dwhctl is started with."""
        return (self.command, *self.names, *self.options)


@dataclass(frozen=True, slots=True)
class ClockChange:
    """A time of a schedule, by the machine's clock, that a clock change leaves out or brings twice."""

    at: datetime
    what: Literal["skipped", "doubled"]


def jobs_of(project: Project) -> list[Job]:
    """Give the jobs of a project, loads before the reports that are made from them."""
    names: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for load in project.loads.values():
        if load.schedule is not None:
            names.setdefault((load.schedule, "load", _load_options(load)), []).append(load.name)
    for report in project.reports.values():
        if report.schedule is not None:
            options = ("--date", "yesterday")
            names.setdefault((report.schedule, "refresh-reports", options), []).append(report.name)
    return [
        Job(schedule, tuple(of_one), command, options)
        for (schedule, command, options), of_one in names.items()
    ]


def watch_jobs(project: Project) -> list[Job]:
    """Give the job that looks for what is not in time; none where nothing has a deadline or a max_age."""
    return [Job(project.watch_schedule, (), "watch", ())] if promised(project) else []


def _load_options(load: Load) -> tuple[str, ...]:
    if load.slice_by is None:
        return ("--date", "today")
    if load.catch_up is None:
        return ("--date", "today", "--lookback", "1")
    return ("--date", "today", "--lookback", str(load.catch_up), "--only-missing")


def machine_zone() -> ZoneInfo:
    """Give the zone that cron keeps on this machine: /etc/localtime, else UTC."""
    if not _LOCALTIME.exists():
        return ZoneInfo("UTC")
    name = str(_LOCALTIME.resolve()).partition("zoneinfo/")[2]
    with _LOCALTIME.open("rb") as file:
        return ZoneInfo.from_file(file, key=name or "local time")


def same_clock(one: ZoneInfo, other: ZoneInfo, at: datetime) -> bool:
    """Tell whether two zones' clocks show the same for a year: one zone may have several names."""
    days = (at + number * _DAY for number in range(366))
    return all(day.astimezone(one).utcoffset() == day.astimezone(other).utcoffset() for day in days)


def fire_times(schedule: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Give the instants after `after`, as this zone's clocks show them, at which Debian's cron starts a job.

    A time of a fixed hour that a clock change leaves out comes right after it, one that it brings twice comes once:
    https://manpages.debian.org/bookworm/cron/cron.8.en.html
    """
    return iter(CronSim(SCHEDULE_WORDS.get(schedule, schedule), after.astimezone(zone)))


def clock_changes(schedule: str, after: datetime, days: int, zone: ZoneInfo) -> Iterator[ClockChange]:
    """Give the times of a schedule, within so many days, that a change of this zone's clocks skips or doubles.

    A schedule of every hour, or every few, follows the clock and misses nothing.
    """
    expression = SCHEDULE_WORDS.get(schedule, schedule)
    minute, hour, *_ = expression.split()
    if minute.startswith("*") or hour.startswith("*"):
        return
    first = after.astimezone(zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    for number in range(days):
        day = first + number * _DAY
        if day.replace(tzinfo=zone).utcoffset() == (day + _DAY).replace(tzinfo=zone).utcoffset():
            continue
        for at in CronSim(expression, day - timedelta(seconds=1)):
            if at >= day + _DAY:
                break
            if (what := _what_the_clock_does(at, zone)) is not None:
                yield ClockChange(at, what)


def _what_the_clock_does(at: datetime, zone: ZoneInfo) -> Literal["skipped", "doubled"] | None:
    first, second = (at.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return None
    back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0)
    return "doubled" if back == at else "skipped"
