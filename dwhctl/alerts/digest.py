"""The digest: what one run has to tell, before any channel puts it into words."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project


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


#: How far a piece of work is at the end of its run; `left` was not come to.
Ending = Literal["done", "failed", "left"]


@dataclass(frozen=True, slots=True)
class AlertFailure:
    """Why something failed. `connection` is the one to blame; `message` holds no secret; `remedy` is a command.

    `advice` says what to do before it, or `try again`. `of_work`: the load itself is at fault, on every connection
    alike. `lines` are the last ones that the run's log has of it, without secrets.
    """

    connection: str
    error_class: str
    message: str
    remedy: str = ""
    advice: str = ""
    of_work: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of a run's work: a slice of a load, or (without a shard) the refresh of a report."""

    kind: Literal["load", "report"]
    work: str
    shard: str = ""
    day: date | None = None
    ending: Ending = "done"
    trouble: AlertFailure | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """What kept a command from its work: a broken configuration, a held lock, a lost database, a death.

    `passing` is of a thing that has happened and is over, as a death: there is no recovery to tell of. `works` names
    the loads and reports that the command was for; empty when nobody knows.
    """

    command: str
    trouble: AlertFailure
    passing: bool = False
    works: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one invocation of a command; `began` is when it started.

    `completed`: the command came to its end, so that what once stopped it is over. `missing` names shards that a
    refreshed report does without. `missed`: the items' troubles are missed deadlines. `look` is the command that
    shows more.
    """

    command: str
    kind: RunKind = RunKind.LOAD
    run_id: str | None = None
    items: tuple[Item, ...] = ()
    stops: tuple[Stop, ...] = ()
    completed: bool = True
    missed: bool = False
    missing: tuple[str, ...] = ()
    look: str | None = None
    began: datetime | None = None

    @property
    def routine(self) -> bool:
        """Whether the command runs every few minutes: no channel is notified that it ran, or failed again."""
        return self.kind is RunKind.WATCH


REMARK = "This is a test by dwhctl alert-test: nothing of this happened."


def sample_digest(project: Project, day: date) -> Digest:
    """One server is down, one shard drifted, one has recovered: as far as the project has so many."""
    load = next(iter(project.loads.values()), None)
    shards = project.shards_of(load) if load else ()
    reasons = _reasons(load, shards, day) if load and shards else (_of_report(project, day),)
    failing = sum(len(reason.shards) or 1 for reason in reasons)
    well = [shard.name for shard in shards if not any(shard.name in reason.shards for reason in reasons)]
    return Digest(
        subject="test",
        project=project.root.name,
        command="dwhctl alert-test",
        days=(day,),
        done=max(len(shards), failing) - failing,
        total=max(len(shards), failing),
        reasons=reasons,
        recoveries=(Recovery(load.name, (well[0],)),) if load and well else (),
        look="dwhctl report failures --days 2",
        remark=REMARK,
    )


def sample_digests(project: Project, day: date) -> tuple[Digest, ...]:
    """Return one of each text that a template has to write; a recovery twice, of everything and of a part."""
    test = sample_digest(project, day)
    recoveries = tuple(Recovery(reason.work, reason.shards) for reason in test.reasons)
    failed = replace(test, subject="failed", remark=None)
    well = replace(failed, done=failed.total, reasons=(), recoveries=())
    return (
        test,
        failed,
        replace(well, subject="succeeded"),
        replace(well, subject="recovered", recoveries=recoveries, look=None),
        replace(
            well,
            subject="recovered",
            recoveries=recoveries,
            still_failing=(StillFailing(recoveries[0].work, 1, (day,)),),
            look=None,
        ),
    )


def _reasons(load: Load, shards: tuple[Shard, ...], day: date) -> tuple[Reason, ...]:
    by_server: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        by_server[shard.connection].append(shard.name)
    server, *others = by_server
    since = day - timedelta(days=2)
    down = tuple(by_server[server])
    reasons = [
        Reason(load.name, server, "ConnectError", f"{server}: connection refused", down, (day,), 3, since)
    ]
    if others:
        drift = "column price: the source has nvarchar(10), the target NUMERIC(18, 2)"
        one = (by_server[others[0]][0],)
        reasons.append(Reason(load.name, others[0], "SchemaDriftError", drift, one, (day,), 1, day))
    return tuple(reasons)


def _of_report(project: Project, day: date) -> Reason:
    report = next(iter(project.reports.values()), None)
    name, connection = (report.name, report.connection) if report else ("orders", "dwh")
    return Reason(name, connection, "ConnectError", f"{connection}: connection refused", (), (day,), 3, day)
