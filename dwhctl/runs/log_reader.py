"""Read the log of a run: its lines as they are, or as text."""

from __future__ import annotations

import json
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from dwhctl.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import tzinfo
    from pathlib import Path

LEVELS = ("info", "warning", "error")
_HEAD = ("time", "level", "event", "run_id", "load", "shard", "day", "etl_id", "attempt", "state")
#: A run writes none as long, in octets.
_LONGEST_LINE = 2**20
_TAIL = ("error_class", "message", "traceback")


class LogLine(NamedTuple):
    """A line as it stands in the file, and its fields."""

    text: str
    fields: Mapping[str, object]


def read_log(path: Path) -> Iterator[LogLine]:
    """Give the whole lines of a log; what a killed run or a full disk left of one is passed over. Raise OSError."""
    with open_regular(path, follow=False) as file:
        while octets := file.readline(_LONGEST_LINE):
            text = octets.decode("utf-8", "replace").rstrip("\n")
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(fields, dict):
                yield LogLine(text, fields)


def is_wanted(line: LogLine, session: int | None = None, level: str = LEVELS[0]) -> bool:
    """Tell whether a line is of a session, if one is wanted, and at least of a level."""
    if session is not None and line.fields.get("etl_id") != session:
        return False
    told = str(line.fields.get("level"))
    return told not in LEVELS or LEVELS.index(told) >= LEVELS.index(level)


def last_lines(
    path: Path, sessions: Collection[int], count: int, zone: tzinfo, level: str = LEVELS[0]
) -> dict[int, tuple[str, ...]]:
    """Give the last so many lines of text of each of these sessions, at least of a level, in one pass.

    Without a log, nothing.
    """
    kept: dict[int, deque[str]] = {}
    try:
        for line in read_log(path):
            session = line.fields.get("etl_id")
            if isinstance(session, int) and session in sessions and is_wanted(line, level=level):
                kept.setdefault(session, deque(maxlen=count)).extend(text_of(line.fields, zone))
    except OSError:
        return {}
    return {session: tuple(texts) for session, texts in kept.items()}


def text_of(fields: Mapping[str, object], zone: tzinfo) -> list[str]:
    """Put a line into words: several lines if its message has several."""
    about = [str(fields[name]) for name in ("load", "shard", "day") if name in fields]
    about += [f"#{fields['etl_id']}"] if "etl_id" in fields else []
    about += [f"attempt {fields['attempt']}"] if "attempt" in fields else []
    about += [str(fields["state"])] if "state" in fields else []
    facts = [
        f"{name}={_shown(value)}" for name, value in fields.items() if name not in _HEAD and name not in _TAIL
    ]
    reason = [str(fields[name]) for name in ("error_class", "message") if fields.get(name)]
    said = [" ".join(part) for part in (about, facts) if part] + reason
    head = f"{_moment(fields.get('time'), zone)} {fields.get('level', '')!s:<7} {fields.get('event', '')}"
    first, *more = " ".join([head, ": ".join(said)]).rstrip().split("\n")
    return [first, *(f"    {line}" for line in [*more, *str(fields.get("traceback") or "").splitlines()])]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{one}" for name, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _moment(value: object, zone: tzinfo) -> str:
    try:
        at = datetime.fromisoformat(str(value)).astimezone(zone)
    except (ValueError, OverflowError):
        return str(value)
    text = at.isoformat(sep=" ", timespec="milliseconds")
    return f"{text[:23]} {text[23:]}"
