"""The digest: what one run has to tell, before any channel puts it into words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Literal

#: What a digest is about; `stopped` is a run that could not do its work: a broken configuration, a held lock, a death.
Subject = Literal["failed", "recovered", "succeeded", "done", "missed", "stopped", "test"]


class RunKind(StrEnum):
    """The kind of a run: it loads slices, refreshes reports, or watches deadlines."""

    LOAD = "load"
    REFRESH = "refresh"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Reason:
    """Slices or reports that failed for one reason. `work` is the load or report; a report has no shards.

    `message` is the first line of the error, without secrets; `streak` the longest failing streak among them, in days;
    `advice` says what to do, as `try again` or `correct sql/orders/extract.sql (line 3), then`, and `remedy` is the
    command that follows it, where one is known. `connection` is empty where the load itself fails on several.
    """

    work: str
    connection: str
    error_class: str
    message: str
    shards: tuple[str, ...] = ()
    days: tuple[date, ...] = ()
    streak: int = 0
    since: date | None = None
    last_lines: tuple[str, ...] = ()
    remedy: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a channel was told to be failing, and has recovered."""

    work: str
    shards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StillFailing:
    """What still fails when something else has recovered: the slices of a load, or (with 0 `slices`) a report."""

    work: str
    slices: int
    days: tuple[date, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """The one message of a run to a channel, as facts.

    `done` of `total` slices (or reports) are well: those of the run, and when the subject is `succeeded` all that the
    channel covers. `still_failing` is set beside recoveries: what the channel covers and still fails. `look` is the
    command that shows more; `missing` names shards whose slices a refreshed report does without; `remark` is a sentence
    about the message itself. `kind` is that of the run (earlier versions did not write it).
    """

    subject: Subject
    project: str
    command: str
    kind: RunKind = RunKind.LOAD
    run_id: str | None = None
    days: tuple[date, ...] = ()
    done: int = 0
    total: int = 0
    reasons: tuple[Reason, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    still_failing: tuple[StillFailing, ...] = ()
    missing: tuple[str, ...] = ()
    look: str | None = None
    remark: str | None = None
