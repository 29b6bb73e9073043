"""What a line of a run's log says: the fields of each event. docs/logs.md lists them."""

from __future__ import annotations

import os
import socket
from dataclasses import fields
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple

from dwhctl import __version__
from dwhctl.project.secrets import mask
from dwhctl.runs.events import (
    Event,
    Notice,
    RefreshEvent,
    RefreshReport,
    RefreshStarted,
    ReportClosed,
    ReportStarted,
    ReportWaits,
    RunEnded,
    RunReport,
    RunStarted,
    SliceClosed,
    SlicesPublished,
    SliceStaged,
    SliceStarted,
    WorkerSaid,
)
from dwhctl.sessions.values import State
from dwhctl.waiting import Waiting

if TYPE_CHECKING:
    from dwhctl.runs.values import Failure, Level, Said

RUN_ENDED = "run_ended"
_MOST_CHARACTERS = 10_000
_LEVELS: dict[State, Level] = {
    State.UP_FOR_RETRY: "warning",
    State.FAILED: "error",
    State.ABANDONED: "error",
    State.RUNNING: "error",
}


class Line(NamedTuple):
    """A line of the log: its level, what happened, and the fields that say more; those that are None are left out."""

    level: Level
    event: str
    fields: dict[str, object]


def line_of(event: Event | RefreshEvent, command: str) -> Line | None:
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
            return Line(
                "info", "slice_started", _attempt(event) | {"slots_waited": event.slots_waited or None}
            )
        case WorkerSaid():
            return said_line(event.said, _attempt(event))
        case SlicesPublished():
            level: Level = "warning" if event.failed else "info"
            return Line(level, "slices_published", _all_of(event))
        case SliceClosed():
            more = {"steps": event.steps or None, "failed_in": event.failed_in}
            return _closed("slice_closed", event, _attempt(event) | {"state": event.state.value} | more)
        case ReportWaits():
            needs = "; ".join(str(one) for one in event.readiness if not one.is_met)
            return Line("info", "report_waits", {"load": event.report, "day": event.day, "message": needs})
        case ReportStarted():
            return Line("info", "report_started", _report(event))
        case ReportClosed():
            return _closed("report_closed", event, _report(event) | {"state": event.state.value})
        case RunEnded():
            return _ended(event.report)
        case Waiting():
            return Line("info", "waiting", {"message": event.text})
        case Notice():
            return Line("warning", "notice", {"message": event.text})


def said_line(said: Said, attempt: dict[str, object] | None = None) -> Line:
    """Put what a library said into a line."""
    more = {"logger": said.logger, "message": said.message, "said_at": said.at if attempt else None}
    return Line(said.level, "library", (attempt or {}) | more)


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


def _started(command: str, loads: list[str] | tuple[str, ...], slices: int, days: list[date]) -> Line:
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
    return Line("info", "run_started", facts)


def _attempt(event: SliceStarted | SliceClosed | WorkerSaid) -> dict[str, object]:
    return {
        "load": event.load,
        "shard": event.shard,
        "connection": event.connection,
        "day": event.day,
        "attempt": event.attempt,
        "etl_id": event.etl_id,
    }


def _report(event: ReportStarted | ReportClosed) -> dict[str, object]:
    """A report's name stands where a load's does, as in the sessions table."""
    return {
        "load": event.report,
        "connection": event.connection,
        "day": event.day,
        "attempt": event.attempt,
        "etl_id": event.etl_id,
    }


def _closed(name: str, event: SliceClosed | ReportClosed, known: dict[str, object]) -> Line:
    known |= {"rows": event.rows, "seconds": event.seconds, "retry_at": event.retry_at}
    return Line(_LEVELS.get(event.state, "info"), name, known | _failed(event.failure))


def _failed(failure: Failure | None) -> dict[str, object]:
    if failure is None:
        return {}
    return {
        "error_class": failure.error_class,
        "permanent": failure.permanent,
        "message": failure.message,
        "traceback": failure.traceback,
    }


def _ended(report: RunReport | RefreshReport) -> Line:
    facts: dict[str, object]
    if isinstance(report, RunReport):
        facts = {
            "loaded": report.loaded,
            "skipped": report.skipped,
            "failed": report.failed,
            "in_doubt": report.in_doubt or None,
            "rows": report.rows,
        }
        facts["steps"] = report.step_seconds
    else:
        rows = sum(one.rows for one in report.refreshed)
        facts = {
            "loaded": len(report.refreshed),
            "failed": len(report.failures) - report.in_doubt,
            "rows": rows,
        }
        facts["in_doubt"] = report.in_doubt or None
    signal = f"interrupted: {report.signal.name.lower()}" if report.signal is not None else None
    facts |= {"retried": report.retried, "seconds": report.seconds, "message": report.stopped or signal}
    bad = facts["failed"] or facts.get("in_doubt") or facts["message"]
    return Line("error" if bad else "info", RUN_ENDED, facts)


def _all_of(event: SlicesPublished) -> dict[str, object]:
    return {one.name: getattr(event, one.name) for one in fields(event)}
