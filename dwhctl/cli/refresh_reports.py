"""`dwhctl refresh-reports`: report tables from their views, each in one transaction."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes, page_afterwards
from dwhctl.cli.common.objects import PlannedReportPart, RefreshPlanObject, show_object
from dwhctl.cli.common.options import (
    Duration,
    Settings,
    chosen_day,
    complete_reports,
    date_option,
    result_option,
    scheduled_option,
    with_settings,
)
from dwhctl.cli.common.output import say
from dwhctl.core.errors import ExitCode
from dwhctl.core.words import counted, shown_command, shown_path

if TYPE_CHECKING:
    from dwhctl.project.model import Project
    from dwhctl.refresh.run import PlannedReport, RefreshRequest

_SHOWN_QUERY = 40


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("refresh-reports")
@click.argument("reports", nargs=-1, metavar="[REPORT]...", shell_complete=complete_reports)
@date_option("The day whose loads the reports need", default="yesterday")
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
@result_option
@scheduled_option
@with_settings
def command(
    settings: Settings, /, reports: tuple[str, ...], day: str, dry_run: bool, form: str, **options: Any
) -> ExitCode:
    """Refresh every REPORT (or those given) from its view or query.

    Each is replaced in one transaction: readers see the old content or the new, and a refresh that fails leaves the
    old. A report whose loads are not complete for the day waits for them as long as --wait, or the configuration,
    says.

    \b
    Examples:
      dwhctl refresh-reports
      dwhctl refresh-reports city_orders --date 2020-07-14
      dwhctl refresh-reports --date yesterday --wait 2h
    """
    from dwhctl.cli.common.progress import RunWatcher
    from dwhctl.cli.common.results import refresh_object
    from dwhctl.cli.common.summary import RefreshLines, show_refreshed
    from dwhctl.refresh.run import RefreshRequest, run_refresh

    project = settings.open_project()
    request = RefreshRequest(
        chosen_day(project, "--date", day),
        tuple(dict.fromkeys(reports)),
        command=shown_command(sys.argv[1:]),
        **options,
    )
    if dry_run:
        return _show_plan(project, request, form)
    with page_afterwards(project):
        run = RunWatcher(RefreshLines(settings))
        result = run_refresh(project, request, run)
        if form == "json":
            show_object(refresh_object(result, run, request.command, settings.project))
        else:
            show_refreshed(result, settings)
    return result.exit_code


def _show_plan(project: Project, request: RefreshRequest, form: str) -> ExitCode:
    from dwhctl.cli.common.listing import Listing
    from dwhctl.refresh.run import plan_refresh

    plan = plan_refresh(project, request)
    if form == "json":
        reports = tuple(_planned(project, planned) for planned in plan)
        return show_object(RefreshPlanObject(exit_code=ExitCode.DONE.value, day=request.day, reports=reports))
    listing: Listing[tuple[object, ...]] = Listing(
        "report", "connection", "source", "target", "needs", "ready"
    )
    listing.show(_row(project, planned) for planned in plan)
    waiting = sum(not _is_ready(planned) for planned in plan)
    ready = counted(len(plan) - waiting, "report")
    say(f"would refresh {ready} of {request.day}" + (f"; {waiting:,} not ready" if waiting else ""))
    return ExitCode.DONE


def _planned(project: Project, planned: PlannedReport) -> PlannedReportPart:
    from dwhctl.cli.common.results import need_parts

    report = planned.report
    source = report.source if isinstance(report.source, str) else shown_path(report.source, project.root)
    needs = need_parts(planned.readiness)
    return PlannedReportPart(report.name, report.connection, source, report.target, needs, _is_ready(planned))


def _row(project: Project, planned: PlannedReport) -> tuple[object, ...]:
    part = _planned(project, planned)
    source = part.source
    if isinstance(planned.report.source, str) and planned.sql.source.is_query:
        query = " ".join(source.split())
        source = query if len(query) <= _SHOWN_QUERY else f"{query[:_SHOWN_QUERY]}…"
    needs = "; ".join(map(str, planned.readiness))
    return part.report, part.connection, source, part.target, needs, part.is_ready


def _is_ready(planned: PlannedReport) -> bool:
    return all(need.is_met for need in planned.readiness)
