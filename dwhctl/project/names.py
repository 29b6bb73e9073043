"""Loads, reports, connections and shards by the name that a user writes; a wrong name is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.errors import UsageError

from .words import nearest, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .model import Connection, Load, Project, Report


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
