"""`config check` and `render` without a server: render every template, read every secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.alerts.channels import open_channel, render
from dwhctl.alerts.digest import sample_digests
from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import SHORTEST
from dwhctl.core.sql import find_binds, same_but_comments, split_statements
from dwhctl.load.staging import MAX_SLICES
from dwhctl.project.days import Slice, format_duration, make_slice, resolve_day
from dwhctl.project.fields import leaves
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Alert, Project
from dwhctl.project.names import declared_at, report_sql
from dwhctl.project.parts import by_ranges, check_split, time_parts
from dwhctl.project.problems import MAIN, Place, line_of
from dwhctl.project.query import Query
from dwhctl.project.templates import render_extract, render_file, render_ready, render_text
from dwhctl.runtime.new_tables import TableColumnsFinder
from dwhctl.runtime.slots import slots_of
from dwhctl.systems.base.system import TargetOptions, system_of
from dwhctl.systems.base.target import Statement, TableColumns, Target


@contextmanager
def _collect(found: list[str]) -> Iterator[None]:
    """Add the lines of a ConfigError in the block to what was found, each once."""
    try:
        yield
    except ConfigError as error:
        found += [line for line in str(error).splitlines() if line not in found]


def unreadable_secrets(project: Project) -> list[str]:
    """Return the problems of secrets that cannot be read here; the loads may run elsewhere."""
    problems: list[str] = []
    for secret in project.secrets():
        with _collect(problems):
            secret.reveal()
    return problems


def short_secrets(project: Project) -> list[str]:
    """Return a warning for each secret that is too short to be masked everywhere: any word may contain it."""
    what = (
        f"the secret has fewer than {SHORTEST} characters: messages hide it only after a word such as password;"
        " choose a longer one"
    )
    problems = []
    for secret in project.secrets():
        with _collect([]):
            if len(secret.reveal()) < SHORTEST:
                problems.append(f"{secret.place}: {what}")
    return problems


def template_problems(project: Project) -> list[str]:
    """Render every template for yesterday and every shard. Return the problems, each once."""
    day = resolve_day("yesterday", project.zone)
    found: list[str] = []
    for load in project.loads.values():
        _check_load(project, load, day, found)
    for report in project.reports.values():
        _check_report(project, report, day, found)
    in_alerts: list[str] = []
    for alert in project.alerts.values():
        _check_alert(project, alert, day, in_alerts)
    unreadable = unreadable_secrets(project)
    return list(dict.fromkeys([*found, *(line for line in in_alerts if line not in unreadable)]))


def _check_load(project: Project, load: Load, day: date, found: list[str]) -> None:
    place = line_of(load.extract, project.root, None) if load.extract else declared_at(load).at("endpoint")
    for shard in project.shards_of(load):
        with _collect(found):
            query = render_extract(project, load, shard, make_slice(project, load, shard, day))
            system, is_request = system_of(project.connections[shard.connection]), query.request is not None
            if not is_request and (problem := system.extract_problem(query.sql)):
                found.append(f"{place}: {problem}")
            elif load.slice_by is not None and (is_request or not query.binds):
                _check_days_differ(project, load, shard, day, query, place)
            check_split(project, load, shard, make_slice(project, load, shard, day))
        if load.ready is not None:
            _check_ready(project, load, shard, day, found)
    _check_target(project, load, day, found)


def _check_ready(project: Project, load: Load, shard: Shard, day: date, found: list[str]) -> None:
    assert load.ready is not None
    with _collect(found):
        query = render_ready(project, load, shard, make_slice(project, load, shard, day))
        if problem := system_of(project.connections[shard.connection]).extract_problem(query.sql):
            raise line_of(load.ready, project.root, None).error(problem)


def _check_days_differ(
    project: Project, load: Load, shard: Shard, day: date, query: Query, place: Place
) -> None:
    before = render_extract(project, load, shard, make_slice(project, load, shard, day - timedelta(days=1)))
    if query.request is not None and before.request == query.request:
        raise place.error(
            "returns the same records for every day, but a slice has only those of its day; give it params with"
            " {{ data_interval_start }} and {{ data_interval_end }}, or drop slice_by"
        )
    if query.request is None and same_but_comments(before.sql, query.sql):
        raise place.error(
            "returns the same rows for every day, but a slice has only the rows of its day;"
            f" write WHERE {load.slice_by} >= :start AND {load.slice_by} < :end, or drop slice_by"
        )


def _check_target(project: Project, work: Load | Report, day: date, found: list[str]) -> None:
    target = project.connections[work.warehouse]
    system = system_of(target)
    if work.create is None:
        return
    with _collect(found):
        place = line_of(work.create, project.root, None)
        statements = split_statements(render_file(project, work.create, work, day))
        if not statements:
            raise place.error("has no statement; write a CREATE TABLE IF NOT EXISTS")
        for statement in statements:
            if binds := find_binds(statement):
                what = f"':{binds[0].name}' is not bound in a create; write the date as '{{{{ ds }}}}'"
                found.append(f"{place}: {what}")
            elif problem := system.statement_problem(statement):
                found.append(f"{place}: {problem}")


def _check_report(project: Project, report: Report, day: date, found: list[str]) -> None:
    with _collect(found):
        source = report_sql(project, report, day).source
        system = system_of(project.connections[report.connection])
        if source.is_query and (problem := system.statement_problem(source.text)):
            in_file = isinstance(report.source, Path)
            key = declared_at(report).at("source")
            place = line_of(Path(report.source), project.root, None) if in_file else key
            found.append(f"{place}: {problem}")
    _check_target(project, report, day, found)


def _check_alert(project: Project, alert: Alert, day: date, found: list[str]) -> None:
    for name, field in type(alert).model_fields.items():
        for text in leaves([*value] if isinstance(value := getattr(alert, name), tuple) else value):
            if isinstance(text, str) and "{" in text:
                with _collect(found):
                    render_text(project, text, str(MAIN.at("alerts", alert.name, field.alias or name)))
    with _collect(found):
        open_channel(project, alert)
    for digest in sample_digests(project, day):
        with _collect(found):
            render(project, alert, digest)


_TIMEOUT = timedelta(seconds=30)


class RenderedPart(Struct, frozen=True):
    """A part of what runs: its statements in their order, and a description with the connection."""

    name: str
    about: str
    statements: Sequence[Statement] = ()
    notes: Sequence[str] = ()
    #: Whether there are placeholders, so that the last statement, the COMMIT, must not be run.
    has_placeholders: bool = False
    is_sql: bool = True


def load_parts(
    project: Project,
    load: Load,
    shards: Sequence[Shard],
    day: date,
    *,
    online: bool,
    describe: bool,
    direct: bool,
) -> dict[str, Callable[[], RenderedPart]]:
    """Return the parts of a load for a slice of the first shard, each rendered when called.

    With `online` the table's columns are those of the warehouse. With `describe` the first of the shards that can be
    reached describes the table of a load without a `create`. Raise AttemptError then. With `direct` there is that part
    too, for a load that has it.
    """
    shard = shards[0]
    parts = {
        "extract": lambda: _extract(project, load, shard, day),
        "ready": lambda: _ready(project, load, shard, day),
        "create": lambda: (
            _generated(project, load, shards, day)
            if load.create is None and describe
            else _create(load, _created(project, load))
        ),
        "publish": lambda: _publish(project, load, shard, day, online=online),
        "direct": lambda: _publish(project, load, shard, day, online=online, direct=True),
    }
    if load.ready is None:
        del parts["ready"]
    if not (direct and load.can_be_direct and _target(project, load).writes_directly):
        del parts["direct"]
    return parts


def report_parts(
    project: Project, report: Report, day: date, *, online: bool
) -> dict[str, Callable[[], RenderedPart]]:
    """Return the parts of a report for a date, as `load_parts` does."""
    sql = report_sql(project, report, day)
    source = sql.source.text if sql.source.is_query else f"SELECT * FROM {sql.source.text}"
    where = f"of report {report.name}, date {day}: {report.connection}"
    return {
        "create": lambda: _create(report, sql.create),
        "source": lambda: RenderedPart("source", f"source {where}", [Statement(source)]),
        "publish": lambda: _refresh(project, report, day, online=online),
    }


def _extract(project: Project, load: Load, shard: Shard, day: date) -> RenderedPart:
    slice_ = make_slice(project, load, shard, day)
    by_time = load.split > 1 and load.split_by is None
    slices = time_parts(slice_, load.split) if by_time else [slice_]
    queries = [render_extract(project, load, shard, part) for part in slices]
    connection, is_sql = project.connections[shard.connection], queries[0].request is None
    statements = [
        _on_shard(query) if is_sql else Statement(system_of(connection).shown_request(connection, query))
        for query in queries
    ]
    if len(slices) > 1:
        statements = [
            replace(statement, about=f"part {number} of {len(slices)}, all at once")
            for number, statement in enumerate(statements, 1)
        ]
    notes = [] if load.split_by is None else [by_ranges(load)]
    return RenderedPart("extract", _about(load, shard, day), statements, notes, is_sql=is_sql)


def _ready(project: Project, load: Load, shard: Shard, day: date) -> RenderedPart:
    query = render_ready(project, load, shard, make_slice(project, load, shard, day))
    about = (
        f"ready of {_about(load, shard, day)}: every {format_duration(load.ready_interval)},"
        f" up to {format_duration(load.ready_timeout)}"
    )
    return RenderedPart("ready", about, [_on_shard(query)])


def _about(load: Load, shard: Shard, day: date) -> str:
    return f"load {load.name}, shard {shard.name}, day {day}: database {shard.database} on {shard.connection}"


def _on_shard(query: Query) -> Statement:
    values = {f":{name}": value for name, value in sorted(query.binds.items(), reverse=True)}
    return Statement(query.sql.rstrip(), values)


def _created(project: Project, load: Load) -> list[str]:
    return split_statements(render_file(project, load.create, load)) if load.create is not None else []


def _create(work: Load | Report, statements: Sequence[str]) -> RenderedPart:
    kind = "load" if isinstance(work, Load) else "report"
    none = (
        "none, the table has to exist"
        if kind == "report"
        else "none, the table is made from the columns of a shard; --create asks one and shows the statements"
    )
    where = f"{work.warehouse}, each statement commits" if work.create else none
    return RenderedPart("create", f"create of {kind} {work.name}: {where}", list(map(Statement, statements)))


def _generated(project: Project, load: Load, shards: Sequence[Shard], day: date) -> RenderedPart:
    expected_first = sorted(shards, key=lambda shard: shard.has_ended(day))
    slices = ((shard, make_slice(project, load, shard, day)) for shard in expected_first)
    table, shard = TableColumnsFinder(project, slots_of(project)).table_for(load, slices)
    statements = _target(project, load).create_table(table)
    about = (
        f"create of load {load.name}: {load.target}, each statement commits, when there is no {load.table}"
    )
    notes = [
        f"made of the columns that shard {shard.name} declares; to keep and change it, write it into a `create`"
    ]
    return RenderedPart("create", about, list(map(Statement, statements)), notes)


def _target(project: Project, work: Load | Report) -> Target:
    connection = project.connections[work.warehouse]
    return system_of(connection).open_target(
        connection, TargetOptions(project.state_dir, _TIMEOUT, "dwhctl:render")
    )


def _publish(
    project: Project, load: Load, shard: Shard, day: date, *, online: bool, direct: bool = False
) -> RenderedPart:
    target, slice = _target(project, load), make_slice(project, load, shard, day)
    columns, notes = _columns(project, load, target, slice, online=online)
    transaction = f"load {load.name}, shard {shard.name}, day {day}: one transaction on {load.target}"
    if direct:
        name, statements = "direct", target.direct_statements(slice, columns)
        about = (
            f"direct, of {transaction}, in place of publish where the slice is the only one of its load in the run and"
            " its worker is on this machine"
        )
        notes.append(
            "a view, and a table with rules or row-level security, gets the rows by way of a temporary table"
        )
    else:
        name, statements = "publish", target.publish_statements(slice, columns)
        about = f"publish of {transaction}"
        of_group = f"a group of up to {MAX_SLICES} slices is one transaction: the lists then have all shards and tokens"
        notes = [of_group, "<...>: each attempt has its own", *notes]
        if load.can_be_direct and target.writes_directly:
            notes.insert(0, "not of a slice that is the only one of its load in the run: see --part direct")
    return RenderedPart(name, about, statements, notes, has_placeholders=True)


def _columns(
    project: Project, load: Load, target: Target, slice: Slice, *, online: bool
) -> tuple[TableColumns, list[str]]:
    """Return the table's columns, and notes on the placeholders where they are not known."""
    columns = TableColumns(load.table, load.slice_by)
    if not online:
        return columns, _unknown(columns, f"{slice.start} and {slice.end}")
    with slots_of(project).held(load.target), target.inspection(load.table, load.slice_by) as inspection:
        found = inspection.columns()
    by_name = {column.name.lower(): column for column in found}
    slice_by = by_name.get(str(load.slice_by or "").lower(), load.slice_by)
    return replace(columns, names=[column.name for column in found], slice_by=slice_by), []


def _unknown(columns: TableColumns, bounds: str = "") -> list[str]:
    unknown = [f"<columns of {columns.table}>: the warehouse has them, --online reads them"]
    if columns.slice_by is not None:
        unknown.append(f"<start>, <end>: {bounds}, in the type of {columns.table}.{columns.slice_by}")
    return unknown


def _refresh(project: Project, report: Report, day: date, *, online: bool) -> RenderedPart:
    source = report_sql(project, report, day).source
    target = _target(project, report)
    columns = TableColumns(report.target)
    notes = [f"fewer rows than min_rows = {report.min_rows} are rolled back"] if report.min_rows else []
    if online:
        from dwhctl.refresh.transaction import common_columns

        with slots_of(project).held(report.connection), target.inspection(report.target, None):
            pass  # raises if the file is missing, which the next step would create
        with (
            slots_of(project).held(report.connection),
            target.refresh(report.target, source, _TIMEOUT) as refresh,
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
