"""The log of a run: `<state_dir>/logs/<run_id>.jsonl`, a line of JSON for each thing that happens.

Each line is one write: who is killed loses at most the line that he was at. A log that cannot be written is told of
once, and never fails a run.
"""

from __future__ import annotations

import json
import os
import threading
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from dwhctl.errors import DwhctlError, ExitCode, Interrupted
from dwhctl.printable import printable_json
from dwhctl.runs.events import Event, Notice, RefreshEvent
from dwhctl.runs.libraries import heard
from dwhctl.runs.log_files import log_path, put_away
from dwhctl.runs.log_lines import RUN_ENDED, Line, fit, line_of, said_line
from dwhctl.runs.state_dir import StateDir
from dwhctl.waiting import Waiting, announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dwhctl.project.model import Project
    from dwhctl.runs.values import Said

_Event = TypeVar("_Event", Event, RefreshEvent)

#: From here on a log takes only warnings and errors, and from twice as much on only how the run ended.
MOST_BYTES = 16 * 2**20
#: A run that ended so has done nothing, and leaves no log.
_NOT_BEGUN = (ExitCode.USAGE, ExitCode.LOCK_HELD)


@contextmanager
def logged_run(
    project: Project, run_id: str, command: str, listen: Callable[[_Event], None]
) -> Iterator[Callable[[_Event], None]]:
    """Give a listener that writes the run's log, and passes each event on. What libraries say is written too."""
    state = StateDir(project.state_dir)
    path = log_path(state.logs, run_id)
    log = RunLog(path, run_id, command, lambda text: listen(Notice(text)))

    def both(event: _Event) -> None:
        log.take(event)
        listen(event)

    try:
        with heard(log.take_said, aloud=True), announced(both):
            yield both
    except BaseException as error:
        log.stopped(error)
        raise
    finally:
        if log.close():
            put_away(state, project.keep_logs)


class RunLog:
    """Writes one run's log. `complain` tells a person that it cannot. Threads may use it at once."""

    def __init__(self, path: Path, run_id: str, command: str, complain: Callable[[str], None]) -> None:
        self._run_id = run_id
        self._command = command
        self._file = _File(path, complain)
        self._lock = threading.RLock()
        self._is_full = False

    def take(self, event: Event | RefreshEvent) -> None:
        """Write an event. A wait before the run has begun is not written: the run may end without a log."""
        if isinstance(event, Waiting) and not self._file.size:
            return
        if (line := line_of(event, self._command)) is not None:
            self._write(line)

    def take_said(self, said: Said) -> None:
        """Write what a library said in this process."""
        self._write(said_line(said))

    def stopped(self, error: BaseException) -> None:
        """Write what ended the run before its report."""
        if not self._file.size and isinstance(error, DwhctlError) and error.exit_code in _NOT_BEGUN:
            return
        facts: dict[str, object] = {"error_class": type(error).__name__, "message": str(error)}
        if not isinstance(error, DwhctlError | Interrupted):
            facts["traceback"] = "".join(traceback.format_exception(error))
        self._write(Line("error", RUN_ENDED, facts))

    def close(self) -> bool:
        """End the log; tell whether there is one."""
        with self._lock:
            return self._file.close()

    def _write(self, line: Line) -> None:
        with self._lock:
            most = MOST_BYTES if line.level == "info" else 2 * MOST_BYTES
            if self._file.size < most or line.event == RUN_ENDED:
                self._append(line)
            elif not self._is_full:
                self._is_full = True
                text = f"the log is {MOST_BYTES:,} octets long: from here on it has warnings and errors only"
                self._append(Line("warning", "log_full", {"message": text}))

    def _append(self, line: Line) -> None:
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
