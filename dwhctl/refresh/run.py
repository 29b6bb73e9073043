"""Refresh reports: the request, the plan, and the run of the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.alerts.digest import RunKind
from dwhctl.core.errors import UsageError
from dwhctl.engine.jobs import Attempts
from dwhctl.engine.run import Run
from dwhctl.project.names import ReportSql, find_report, report_sql
from dwhctl.refresh.scheduler import RefreshRules, RefreshScheduler, ReportJob, readiness
from dwhctl.runtime.events import Listener, Readiness, RefreshStarted, RunResult
from dwhctl.runtime.locks import report_names
from dwhctl.sessions import open_if_there

if TYPE_CHECKING:
    from dwhctl.project.loads import Report
    from dwhctl.project.model import Project


class RefreshRequest(Struct, frozen=True):
    """What the user asked for. Empty `reports` means every report.

    `wait` is for locks and needs. Without it no lock is waited for, and needs as long as the configuration says.
    """

    day: date
    reports: tuple[str, ...] = ()
    jobs: int | None = None
    retries: int | None = None
    wait: timedelta | None = None
    command: str = "dwhctl refresh-reports"
    scheduled: bool = False


class PlannedReport(Struct, frozen=True):
    """One report to refresh, and how far the loads are that it needs."""

    report: Report
    sql: ReportSql
    readiness: tuple[Readiness, ...]


def plan_refresh(project: Project, request: RefreshRequest) -> list[PlannedReport]:
    """Return what a run would do. Touches nothing: the sessions are read if they are there."""
    jobs = _jobs(project, request)
    store = open_if_there(project.sessions)
    with store or nullcontext():
        return [
            PlannedReport(job.config, job.sql, readiness(project, store, job.config, request.day))
            for job in jobs
        ]


def run_refresh(project: Project, request: RefreshRequest, listen: Listener) -> RunResult:
    """Refresh the reports of the request. Raises what `Run.carry_out` raises."""
    return _Refresh(project, request).carry_out(
        listen, request.reports or tuple(project.reports), scheduled=request.scheduled
    )


def _jobs(project: Project, request: RefreshRequest) -> list[ReportJob]:
    names = request.reports or tuple(project.reports)
    if not names:
        raise UsageError("the project has no report: write one in config/reports.toml")
    reports = [find_report(project, name) for name in dict.fromkeys(names)]
    return [ReportJob(report, report_sql(project, report, request.day), request.day) for report in reports]


class _Refresh(Run):
    kind = RunKind.REFRESH

    def __init__(self, project: Project, request: RefreshRequest) -> None:
        super().__init__(project, request.command, (request.wait or timedelta(0)).total_seconds())
        self._request = request
        self._began = time.monotonic()

    def prepare(self) -> None:
        self._jobs = _jobs(self.project, self._request)
        self.result.day = self._request.day
        self.result.reports = tuple(job.config.name for job in self._jobs)

    def locks(self) -> Mapping[str, str]:
        return report_names(self.result.reports)

    def work(self) -> None:
        request = self._request
        self.listen(RefreshStarted(self.id, self.result.reports, request.day))
        at_once = max(1, min(request.jobs or self.project.refreshing.max_parallel, len(self._jobs)))
        scheduler = RefreshScheduler(
            self.project,
            RefreshRules(at_once, self._began, request.wait, self.blocked),
            self.id,
            self._jobs,
            Attempts(self.store, self.result, self.listen, request.retries),
            self.slots,
            self.events,
        )
        try:
            self.loop(scheduler)
        finally:
            self.leaves_lock = scheduler.leaves_unsettled
