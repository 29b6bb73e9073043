"""Refresh reports: the whole of a run, from the request to the report.

request ▶ lock the reports ▶ reap dead runs ▶ wait for what they need ▶ refresh side by side ▶ report
"""

from __future__ import annotations

import queue
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import RunKind
from dwhctl.core.errors import ExitCode, SessionsError, StateDirError, UsageError
from dwhctl.core.waiting import Signals, caught_signals
from dwhctl.notify.run import run_notifier
from dwhctl.project.names import find_report, report_sql
from dwhctl.refresh.scheduler import Refresher
from dwhctl.refresh.transaction import RefreshRules, ReportJob
from dwhctl.runtime.events import RefreshResult, RefreshStarted, RunEnded
from dwhctl.runtime.failures import failed_reports, group_failures
from dwhctl.runtime.locks import StateDir, report_names
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.plan import Readiness, readiness
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.run_context import RunContext, limits_of, new_run_id
from dwhctl.runtime.slots import Slots
from dwhctl.sessions import open_if_there

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.loads import Report
    from dwhctl.project.model import Project
    from dwhctl.project.names import ReportSql
    from dwhctl.refresh.scheduler import Happening
    from dwhctl.runtime.events import RefreshListener
    from dwhctl.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class RefreshRequest:
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


@dataclass(frozen=True, slots=True)
class PlannedReport:
    """One report to refresh, and how far the loads are that it needs."""

    report: Report
    sql: ReportSql
    readiness: tuple[Readiness, ...]


def plan_refresh(project: Project, request: RefreshRequest) -> list[PlannedReport]:
    """Say what a run would do. Touches nothing: the sessions are read if they are there."""
    jobs = _jobs(project, request)
    store = open_if_there(project.sessions)
    with ExitStack() as stack:
        if store is not None:
            stack.enter_context(store)
        return [
            PlannedReport(job.report, job.sql, readiness(project, store, job.report, request.day))
            for job in jobs
        ]


def run_refresh(project: Project, request: RefreshRequest, listen: RefreshListener) -> RefreshResult:
    """Refresh the reports of the request.

    Raise ConfigError or UsageError before anything is touched, LockHeldError when another run refreshes one of them,
    StateDirError, SessionsError when the sessions database cannot be used at the start, and Interrupted.
    """
    run_id = new_run_id()
    works = request.reports or tuple(project.reports)
    with (
        logged_run(project, run_id, request.command, listen) as log,
        run_notifier(
            project, request.command, works, log, RunKind.REFRESH, scheduled=request.scheduled
        ) as told,
    ):
        jobs = _jobs(project, request)
        report = RefreshResult(run_id, request.day, tuple(job.report.name for job in jobs))
        with caught_signals() as signals, ExitStack() as stack:
            run = _Refresh(project, request, report, told.listen, signals)
            store = run.refresh(stack, jobs)
            told.write(store, report)
        # Its locks are free: a channel that hangs holds up nobody.
        report.pings = told.ping()
        report.alerts = told.send()
    return report


def exit_code_of(report: RefreshResult) -> ExitCode:
    """Give the exit code that a report ends with."""
    if report.signal is not None:
        return report.signal
    return ExitCode.FAILED if report.failures or report.stopped else ExitCode.DONE


def _jobs(project: Project, request: RefreshRequest) -> list[ReportJob]:
    names = request.reports or tuple(project.reports)
    if not names:
        raise UsageError("the project has no report: write one in config/reports.toml")
    reports = [find_report(project, name) for name in dict.fromkeys(names)]
    return [ReportJob(one, report_sql(project, one, request.day)) for one in reports]


class _Refresh:
    """One run: what it holds, and its parts put together."""

    def __init__(
        self,
        project: Project,
        request: RefreshRequest,
        report: RefreshResult,
        listen: RefreshListener,
        signals: Signals,
    ) -> None:
        self._project = project
        self._request = request
        self._report = report
        self._listen = listen
        self._signals = signals
        self._began = time.monotonic()
        self._leaves_lock = False

    def refresh(self, stack: ExitStack, jobs: list[ReportJob]) -> SessionStore:
        """Take what the run holds until its end, refresh, and fill in the report. Give the sessions."""
        project, request, report = self._project, self._request, self._report
        state = StateDir(project.state_dir)
        slots = Slots(state.slots, limits_of(project))
        entry = RunContext(
            report.run_id,
            request.command,
            project,
            state,
            slots,
            targets_of(project, f"dwhctl:{report.run_id}"),
            tell=self._listen,
            leaves_lock=lambda: report.stopped is not None or self._leaves_lock,
        )
        store = entry.enter(
            stack, report_names(report.reports), (request.wait or timedelta(0)).total_seconds()
        )
        happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        rules = RefreshRules(self._at_once(jobs), request.retries, self._began, request.wait, entry.blocked)
        refresher = Refresher(project, report, rules, store, slots, self._listen, happenings)
        # From here on a signal is one of the things that happen to the loop.
        self._signals.listener = lambda code: _stop_soon(code, store, happenings)
        self._loop(refresher, jobs)
        return store

    def _loop(self, refresher: Refresher, jobs: list[ReportJob]) -> None:
        report, started = self._report, time.monotonic()
        self._listen(RefreshStarted(report.run_id, report.reports, report.day))
        try:
            report.signal = refresher.run(jobs)
            if report.signal is not None:
                refresher.stop()
        except (SessionsError, StateDirError) as error:
            report.stopped = str(error)
            report.signal = self._signals.received
        finally:
            refresher.end_all()
            self._leaves_lock = refresher.leaves_unsettled
            report.seconds = time.monotonic() - started
            report.groups = group_failures(self._project, failed_reports(report))
        self._listen(RunEnded(report))

    def _at_once(self, jobs: list[ReportJob]) -> int:
        wanted = self._request.jobs or self._project.refreshing.max_parallel
        return max(1, min(wanted, len(jobs)))


def _stop_soon(code: ExitCode, store: SessionStore, happenings: queue.SimpleQueue[Happening]) -> None:
    """Take a signal: the loop may be waiting for the sessions database."""
    store.hurry()
    happenings.put(code)
