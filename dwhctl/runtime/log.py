"""The log of a run: `<state_dir>/logs/<run_id>.jsonl`, a line of JSON for each thing that happens.

Each line is one write: who is killed loses at most the line that he was at. A log that cannot be written is told of
once, and never fails a run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import traceback
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

from dwhctl import __version__
from dwhctl.core.errors import DwhctlError, ExitCode, Interrupted
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Waiting, announced
from dwhctl.core.words import printable_json
from dwhctl.runtime.events import (
    AttemptClosed,
    Event,
    Listener,
    Notice,
    RefreshStarted,
    ReportClosed,
    ReportStarted,
    ReportWaits,
    RunEnded,
    RunResult,
    RunStarted,
    SliceClosed,
    SlicesPublished,
    SliceStaged,
    SliceStarted,
    WorkerLogged,
)
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log_reader import log_path, rotate
from dwhctl.runtime.messages import captured_log
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dwhctl.project.model import Project
    from dwhctl.runtime.messages import Failure, Level, LogMessage


RUN_ENDED = "run_ended"
_MOST_CHARACTERS = 10_000
_LEVELS: dict[State, Level] = {
    State.UP_FOR_RETRY: "warning",
    State.FAILED: "error",
    State.ABANDONED: "error",
    State.RUNNING: "error",
}


class LogEntry(NamedTuple):
    """A line of the log: its level, what happened, and the fields that say more; those that are None are left out."""

    level: Level
    event: str
    fields: dict[str, object]


def line_of(event: Event, command: str) -> LogEntry | None:
    """Put an event of a run into a line; None for one that only progress shows. `command` is what was typed."""
    match event:
        case SliceStaged() | Waiting(text=""):
            return None
        case RunStarted():
            slices = event.plan.slices
            loads = sorted({one.load.name for one in slices})
            days = sorted({one.slice.day for one in slices})
            return _started(command, loads, len(slices), days)
        case RefreshStarted():
            return _started(command, event.reports, len(event.reports), [event.day])
        case SliceStarted():
            return LogEntry(
                "info", "slice_started", _attempt(event) | {"slots_waited": event.slots_waited or None}
            )
        case WorkerLogged():
            return said_line(event.message, _attempt(event))
        case SlicesPublished():
            level: Level = "warning" if event.failed else "info"
            return LogEntry(level, "slices_published", _all_of(event))
        case SliceClosed():
            more = {"steps": event.steps or None, "failed_in": event.failed_in}
            return _closed("slice_closed", event, _attempt(event) | {"state": event.state.value} | more)
        case ReportWaits():
            needs = "; ".join(str(one) for one in event.readiness if not one.is_met)
            return LogEntry(
                "info", "report_waits", {"load": event.report, "day": event.day, "message": needs}
            )
        case ReportStarted():
            return LogEntry("info", "report_started", _attempt(event))
        case ReportClosed():
            return _closed("report_closed", event, _attempt(event) | {"state": event.state.value})
        case RunEnded():
            return _ended(event.result)
        case Waiting():
            return LogEntry("info", "waiting", {"message": event.text})
        case Notice():
            return LogEntry("warning", "notice", {"message": event.text})


def said_line(said: LogMessage, attempt: dict[str, object] | None = None) -> LogEntry:
    """Put what a library said into a line."""
    more = {"logger": said.logger, "message": said.message, "said_at": said.at if attempt else None}
    return LogEntry(said.level, "library", (attempt or {}) | more)


def fit(value: object) -> object:
    """Make a value fit for JSON: times as texts, secrets masked, nothing endless."""
    if isinstance(value, float):
        return round(value, 3)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, dict):
        return {str(key): fit(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [fit(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    text = mask(value.isoformat() if isinstance(value, date) else str(value))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _started(command: str, loads: list[str] | tuple[str, ...], slices: int, days: list[date]) -> LogEntry:
    facts: dict[str, object] = {
        "command": command,
        "loads": list(loads),
        "slices": slices,
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
    }
    return LogEntry("info", "run_started", facts)


def _attempt(event: SliceStarted | ReportStarted | AttemptClosed | WorkerLogged) -> dict[str, object]:
    return {
        "load": event.load,
        "shard": event.shard or None,
        "connection": event.connection,
        "day": event.day,
        "attempt": event.attempt,
        "etl_id": event.etl_id,
    }


def _closed(name: str, event: AttemptClosed, known: dict[str, object]) -> LogEntry:
    known |= {"rows": event.rows, "seconds": event.seconds, "retry_at": event.retry_at}
    return LogEntry(_LEVELS.get(event.state, "info"), name, known | _failed(event.failure))


def _failed(failure: Failure | None) -> dict[str, object]:
    if failure is None:
        return {}
    return {
        "error_class": failure.error_class,
        "permanent": failure.permanent,
        "message": failure.message,
        "traceback": failure.traceback,
    }


def _ended(report: RunResult) -> LogEntry:
    is_load = report.day is None
    facts: dict[str, object] = {
        "loaded": report.loaded,
        "skipped": report.skipped if is_load else None,
        "failed": report.failed,
        "in_doubt": report.in_doubt or None,
        "rows": report.rows,
        "steps": report.step_seconds if is_load else None,
    }
    signal = f"interrupted: {report.signal.name.lower()}" if report.signal is not None else None
    facts |= {"retried": report.retried, "seconds": report.seconds, "message": report.stopped or signal}
    bad = report.failed or report.in_doubt or facts["message"]
    return LogEntry("error" if bad else "info", RUN_ENDED, facts)


def _all_of(event: SlicesPublished) -> dict[str, object]:
    return {one.name: getattr(event, one.name) for one in fields(event)}


#: From here on a log takes only warnings and errors, and from twice as much on only how the run ended.
MOST_BYTES = 16 * 2**20
#: A run that ended so has done nothing, and leaves no log.
_NOT_BEGUN = (ExitCode.USAGE, ExitCode.LOCK_HELD)


@contextmanager
def logged_run(project: Project, run_id: str, command: str, listen: Listener) -> Iterator[Listener]:
    """Give a listener that writes the run's log, and passes each event on. What libraries say is written too."""
    state = StateDir(project.state_dir)
    path = log_path(state.logs, run_id)
    log = RunLog(path, run_id, command, lambda text: listen(Notice(text)))

    def both(event: Event) -> None:
        log.take(event)
        listen(event)

    try:
        with captured_log(log.take_said, to_stderr=True), announced(both):
            yield both
    except BaseException as error:
        log.stopped(error)
        raise
    finally:
        if log.close():
            rotate(state, project.keep_logs)


class RunLog:
    """Writes one run's log. `complain` tells a person that it cannot. Threads may use it at once."""

    def __init__(self, path: Path, run_id: str, command: str, complain: Callable[[str], None]) -> None:
        self._run_id = run_id
        self._command = command
        self._file = _File(path, complain)
        self._lock = threading.RLock()
        self._is_full = False

    def take(self, event: Event) -> None:
        """Write an event. A wait before the run has begun is not written: the run may end without a log."""
        if isinstance(event, Waiting) and not self._file.size:
            return
        if (line := line_of(event, self._command)) is not None:
            self._write(line)

    def take_said(self, said: LogMessage) -> None:
        """Write what a library said in this process."""
        self._write(said_line(said))

    def stopped(self, error: BaseException) -> None:
        """Write what ended the run before its report."""
        if not self._file.size and isinstance(error, DwhctlError) and error.exit_code in _NOT_BEGUN:
            return
        facts: dict[str, object] = {"error_class": type(error).__name__, "message": str(error)}
        if not isinstance(error, DwhctlError | Interrupted):
            facts["traceback"] = "".join(traceback.format_exception(error))
        self._write(LogEntry("error", RUN_ENDED, facts))

    def close(self) -> bool:
        """End the log; tell whether there is one."""
        with self._lock:
            return self._file.close()

    def _write(self, line: LogEntry) -> None:
        with self._lock:
            most = MOST_BYTES if line.level == "info" else 2 * MOST_BYTES
            if self._file.size < most or line.event == RUN_ENDED:
                self._append(line)
            elif not self._is_full:
                self._is_full = True
                text = f"the log is {MOST_BYTES:,} octets long: from here on it has warnings and errors only"
                self._append(LogEntry("warning", "log_full", {"message": text}))

    def _append(self, line: LogEntry) -> None:
        now = datetime.now(UTC)
        head = {"time": now, "level": line.level, "event": line.event, "run_id": self._run_id}
        told = {name: fit(value) for name, value in (head | line.fields).items() if value is not None}
        text = printable_json(json.dumps(told, ensure_ascii=False, separators=(",", ":")))
        self._file.append(f"{text}\n".encode("utf-8", "backslashreplace"))


class _File:
    """A file that only grows. After a line that did not get in whole, the next one begins a new line."""

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        self.size = 0
        self._path = path
        self._complain = complain
        self._descriptor: int | None = None
        self._is_torn = self._has_complained = self._cannot_be_made = self._is_closed = False

    def append(self, octets: bytes) -> None:
        if self._cannot_be_made or self._is_closed:
            return
        try:
            if self._descriptor is None:
                self._descriptor = self._made()
            rest = b"\n" + octets if self._is_torn else octets
            while rest:
                written = os.write(self._descriptor, rest)
                self.size += written
                rest = rest[written:]
                self._is_torn = bool(rest)
        except OSError as error:
            self._cannot_be_made = self._descriptor is None
            self._complain_once(error)

    def _made(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _complain_once(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._complain(
                f"the log {self._path} cannot be written: {error.strerror}; the run goes on without it"
            )

    def close(self) -> bool:
        self._is_closed = True
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        return True
