"""The problems of the page: what fails, with reason, log, SQL and command; and the gaps, each with its command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

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

MOST_PROBLEMS = 30
MOST_GAPS = 40
#: Shards that a gap's command lists; with more it fills the other gaps of its days as well.
_MOST_NAMED = 5
_LOG_LINES = 6
#: A longer log is not read for the page; nor are the logs of more runs.
_LONGEST_LOG = 8 * 2**20
_MOST_LOGS = 5


@dataclass(frozen=True, slots=True)
class FailingGroup:
    """Tasks of one load that fail for the same reason, or a report: since when, why, and what to type.

    `last` is the session that failed last. `lines` are of the run's log, `sql` is the query of that session's slice.
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
    run_id: str = ""
    lines: tuple[str, ...] = ()
    sql: str = ""


@dataclass(frozen=True, slots=True)
class PageGap:
    """Days that the same shards of a load lack, and the command that fills them."""

    gap: Gap
    command: str

    @property
    def days(self) -> int:
        """Return how many days it has."""
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


def with_details(
    project: Project, groups: Sequence[FailingGroup], sessions: Mapping[int, Session]
) -> list[FailingGroup]:
    """Return the groups with their run, the last lines of its log on this machine, and their SQL."""
    runs = {group.last: sessions[group.last].run_id for group in groups if group.last in sessions}
    lines = _log_lines(project, runs)
    return [
        replace(
            group,
            run_id=runs.get(group.last, ""),
            lines=lines.get(group.last, ()),
            sql=_sql(project, group, sessions.get(group.last)),
        )
        for group in groups
    ]


def _log_lines(project: Project, runs: Mapping[int, str]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    logs = StateDir(project.state_dir).logs
    for run_id in sorted(set(runs.values()), reverse=True)[:_MOST_LOGS]:
        try:
            # The run's id comes from the sessions table, and may be anything.
            path = log_path(logs, run_id)
            is_short = path.stat().st_size <= _LONGEST_LOG
        except (OSError, ValueError):
            continue
        if is_short:
            ids = {session for session, run in runs.items() if run == run_id}
            found |= last_lines(path, ids, _LOG_LINES, project.zone)
    return found


def _sql(project: Project, group: FailingGroup, session: Session | None) -> str:
    """Return the query of the session's slice with its bounds; empty where it cannot be rendered, or is no SQL."""
    try:
        if group.is_report:
            return report_sql(project, project.reports[group.work], group.day).source.text
        load = load_of(project, group.work)
        shards = project.shards_of(load) if load is not None and session is not None else ()
        shard = next((shard for shard in shards if session and shard.name == session.shard), None)
        if load is None or shard is None:
            return ""
        query = render_extract(project, load, shard, make_slice(project, load, shard, group.day))
    except (DwhctlError, KeyError):
        return ""
    bounds = "".join(f"-- :{name} = {value}\n" for name, value in query.binds.items())
    return f"{bounds}{query.sql}" if query.sql else ""


def gaps_of(project: Project, coverage: Coverage) -> list[PageGap]:
    """Return the gaps, the newest first; shards that lack the same days are one."""
    folded = sorted(fold_shards(find_gaps(coverage)), key=lambda gap: (gap.end, gap.slices), reverse=True)
    return [
        PageGap(gap, fill_command(gap, project.root, named=len(gap.shards) <= _MOST_NAMED)) for gap in folded
    ]
