"""What the page shows, as typed objects, read from the sessions of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct

from dwhctl.alerts.outbox import Listed, Outbox
from dwhctl.core.errors import UsageError
from dwhctl.monitor.coverage import Coverage, cover, days_until, sessions_of, sliced_tasks
from dwhctl.monitor.freshness import Sla, read_slas
from dwhctl.monitor.timeline import Timeline, timeline_of
from dwhctl.page.failing import FailingGroup, PageGap, SessionDetails, failing_groups, gaps_of, read_details
from dwhctl.page.grid import PageGrid, grid_of, sessions_with_reason
from dwhctl.page.words import Headline, headline, stale_at
from dwhctl.project.days import make_slice
from dwhctl.project.loads import Report
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.refresh.scheduler import readiness
from dwhctl.runtime.events import Readiness
from dwhctl.runtime.failures import DAYS as FAILING_DAYS
from dwhctl.runtime.failures import Failures, retry_reports
from dwhctl.sessions import Session, SessionStore
from dwhctl.sessions.history import (
    PastRun,
    TaskDurations,
    read_durations,
    read_runs,
    recent_since,
    successful_ids,
)
from dwhctl.sessions.task_states import NewestSession, read_newest
from dwhctl.sessions.values import CLOCKS_APART, completes, is_good
from dwhctl.verify.last import LastVerify, read_last

DAYS = 14
#: More slices are shown of fewer days: the page is made in a second or two, at the end of every run.
MOST_SLICES = 42_000
#: The sessions whose reason the page holds.
_MOST_REASONS = 400
_RUNS, _TIMELINES, _MOST_BARS = 10, 3, 3_000
_DURATIONS, _OF_SESSIONS = 15, 50_000
#: Failures are shown of DAYS; in a project with more sessions of fewer days, of two at least, as in `report failures`.
_OF_FAILING = 300_000
#: With more sessions of a day it is not known which were loaded after a report's refresh.
_MOST_OF_DAY = 5_000
_ALERTS = 20


class PageReport(Struct, frozen=True):
    """A report: its last session, what it needs of yesterday, and its deadline.

    `day` is the day of its last refresh if that succeeded. `loaded_after`: shards whose slices of yesterday were first
    complete after the refresh began, so that it does not have them. `command` refreshes it.
    """

    report: Report
    newest: NewestSession | None
    day: date | None
    needs: tuple[Readiness, ...]
    sla: Sla | None
    yesterday: date
    loaded_after: tuple[str, ...]
    command: str

    @property
    def is_refreshed(self) -> bool:
        return self.day is not None and self.day >= self.yesterday

    @property
    def is_current(self) -> bool:
        """Return whether it is refreshed for yesterday, with everything that it needs."""
        return self.is_refreshed and not self.loaded_after and all(not need.missing for need in self.needs)


class PageRun(Struct, frozen=True):
    """A run, with its timeline where it is one of the last and small enough."""

    run: PastRun
    timeline: Timeline | None


class PageContent(Struct, frozen=True):
    """Everything that the page shows. `grid` is None where no load has days."""

    project: Project
    made: datetime
    stale: datetime | None
    headline: Headline
    failing: tuple[FailingGroup, ...]
    failing_days: int
    gaps: tuple[PageGap, ...]
    grid: PageGrid | None
    reports: tuple[PageReport, ...]
    slas: tuple[Sla, ...]
    runs: tuple[PageRun, ...]
    durations: tuple[TaskDurations, ...]
    alerts: tuple[Listed, ...]
    sessions: Mapping[int, Session]
    details: Mapping[int, SessionDetails]
    verified: tuple[LastVerify, ...]


def read_page(project: Project, now: datetime) -> PageContent:
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
        self._days_ago = now - timedelta(days=DAYS)
        self._failing_days = DAYS

    def read(self) -> PageContent:
        project, now = self._project, self._now
        coverage = self._coverage()
        slas = read_slas(project, self._store, now, coverage)
        groups = self._failing()
        sessions = self._sessions(coverage, groups)
        gaps = gaps_of(project, coverage) if coverage else []
        runs = self._runs()
        reports, verified = self._reports(slas), read_last(project)
        current = {item.report.name: item.is_current for item in reports}
        return PageContent(
            project=project,
            made=now,
            stale=stale_at(project, now),
            headline=headline(
                project, now, coverage, groups, slas, runs[0].run if runs else None, current, verified
            ),
            failing=tuple(groups),
            failing_days=self._failing_days,
            gaps=tuple(gaps),
            grid=grid_of(coverage, project.zone) if coverage else None,
            reports=tuple(reports),
            slas=tuple(slas),
            runs=tuple(runs),
            durations=self._durations(),
            alerts=tuple(Outbox(self._store).newest(_ALERTS, only_open=True)) if self._store else (),
            sessions=sessions,
            details=read_details(project, sessions, groups),
            verified=verified,
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
        since, _ = recent_since(self._store, self._days_ago, _OF_FAILING)
        since = min(since, self._now - timedelta(days=FAILING_DAYS))
        self._failing_days = max((self._now - since).days, 1)
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
        by_name = {sla.name: sla for sla in slas if sla.kind == "report"}
        store, names = self._store, list(self._project.reports)
        newest = read_newest(store, names) if store and names else {}
        known = [session.id for session in newest.values()]
        days = {session.id: session.day for session in store.of_ids(known)} if store and known else {}
        return [
            self._report(report, newest.get(name), days, by_name.get(name))
            for name, report in self._project.reports.items()
        ]

    def _report(
        self, report: Report, newest: NewestSession | None, days: Mapping[int, date], sla: Sla | None
    ) -> PageReport:
        day = days.get(newest.id) if newest is not None and is_good(newest.state) else None
        is_refreshed = newest is not None and day is not None and day >= self._yesterday
        return PageReport(
            report,
            newest,
            day,
            readiness(self._project, self._store, report, self._yesterday),
            sla,
            self._yesterday,
            self._loaded_after(report, newest.started) if newest is not None and is_refreshed else (),
            in_project(retry_reports([report.name], self._yesterday), self._project.root),
        )

    def _loaded_after(self, report: Report, refreshed: datetime) -> tuple[str, ...]:
        """Return the shards whose slices of yesterday were first complete after the refresh began."""
        store, day = self._store, self._yesterday
        late: dict[str, None] = {}
        until = self._now + CLOCKS_APART
        for load in (self._project.loads[need.load] for need in report.needs) if store else ():
            ids = [id_ for _, id_ in successful_ids(store, load.name, day, day)] if store else []
            if load.slice_by is None or not ids or len(ids) > _MOST_OF_DAY or store is None:
                continue
            ends = {
                shard.name: make_slice(self._project, load, shard, day).end_at
                for shard in self._project.shards_of(load)
            }
            first: dict[str, datetime] = {}
            for session in store.of_ids(ids):
                if session.started > until or session.shard not in ends:
                    continue
                if completes(session.started, ends[session.shard]):
                    first[session.shard] = min(session.started, first.get(session.shard, session.started))
            late |= dict.fromkeys(shard for shard, began in sorted(first.items()) if began > refreshed)
        return tuple(late)

    def _durations(self) -> tuple[TaskDurations, ...]:
        if self._store is None:
            return ()
        since, _ = recent_since(self._store, self._days_ago, _OF_SESSIONS)
        return tuple(read_durations(self._store, since)[:_DURATIONS])
