"""`dwhctl config check`: whether every file of the project is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.lazy import Group
from dwhctl.cli.options import Settings, common_options, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.project.model import Project


@click.group("config", cls=Group, epilog="\b\nExample:\n  dwhctl config check")
def command() -> None:
    """Check the configuration."""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@command.command("check", short_help="Validate every file and render every template.")
@click.option("--online", is_flag=True, help="Ask the databases too: tables, columns, sizes, privileges.")
@common_options
@pass_settings
def check(settings: Settings, online: bool) -> ExitCode:
    """Validate every file and render every template; each error with file, key and remedy.

    What a load or refresh would refuse is an error, as far as it shows without a server: SQL that is not one statement
    or not closed, its syntax where DuckDB runs it, an extract that is the same for every day, tables that a system
    cannot have, files of shards, certificates and sessions that are not there or of another kind.

    Files below config/ that are not read, folders of shards that are not on this machine, passwords that cannot be read
    here, passwords in the files themselves, passwords of fewer than 6 characters, files that other users can read or
    write though they should not, and what travels in clear beyond this machine are warnings; servers whose certificate
    is not checked are notes.

    With --online each shard and warehouse is asked as well, one line for each thing that is wrong: "all 150 shards",
    "149 of 150 shards", or their names. Warnings: databases that are in no shard group, keys of a target that make its
    loads wait for each other, and columns that may hold values that the target's width, precision or NOT NULL refuses;
    where no value fits, it is an error. Columns that the next load will add (on_new_column) are notes. Nothing is
    loaded.

    \b
    Examples:
      dwhctl config check --project /srv/warehouse
      dwhctl config check --online
    """
    from dwhctl.cli.config_check import short_secrets, template_problems, unreadable_secrets
    from dwhctl.cli.config_local import local_files, unread_files
    from dwhctl.cli.output import say, tell
    from dwhctl.errors import ConfigError
    from dwhctl.project.transport import in_clear, unchecked
    from dwhctl.runs.open_files import open_files

    project = settings.open_project()
    secrets = (*unreadable_secrets(project), *short_secrets(project))
    local = local_files(project)
    # A look at the databases tells of each shard's file itself, and goes on with the others.
    folders, shards = ([], []) if online else (local.warnings, local.missing_shards)
    of_files = (*open_files(project), *unread_files(project), *folders)
    for warning in (*project.warnings, *secrets, *of_files, *in_clear(project)):
        tell(f"Warning: {warning}")
    for note in () if settings.quiet else unchecked(project):
        say(f"Note: {note}")
    problems = [*local.problems, *shards, *template_problems(project)]
    if problems:
        raise ConfigError("\n".join(problems))
    wrong = _look_online(project, quiet=settings.quiet) if online else 0
    if not wrong and not settings.quiet:
        say(f"{project.root}: the configuration is right: {_contents(project)}")
    return ExitCode.FAILED if wrong else ExitCode.DONE


def _look_online(project: Project, *, quiet: bool) -> int:
    """Show what is wrong with the databases, and how much."""
    from dwhctl.cli.output import one_line, say, tell
    from dwhctl.runs.look import look

    wrong, notes = 0, list[str]()
    for finding in look(project):
        line = one_line(f"{finding.where}: {finding.what}")
        if finding.wrong:
            wrong += 1
            say(line)
        elif finding.note:
            notes.append(f"Note: {line}")
        else:
            tell(f"Warning: {line}")
    for note in () if quiet else notes:
        say(note)
    return wrong


def _contents(project: Project) -> str:
    from dwhctl.cli.output import counted

    shards = sum(len(group) for group in project.shard_groups.values())
    things = (
        (len(project.connections), "connection"),
        (shards, "shard"),
        (len(project.loads), "load"),
        (len(project.reports), "report"),
        (len(project.alerts), "alert"),
    )
    return ", ".join(counted(number, thing) for number, thing in things)
