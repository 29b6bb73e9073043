"""`dwhctl connections`: the list of them, a real round trip over each, and the import of Airflow's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.lazy import Group
from dwhctl.cli.options import Settings, common_options, complete_connections, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.airflow.importing import Import
    from dwhctl.project.model import Connection, Project

LIST_COLUMNS = ("name", "type", "address", "user", "password", "max_connections", "used_for")
IMPORT_COLUMNS = ("kind", "airflow_name", "name", "result", "note")
TEST_COLUMNS = ("connection", "type", "database", "ok", "latency_ms", "version", "reason")


@click.group("connections", cls=Group, epilog="\b\nExample:\n  dwhctl connections test dwh")
def command() -> None:
    """List, test and import the connections."""


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


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
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


@command.command("import", short_help="Take over what Airflow exports.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--secrets",
    type=click.Choice(("files", "env")),
    default="files",
    show_default=True,
    help="Where passwords go: a file each in secrets/, which cron needs no more for; or variables, exported by"
    " secrets/env.sh.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Put Airflow's values in the place of those here; keys and comments that only stand here stay.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and touch nothing.")
@format_option
@common_options
@pass_settings
def import_(
    settings: Settings,
    files: tuple[Path, ...],
    secrets: Literal["files", "env"],
    replace: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Add the connections and variables that Airflow exported to config/dwhctl.toml.

    FILE is what `airflow connections export` or `airflow variables export` wrote as JSON, or lines KEY=URI; which of
    the two it is, it tells itself. Airflow 1.10 has no such command for connections: see dwhctl docs airflow-1-10.
    Passwords, and what Airflow would mask among the variables, are moved out into files that only this user can read.
    What has no counterpart is listed line by line. A name that is taken by something else ends the command with
    nothing touched.

    \b
    Examples:
      airflow connections export connections.json --file-format json
      airflow variables export variables.json
      dwhctl connections import connections.json variables.json --dry-run
    """
    from dwhctl.cli.output import say, show
    from dwhctl.project.airflow.importing import prepare_import
    from dwhctl.project.find import find_project

    found = prepare_import(find_project(settings.project), list(files), secrets=secrets, replace=replace)
    if not dry_run:
        found.write()
    if settings.quiet:
        return
    show(IMPORT_COLUMNS, [one.row() for one in found.outcomes], form)
    if form == "table":
        for line in _import_words(found, dry_run=dry_run):
            say(line)


def _import_words(found: Import, *, dry_run: bool) -> Iterator[str]:
    from dwhctl.cli.output import counted
    from dwhctl.project.airflow.keeping import EXPORTS

    added = found.written.additions
    yield ""
    if dry_run and added:
        yield from ("would be added to config/dwhctl.toml:", "", added)
    what = ["config/dwhctl.toml"] if found.written.changed else []
    what += [f"{counted(len(found.kept.texts), 'file')} in secrets/"] if found.kept.texts else []
    if not what:
        yield "nothing to write: all of it stands there"
        return
    yield f"{'would write' if dry_run else 'wrote'} {' and '.join(what)}"
    if EXPORTS in found.kept.texts:
        yield f"before dwhctl, in a shell or in cron: . {found.root / EXPORTS}"
    if not dry_run:
        yield "next: dwhctl config check, then dwhctl connections test"


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
    uses += [counted(reports, "report")] if reports else []
    return ", ".join(uses) or "nothing"
