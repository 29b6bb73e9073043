"""What commands share: options, kinds of values, and what a shell may complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

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
        from dwhctl.private import set_group_access
        from dwhctl.project.find import find_project
        from dwhctl.project.read import read_project
        from dwhctl.runs.libraries import speak_plainly
        from dwhctl.times import use_zone

        speak_plainly()
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
        from dwhctl.errors import UsageError
        from dwhctl.project.slices import parse_duration

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
