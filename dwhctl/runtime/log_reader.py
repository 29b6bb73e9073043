"""Find and read the log of a run, and remove old logs."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dwhctl.core.errors import StateDirError
from dwhctl.core.files import denied, inside, open_regular, touch
from dwhctl.runtime.locks import CRON_LOG
from dwhctl.sessions.history import find_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import timedelta, tzinfo

    from dwhctl.runtime.locks import StateDir


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


#: The size from which cron.log is rotated.
MOST_CRON_BYTES = 10 * 2**20
_SUFFIX = ".jsonl"
MOST_TOGETHER = 2**30
MOST_REMOVED = 2000
_EVERY_SECONDS = 3600


def log_path(folder: Path, run_id: str) -> Path:
    """Return the path of a run's log in the folder of logs. Raise ValueError for an id that leads out of it."""
    return inside(folder, f"{run_id}{_SUFFIX}")


def find_log(folder: Path, text: str) -> Path:
    """Return the log of the run that a text means: its id, the beginning of it, or `last`.

    Raise UsageError when there is none, or more than one, and StateDirError.
    """
    none = f"there is no log in {folder}: a run writes one on its own machine"
    missing = "logs stay on the run's own machine for [project] keep_logs: there is no log of a run"
    return log_path(folder, find_run(_Logs(_run_ids(folder)), text, none=none, missing=missing))


class _Logs(list[str]):
    def newest_runs(self, count: int) -> Sequence[str]:
        return sorted(self)[: -count - 1 : -1]

    def runs_beginning_with(self, text: str, count: int) -> Sequence[str]:
        return sorted(run_id for run_id in self if run_id.startswith(text))[:count]


def _run_ids(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []
    except OSError as error:
        remedy = denied(folder) if isinstance(error, PermissionError) else "check the disk"
        raise StateDirError(f"the logs in {folder} cannot be read: {error.strerror}; {remedy}") from error


def rotate(state: StateDir, keep: timedelta) -> None:
    """Remove logs that are too old, or more than fit, once an hour. Never raises."""
    with suppress(OSError):
        now = time.time()
        last_time = state.logs / ".looked"
        if last_time.exists() and now - _EVERY_SECONDS < last_time.lstat().st_mtime <= now:
            return
        touch(last_time)
        with suppress(OSError):
            rotate_cron_log(state.logs / CRON_LOG)
        _remove_old(state, now - keep.total_seconds())


def rotate_cron_log(path: Path) -> None:
    """Rename a large cron.log and put an empty one in its place. Raise OSError.

    There is a cron.log at every moment, and no line is lost: a process that has the old file open goes on writing to
    it. Others may not read it; the group keeps it where it may write.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return
    mode = 0o660 if found.st_mode & stat.S_IWGRP else 0o600
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
    if found.st_size < MOST_CRON_BYTES:
        return
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f"{CRON_LOG}.")
    try:
        os.fchmod(descriptor, mode)
        os.link(path, f"{path}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", follow_symlinks=False)
        Path(new).replace(path)
    finally:
        os.close(descriptor)
        Path(new).unlink(missing_ok=True)


def _remove_old(state: StateDir, oldest: float) -> None:
    found = []
    for path in state.logs.iterdir():
        if path.suffix == _SUFFIX or path.name.startswith(f"{CRON_LOG}."):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                # Its space on the disk: a small file takes a block.
                found.append((status.st_mtime, path.name, status.st_blocks * 512))
    together = sum(size for _, _, size in found)
    for written, name, size in sorted(found)[:MOST_REMOVED]:
        if written >= oldest and together <= MOST_TOGETHER:
            return
        # A run that is active, or dead and not reaped yet, has its lock.
        if not (state.run_locks / f"{name.removesuffix(_SUFFIX)}.lock").exists():
            (state.logs / name).unlink(missing_ok=True)
            together -= size
