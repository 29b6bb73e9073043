"""What `config check` looks at beyond the files themselves: every template rendered, every secret read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.alerts.channels import open_channel, render
from dwhctl.alerts.digest import sample_digests
from dwhctl.core.errors import ConfigError
from dwhctl.core.masking import SHORTEST
from dwhctl.core.sql import find_binds, same_but_comments, split_statements
from dwhctl.core.words import shown_path
from dwhctl.load.staging import MAX_SLICES
from dwhctl.project.days import make_slice, resolve_day
from dwhctl.project.loads import Load, Report
from dwhctl.project.model import Alert, Project
from dwhctl.project.names import report_sql
from dwhctl.project.templates import render_extract, render_file, render_text
from dwhctl.runtime.slots import slots_of
from dwhctl.systems.base.system import system_of
from dwhctl.systems.base.target import Statement, TableColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    from dwhctl.core.columns import Column
    from dwhctl.project.connections import Connection
    from dwhctl.project.loads import Shard
    from dwhctl.project.templates import Query


def unreadable_secrets(project: Project) -> list[str]:
    """Say which secrets cannot be read here; where the loads run they may be there."""
    problems = []
    for secret in project.secrets():
        try:
            secret.reveal()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def short_secrets(project: Project) -> list[str]:
    """Say which secrets are so short that they may be any word, so that masks cannot hide them everywhere."""
    problems = []
    for secret in project.secrets():
        with suppress(ConfigError):
            if len(secret.reveal()) < SHORTEST:
                problems.append(
                    f"{secret.place}: the secret has fewer than {SHORTEST} characters: messages hide it only where they"
                    " say that a password follows; choose a longer one"
                )
    return problems


def template_problems(project: Project) -> list[str]:
    """Render every template for yesterday and every shard; say once what is wrong with each."""
    day = resolve_day("yesterday", project.zone)
    found: dict[str, None] = {}
    for load in project.loads.values():
        found.update(dict.fromkeys(_of_load(project, load, day)))
    for report in project.reports.values():
        found.update(dict.fromkeys(_of_report(project, report, day)))
    unreadable = unreadable_secrets(project)
    for alert in project.alerts.values():
        problems = (each for each in _of_alert(project, alert, day) if each not in unreadable)
        found.update(dict.fromkeys(problems))
    return list(found)


def _of_load(project: Project, load: Load, day: date) -> Iterator[str]:
    shown = shown_path(load.extract, project.root) if load.extract else f"config/loads/{load.name}.toml"
    for shard in project.shards_of(load):
        try:
            query = render_extract(project, load, shard, make_slice(project, load, shard, day))
            if query.request is not None:
                yield from _of_request(project, load, shard, day, query)
            elif problem := system_of(project.connections[shard.connection]).extract_problem(query.sql):
                yield f"{shown}: {problem}"
            elif load.slice_by is not None and not query.binds:
                yield from _same_every_day(project, load, shard, day, query, shown)
        except ConfigError as error:
            yield from str(error).splitlines()
    target = project.connections[load.target]
    if problem := system_of(target).table_problem(target, load.table):
        yield f"config/loads/{load.name}.toml: table: {problem}"
    if load.create is not None:
        yield from _of_create(project, load, load.create, target, day)


def _of_request(project: Project, load: Load, shard: Shard, day: date, query: Query) -> Iterator[str]:
    before = make_slice(project, load, shard, day - timedelta(days=1))
    if load.slice_by is not None and render_extract(project, load, shard, before).request == query.request:
        yield (
            f"config/loads/{load.name}.toml: endpoint: gives the same records for every day, and a slice takes the rows"
            " of its day only; give params with {{ data_interval_start }} and {{ data_interval_end }}, or drop slice_by"
        )


def _same_every_day(
    project: Project, load: Load, shard: Shard, day: date, query: Query, shown: str
) -> Iterator[str]:
    before = make_slice(project, load, shard, day - timedelta(days=1))
    if same_but_comments(render_extract(project, load, shard, before).sql, query.sql):
        yield (
            f"{shown}: gives the same rows for every day, and a slice takes the rows"
            f" of its day only; write WHERE {load.slice_by} >= :start AND {load.slice_by} < :end, or drop slice_by"
        )


def _of_create(
    project: Project, work: Load | Report, create: Path, target: Connection, day: date
) -> Iterator[str]:
    shown = shown_path(create, project.root)
    try:
        statements = split_statements(render_file(project, create, work, day))
    except ConfigError as error:
        yield from str(error).splitlines()
        return
    if not statements:
        yield f"{shown}: holds no statement; write a CREATE TABLE IF NOT EXISTS"
    for statement in statements:
        if binds := find_binds(statement):
            yield f"{shown}: ':{binds[0].name}' is bound to nothing in a create; write the date as '{{{{ ds }}}}'"
        elif problem := system_of(target).statement_problem(statement):
            yield f"{shown}: {problem}"


def _of_report(project: Project, report: Report, day: date) -> Iterator[str]:
    target = project.connections[report.connection]
    if problem := system_of(target).table_problem(target, report.target):
        yield f"config/reports.toml: reports.{report.name}.target: {problem}"
    try:
        source = report_sql(project, report, day).source
        if source.is_query and (problem := system_of(target).statement_problem(source.text)):
            place = f"config/reports.toml: reports.{report.name}.source"
            if isinstance(report.source, Path):
                place = shown_path(report.source, project.root)
            yield f"{place}: {problem}"
    except ConfigError as error:
        yield from str(error).splitlines()
    if report.create is not None:
        yield from _of_create(project, report, report.create, target, day)


def _of_alert(project: Project, alert: Alert, day: date) -> Iterator[str]:
    yield from _of_texts(project, alert)
    attempts: list[Callable[[], object]] = [
        partial(open_channel, project, alert),
        *(partial(render, project, alert, digest) for digest in sample_digests(project, day)),
    ]
    problems: dict[str, None] = {}
    for attempt in attempts:
        try:
            attempt()
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    yield from problems


def _of_texts(project: Project, alert: Alert) -> Iterator[str]:
    for name, field in type(alert).model_fields.items():
        value = getattr(alert, name)
        texts = value if isinstance(value, tuple) else (value,)
        for text in texts:
            if isinstance(text, str) and "{" in text:
                place = f"config/dwhctl.toml: alerts.{alert.name}.{field.alias or name}"
                try:
                    render_text(project, text, place)
                except ConfigError as error:
                    yield from str(error).splitlines()


_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class RenderedPart:
    """One part of what runs: its statements in their order, and in words what they are and where they run."""

    name: str
    about: str
    statements: Sequence[Statement] = ()
    notes: Sequence[str] = ()
    #: Whether placeholders are left, so that the last statement, the COMMIT, must not be run.
    has_placeholders: bool = False
    is_sql: bool = True


def load_parts(
    project: Project, load: Load, shard: Shard, day: date, *, online: bool
) -> dict[str, Callable[[], RenderedPart]]:
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
) -> dict[str, Callable[[], RenderedPart]]:
    """Return each part of a report for a date, as `load_parts` does."""
    sql = report_sql(project, report, day)
    source = sql.source.text if sql.source.is_query else f"SELECT * FROM {sql.source.text}"
    where = f"of report {report.name}, date {day}: {report.connection}"
    return {
        "create": lambda: _create(report, report.connection, sql.create),
        "source": lambda: RenderedPart("source", f"source {where}", [Statement(source)]),
        "publish": lambda: _refresh(project, report, day, online=online),
    }


def _extract(project: Project, load: Load, shard: Shard, day: date) -> RenderedPart:
    query = render_extract(project, load, shard, make_slice(project, load, shard, day))
    values = {f":{name}": value for name, value in sorted(query.binds.items(), reverse=True)}
    about = (
        f"load {load.name}, shard {shard.name}, day {day}: database {shard.database} on {shard.connection}"
    )
    if query.request is not None:
        shown = system_of(connection := project.connections[shard.connection]).shown_request(
            connection, query
        )
        return RenderedPart("extract", about, [Statement(shown)], is_sql=False)
    return RenderedPart("extract", about, [Statement(query.sql.rstrip(), values)])


def _created(project: Project, load: Load) -> list[str]:
    return split_statements(render_file(project, load.create, load)) if load.create is not None else []


def _create(work: Load | Report, connection: str, statements: Sequence[str]) -> RenderedPart:
    kind = "load" if hasattr(work, "shards") else "report"
    about = f"create of {kind} {work.name}: {connection}, each statement commits"
    if work.create is None:
        about = f"create of {kind} {work.name}: none, the table has to be there"
    return RenderedPart("create", about, [Statement(one) for one in statements])


def _publish(project: Project, load: Load, shard: Shard, day: date, *, online: bool) -> RenderedPart:
    columns = TableColumns(load.table, load.slice_by)
    notes = [
        f"a group of up to {MAX_SLICES} slices is one transaction: their shards and tokens are in the lists then",
        "<...>: chosen by each attempt",
    ]
    slice = make_slice(project, load, shard, day)
    target = system_of(project.connections[load.target]).open_target(
        project.connections[load.target], project.state_dir, _PATIENCE, "dwhctl:render"
    )
    if online:
        with (
            slots_of(project).held(load.target),
            target.inspection(load.table, load.slice_by) as inspection,
        ):
            columns = _known(columns, inspection.columns())
    else:
        notes += _unknown(columns, f"{slice.start} and {slice.end}")
    about = f"publish of load {load.name}, shard {shard.name}, day {day}: one transaction on {load.target}"
    return RenderedPart(
        "publish", about, target.publish_statements(slice, columns), notes, has_placeholders=True
    )


def _known(columns: TableColumns, found: Sequence[Column]) -> TableColumns:
    by_name = {column.name.lower(): column for column in found}
    slice_by = str(columns.slice_by or "").lower()
    return replace(
        columns,
        names=[column.name for column in found],
        slice_by=by_name.get(slice_by, columns.slice_by),
    )


def _unknown(columns: TableColumns, bounds: str = "") -> list[str]:
    unknown = [f"<columns of {columns.table}>: the warehouse was not asked, --online does"]
    if columns.slice_by is not None:
        unknown.append(f"<start>, <end>: {bounds}, in the type of {columns.table}.{columns.slice_by}")
    return unknown


def _refresh(project: Project, report: Report, day: date, *, online: bool) -> RenderedPart:
    source = report_sql(project, report, day).source
    target = system_of(project.connections[report.connection]).open_target(
        project.connections[report.connection], project.state_dir, _PATIENCE, "dwhctl:render"
    )
    columns = TableColumns(report.target)
    notes = [f"fewer rows than min_rows = {report.min_rows} are rolled back"] if report.min_rows else []
    if online:
        from dwhctl.refresh.transaction import common_columns

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
    return RenderedPart(
        "publish", about, target.refresh_statements(source, columns), notes, has_placeholders=not online
    )
