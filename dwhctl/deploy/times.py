"""The times of a crontab's schedule as systemd and Kubernetes write them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import cast
from zoneinfo import ZoneInfo

from cronsim import CronSim
from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.words import quoted
from dwhctl.cron import fire_times
from dwhctl.project.fields import SCHEDULE_WORDS

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: Kubernetes gives up a CronJob that missed more than 100 starts within its deadline.
_MOST_MISSED = 50
_LATEST_START = timedelta(days=1)
_STARTS = 60


def calendar_times(schedule: str) -> list[str]:
    """Return the times of a schedule as systemd's OnCalendar= writes them, without their zone.

    They are two where a crontab starts a job on days of the month and on weekdays: systemd demands both in one line.
    """
    cron = _fields(schedule)
    clock = f"{_calendar(cron.hours, 0, 23)}:{_calendar(cron.minutes, 0, 59)}:00"
    days = f"*-{_calendar(cron.months, 1, 12)}-{_calendar(cron.days, 1, 31)}"
    weekdays = _calendar_weekdays(cron.weekdays)
    if not cron.either:
        return [f"{weekdays}{days} {clock}"]
    return [f"{days} {clock}", f"{weekdays}*-{_calendar(cron.months, 1, 12)}-* {clock}"]


def kubernetes_schedule(schedule: str) -> str:
    """Return a schedule that Kubernetes understands as cron does. Raise UsageError where it has none.

    Kubernetes knows no weekday 7, and starts a job when either the day or the weekday fits, if both are given.
    """
    cron = _fields(schedule)
    days, weekdays = _listed(cron.days, 1, 31), _listed(cron.weekdays, 0, 6)
    if not cron.either and days != "*" and weekdays != "*":
        raise UsageError(
            f"Kubernetes has no schedule that equals {quoted(schedule)}: it starts a job when the day or the weekday"
            " fits, cron when both do; choose days or weekdays"
        )
    minutes, hours, months = (
        _stepped(cron.minutes, 0, 59),
        _stepped(cron.hours, 0, 23),
        _stepped(cron.months, 1, 12),
    )
    return " ".join((minutes, hours, days, months, weekdays))


def starting_deadline(schedule: str) -> int:
    """Return how many seconds late a start may be: as long as Kubernetes counts the missed ones."""
    starts = list(islice(fire_times(schedule, datetime.now(UTC), ZoneInfo("UTC")), _STARTS))
    shortest = min((second - first for first, second in pairwise(starts)), default=_LATEST_START)
    return int(min(_MOST_MISSED * shortest, _LATEST_START).total_seconds())


class _Fields(Struct, frozen=True):
    """The values of a schedule's fields, Sunday as 0. `either`: the day or the weekday must fit, not both."""

    minutes: Collection[int]
    hours: Collection[int]
    days: Collection[int]
    months: Collection[int]
    weekdays: Collection[int]
    either: bool


def _fields(schedule: str) -> _Fields:
    cron = CronSim(SCHEDULE_WORDS.get(schedule, schedule), datetime(2020, 1, 1, tzinfo=UTC))
    weekdays = {weekday % 7 for weekday in cast("set[int]", cron.weekdays)}
    if not cron.day_and and (len(cron.days) == 31 or len(weekdays) == 7):
        # Every day fits one of them.
        return _Fields(cron.minutes, cron.hours, range(1, 32), cron.months, range(7), either=False)
    return _Fields(cron.minutes, cron.hours, cron.days, cron.months, weekdays, either=not cron.day_and)


def _progression(values: Collection[int]) -> tuple[int, int, int] | None:
    """Return first, last and step of at least three values with the same distance."""
    found = sorted(values)
    steps = {second - first for first, second in pairwise(found)}
    return (found[0], found[-1], steps.pop()) if len(found) > 2 and len(steps) == 1 else None


def _calendar(values: Collection[int], lowest: int, highest: int) -> str:
    if len(values) == highest - lowest + 1:
        return "*"
    match _progression(values):
        case (first, last, 1):
            return f"{first:02}..{last:02}"
        case (first, last, step) if last + step > highest:
            return f"{first:02}/{step}"
        case (first, last, step):
            return f"{first:02}..{last:02}/{step}"
    return ",".join(f"{value:02}" for value in sorted(values))


def _calendar_weekdays(values: Collection[int]) -> str:
    # systemd's week begins on Monday.
    found = sorted((value - 1) % 7 for value in values)
    if len(found) == 7:
        return ""
    match _progression(found):
        case (first, last, 1):
            return f"{_WEEKDAYS[first]}..{_WEEKDAYS[last]} "
    return f"{','.join(_WEEKDAYS[value] for value in found)} "


def _stepped(values: Collection[int], lowest: int, highest: int) -> str:
    match _progression(values):
        case (first, last, step) if step > 1 and first == lowest and last + step > highest:
            return f"*/{step}"
    return _listed(values, lowest, highest)


def _listed(values: Collection[int], lowest: int, highest: int) -> str:
    """Return a field of a crontab; only one with all values has a star, which has a meaning of its own for days."""
    if len(values) == highest - lowest + 1:
        return "*"
    match _progression(values):
        case (first, last, 1):
            return f"{first}-{last}"
        case (first, last, step):
            return f"{first}-{last}/{step}"
    return ",".join(map(str, sorted(values)))
