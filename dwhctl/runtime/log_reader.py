"""Find and read the log of a run."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

from dwhctl.core.errors import StateDirError
from dwhctl.core.files import denied, open_regular
from dwhctl.runtime.log import SUFFIX, log_path
from dwhctl.sessions.history import find_run

LEVELS = ("info", "warning", "error")
_HEAD = ("time", "level", "event", "run_id", "load", "shard", "day", "etl_id", "attempt", "state")
#: In octets; a run writes no longer line.
_LONGEST_LINE = 2**20
_TAIL = ("error_class", "message", "traceback")


class LogLine(NamedTuple):
    """A line of the file, and its fields."""

    text: str
    fields: Mapping[str, object]


def read_log(path: Path) -> Iterator[LogLine]:
    """Yield the complete lines of a log; a line cut by a kill or a full disk is left out. Raise OSError."""
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
    """Return whether a line is of the session, if one is wanted, and at least of the level."""
    if session is not None and line.fields.get("etl_id") != session:
        return False
    own = str(line.fields.get("level"))
    return own not in LEVELS or LEVELS.index(own) >= LEVELS.index(level)


def last_lines(
    path: Path, sessions: Collection[int], count: int, zone: tzinfo, level: str = LEVELS[0]
) -> dict[int, tuple[str, ...]]:
    """Return the last so many lines of text of each session, at least of the level; nothing without a log."""
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
    """Return a line as text: several lines if its message has several."""
    about = [str(fields[name]) for name in ("load", "shard", "day") if name in fields]
    about += [f"#{fields['etl_id']}"] if "etl_id" in fields else []
    about += [f"attempt {fields['attempt']}"] if "attempt" in fields else []
    about += [str(fields["state"])] if "state" in fields else []
    more = [
        f"{name}={_shown(value)}" for name, value in fields.items() if name not in _HEAD and name not in _TAIL
    ]
    reason = [str(fields[name]) for name in ("error_class", "message") if fields.get(name)]
    parts = [" ".join(part) for part in (about, more) if part] + reason
    head = f"{_moment(fields.get('time'), zone)} {fields.get('level', '')!s:<7} {fields.get('event', '')}"
    first, *rest = " ".join([head, ": ".join(parts)]).rstrip().split("\n")
    return [first, *(f"    {line}" for line in [*rest, *str(fields.get("traceback") or "").splitlines()])]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{item}" for name, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _moment(value: object, zone: tzinfo) -> str:
    try:
        at = datetime.fromisoformat(str(value)).astimezone(zone)
    except (ValueError, OverflowError):
        return str(value)
    text = at.isoformat(sep=" ", timespec="milliseconds")
    return f"{text[:23]} {text[23:]}"


def find_log(folder: Path, text: str) -> Path:
    """Return the log of the run that a text means: its id, the beginning of it, or `last`.

    Raise UsageError when there is none, or more than one, and StateDirError.
    """
    none = f"there is no log in {folder}: a run writes one on its own machine"
    missing = "on this machine there is no log of a run"
    return log_path(folder, find_run(_Logs(_run_ids(folder)), text, none=none, missing=missing))


class _Logs(list[str]):
    def newest_runs(self, count: int) -> Sequence[str]:
        return sorted(self)[: -count - 1 : -1]

    def runs_beginning_with(self, text: str, count: int) -> Sequence[str]:
        return sorted(run_id for run_id in self if run_id.startswith(text))[:count]


def _run_ids(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:
        return []
    except OSError as error:
        remedy = denied(folder) if isinstance(error, PermissionError) else "check the disk"
        raise StateDirError(f"the logs in {folder} cannot be read: {error.strerror}; {remedy}") from error
