"""Render the SQL of a load or report as it would run; a warehouse is asked only where that is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.project.report_sql import report_sql
from dwhctl.project.slices import make_slice
from dwhctl.project.sql import split_statements
from dwhctl.project.templates import render_extract, render_file
from dwhctl.runs.groups import MAX_SLICES
from dwhctl.runs.slots import slots_of
from dwhctl.targets import open_target
from dwhctl.targets.contract import Columns, Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from dwhctl.columns import Column
    from dwhctl.project.model import Load, Project, Report, Shard

_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what runs: its statements in their order, and in words what they are and where they run."""

    name: str
    about: str
    statements: Sequence[Statement] = ()
    notes: Sequence[str] = ()
    #: Whether placeholders are left, so that the last statement, the COMMIT, must not be run.
    has_placeholders: bool = False


def load_parts(
    project: Project, load: Load, shard: Shard, day: date, *, online: bool
) -> dict[str, Callable[[], Part]]:
    """Return each part of a load for one slice; it is rendered when it is called.

    With `online` the warehouse says what the table's columns are. Raise AttemptError then.
    """
    return {
        "extract": lambda: _extract(project, load, shard, day),
        "create": lambda: _create(load, load.target, _created(project, load)),
        "publish": lambda: _publish(project, load, shard, day, online=online),
    }


def report_parts(
    project: Project, report: Report, day: date, *, online: bool
) -> dict[str, Callable[[], Part]]:
    """Return each part of a report for a date, as `load_parts` does."""
    sql = report_sql(project, report, day)
    source = sql.source.text if sql.source.is_query else f"SELECT * FROM {sql.source.text}"
    where = f"of report {report.name}, date {day}: {report.connection}"
    return {
        "create": lambda: _create(report, report.connection, sql.create),
        "source": lambda: Part("source", f"source {where}", [Statement(source)]),
        "publish": lambda: _refresh(project, report, day, online=online),
    }


def _extract(project: Project, load: Load, shard: Shard, day: date) -> Part:
    query = render_extract(project, load, shard, make_slice(project, load, shard, day))
    values = {f":{name}": value for name, value in sorted(query.binds.items(), reverse=True)}
    about = (
        f"load {load.name}, shard {shard.name}, day {day}: database {shard.database} on {shard.connection}"
    )
    return Part("extract", about, [Statement(query.sql.rstrip(), values)])


def _created(project: Project, load: Load) -> list[str]:
    return split_statements(render_file(project, load.create, load)) if load.create is not None else []


def _create(work: Load | Report, connection: str, statements: Sequence[str]) -> Part:
    kind = "load" if hasattr(work, "shards") else "report"
    about = f"create of {kind} {work.name}: {connection}, each statement commits"
    if work.create is None:
        about = f"create of {kind} {work.name}: none, the table has to be there"
    return Part("create", about, [Statement(one) for one in statements])


def _publish(project: Project, load: Load, shard: Shard, day: date, *, online: bool) -> Part:
    columns = Columns(load.table, load.slice_by)
    notes = [
        f"a group of up to {MAX_SLICES} slices is one transaction: their shards and tokens are in the lists then",
        "<...>: chosen by each attempt",
    ]
    slice = make_slice(project, load, shard, day)
    target = open_target(project.connections[load.target], project.state_dir, _PATIENCE, "dwhctl:render")
    if online:
        with (
            slots_of(project).held(load.target),
            target.inspection(load.table, load.slice_by) as inspection,
        ):
            columns = _known(columns, inspection.columns())
    else:
        notes += _unknown(columns, f"{slice.start} and {slice.end}")
    about = f"publish of load {load.name}, shard {shard.name}, day {day}: one transaction on {load.target}"
    return Part("publish", about, target.publish_statements(slice, columns), notes, has_placeholders=True)


def _known(columns: Columns, found: Sequence[Column]) -> Columns:
    by_name = {column.name.lower(): column for column in found}
    slice_by = str(columns.slice_by or "").lower()
    return replace(
        columns,
        names=[column.name for column in found],
        slice_by=by_name.get(slice_by, columns.slice_by),
    )


def _unknown(columns: Columns, bounds: str = "") -> list[str]:
    unknown = [f"<columns of {columns.table}>: the warehouse was not asked, --online does"]
    if columns.slice_by is not None:
        unknown.append(f"<start>, <end>: {bounds}, in the type of {columns.table}.{columns.slice_by}")
    return unknown


def _refresh(project: Project, report: Report, day: date, *, online: bool) -> Part:
    source = report_sql(project, report, day).source
    target = open_target(
        project.connections[report.connection], project.state_dir, _PATIENCE, "dwhctl:render"
    )
    columns = Columns(report.target)
    notes = [f"fewer rows than min_rows = {report.min_rows} are rolled back"] if report.min_rows else []
    if online:
        from dwhctl.runs.refresh_report import common_columns

        with slots_of(project).held(report.connection), target.inspection(report.target, None):
            pass  # a file that is not there would be made by what follows
        with (
            slots_of(project).held(report.connection),
            target.refresh(report.target, source, _PATIENCE) as refresh,
        ):
            names, narrowed = common_columns(report.target, refresh.columns())
        columns = replace(columns, names=names, narrowed=narrowed)
    else:
        notes += _unknown(columns)
        notes.append("a column that is narrower in the table is checked value by value: --online shows how")
    about = f"publish of report {report.name}, date {day}: one transaction on {report.connection}"
    return Part(
        "publish", about, target.refresh_statements(source, columns), notes, has_placeholders=not online
    )
