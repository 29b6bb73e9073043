"""Where the SQL of a load or report is that a server refused: its file, and the line as far as that is known."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from dwhctl.errors import AttemptError, ConfigError
from dwhctl.project.report_sql import REPORTS_FILE
from dwhctl.project.shadows import load_of
from dwhctl.project.slices import make_slice
from dwhctl.project.sql_lines import place_of
from dwhctl.project.templates import render_extract, render_file

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Load, Project, Report
    from dwhctl.project.report_sql import ReportSql


def extract_place(project: Project, load: str, shard: str, day: date, line: int | None) -> str:
    """Return the place of a line of a slice's query; empty for a load that the project has no more."""
    found = load_of(project, load)
    if found is None:
        return ""
    by_name = {one.name: one for one in project.shards_of(found)}
    try:
        query = render_extract(
            project, found, by_name[shard], make_slice(project, found, by_name[shard], day)
        ).sql
        rendered = render_file(project, found.extract, found, day, by_name[shard])
    except (ConfigError, KeyError):
        query = rendered = ""
    show = shlex.join(
        ["dwhctl", "render", found.shadow_of or found.name, "--date", str(day), "--shard", shard, "--quiet"]
    )
    return place_of(found.extract, project.root, rendered, query, line, f"`{show}`")


def keep_create_place(project: Project, load: Load, error: AttemptError) -> None:
    """Keep with an error of a load's `create` where the statement is."""
    if error.statement is not None and load.create is not None:
        rendered = render_file(project, load.create, load)
        error.place = place_of(load.create, project.root, rendered, error.statement, error.line)


def keep_report_place(
    project: Project, report: Report, sql: ReportSql, day: date, error: BaseException
) -> None:
    """Keep with an error of a refresh where the statement is: in the report's `create` or its source."""
    if not isinstance(error, AttemptError) or error.statement is None:
        return
    path = report.create if error.statement in sql.create else report.source
    if path is None or isinstance(path, str):
        key = f"{REPORTS_FILE}: reports.{report.name}.source"
        error.place = key if error.line is None else f"{key} (line {error.line} of it)"
        return
    rendered = render_file(project, path, report, day)
    error.place = place_of(path, project.root, rendered, error.statement, error.line)
