"""Names that a user writes: loads, reports, connections, shards, shadow runs and the commands in messages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.sql import find_binds, split_statements
from dwhctl.core.words import nearest, quoted, shown_path
from dwhctl.project.checks import TASK_NAME_LENGTH, task_name
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.fields import is_relation, table_problem
from dwhctl.project.loads import Load, Report
from dwhctl.project.problems import REPORTS, Place
from dwhctl.project.templates import render_file, render_text

if TYPE_CHECKING:
    from dwhctl.project.connections import Connection
    from dwhctl.project.model import Project

Found = TypeVar("Found")


def find_load(project: Project, name: str) -> Load:
    """Return the load of that name. Raise UsageError."""
    return _find(project, name, project.loads, "load")


def find_report(project: Project, name: str) -> Report:
    """Return the report of that name. Raise UsageError."""
    return _find(project, name, project.reports, "report")


def find_load_or_report(project: Project, name: str) -> Load | Report:
    """Return the load or report of that name: no two have the same. Raise UsageError."""
    kind = "load or report" if project.reports else "load"
    known: dict[str, Load | Report] = {**project.loads, **project.reports}
    return _find(project, name, known, kind)


def find_connection(project: Project, name: str) -> Connection:
    """Return the connection of that name. Raise UsageError."""
    return _find(project, name, project.connections, "connection")


def _find(project: Project, name: str, known: Mapping[str, Found], kind: str) -> Found:
    if name not in known:
        raise UsageError(f"there is no {kind} {quoted(name)}; {meant(project, name, known)}")
    return known[name]


def declared_at(work: Load | Report) -> Place:
    """Return the place of a load or report in the configuration."""
    is_load = isinstance(work, Load)
    return Place(f"config/loads/{work.name}.toml") if is_load else REPORTS.at("reports", work.name)


def meant(project: Project, name: str, known: Iterable[str]) -> str:
    """Return what else in the project has this name, or the known name that was probably meant."""
    return _what_else(project, name) or nearest(name, known)


def _what_else(project: Project, name: str) -> str:
    if name in project.reports:
        return f"it is a report: {in_project(f'dwhctl refresh-reports {name}', project.place)}"
    if name in project.loads:
        return f"it is a load: {in_project(f'dwhctl load {name} --date yesterday', project.place)}"
    for group, shards in project.shard_groups.items():
        if shard := next((shard for shard in shards if shard.name == name), None):
            return f"it is a shard of the group {group} on {shard.connection}: --shard {name}"
    if name in project.connections:
        return f"it is a connection of type {project.connections[name].type}"
    if name in project.shard_groups:
        loads = [load.name for load in project.loads.values() if load.shards == name]
        return f"it is a shard group, which the load {loads[0]} reads" if loads else "it is a shard group"
    if name in project.alerts:
        return f"it is an alert channel: {in_project(f'dwhctl alert-test {name}', project.place)}"
    owners = {work.target_table.lower(): work.title for work in project.work()}
    return f"it is the table of {owners[name.lower()]}" if name.lower() in owners else ""


#: The commands that messages propose, with their options.
PROPOSED: dict[str, frozenset[str]] = {
    "load": frozenset({"--date", "--shard", "--only-missing", "--only-failed"}),
    "backfill": frozenset({"-s", "-e", "--shard", "--only-missing", "--only-failed"}),
    "refresh-reports": frozenset({"--date"}),
    "report": frozenset({"--days"}),
    "config": frozenset(),
}
#: A name or a date, which needs no quotes.
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


def is_proposed(command: str, root: Path) -> bool:
    """Return whether messages of the project in that folder propose such a command."""
    try:
        program, name, *words = shlex.split(command)
    except ValueError:
        return False
    if program != "dwhctl" or name not in PROPOSED or shlex.join([program, name, *words]) != command:
        return False
    options = PROPOSED[name] | {"--project"}
    return all(
        word == str(root) if before == "--project" else word in options or _PLAIN.fullmatch(word)
        for before, word in pairwise(["", *words])
    )


def in_project(command: str, project: Path | None) -> str:
    """Return the command with the project's folder, where one is given."""
    return f"{command} --project {shlex.quote(str(project))}" if project is not None and command else command


_AT = "@"


def shadow_name(load: str, table: str) -> str:
    """Return the name of a load's shadow run into this table."""
    return f"{load}{_AT}{table}"


def as_asked(name: str) -> str:
    """Return a load's name as a command has it: `orders`, or `orders --table stage.orders_new` for a shadow run."""
    load, at, table = name.partition(_AT)
    return f"{load} --table '{table}'" if "$" in table else f"{load} --table {table}" if at else load


def load_of(project: Project, name: str) -> Load | None:
    """Return the load of this name or of a shadow run's name; None when the project has none."""
    load, at, table = name.partition(_AT)
    found = project.loads.get(name) or project.loads.get(load)
    if at and table_problem(table):
        return None  # no shadow run has such a name
    return _shadow(found, table) if found is not None and at and found.name != name else found


def _shadow(load: Load, table: str) -> Load:
    # A ping would report the load itself.
    changed = {
        "name": shadow_name(load.name, table),
        "table": table,
        "shadow_of": load.name,
        "ping_url": None,
    }
    return load.model_copy(update=changed)


def with_shadow(project: Project, names: Sequence[str], table: str) -> tuple[Project, tuple[str, ...]]:
    """Return the project with a shadow of the load, and the shadow's name.

    The table becomes lower case: a table must not have two names. Raise UsageError for other than one load, for a
    table that cannot be its shadow's and for a `create` that would not create the table.
    """
    if len(set(names)) != 1:
        raise UsageError("--table needs one load, whose rows go there: load NAME --table SCHEMA.TABLE")
    load, table = find_load(project, names[0]), table.lower()
    _refuse_table(project, load, table)
    shadow = _shadow(load, table)
    _refuse_create(project, load, shadow)
    return replace(project, loads={**project.loads, shadow.name: shadow}), (shadow.name,)


def _refuse_table(project: Project, load: Load, table: str) -> None:
    target = project.connections[load.target]
    problem = table_problem(table) or SYSTEMS[target.type].table_problem(target, table)
    if problem:
        raise UsageError(f"--table: {problem}")
    owners = {(work.warehouse, work.target_table.lower()): work.title for work in project.work()}
    owner = owners.get((load.target, table))
    if owner == load.title:
        raise UsageError(f"--table {table} is the load's own table: leave --table out")
    if owner:
        raise UsageError(
            f"--table {table} on '{load.target}' is the target of {owner}: give the shadow run a table of its own"
        )
    if "__" in table or table.endswith("_"):
        what = "'__' separates load and shard in task_name"
        raise UsageError(f"--table {table}: {what}; choose a table without it, and without a '_' at its end")
    longest = max((shard.name for shard in project.shards_of(load)), key=len, default="")
    name = task_name(shadow_name(load.name, table), longest)
    if len(name) > TASK_NAME_LENGTH:
        raise UsageError(
            f"--table {table}: the task name {name} has {len(name)} characters, the sessions table holds"
            f" {TASK_NAME_LENGTH}; choose a shorter table"
        )


def _refuse_create(project: Project, load: Load, shadow: Load) -> None:
    if load.create is None:
        return
    if render_file(project, load.create, shadow) == render_file(project, load.create, load):
        raise UsageError(
            f"{shown_path(load.create, project.root)} creates the same table whatever --table says: write the table's"
            " name as {{ load.table }}, as in: CREATE TABLE IF NOT EXISTS {{ load.table }} ("
        )


class RowSource(Struct, frozen=True):
    """The source of a report's rows: the name of a view or table, or a query, which is one SELECT."""

    text: str
    is_query: bool = False


class ReportSql(Struct, frozen=True):
    """The SQL of a refresh: the statements of `create`, and the source for the replacement."""

    source: RowSource
    create: tuple[str, ...] = ()


def report_sql(project: Project, report: Report, day: date) -> ReportSql:
    """Render a report's source and `create` for a date. Raise ConfigError with file and line."""
    create = render_file(project, report.create, report, day) if report.create is not None else ""
    return ReportSql(_source(project, report, day), tuple(split_statements(create)))


def _source(project: Project, report: Report, day: date) -> RowSource:
    if isinstance(report.source, Path):
        place = Place(shown_path(report.source, project.root))
        return _query(render_file(project, report.source, report, day), place)
    if is_relation(report.source):
        return RowSource(report.source)
    place = REPORTS.at("reports", report.name, "source")
    return _query(render_text(project, report.source, str(place), report, day), place)


def _query(sql: str, place: Place) -> RowSource:
    statements = split_statements(sql)
    if len(statements) != 1:
        # A driver would hide the errors of all statements but the first.
        what = f"has {len(statements)} statements" if statements else "has no query"
        raise place.error(f"{what}; write one SELECT, and what comes before it into the report's `create`")
    if binds := find_binds(statements[0]):
        what = f"':{binds[0].name}' is not bound in a report; write the date as '{{{{ ds }}}}'"
        raise place.error(what)
    return RowSource(statements[0], is_query=True)
