"""Loads, reports, connections and shards by the name that a user writes; a wrong name is explained."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.core.errors import ConfigError, UsageError
from dwhctl.core.sql import find_binds, split_statements
from dwhctl.core.words import nearest, quoted, shown_path
from dwhctl.project.checks import TASK_NAME_LENGTH, task_name
from dwhctl.project.fields import is_relation, table_problem
from dwhctl.project.templates import render_file, render_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from dwhctl.project.connections import Connection
    from dwhctl.project.loads import Load, Report
    from dwhctl.project.model import Project


def find_load(project: Project, name: str) -> Load:
    """Return the load of that name. Raise UsageError."""
    if name not in project.loads:
        raise UsageError(f"there is no load {quoted(name)}; {meant(project, name, project.loads)}")
    return project.loads[name]


def find_report(project: Project, name: str) -> Report:
    """Return the report of that name. Raise UsageError."""
    if name not in project.reports:
        raise UsageError(f"there is no report {quoted(name)}; {meant(project, name, project.reports)}")
    return project.reports[name]


def find_load_or_report(project: Project, name: str) -> Load | Report:
    """Return the load or report of that name: no two have the same. Raise UsageError."""
    if name in project.loads:
        return project.loads[name]
    if name not in project.reports:
        known = [*project.loads, *project.reports]
        kind = "load or report" if project.reports else "load"
        raise UsageError(f"there is no {kind} {quoted(name)}; {meant(project, name, known)}")
    return project.reports[name]


def find_connection(project: Project, name: str) -> Connection:
    """Return the connection of that name. Raise UsageError."""
    if name not in project.connections:
        raise UsageError(
            f"there is no connection {quoted(name)}; {meant(project, name, project.connections)}"
        )
    return project.connections[name]


def meant(project: Project, name: str, known: Iterable[str]) -> str:
    """Say what else in the project has this name, or which of the known names was probably meant."""
    return _what_else(project, name) or nearest(name, known)


def _what_else(project: Project, name: str) -> str:
    if name in project.reports:
        return f"it is a report: dwhctl refresh-reports {name}"
    if name in project.loads:
        return f"it is a load: dwhctl load {name} --date yesterday"
    for group, shards in project.shard_groups.items():
        for shard in shards:
            if shard.name == name:
                return f"it is a shard of the group {group} on {shard.connection}: --shard {name}"
    if name in project.connections:
        return f"it is a connection of type {project.connections[name].type}"
    if name in project.shard_groups:
        loads = [load.name for load in project.loads.values() if load.shards == name]
        return f"it is a shard group, which the load {loads[0]} reads" if loads else "it is a shard group"
    if name in project.alerts:
        return f"it is an alert channel: dwhctl alert-test {name}"
    tables = {load.table.lower(): f"the table of the load {load.name}" for load in project.loads.values()}
    tables |= {
        report.target.lower(): f"the table of the report {report.name}" for report in project.reports.values()
    }
    return f"it is {tables[name.lower()]}" if name.lower() in tables else ""


#: The commands that a message proposes, each with the options that it proposes them with.
PROPOSED: dict[str, frozenset[str]] = {
    "load": frozenset({"--date", "--shard", "--only-missing", "--only-failed"}),
    "backfill": frozenset({"-s", "-e", "--shard", "--only-missing", "--only-failed"}),
    "refresh-reports": frozenset({"--date"}),
    "report": frozenset({"--days"}),
    "config": frozenset(),
}
#: A name or a date needs no quotes.
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


def is_proposed(command: str, root: Path) -> bool:
    """Tell whether dwhctl proposes such a command in the messages of the project in that folder."""
    try:
        program, name, *words = shlex.split(command)
    except ValueError:
        return False
    if program != "dwhctl" or name not in PROPOSED or shlex.join([program, name, *words]) != command:
        return False
    for before, word in pairwise(["", *words]):
        if before == "--project":
            fits = word == str(root)
        elif word.startswith("-"):
            fits = word == "--project" or word in PROPOSED[name]
        else:
            fits = _PLAIN.fullmatch(word) is not None
        if not fits:
            return False
    return True


def in_project(command: str, project: Path | None) -> str:
    """Return the command with the project's folder, where one is given."""
    return f"{command} --project {shlex.quote(str(project))}" if project is not None and command else command


_AT = "@"


def shadow_name(load: str, table: str) -> str:
    """What a load's shadow run into this table is called."""
    return f"{load}{_AT}{table}"


def as_asked(name: str) -> str:
    """A load's name as it stands in a command: `orders`, or `orders --table stage.orders_new` for a shadow run."""
    load, at, table = name.partition(_AT)
    return f"{load} --table '{table}'" if "$" in table else f"{load} --table {table}" if at else load


def load_of(project: Project, name: str) -> Load | None:
    """The load of this name, also of a shadow run's; None when the project has none (any more)."""
    load, at, table = name.partition(_AT)
    found = project.loads.get(name) or project.loads.get(load)
    if at and table_problem(table):
        return None  # no shadow run goes by such a name
    return _shadow(found, table) if found is not None and at and found.name != name else found


def _shadow(load: Load, table: str) -> Load:
    changed = {"name": shadow_name(load.name, table), "table": table, "shadow_of": load.name}
    # It is no sign of life of the load itself.
    return load.model_copy(update={**changed, "ping_url": None})


def with_shadow(project: Project, names: Sequence[str], table: str) -> tuple[Project, tuple[str, ...]]:
    """The project with a shadow of the one load that is named, and that shadow's name.

    The table is written in lower case: one table must not go by two names. Raise UsageError when there is not one
    load, or the table cannot be its shadow's, and ConfigError for a `create` that would not make the table.
    """
    if len(set(names)) != 1:
        raise UsageError(
            "--table takes the one load whose rows go there; name it: load NAME --table SCHEMA.TABLE"
        )
    load, table = find_load(project, names[0]), table.lower()
    _refuse_table(project, load, table)
    shadow = _shadow(load, table)
    _refuse_create(project, load, shadow)
    return replace(project, loads={**project.loads, shadow.name: shadow}), (shadow.name,)


def _refuse_table(project: Project, load: Load, table: str) -> None:
    problem = table_problem(table)
    if problem:
        raise UsageError(f"--table: {problem}")
    owners = {(one.target, one.table.lower()): f"load '{one.name}'" for one in project.loads.values()}
    owners |= {
        (one.connection, one.target.lower()): f"report '{one.name}'" for one in project.reports.values()
    }
    owner = owners.get((load.target, table))
    if owner == f"load '{load.name}'":
        raise UsageError(f"--table {table} is the load's own table: leave --table out")
    if owner:
        raise UsageError(
            f"--table {table} on '{load.target}' is the target of {owner}: give the shadow run a table of its own"
        )
    if "__" in table or table.endswith("_"):
        raise UsageError(
            f"--table {table}: '__' parts load and shard in task_name; name a table without it, and without a '_' at"
            " its end"
        )
    _refuse_length(project, load, table)


def _refuse_length(project: Project, load: Load, table: str) -> None:
    longest = max((shard.name for shard in project.shards_of(load)), key=len, default="")
    name = task_name(shadow_name(load.name, table), longest)
    if len(name) > TASK_NAME_LENGTH:
        raise UsageError(
            f"--table {table}: the task name {name} has {len(name)} characters, the sessions table holds"
            f" {TASK_NAME_LENGTH}; name a shorter table"
        )


def _refuse_create(project: Project, load: Load, shadow: Load) -> None:
    """A `create` that does not go by load.table would make the load's own table once more."""
    if load.create is None:
        return
    if render_file(project, load.create, shadow) == render_file(project, load.create, load):
        raise UsageError(
            f"{shown_path(load.create, project.root)} makes the same table whatever --table says: write the table's"
            " name in it as {{ load.table }}, as in: CREATE TABLE IF NOT EXISTS {{ load.table }} ("
        )


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
