"""Digests about the project's own loads, shards and connections: for a test of a channel and of its template."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from .digest import Digest, Reason, Recovery, StillFailing

if TYPE_CHECKING:
    from dwhctl.project.model import Load, Project, Shard

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
