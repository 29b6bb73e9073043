"""Write the log of a run, `<state_dir>/logs/<run_id>.jsonl`, a line of JSON for each event; and remove old logs.

Each line is one write: a killed run loses at most its last line. A log that cannot be written is reported once, and
never fails a run.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dwhctl import __version__
from dwhctl.core.errors import DwhctlError, ExitCode, Interrupted
from dwhctl.core.files import inside, touch
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Waiting, announced
from dwhctl.core.words import printable_json
from dwhctl.runtime import events
from dwhctl.runtime.locks import CRON_LOG, StateDir
from dwhctl.runtime.messages import Level, LogMessage, captured_log
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from dwhctl.project.model import Project


RUN_ENDED = "run_ended"
_MOST_CHARACTERS = 10_000
_LEVELS: dict[State, Level] = {
    State.UP_FOR_RETRY: "warning",
    State.FAILED: "error",
    State.ABANDONED: "error",
    State.RUNNING: "error",
}


class LogEntry(NamedTuple):
    """A line of the log: its level, its event, and more fields; those that are None are left out."""

    level: Level
    event: str
    fields: dict[str, object]


def line_of(event: events.Event, command: str) -> LogEntry | None:
    """Return the line of a run's event; None for one that only progress shows. `command` is the command line."""
    match event:
        case events.SliceStaged() | Waiting(text=""):
            return None
        case events.RunStarted():
            slices = event.plan.slices
            loads = sorted({planned.load.name for planned in slices})
            return _started(command, loads, len(slices), sorted({planned.slice.day for planned in slices}))
        case events.RefreshStarted():
            return _started(command, list(event.reports), len(event.reports), [event.day])
        case events.SliceWaits():
            more = {"message": f"{event.query} is not true", "until": event.until}
            return LogEntry("info", "slice_waits", _values(event, _SLICE) | more)
        case events.SliceReady():
            return LogEntry("info", "slice_ready", _values(event, (*_SLICE, "seconds")))
        case events.SliceStarted():
            waited = {"slots_waited": event.slots_waited or None}
            return LogEntry("info", "slice_started", _values(event, _ATTEMPT) | waited)
        case events.WorkerLogged():
            return library_line(event.message, _values(event, _ATTEMPT))
        case events.SlicesPublished():
            level: Level = "warning" if event.failed else "info"
            names = event.__struct_fields__
            return LogEntry(level, "slices_published", _values(event, names))
        case events.SliceClosed():
            more = {"state": event.state.value, "steps": event.steps or None, "failed_in": event.failed_in}
            return _closed("slice_closed", event, _values(event, _ATTEMPT) | more)
        case events.ReportWaits():
            needs = "; ".join(str(need) for need in event.readiness if not need.is_met)
            return LogEntry(
                "info", "report_waits", {"load": event.report, "day": event.day, "message": needs}
            )
        case events.ReportStarted():
            return LogEntry("info", "report_started", _report(event))
        case events.ReportClosed():
            return _closed("report_closed", event, _report(event) | {"state": event.state.value})
        case events.RunEnded():
            return _ended(event.result)
        case Waiting():
            return LogEntry("info", "waiting", {"message": event.text})
        case events.Notice():
            return LogEntry("warning", "notice", {"message": event.text})


def library_line(message: LogMessage, attempt: dict[str, object] | None = None) -> LogEntry:
    """Return the line of a library's log message."""
    more = {"logger": message.logger, "message": message.message, "said_at": message.at if attempt else None}
    return LogEntry(message.level, "library", (attempt or {}) | more)


def fit(value: object) -> object:
    """Return a value for JSON: times as texts, secrets masked, long texts cut."""
    if isinstance(value, float):
        return round(value, 3)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, dict):
        return {str(key): fit(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fit(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    text = mask(value.isoformat() if isinstance(value, date) else str(value))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _started(command: str, loads: list[str], slices: int, days: list[date]) -> LogEntry:
    values: dict[str, object] = {
        "command": command,
        "loads": loads,
        "slices": slices,
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
    }
    return LogEntry("info", "run_started", values)


_SLICE = ("load", "shard", "connection", "day")
_ATTEMPT = (*_SLICE, "attempt", "etl_id")


def _values(source: object, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(source, name) for name in names}


def _report(event: events.ReportStarted | events.ReportClosed) -> dict[str, object]:
    # A report's name is in the place of a load's, as in the sessions table.
    return _values(event, _ATTEMPT) | {"shard": None}


def _closed(name: str, event: events.SliceClosed | events.ReportClosed, known: dict[str, object]) -> LogEntry:
    known |= _values(event, ("rows", "seconds", "retry_at"))
    if event.failure is not None:
        known |= _values(event.failure, ("error_class", "permanent", "message", "traceback"))
    return LogEntry(_LEVELS.get(event.state, "info"), name, known)


def _ended(result: events.RunResult) -> LogEntry:
    values = _values(result, ("loaded", "skipped", "failed", "in_doubt", "rows"))
    values["steps"] = result.step_seconds
    if result.day is not None:  # a refresh has neither
        values["skipped"] = values["steps"] = None
    values["in_doubt"] = values["in_doubt"] or None
    signal = f"interrupted: {result.signal.name.lower()}" if result.signal is not None else None
    values |= {"retried": result.retried, "seconds": result.seconds, "message": result.stopped or signal}
    bad = values["failed"] or values["in_doubt"] or values["message"]
    return LogEntry("error" if bad else "info", RUN_ENDED, values)


#: A log of this size gets only warnings and errors; one of twice the size only the end of the run.
MOST_BYTES = 16 * 2**20
#: A run that ends with one of these has done nothing, and leaves no log.
_NOT_BEGUN = (ExitCode.USAGE, ExitCode.LOCK_HELD)


@contextmanager
def logged_run(
    project: Project, run_id: str, command: str, listen: events.Listener
) -> Iterator[events.Listener]:
    """Yield a listener that writes the run's log, also libraries' messages, and passes each event on."""
    state = StateDir(project.state_dir)
    path = log_path(state.logs, run_id)
    log = RunLog(path, run_id, command, lambda text: listen(events.Notice(text)))

    def both(event: events.Event) -> None:
        log.take(event)
        listen(event)

    try:
        with captured_log(log.take_message, to_stderr=True), announced(both):
            yield both
    except BaseException as error:
        log.stopped(error)
        raise
    finally:
        if log.close():
            rotate(state, project.keep_logs)


class RunLog:
    """Writes one run's log. `complain` reports that it cannot. Thread-safe.

    After a line that was written in part, the next one begins a new line.
    """

    def __init__(self, path: Path, run_id: str, command: str, complain: Callable[[str], None]) -> None:
        self._path = path
        self._run_id = run_id
        self._command = command
        self._complain = complain
        self._lock = threading.RLock()
        self._size = 0
        self._descriptor: int | None = None
        self._is_full = self._is_torn = self._has_complained = self._is_closed = False

    def take(self, event: events.Event) -> None:
        """Write an event, except a wait before the run has begun: the run may end without a log."""
        if isinstance(event, Waiting) and not self._size:
            return
        if (line := line_of(event, self._command)) is not None:
            self._write(line)

    def take_message(self, message: LogMessage) -> None:
        """Write a library's log message in this process."""
        self._write(library_line(message))

    def stopped(self, error: BaseException) -> None:
        """Write the error that ended the run before its result."""
        if not self._size and isinstance(error, DwhctlError) and error.exit_code in _NOT_BEGUN:
            return
        values: dict[str, object] = {"error_class": type(error).__name__, "message": str(error)}
        if not isinstance(error, DwhctlError | Interrupted):
            values["traceback"] = "".join(traceback.format_exception(error))
        self._write(LogEntry("error", RUN_ENDED, values))

    def close(self) -> bool:
        """Close the log. Return whether there is one."""
        with self._lock:
            self._is_closed = True
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
            return descriptor is not None

    def _write(self, line: LogEntry) -> None:
        with self._lock:
            most = MOST_BYTES if line.level == "info" else 2 * MOST_BYTES
            if self._size < most or line.event == RUN_ENDED:
                self._append(line)
            elif not self._is_full:
                self._is_full = True
                text = f"the log is {MOST_BYTES:,} octets long: from here on it has warnings and errors only"
                self._append(LogEntry("warning", "log_full", {"message": text}))

    def _append(self, line: LogEntry) -> None:
        if self._is_closed:
            return
        head = {"time": datetime.now(UTC), "level": line.level, "event": line.event, "run_id": self._run_id}
        entry = {name: fit(value) for name, value in (head | line.fields).items() if value is not None}
        text = printable_json(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
        octets = f"{text}\n".encode("utf-8", "backslashreplace")
        try:
            self._write_octets(b"\n" + octets if self._is_torn else octets)
        except OSError as error:
            self._is_closed = self._descriptor is None  # it cannot be made
            if not self._has_complained:
                self._has_complained = True
                words = f"the log {self._path} cannot be written: {error.strerror}"
                self._complain(f"{words}; the run goes on without it")

    def _write_octets(self, octets: bytes) -> None:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
        while octets:
            written = os.write(self._descriptor, octets)
            self._size += written
            octets = octets[written:]
            self._is_torn = bool(octets)


#: The size from which cron.log is rotated.
MOST_CRON_BYTES = 10 * 2**20
SUFFIX = ".jsonl"
MOST_TOGETHER = 2**30
MOST_REMOVED = 2000
_EVERY_SECONDS = 3600


def log_path(folder: Path, run_id: str) -> Path:
    """Return the path of a run's log in the folder of logs. Raise ValueError for an id that leads out of it."""
    return inside(folder, f"{run_id}{SUFFIX}")


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
        if path.suffix == SUFFIX or path.name.startswith(f"{CRON_LOG}."):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                # Its space on the disk: a small file takes a block.
                found.append((status.st_mtime, path.name, status.st_blocks * 512))
    together = sum(size for _, _, size in found)
    for written, name, size in sorted(found)[:MOST_REMOVED]:
        if written >= oldest and together <= MOST_TOGETHER:
            return
        # A run that is active, or dead and not reaped yet, has its lock.
        if not (state.run_locks / f"{name.removesuffix(SUFFIX)}.lock").exists():
            (state.logs / name).unlink(missing_ok=True)
            together -= size
