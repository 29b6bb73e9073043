"""The SQL of a report, rendered: where its rows come from, and what makes its table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.errors import ConfigError

from .fields import is_relation
from .sql import find_binds, split_statements
from .templates import render_file, render_text
from .words import shown_path

if TYPE_CHECKING:
    from datetime import date

    from .model import Project, Report

REPORTS_FILE = "config/reports.toml"


@dataclass(frozen=True, slots=True)
class RowSource:
    """Where the rows of a report come from: a view or table by its name, or a query, which is one SELECT."""

    text: str
    is_query: bool = False


@dataclass(frozen=True, slots=True)
class ReportSql:
    """What a refresh runs: first the statements of `create`, then the replacement out of the source."""

    source: RowSource
    create: tuple[str, ...] = ()


def report_sql(project: Project, report: Report, day: date) -> ReportSql:
    """Render a report's source and `create` for a date. Raise ConfigError, which names file and line."""
    create = render_file(project, report.create, report, day) if report.create is not None else ""
    return ReportSql(_source(project, report, day), tuple(split_statements(create)))


def _source(project: Project, report: Report, day: date) -> RowSource:
    if isinstance(report.source, Path):
        place = shown_path(report.source, project.root)
        return _query(render_file(project, report.source, report, day), place)
    place = f"{REPORTS_FILE}: reports.{report.name}.source"
    if is_relation(report.source):
        return RowSource(report.source)
    return _query(render_text(project, report.source, place, report, day), place)


def _query(sql: str, place: str) -> RowSource:
    statements = split_statements(sql)
    if len(statements) != 1:
        # Of several statements in one the driver would hide the later ones' errors.
        what = f"holds {len(statements)} statements" if statements else "holds no query"
        raise ConfigError(
            f"{place}: {what}; write one SELECT, and what comes before it into the report's `create`"
        )
    if binds := find_binds(statements[0]):
        raise ConfigError(
            f"{place}: ':{binds[0].name}' is bound to nothing in a report; write the date as '{{{{ ds }}}}'"
        )
    return RowSource(statements[0], is_query=True)
