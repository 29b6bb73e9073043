"""`dwhctl config check`: whether every file of the project is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dwhctl.cli.lazy import Group
from dwhctl.cli.options import Settings, common_options, pass_settings

if TYPE_CHECKING:
    from dwhctl.project.model import Project


@click.group("config", cls=Group, epilog="\b\nExample:\n  dwhctl config check")
def command() -> None:
    """Check the configuration."""


@command.command("check", short_help="Validate every file and render every template.")
@common_options
@pass_settings
def check(settings: Settings) -> None:
    """Validate every file and render every template; each error with file, key and remedy.

    Passwords that cannot be read here, and passwords in the files themselves, are warnings.

    \b
    Example:
      dwhctl config check --project /srv/warehouse
    """
    from dwhctl.cli.config_check import template_problems, unreadable_secrets
    from dwhctl.cli.output import say, tell
    from dwhctl.errors import ConfigError

    project = settings.open_project()
    for warning in (*project.warnings, *unreadable_secrets(project)):
        tell(f"Warning: {warning}")
    problems = template_problems(project)
    if problems:
        raise ConfigError("\n".join(problems))
    if not settings.quiet:
        say(f"{project.root}: the configuration is right: {_contents(project)}")


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
