"""`dwhctl connections`: the list of them, and a real round trip over each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dwhctl.cli.lazy import Group
from dwhctl.cli.options import Settings, common_options, complete_connections, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.model import Connection, Project

LIST_COLUMNS = ("name", "type", "address", "user", "password", "max_connections", "used_for")
TEST_COLUMNS = ("connection", "type", "database", "ok", "latency_ms", "version", "reason")


@click.group("connections", cls=Group, epilog="\b\nExample:\n  dwhctl connections test dwh")
def command() -> None:
    """List and test the connections."""


@command.command("list", short_help="List the connections, passwords masked.")
@format_option
@common_options
@pass_settings
def list_(settings: Settings, form: str) -> None:
    """List the connections, passwords masked.

    \b
    Example:
      dwhctl connections list --format json
    """
    from dwhctl.cli.output import show

    project = settings.open_project()
    show(LIST_COLUMNS, [_row(project, each) for each in project.connections.values()], form)


@command.command("test", short_help="Make a round trip over each connection.")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_connections)
@format_option
@common_options
@pass_settings
def test(settings: Settings, names: Sequence[str], form: str) -> ExitCode:
    """Make a real round trip over each connection (or over the named ones).

    A source is tried in the database of each of its shards. Databases in which a load's extract would run, but which
    stand in no shard group, are warnings. Ends with 1 if any round trip failed.

    \b
    Example:
      dwhctl connections test mssql_0 dwh
    """
    from dwhctl.cli.output import one_line, show, tell
    from dwhctl.cli.round_trip import round_trips
    from dwhctl.runs.look import look_for_databases

    project = settings.open_project()
    trips = round_trips(project, names)
    shown = [trip for trip in trips if not (settings.quiet and trip.ok)]
    if shown or not settings.quiet:
        show(TEST_COLUMNS, [trip.row() for trip in shown], form)
    reached = {trip.connection for trip in trips if trip.ok}
    for finding in look_for_databases(project, reached):
        tell(one_line(f"Warning: {finding.where}: {finding.what}"))
    return ExitCode.DONE if all(trip.ok for trip in trips) else ExitCode.FAILED


def _row(project: Project, connection: Connection) -> tuple[object, ...]:
    from dwhctl.project.secrets import MASKED

    user = getattr(connection, "user", None)
    password = MASKED if getattr(connection, "password", None) is not None else None
    return (
        connection.name,
        connection.type,
        _address(project, connection),
        user,
        password,
        connection.max_connections,
        _used_for(project, connection),
    )


def _address(project: Project, connection: Connection) -> str:
    from dwhctl.project.connections import DuckdbConnection, SqliteConnection
    from dwhctl.project.words import shown_path

    if isinstance(connection, DuckdbConnection | SqliteConnection):
        return shown_path(connection.path, project.root)
    servers = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in connection.addresses)
    return f"{','.join(servers)}/{connection.database}"


def _used_for(project: Project, connection: Connection) -> str:
    from dwhctl.cli.output import counted

    name = connection.name
    shards = sum(shard.connection == name for group in project.shard_groups.values() for shard in group)
    loads = sum(load.target == name for load in project.loads.values())
    reports = sum(report.connection == name for report in project.reports.values())
    uses = ["sessions"] if project.sessions_connection == name else []
    uses += [counted(shards, "shard")] if shards else []
    uses += [f"target of {counted(loads, 'load')}"] if loads else []
    reports = sum(report.connection == name for report in project.reports.values())
    uses += [counted(reports, "report")] if reports else []
    uses += [counted(reports, "report")] if reports else []
    return ", ".join(uses) or "nothing"
