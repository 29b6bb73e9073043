"""What commands share: options, kinds of values, and what a shell may complete."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dwhctl.project.model import Project

    _TimeType = click.ParamType[timedelta]
else:
    _TimeType = click.ParamType  # click before 8.4 takes no type here

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
Completion = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]
DATE_HELP = "YYYY-MM-DD, today, yesterday or -3d (three days ago), in the project's time zone."


@dataclass
class Settings:
    """What the shared options say, for every command and for the end of all."""

    project: Path | None = None
    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    def open_project(self) -> Project:
        """Find and read the project; what is written from then on is for whom it says. Raise ConfigError."""
        from dwhctl.core.files import set_group_access
        from dwhctl.core.words import use_zone
        from dwhctl.project.find import find_project
        from dwhctl.project.read import read_project
        from dwhctl.runtime.messages import make_logging_printable

        make_logging_printable()
        project = read_project(find_project(self.project))
        set_group_access(project.group_access)
        use_zone(project.zone)
        return project


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value:  # what stands before the command holds unless the command says otherwise
        setattr(settings, str(parameter.name), value)
    if settings.verbose and settings.quiet:
        raise click.UsageError("--verbose and --quiet contradict each other; give one of them.", context)


_COMMON = (
    click.option(
        "--project",
        type=click.Path(path_type=Path),
        metavar="DIR",
        expose_value=False,
        callback=_keep,
        help="The project; else DWHCTL_PROJECT, else the nearest one upwards from here.",
    ),
    click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_keep, help="Tell more."),
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_keep, help="Only failures."),
    click.option(
        "--debug", is_flag=True, expose_value=False, callback=_keep, help="Show where an error comes from."
    ),
)


def common_options(function: AnyFunction) -> AnyFunction:
    """Give a command the options that every command has."""
    for option in reversed(_COMMON):
        function = option(function)
    return function


def scheduled_option(function: AnyFunction) -> AnyFunction:
    """Give a command that cron starts the option by which the crontab's lines say so."""
    return click.option(
        "--scheduled",
        is_flag=True,
        help="In the lines of `crontab install`: send wrong usage, and a lock held three times in a row, to the alert"
        " channels.",
    )(function)


def format_option(function: AnyFunction) -> AnyFunction:
    """Give a listing its --format."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(("table", "json", "csv")),
        default="table",
        show_default=True,
        help="How the listing is written.",
    )(function)


class Duration(_TimeType):
    """A time such as 30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read the text in the words of the configuration."""
        from dwhctl.core.errors import UsageError
        from dwhctl.project.days import parse_duration

        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def complete(names: Callable[[Project], Iterable[str]]) -> Completion:
    """Complete with names of the project; whatever is wrong with it, a shell gets nothing and no noise."""

    def completion(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            known = names(context.ensure_object(Settings).open_project())
        except Exception:
            return []
        return [CompletionItem(name) for name in sorted(set(known)) if name.startswith(incomplete)]

    return completion


def shard_names(project: Project) -> Iterable[str]:
    """Name every shard of the project."""
    return (shard.name for group in project.shard_groups.values() for shard in group)


complete_loads = complete(lambda project: project.loads)
complete_loads_and_reports = complete(lambda project: (*project.loads, *project.reports))
complete_reports = complete(lambda project: project.reports)
complete_shards = complete(shard_names)
complete_connections = complete(lambda project: project.connections)


class CommandEntry(NamedTuple):
    """The module of a command, its line in the help of the group, and the name it has in the module."""

    module: str
    summary: str
    attribute: str = "command"


class CommandGroup(click.Group):
    """A group that says which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument; UsageError names the nearest one."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            from dwhctl.core.words import nearest, quoted

            ctx.fail(f"No such command {quoted(name)}; {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
    """A group that prints its help without importing its commands."""

    table: Mapping[str, CommandEntry] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the commands in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.{entry.attribute} is no command")
        command.short_help = entry.summary
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands' lines from the table."""
        if not self.table:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.table.items()])
