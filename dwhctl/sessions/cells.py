"""Values of the tables, made fit to work with: other programs write to them too, and SQLite keeps what it is given.

An unreadable time counts as the distant past, so that nothing is complete by it. Times and days end at bounds that
leave room for a time zone, an age or a timeout to be added.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

_FIRST_YEAR, _LAST_YEAR = 1000, 8999
FIRST, LAST = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(_LAST_YEAR, 12, 31, tzinfo=UTC)
_MOST = 2**63 - 1
#: No attempt takes so long (31 years).
_MOST_SECONDS = 1e9


def as_time(value: Any) -> datetime:
    """Return a time, or its text, in UTC and within the bounds."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return FIRST
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        return FIRST if moment.year < _FIRST_YEAR else LAST
    if moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def as_day(value: Any) -> date:
    """Return a day, or its text, within the bounds."""
    try:
        day = value if isinstance(value, date) else date.fromisoformat(value)
    except (TypeError, ValueError):
        return FIRST.date()
    return min(max(day, FIRST.date()), LAST.date())


def as_text(value: Any) -> str:
    """Return a text; NULL is an empty one."""
    if isinstance(value, str):
        return value
    return "" if value is None else str(value)


def as_text_or_none(value: Any) -> str | None:
    """Return a text, or None for NULL."""
    return None if value is None else as_text(value)


def as_number(value: Any) -> int | None:
    """Return a whole number as a database holds it; None for NULL and for what is none."""
    try:
        return min(max(int(value), -_MOST - 1), _MOST)
    except (TypeError, ValueError, OverflowError):
        return None


def as_seconds(value: Any) -> float | None:
    """Return a time that something took; None for NULL and for what is none."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MOST_SECONDS) if math.isfinite(seconds) else None
