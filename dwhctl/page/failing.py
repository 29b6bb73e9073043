"""The problems of the page: what fails, with reason and command; gaps with theirs; log and SQL of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime

from msgspec import Struct

from dwhctl.core.errors import DwhctlError
from dwhctl.monitor.coverage import Coverage, Gap, fill_command, find_gaps, fold_shards, grouped
from dwhctl.project.days import make_slice
from dwhctl.project.model import Project
from dwhctl.project.names import load_of, report_sql
from dwhctl.project.templates import render_extract
from dwhctl.runtime.failures import Failures
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log import log_path
from dwhctl.runtime.log_reader import last_lines
from dwhctl.sessions import Session
from dwhctl.sessions.task_states import FailingTask

#: Shards that a gap's command lists; with more it fills the other gaps of its days as well.
_MOST_NAMED = 5
_LOG_LINES = 6
#: So many octets of logs are read for the page.
_MOST_LOG = 8 * 2**20


class FailingGroup(Struct, frozen=True):
    """Tasks of one load that fail for the same reason, or a report: since when, why, and what to type.

    `last` is the session that failed last.
    """

    work: str
    shards: tuple[str, ...]
    is_report: bool
    slices: int
    streak: int
    since: date
    last_failed: datetime
    error: str
    command: str | None
    last: int
    day: date
    retried: bool


class SessionDetails(Struct, frozen=True):
    """What is known of a session beside its row: the end of its log, the bounds and the text of its query."""

    lines: tuple[str, ...] = ()
    bounds: str = ""
    sql: str = ""


class PageGap(Struct, frozen=True):
    """Days that the same shards of a load lack, and the command that fills them."""

    gap: Gap
    command: str

    @property
    def days(self) -> int:
        return (self.gap.end - self.gap.start).days + 1


def failing_groups(project: Project, tasks: Iterable[FailingTask]) -> list[FailingGroup]:
    """Return the failing tasks by load and reason, as `report failures` groups them, the most shards first."""
    failures = Failures(project)
    groups = grouped(tasks, lambda task: (task.load, task.shard is None, task.last.error))
    found = [_group(failures, project, of_group) for of_group in groups.values()]
    return sorted(found, key=lambda group: (-len(group.shards), -group.streak, group.work))


def _group(failures: Failures, project: Project, tasks: Sequence[FailingTask]) -> FailingGroup:
    last = max((task.last for task in tasks), key=lambda failed: (failed.finished, failed.id))
    return FailingGroup(
        work=tasks[0].load,
        shards=tuple(sorted(task.shard for task in tasks if task.shard is not None)),
        is_report=tasks[0].shard is None,
        slices=sum(len(task.slices) for task in tasks),
        streak=max(task.streak for task in tasks),
        since=min(task.since for task in tasks),
        last_failed=last.finished,
        error=last.error or "no reason is recorded",
        command=failures.command(tasks, project.root),
        last=last.id,
        day=last.day,
        retried=all(len(task.slices) == task.up_for_retry for task in tasks),
    )


def read_details(
    project: Project, sessions: Mapping[int, Session], groups: Sequence[FailingGroup]
) -> dict[int, SessionDetails]:
    """Return the last log lines on this machine, and the query, of each session; those of `groups` come first."""
    first = [group.last for group in groups if group.last in sessions]
    order = dict.fromkeys([*first, *sorted(sessions, reverse=True)])
    lines = _log_lines(project, {id_: sessions[id_].run_id for id_ in order})
    return {id_: SessionDetails(lines.get(id_, ()), *_query(project, sessions[id_])) for id_ in order}


def _log_lines(project: Project, runs: Mapping[int, str]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    logs = StateDir(project.state_dir).logs
    left = _MOST_LOG
    for run_id, ids in grouped(runs, runs.__getitem__).items():
        try:
            # The run's id comes from the sessions table, and may be anything.
            path = log_path(logs, run_id)
            size = path.stat().st_size
        except (OSError, ValueError):
            continue
        if size <= left:
            left -= size
            found |= last_lines(path, set(ids), _LOG_LINES, project.zone)
    return found


def _query(project: Project, session: Session) -> tuple[str, str]:
    """Return the bounds and the SQL of the session's slice; empty where it cannot be rendered, or is no SQL."""
    try:
        if session.shard is None:
            return "", report_sql(project, project.reports[session.load], session.day).source.text
        load = load_of(project, session.load)
        shards = project.shards_of(load) if load is not None else ()
        shard = next((shard for shard in shards if shard.name == session.shard), None)
        if load is None or shard is None:
            return "", ""
        query = render_extract(project, load, shard, make_slice(project, load, shard, session.day))
    except (DwhctlError, KeyError):
        return "", ""
    return "".join(f"-- :{name} = {value}\n" for name, value in query.binds.items()), query.sql


def gaps_of(project: Project, coverage: Coverage) -> list[PageGap]:
    """Return the gaps, the newest first; shards that lack the same days are one."""
    folded = sorted(fold_shards(find_gaps(coverage)), key=lambda gap: (gap.end, gap.slices), reverse=True)
    return [
        PageGap(gap, fill_command(gap, project.root, named=len(gap.shards) <= _MOST_NAMED)) for gap in folded
    ]
