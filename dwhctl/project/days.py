"""Days, durations and slices: the bounds of a day, in a clock."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.words import quoted

if TYPE_CHECKING:
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project

DAY_FORMS = "YYYY-MM-DD, today, yesterday or -3d (three days ago)"
DURATION_FORMS = "10s, 30m, 8h, 400d or 1h30m"
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2999, 12, 31)
LONGEST = timedelta(days=36_500)

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_AGO = re.compile(r"-(\d{1,6})d", re.ASCII)
_ONE_DAY = timedelta(days=1)


class Slice(Struct, frozen=True):
    """The rows of one load, one shard, one day: half-open `[start, end)`.

    `start` and `end` are naive, as in the column; `start_at` and `end_at` are the same bounds as instants in UTC.
    All four are None for a load without `slice_by`. `zone` is the clock of the naive ones.
    """

    load: str
    shard: str
    day: date
    start: datetime | None
    end: datetime | None
    start_at: datetime | None
    end_at: datetime | None
    zone: str


def make_slice(project: Project, load: Load, shard: Shard, day: date) -> Slice:
    """Return the slice of this load, shard and day."""
    wall = load.slice_zone == "wall"
    zone = shard.zone if wall else load.slice_zone
    if load.slice_by is None:
        return Slice(load.name, shard.name, day, None, None, None, None, zone)
    bounds = _bounds(day, shard.zoneinfo, None) if wall else _bounds(day, project.zone, ZoneInfo(zone))
    return Slice(load.name, shard.name, day, *bounds, zone)


@lru_cache(maxsize=4096)
def _bounds(
    day: date, midnights: ZoneInfo, held_in: ZoneInfo | None
) -> tuple[datetime, datetime, datetime, datetime]:
    """Return start, end, start_at and end_at, cached: hundreds of shards have the same.

    `held_in` is the clock of a column that has the midnights' instants; None: it has the midnights of the wall clock.
    """
    following = day + _ONE_DAY
    start_at, end_at = (start_of_day(date_of, midnights) for date_of in (day, following))
    if held_in is None:
        return _midnight(day), _midnight(following), start_at, end_at
    start, end = (at.astimezone(held_in).replace(tzinfo=None, fold=0) for at in (start_at, end_at))
    return start, end, start_at, end_at


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant, in UTC, at which the zone's clocks show that date or a later one."""
    return first_showing(_midnight(day), zone)


def first_showing(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant, in UTC, at which the zone's clocks show that naive time or a later one.

    A time that they show twice counts the first time; a time that they skip begins with the jump.
    """
    at = moment.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _shown(at, zone) == moment:
        return at
    # In a gap fold=1 has the offset after the jump: that instant is before the jump.
    before, after = moment.replace(tzinfo=zone, fold=1).astimezone(UTC), at
    second = timedelta(seconds=1)
    while after - before > second:
        middle = before + (after - before) // second // 2 * second
        if _shown(middle, zone) >= moment:
            after = middle
        else:
            before = middle
    return after


def _shown(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)  # noqa: DTZ001 - naive on purpose


def resolve_day(text: str, zone: ZoneInfo, now: datetime | None = None) -> date:
    """Return the day that a user means, in the project's zone. Raise UsageError with the allowed forms."""
    today = (now or datetime.now(UTC)).astimezone(zone).date()
    word = text.strip().lower()
    ago = {"today": 0, "yesterday": 1}.get(word)
    if match := _AGO.fullmatch(word):
        ago = int(match[1])
    try:
        day = today - timedelta(days=ago) if ago is not None else parse_date(word)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{quoted(text)} is not a day: {error}; write {DAY_FORMS}") from None
    if not FIRST_DAY <= day <= LAST_DAY:
        outside = f"outside {FIRST_DAY} to {LAST_DAY}"
        raise UsageError(f"{quoted(text)} is not a day to load: {outside}; write {DAY_FORMS}")
    return day


def parse_date(text: str) -> date:
    """Return the date of a text YYYY-MM-DD. Raise ValueError if the form is wrong or the date does not exist."""
    if not _DATE.fullmatch(text):
        raise ValueError("not of the form YYYY-MM-DD")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("the calendar has no such date") from None


def parse_duration(text: str) -> timedelta:
    """Return the duration of `10s`, `30m` or `1h30m`. Raise UsageError with the allowed forms."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise UsageError(f"{quoted(text)} is not a duration; write {DURATION_FORMS}")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    try:
        duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        duration = timedelta.max
    if duration > LONGEST:
        raise UsageError(f"{quoted(text)} is too long; the longest is {LONGEST.days}d")
    return duration


def format_duration(duration: timedelta) -> str:
    """Return the duration in the form of `parse_duration`, in whole seconds."""
    minutes, seconds = divmod(duration // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "".join(parts) or "0s"
