"""States, sessions and their completeness; and the values of a table that other programs may have written."""

from __future__ import annotations

import enum
import math
import unicodedata
from datetime import UTC, date, datetime, timedelta
from typing import Any

from msgspec import Struct


class State(enum.StrEnum):
    """The state of a session."""

    RUNNING = "running"
    LOADED = "loaded"
    SKIPPED = "skipped"  # no rows at the source
    UP_FOR_RETRY = "up_for_retry"
    FAILED = "failed"
    ABANDONED = "abandoned"  # its run died

    @classmethod
    def _missing_(cls, value: object) -> State:
        """Return a state of another version as it is written: closed, and not successful."""
        text = "" if value is None else str(value)
        unknown = str.__new__(cls, text)
        unknown._name_, unknown._value_ = "UNKNOWN", text
        return unknown


def successful(state: State) -> bool | None:
    """Return the value of the column `successful`: None while running."""
    return None if state is State.RUNNING else is_good(state)


def is_good(state: State) -> bool:
    """Return whether a session in this state is successful."""
    return state in (State.LOADED, State.SKIPPED)


def _refuse_naive(**times: datetime) -> None:
    # A naive time would be read as UTC by one database and as this machine's time by another.
    for name, value in times.items():
        if value.utcoffset() is None:
            raise ValueError(f"{name} has no time zone: {value}")


class NewSession(Struct, frozen=True):
    """One attempt at a slice that is about to start.

    `staged` is a token that no other session has. `worker` is the number of its worker in its run, from 1; None for a
    slice without a worker. A report's session has the report's name as `load`, and no shard.
    """

    run_id: str
    load: str
    shard: str | None
    day: date
    attempt: int
    staged: str
    started: datetime
    worker: int | None = None

    def __post_init__(self) -> None:
        _refuse_naive(started=self.started)

    @property
    def task_name(self) -> str:
        """Return `<load>__<shard>`, or the report's name."""
        return self.load if self.shard is None else f"{self.load}__{self.shard}"


class Adopted(Struct, frozen=True):
    """One slice that another tool loaded, with as many rows as the source has.

    `at` is when the comparison began that found them equal. Its session has the attempt 0 and no duration: averages
    leave it out.
    """

    run_id: str
    load: str
    shard: str
    day: date
    at: datetime
    rows: int

    def __post_init__(self) -> None:
        _refuse_naive(at=self.at)

    @property
    def task_name(self) -> str:
        """Return `<load>__<shard>`."""
        return f"{self.load}__{self.shard}"

    @property
    def state(self) -> State:
        return State.LOADED if self.rows else State.SKIPPED

    @property
    def comment(self) -> str:
        """Return the comment of its session: no load wrote it."""
        if not self.rows:
            return "adopted: no rows at the source, none in the warehouse"
        return f"adopted: {self.rows:,} {'row' if self.rows == 1 else 'rows'} equal to the source"


class Closing(Struct, frozen=True):
    """How one session ended. `busy_seconds` is how long it held its worker, before the wait for publishing.

    A session whose commit is in doubt stays `running`, without an end, with the reason.
    """

    id: int
    state: State
    finished: datetime | None
    loaded_rows: int | None = None
    extracted_rows: int | None = None
    bytes: int | None = None
    error_class: str | None = None
    comment: str | None = None
    busy_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.finished is not None:
            _refuse_naive(finished=self.finished)
        if (self.state is State.RUNNING) is not (self.finished is None):
            raise ValueError("a session that is running has no end, and every other one has")


class Session(Struct, frozen=True):
    """One row of the table that a run of dwhctl wrote. Times are in UTC."""

    id: int
    task_name: str
    started: datetime
    finished: datetime | None
    successful: bool | None
    loaded_rows: int | None
    comment: str | None
    run_id: str
    load: str
    shard: str | None
    day: date
    attempt: int
    state: State
    staged: str
    extracted_rows: int | None
    bytes: int | None
    error_class: str | None
    host: str | None
    pid: int | None
    dwhctl_version: str | None
    worker: int | None = None
    busy_seconds: float | None = None


class Held(Struct, frozen=True):
    """A lock that another connection to the sessions database holds; `holder` is for messages."""

    name: str
    holder: str


class LastSession(Struct, frozen=True):
    """The latest session of a slice, and the latest start of its successful ones (None: it has none).

    Where that start is in the future `last_success` is FIRST, which completes no day.
    """

    load: str
    shard: str
    day: date
    state: State
    started: datetime
    finished: datetime | None
    last_success: datetime | None


#: So far apart may the clocks of two machines be. A later start is of a clock that was ahead, and no sign of life.
CLOCKS_APART = timedelta(minutes=1)


def is_complete(last: LastSession | None, end_at: datetime | None) -> bool:
    """Return whether a slice is complete by its latest session; without any it is not."""
    return last is not None and completes(last.last_success, end_at)


def completes(last_success: datetime | None, end_at: datetime | None) -> bool:
    """Return whether a slice is complete: a successful session of it started after its end, `end_at`.

    A day that was loaded at noon is not complete. A later session that fails or is running changes nothing: the rows
    stay. Without `end_at` the slice has no end: its load takes the whole table.
    """
    return last_success is not None and (end_at is None or last_success >= end_at)


_FIRST_YEAR, _LAST_YEAR = 1000, 8999
FIRST, LAST = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(_LAST_YEAR, 12, 31, tzinfo=UTC)
_MOST = 2**63 - 1
#: The longest duration (31 years).
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
    """Return a whole number as a database holds it; None for NULL and for any other value."""
    try:
        return min(max(int(value), -_MOST - 1), _MOST)
    except (TypeError, ValueError, OverflowError):
        return None


def as_seconds(value: Any) -> float | None:
    """Return a duration; None for NULL and for any other value."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MOST_SECONDS) if math.isfinite(seconds) else None


COMMENT_LENGTH = 500
_JOINER = "\u200d"


def storable(text: str) -> str:
    """Return the text without what a database refuses: NUL, and half characters out of file names."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def cut_comment(text: str | None, length: int = COMMENT_LENGTH) -> str | None:
    """Return the comment; one that is too long is cut between two characters and ends with an ellipsis."""
    if text is None:
        return None
    text = storable(text)
    if len(text) <= length:
        return text
    end = length - 1
    while end > 0 and _belongs_together(text[end - 1], text[end]):
        end -= 1
    return text[:end] + "…"


def _belongs_together(left: str, right: str) -> bool:
    # Accents, variation selectors and skin tones follow their letter; a joiner makes one sign of two.
    is_joined = unicodedata.category(right) in {"Mn", "Me", "Mc"} or "\U0001f3fb" <= right <= "\U0001f3ff"
    return is_joined or _JOINER in (left, right)
