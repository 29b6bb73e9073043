"""`dwhctl connections` lists, tests and imports connections; `dwhctl config` checks the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from dwhctl.airflow.importing import Import, prepare_import
from dwhctl.airflow.writing import EXPORTS
from dwhctl.check.connections import RoundTrip, in_clear, round_trips, unchecked
from dwhctl.check.local import local_files, open_files, unread_files
from dwhctl.check.offline import short_secrets, template_problems, unreadable_secrets
from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.objects import ResultObject, show_object
from dwhctl.cli.common.options import (
    CommandGroup,
    Settings,
    choice_option,
    complete_connections,
    format_option,
    result_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell
from dwhctl.core.errors import ConfigError, ExitCode
from dwhctl.core.secrets import MASKED
from dwhctl.core.words import counted, one_line
from dwhctl.project.connections import Connection, ignored_systems
from dwhctl.project.find import find_project
from dwhctl.project.model import Project

if TYPE_CHECKING:
    from dwhctl.check.online import CheckFinding


LIST: Listing[tuple[object, ...]] = Listing(
    "name", "type", "address", "user", "password", "max_connections", "used_for"
)
IMPORT: Listing[tuple[object, ...]] = Listing("kind", "airflow_name", "name", "result", "note")
TEST: Listing[RoundTrip] = Listing("connection", "type", "database", "ok", "latency_ms", "version", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTestObject(ResultObject):
    """The result of `connections test`; its exit code is 1 when a round trip failed, or there are errors."""

    connections: tuple[RoundTrip, ...]
    """A round trip for each way in which the project uses a connection."""
    errors: tuple[str, ...]
    """What else is wrong with the databases."""
    warnings: tuple[str, ...]
    """Databases in which a load's extract would run, but which are in no shard group."""


@dataclass(frozen=True, slots=True)
class ContentsPart:
    """How many things a configuration has."""

    connections: int
    """Connections."""
    shards: int
    """Shards of all groups."""
    loads: int
    """Loads."""
    reports: int
    """Reports."""
    alerts: int
    """Channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckObject(ResultObject):
    """The result of `config check`; its exit code is 2 with errors in the files, 1 with errors of the databases."""

    project: str | None
    """The folder of the project; null when its files cannot be read."""
    contents: ContentsPart | None
    """What the configuration has; null when its files cannot be read."""
    online: bool
    """Whether the databases were checked: with `--online`, when the files have no error."""
    errors: tuple[str, ...]
    """What is wrong, each with file and key, or shard."""
    warnings: tuple[str, ...]
    """What works, and should be corrected."""
    notes: tuple[str, ...]
    """What needs no correction."""


@click.group("connections", cls=CommandGroup, epilog="\b\nExample:\n  dwhctl connections test dwh")
def command() -> None:
    """List, test and import the connections."""


@command.command("list", short_help="List the connections, passwords masked.")
@format_option
@with_settings
def list_(settings: Settings, form: str) -> None:
    """List the connections, passwords masked.

    \b
    Example:
      dwhctl connections list --format json
    """
    project = settings.open_project()
    LIST.show([_row(project, found) for found in project.connections.values()], form)


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@command.command("test", short_help="Make a round trip over each connection.")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_connections)
@format_option
@with_settings
def test(settings: Settings, names: Sequence[str], form: str) -> ExitCode:
    """Make a real round trip over each connection (or over the named ones).

    A source is tried in the database of each of its shards. Databases in which a load's extract would run, but which
    are in no shard group, are warnings. Ends with 1 if any round trip failed.

    \b
    Example:
      dwhctl connections test mssql_0 dwh
    """
    from dwhctl.check.online import OnlineCheck  # imports pyarrow

    project = settings.open_project()
    trips = round_trips(project, names)
    reached = {trip.connection for trip in trips if trip.ok}
    is_right = all(trip.ok for trip in trips)
    ungrouped = OnlineCheck(project).ungrouped(reached)
    if form == "json":
        found = _by_weight(ungrouped)
        code = ExitCode.DONE if is_right and not found.errors else ExitCode.FAILED
        return show_object(
            ConnectionTestObject(
                exit_code=code.value,
                connections=tuple(trips),
                errors=tuple(found.errors),
                warnings=tuple(found.warnings),
            )
        )
    shown = [trip for trip in trips if not (settings.quiet and trip.ok)]
    if shown or not settings.quiet:
        TEST.show(shown, form)
    for finding in ungrouped:
        tell(f"{'Error' if finding.wrong else 'Warning'}: {_line(finding)}")
        is_right = is_right and not finding.wrong
    return ExitCode.DONE if is_right else ExitCode.FAILED


@command.command("import", short_help="Add connections and variables that Airflow exported.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@choice_option(
    "--secrets",
    choices=("files", "env"),
    help_text="Where passwords go: a file each in secrets/, with which cron needs nothing else; or variables, exported"
    " by secrets/env.sh.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Replace the values here by Airflow's; keys and comments that are only here stay.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and change nothing.")
@format_option
@with_settings
def import_(
    settings: Settings,
    files: tuple[Path, ...],
    secrets: Literal["files", "env"],
    replace: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Add the connections and variables that Airflow exported to config/dwhctl.toml.

    FILE is what `airflow connections export` or `airflow variables export` wrote as JSON, or lines KEY=URI; the command
    recognizes which of them. Airflow 1.10 has no such command for connections: see dwhctl docs airflow-1-10.
    Passwords, and variables that Airflow would mask, are written to files that only this user can read. What has no
    counterpart is listed line by line. When a name is in use for something else, the command ends and changes nothing.

    \b
    Examples:
      airflow connections export connections.json --file-format json
      airflow variables export variables.json
      dwhctl connections import connections.json variables.json --dry-run
    """
    found = prepare_import(find_project(settings.project), list(files), secrets=secrets, replace=replace)
    if not dry_run:
        found.write()
    if settings.quiet:
        return
    IMPORT.show([outcome.row() for outcome in found.outcomes], form)
    if form == "table":
        for line in _import_summary(found, dry_run=dry_run):
            say(line)


def _import_summary(found: Import, *, dry_run: bool) -> Iterator[str]:
    added = found.written.additions
    yield ""
    if dry_run and added:
        yield from ("would be added to config/dwhctl.toml:", "", added)
    what = ["config/dwhctl.toml"] if found.written.changed else []
    what += [f"{counted(len(found.kept.texts), 'file')} in secrets/"] if found.kept.texts else []
    if not what:
        yield "nothing to write: all of it is there"
        return
    yield f"{'would write' if dry_run else 'wrote'} {' and '.join(what)}"
    if EXPORTS in found.kept.texts:
        yield f"before dwhctl, in a shell or in cron: . {found.root / EXPORTS}"
    if not dry_run:
        yield "next: dwhctl config check, then dwhctl connections test"


def _row(project: Project, connection: Connection) -> tuple[object, ...]:
    password = MASKED if getattr(connection, "password", None) is not None else None
    login = (connection.address(project.root), getattr(connection, "user", None), password)
    return (
        connection.name,
        connection.type,
        *login,
        connection.max_connections,
        _used_for(project, connection),
    )


def _used_for(project: Project, connection: Connection) -> str:
    name = connection.name
    shards = sum(shard.connection == name for group in project.shard_groups.values() for shard in group)
    loads = sum(load.target == name for load in project.loads.values())
    reports = sum(report.connection == name for report in project.reports.values())
    uses = ["sessions"] if project.sessions_connection == name else []
    uses += [counted(shards, "shard")] if shards else []
    uses += [f"target of {counted(loads, 'load')}"] if loads else []
    uses += [counted(reports, "report")] if reports else []
    return ", ".join(uses) or "nothing"


@click.group("config", cls=CommandGroup, epilog="\b\nExample:\n  dwhctl config check")
def config_command() -> None:
    """Check the configuration."""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@config_command.command("check", short_help="Validate every file and render every template.")
@click.option("--online", is_flag=True, help="Check the databases too: tables, columns, sizes, privileges.")
@result_option
@with_settings
def check(settings: Settings, online: bool, form: str) -> ExitCode:
    """Validate every file and render every template; each error with file, key and remedy.

    What a load or refresh would refuse is an error, as far as it shows without a server: SQL that is not one statement
    or not closed, its syntax where DuckDB runs it, an extract that is the same for every day, tables that a system
    cannot have, files of shards, certificates and sessions that are missing or of another kind.

    Files below config/ that are not read, folders of shards that are not on this machine, passwords that cannot be read
    here, passwords in the files themselves, passwords of fewer than 6 characters, files that other users can read or
    write though they should not, what travels in clear beyond this machine, and packages with a system that dwhctl has
    itself are warnings; servers whose certificate is not checked are notes.

    With --online each shard and warehouse is checked too, with one line for each thing that is wrong: "all 150 shards",
    "149 of 150 shards", or their names. Warnings: databases that are in no shard group, keys of a target that make its
    loads wait for each other, and columns that may hold values that the target's width, precision or NOT NULL refuses;
    where no value fits, it is an error. Columns that the next load will add (on_new_column) are notes. A Dask cluster
    is checked as at the start of a load. Nothing is loaded.

    \b
    Examples:
      dwhctl config check --project /srv/warehouse
      dwhctl config check --online
    """
    if form == "json":
        return show_object(_check_object(settings, online=online))
    project = settings.open_project()
    found = _check_files(project, online=online)
    for warning in found.warnings:
        tell(f"Warning: {warning}")
    for note in () if settings.quiet else found.notes:
        say(f"Note: {note}")
    if found.errors:
        raise ConfigError("\n".join(found.errors))
    wrong = _check_online(project, quiet=settings.quiet) if online else 0
    if not wrong and not settings.quiet:
        contents = asdict(_contents(project)).items()
        counts = ", ".join(counted(number, name.removesuffix("s")) for name, number in contents)
        say(f"{project.root}: the configuration is right: {counts}")
    return ExitCode.FAILED if wrong else ExitCode.DONE


class _Found(NamedTuple):
    """What is wrong, what could be better, and what needs no correction."""

    errors: list[str]
    warnings: list[str]
    notes: list[str]


def _check_files(project: Project, *, online: bool) -> _Found:
    secrets = (*unreadable_secrets(project), *short_secrets(project))
    local = local_files(project)
    # The check of the databases reports each shard's file, and continues with the others.
    folders, shards = ([], []) if online else (local.warnings, local.missing_shards)
    of_files = (*open_files(project), *unread_files(project), *folders)
    return _Found(
        [*local.problems, *shards, *template_problems(project)],
        [*project.warnings, *ignored_systems(), *secrets, *of_files, *in_clear(project)],
        list(unchecked(project)),
    )


def _check_databases(project: Project) -> Iterator[CheckFinding]:
    """Yield what is to be said about the cluster and the databases."""
    from dwhctl.check.online import CheckFinding, OnlineCheck  # imports pyarrow
    from dwhctl.load.cluster_client import cluster_problem

    if project.executor.type == "dask" and (problem := cluster_problem(project.executor)):
        yield CheckFinding("executor", problem)
    yield from OnlineCheck(project).findings()


def _check_object(settings: Settings, *, online: bool) -> CheckObject:
    try:
        project = settings.open_project()
    except ConfigError as error:
        return CheckObject(
            exit_code=error.exit_code.value, project=None, contents=None, online=False,
            errors=tuple(str(error).split("\n")), warnings=(), notes=(),
        )  # fmt: skip
    found = _check_files(project, online=online)
    code, is_online = ExitCode.USAGE if found.errors else ExitCode.DONE, online and not found.errors
    if is_online:
        of_databases = _by_weight(_check_databases(project))
        code = ExitCode.FAILED if of_databases.errors else ExitCode.DONE
        found = _Found(*(mine + theirs for mine, theirs in zip(found, of_databases, strict=True)))
    errors, warnings, notes = map(tuple, found)
    return CheckObject(
        exit_code=code.value, project=str(project.root), contents=_contents(project), online=is_online,
        errors=errors, warnings=warnings, notes=notes,
    )  # fmt: skip


def _by_weight(findings: Iterable[CheckFinding]) -> _Found:
    found = _Found([], [], [])
    for finding in findings:
        found[0 if finding.wrong else 2 if finding.note else 1].append(_line(finding))
    return found


def _check_online(project: Project, *, quiet: bool) -> int:
    """Show what is wrong with the databases and the cluster; return how many errors there are."""
    wrong, notes = 0, list[str]()
    for finding in _check_databases(project):
        if finding.wrong:
            wrong += 1
            say(_line(finding))
        elif finding.note:
            notes.append(f"Note: {_line(finding)}")
        else:
            tell(f"Warning: {_line(finding)}")
    for note in () if quiet else notes:
        say(note)
    return wrong


def _line(finding: CheckFinding) -> str:
    return one_line(f"{finding.where}: {finding.what}")


def _contents(project: Project) -> ContentsPart:
    shards = sum(len(group) for group in project.shard_groups.values())
    return ContentsPart(
        len(project.connections), shards, len(project.loads), len(project.reports), len(project.alerts)
    )
