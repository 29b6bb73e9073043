"""What the page shows, as typed objects, read from the sessions of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from dwhctl.alerts.outbox import Listed, Outbox
from dwhctl.core.errors import UsageError
from dwhctl.monitor.coverage import Coverage, cover, days_until, sessions_of, sliced_tasks
from dwhctl.monitor.freshness import Sla, read_slas
from dwhctl.monitor.timeline import Timeline, timeline_of
from dwhctl.page.failing import FailingGroup, PageGap, failing_groups, gaps_of, with_details
from dwhctl.page.grid import PageGrid, grid_of, sessions_with_reason
from dwhctl.page.words import Headline, headline, stale_at
from dwhctl.project.loads import Report
from dwhctl.project.model import Project
from dwhctl.runtime.failures import DAYS as FAILING_DAYS
from dwhctl.runtime.failures import Failures
from dwhctl.runtime.plan import Readiness, readiness
from dwhctl.sessions import Session, SessionStore
from dwhctl.sessions.history import PastRun, TaskDurations, read_durations, read_runs, recent_since
from dwhctl.sessions.task_states import NewestSession, read_newest

DAYS = 14
#: More slices are shown of fewer days: the page is made in a second or two, at the end of every run.
MOST_SLICES = 42_000
#: The sessions whose reason the page holds.
_MOST_REASONS = 400
_RUNS, _TIMELINES, _MOST_BARS = 10, 3, 3_000
_DURATIONS, _OF_SESSIONS = 15, 50_000
_ALERTS = 20


@dataclass(frozen=True, slots=True)
class PageReport:
    """A report: its last session, what it needs of yesterday, and its deadline.

    `is_current`: its last refresh succeeded, is for yesterday or a later day, and everything that it needs was complete.
    """

    report: Report
    newest: NewestSession | None
    day: date | None
    needs: tuple[Readiness, ...]
    sla: Sla | None
    yesterday: date

    @property
    def is_refreshed(self) -> bool:
        """Return whether it was refreshed for yesterday, or a later day."""
        return self.day is not None and self.day >= self.yesterday

    @property
    def is_current(self) -> bool:
        """Return whether it is refreshed for yesterday, and nothing that it needs is missing."""
        return self.is_refreshed and all(not need.missing for need in self.needs)


@dataclass(frozen=True, slots=True)
class PageRun:
    """A run, with its timeline where it is one of the last and small enough."""

    run: PastRun
    timeline: Timeline | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the page shows. `grid` is None where no load has days."""

    project: Project
    made: datetime
    stale: datetime | None
    headline: Headline
    failing: tuple[FailingGroup, ...]
    gaps: tuple[PageGap, ...]
    grid: PageGrid | None
    reports: tuple[PageReport, ...]
    slas: tuple[Sla, ...]
    runs: tuple[PageRun, ...]
    durations: tuple[TaskDurations, ...]
    alerts: tuple[Listed, ...]
    sessions: Mapping[int, Session]


def read_page(project: Project, now: datetime) -> Page:
    """Read what the page shows. Raise SessionsError."""
    with sessions_of(project) as store:
        return _Reader(project, store, now).read()


class _Reader:
    def __init__(self, project: Project, store: SessionStore | None, now: datetime) -> None:
        self._project = project
        self._store = store
        self._now = now
        self._today = now.astimezone(project.zone).date()
        self._yesterday = self._today - timedelta(days=1)

    def read(self) -> Page:
        project, now = self._project, self._now
        coverage = self._coverage()
        slas = read_slas(project, self._store, now, coverage)
        groups = self._failing()
        sessions = self._sessions(coverage, groups)
        gaps = gaps_of(project, coverage) if coverage else []
        runs = self._runs()
        reports = self._reports(slas)
        return Page(
            project=project,
            made=now,
            stale=stale_at(project, now),
            headline=headline(project, now, coverage, groups, slas, runs[0].run if runs else None),
            failing=tuple(with_details(project, groups, sessions)),
            gaps=tuple(gaps),
            grid=grid_of(coverage, project.zone) if coverage else None,
            reports=tuple(reports),
            slas=tuple(slas),
            runs=tuple(runs),
            durations=self._durations(),
            alerts=tuple(Outbox(self._store).newest(_ALERTS, only_open=True)) if self._store else (),
            sessions=sessions,
        )

    def _coverage(self) -> Coverage | None:
        try:
            tasks = sliced_tasks(self._project, (), ())
        except UsageError:  # no load has days
            return None
        rows = sum(len(shards) for _, shards in tasks)
        days = max(2, min(DAYS, MOST_SLICES // max(rows, 1)))  # two: yesterday is one of them
        return cover(self._project, self._store, tasks, days_until(self._today, days), self._now)

    def _failing(self) -> list[FailingGroup]:
        if self._store is None:
            return []
        since = self._now - timedelta(days=FAILING_DAYS)
        found, _ = Failures(self._project).read(self._store, since)
        return failing_groups(self._project, found)

    def _sessions(self, coverage: Coverage | None, groups: Sequence[FailingGroup]) -> dict[int, Session]:
        if self._store is None:
            return {}
        of_grid = sessions_with_reason(coverage) if coverage else []
        wanted = dict.fromkeys([*(group.last for group in groups), *of_grid[:_MOST_REASONS]])
        return {session.id: session for session in self._store.of_ids(list(wanted))} if wanted else {}

    def _runs(self) -> list[PageRun]:
        store = self._store
        if store is None:
            return []
        found, drawn = [], 0
        for run in read_runs(store, _RUNS):
            sessions = run.loaded + run.skipped + run.failed + run.up_for_retry + run.abandoned + run.running
            is_drawn = drawn < _TIMELINES and sessions <= _MOST_BARS
            of_run = store.of_run(run.run_id) if is_drawn else []
            drawn += bool(of_run)
            timeline = timeline_of(self._project, run.run_id, of_run, self._now) if of_run else None
            found.append(PageRun(run, timeline))
        return found

    def _reports(self, slas: Sequence[Sla]) -> list[PageReport]:
        reports = list(self._project.reports.values())
        by_name = {sla.name: sla for sla in slas if sla.kind == "report"}
        store = self._store
        names = [report.name for report in reports]
        newest = read_newest(store, names) if store and names else {}
        known = [session.id for session in newest.values()]
        days = {session.id: session.day for session in store.of_ids(known)} if store and known else {}
        return [
            PageReport(
                report,
                session := newest.get(report.name),
                _refreshed_day(session, days),
                readiness(self._project, store, report, self._yesterday),
                by_name.get(report.name),
                self._yesterday,
            )
            for report in reports
        ]

    def _durations(self) -> tuple[TaskDurations, ...]:
        if self._store is None:
            return ()
        since, _ = recent_since(self._store, DAYS, _OF_SESSIONS)
        return tuple(read_durations(self._store, since)[:_DURATIONS])


def _refreshed_day(session: NewestSession | None, days: Mapping[int, date]) -> date | None:
    """Return the day of a report's newest session when it succeeded."""
    from dwhctl.sessions.values import is_good

    return days.get(session.id) if session is not None and is_good(session.state) else None
