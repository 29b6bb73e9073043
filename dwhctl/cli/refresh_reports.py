"""`dwhctl refresh-reports`: report tables from their views, each in one transaction."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.options import (
    DATE_HELP,
    Duration,
    Settings,
    common_options,
    complete_reports,
    pass_settings,
    scheduled_option,
)
from dwhctl.core.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.project.model import Project
    from dwhctl.refresh.run import PlannedReport, RefreshRequest
    from dwhctl.runtime.events import RunResult

_SHOWN_QUERY = 40
COLUMNS = ("report", "connection", "source", "target", "needs", "ready")


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("refresh-reports")
@click.argument("reports", nargs=-1, metavar="[REPORT]...", shell_complete=complete_reports)
@click.option(
    "--date",
    "day",
    metavar="D",
    default="yesterday",
    show_default=True,
    help=f"The day whose loads the reports need: {DATE_HELP}",
)
@click.option(
    "--wait",
    type=Duration(),
    metavar="DURATION",
    help="Wait so long for a lock, and for the loads that a report needs, such as 2h; 0s: not at all. Without it a"
    " report waits for its loads as long as its key wait says, or that of [refresh].",
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Reports at once, in place of max_parallel."
)
@click.option("--retries", type=click.IntRange(0, 1000), metavar="N", help="Attempts after a report's first.")
@click.option("--dry-run", is_flag=True, help="Show what would be refreshed, and touch nothing.")
@scheduled_option
@common_options
@pass_settings
def command(
    settings: Settings, /, reports: tuple[str, ...], day: str, dry_run: bool, **asked: Any
) -> ExitCode:
    """Refresh every REPORT (or the named ones) from its view or query.

    Each is replaced in one transaction: readers see its old content or its new, and a refresh that fails leaves the
    old one. A report whose loads are not complete for the day waits for them as long as --wait says,
    or the configuration.

    \b
    Examples:
      dwhctl refresh-reports
      dwhctl refresh-reports city_orders --date 2020-07-14
      dwhctl refresh-reports --date yesterday --wait 2h
    """
    from dwhctl.cli.load import asked_day
    from dwhctl.core.words import shown_command
    from dwhctl.refresh.run import RefreshRequest

    project = settings.open_project()
    typed = shown_command(sys.argv[1:])
    chosen = asked_day(project, "--date", day, datetime.now(project.zone))
    request = RefreshRequest(chosen, tuple(dict.fromkeys(reports)), command=typed, **asked)
    if dry_run:
        return _show_plan(project, request)
    return refresh_and_tell(project, request, settings)


def refresh_and_tell(project: Project, request: RefreshRequest, settings: Settings) -> ExitCode:
    """Refresh with progress on stderr and a summary on stdout."""
    return refresh_and_show(project, request, settings).exit_code


def refresh_and_show(project: Project, request: RefreshRequest, settings: Settings) -> RunResult:
    """The same, for who needs to know what came of it."""
    from dwhctl.cli.common.summary import RefreshLines, show_alerts, show_pings, show_refreshed
    from dwhctl.refresh.run import run_refresh

    report = run_refresh(project, request, RefreshLines(settings))
    show_refreshed(report, settings)
    show_pings(report.pings)
    show_alerts(report.alerts, settings)
    return report


def _show_plan(project: Project, request: RefreshRequest) -> ExitCode:
    from dwhctl.cli.common.output import counted, say, show
    from dwhctl.refresh.run import plan_refresh

    plan = plan_refresh(project, request)
    show(COLUMNS, [_row(project, one) for one in plan])
    waiting = sum(not _is_ready(one) for one in plan)
    ready = counted(len(plan) - waiting, "report")
    say(f"would refresh {ready} of {request.day}" + (f"; {waiting:,} not ready" if waiting else ""))
    return ExitCode.DONE


def _row(project: Project, one: PlannedReport) -> tuple[object, ...]:
    from dwhctl.core.words import shown_path

    report, needs = one.report, "; ".join(map(str, one.readiness))
    if isinstance(report.source, str):
        source = report.source if not one.sql.source.is_query else _start_of(report.source)
    else:
        source = shown_path(report.source, project.root)
    return report.name, report.connection, source, report.target, needs, _is_ready(one)


def _start_of(query: str) -> str:
    words = " ".join(query.split())
    return words if len(words) <= _SHOWN_QUERY else words[:_SHOWN_QUERY] + "…"


def _is_ready(one: PlannedReport) -> bool:
    return all(need.is_met for need in one.readiness)
