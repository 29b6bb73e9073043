"""The outcome of a command, and the digest that a channel makes a message of: data only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Literal

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
    """What a channel was notified of as failing, and has recovered."""

    work: str
    shards: tuple[str, ...] = ()


def merged(recoveries: Iterable[Recovery]) -> tuple[Recovery, ...]:
    """Return the recoveries, one for each load or report."""
    shards: dict[str, set[str]] = {}
    for recovery in recoveries:
        shards.setdefault(recovery.work, set()).update(recovery.shards)
    return tuple(Recovery(work, tuple(sorted(names))) for work, names in sorted(shards.items()))


@dataclass(frozen=True, slots=True)
class StillFailing:
    """What still fails when something else has recovered: the slices of a load, or (with 0 `slices`) a report."""

    work: str
    slices: int
    days: tuple[date, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """The one message of a run to a channel, as data.

    `done` of `total` slices (or reports) succeeded: those of the run, and when the subject is `succeeded` all that the
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


#: How far an item is at the end of its run; `left` was not finished.
ItemStatus = Literal["done", "failed", "left"]


@dataclass(frozen=True, slots=True)
class AlertFailure:
    """Why something failed. `connection` is the one at fault; `message` and `lines` of the run's log hold no secret.

    `remedy` is a command; `advice` says what to do before it, or `try again`. `of_work`: the load itself is at fault,
    on every connection alike.
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
    """A slice of a load, or (without a shard) the refresh of a report."""

    kind: Literal["load", "report"]
    work: str
    shard: str = ""
    day: date | None = None
    status: ItemStatus = "done"
    failure: AlertFailure | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """What stopped a command: a broken configuration, a held lock, a lost database, a death.

    `passing`: it is over, as a death is, and never recovers. `works` are the loads and reports of the command; empty
    when they are unknown.
    """

    command: str
    failure: AlertFailure
    passing: bool = False
    works: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one invocation of a command, which started at `began`.

    `completed`: the command came to its end, so that an earlier stop is over. `missing` are shards that a refreshed
    report does without. `missed`: the items' failures are missed deadlines. `look` is the command that shows more.
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

    @property
    def days(self) -> tuple[date, ...]:
        return tuple(sorted({item.day for item in self.items if item.day is not None}))

    @property
    def failed(self) -> list[tuple[Item, AlertFailure]]:
        return [(item, item.failure) for item in self.items if item.status == "failed" and item.failure]


REMARK = "This is a test by dwhctl alert-test: nothing of this happened."


def sample_digest(project: Project, day: date) -> Digest:
    """Return a digest with a server that is down, a shard that drifted and one that recovered, if there are so many."""
    load = next(iter(project.loads.values()), None)
    shards = project.shards_of(load) if load else ()
    reasons = _sample_reasons(project, load, shards, day)
    names = [name for reason in reasons for name in reason.shards]
    fine = [shard.name for shard in shards if shard.name not in names]
    return Digest(
        subject="test",
        project=project.root.name,
        command="dwhctl alert-test",
        days=(day,),
        done=len(fine),
        total=max(len(shards), 1),
        reasons=reasons,
        recoveries=(Recovery(load.name, (fine[0],)),) if load and fine else (),
        look="dwhctl report failures --days 2",
        remark=REMARK,
    )


def sample_digests(project: Project, day: date) -> tuple[Digest, ...]:
    """Return one of each text that a template has to write; a recovery twice, of everything and of a part."""
    test = sample_digest(project, day)
    recoveries = tuple(Recovery(reason.work, reason.shards) for reason in test.reasons)
    failed = replace(test, subject="failed", remark=None)
    succeeded = replace(failed, subject="succeeded", done=failed.total, reasons=(), recoveries=())
    recovered = replace(succeeded, subject="recovered", recoveries=recoveries, look=None)
    still = StillFailing(recoveries[0].work, 1, (day,))
    return test, failed, succeeded, recovered, replace(recovered, still_failing=(still,))


def _sample_reasons(
    project: Project, load: Load | None, shards: tuple[Shard, ...], day: date
) -> tuple[Reason, ...]:
    if load is None or not shards:
        report = next(iter(project.reports.values()), None)
        name, server = (report.name, report.connection) if report else ("orders", "dwh")
        return (_refused(name, server, day, day),)
    by_server: dict[str, list[str]] = {}
    for shard in shards:
        by_server.setdefault(shard.connection, []).append(shard.name)
    (server, names), *others = by_server.items()
    down = _refused(load.name, server, day, day - timedelta(days=2), tuple(names))
    drift = "column price: the source has nvarchar(10), the target NUMERIC(18, 2)"
    drifted = [
        Reason(load.name, other, "SchemaDriftError", drift, (names[0],), (day,), 1, day)
        for other, names in others[:1]
    ]
    return (down, *drifted)


def _refused(work: str, server: str, day: date, since: date, shards: tuple[str, ...] = ()) -> Reason:
    return Reason(work, server, "ConnectError", f"{server}: connection refused", shards, (day,), 3, since)
