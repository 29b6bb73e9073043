"""When work is due: a `deadline` is a time of day of the project's clock, once on each of its days.

A time that a day's clocks show twice is the first of the two; one that they jump over comes with the jump. What belongs
to a day is due at the deadline of the day after it. Where it is not over by then (a shard whose clock is far behind the
project's, a deadline at midnight) it is due at the first deadline after its end.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.project.slices import first_showing

if TYPE_CHECKING:
    from datetime import date, time
    from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)


def deadline_on(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """Give the instant, in UTC, of the deadline on this day."""
    return first_showing(datetime.combine(day, clock), zone)


def due_at(day: date, end: datetime, clock: time, zone: ZoneInfo) -> datetime:
    """Give the instant, in UTC, at which what belongs to `day`, and is over at `end`, must be there."""
    on = day + _DAY
    while (at := deadline_on(on, clock, zone)) <= end:
        on += _DAY
    return at


def next_deadline(now: datetime, clock: time, zone: ZoneInfo) -> datetime:
    """Give the first deadline after now, in UTC."""
    on = now.astimezone(zone).date() - _DAY
    while (at := deadline_on(on, clock, zone)) <= now:
        on += _DAY
    return at
