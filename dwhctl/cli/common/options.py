"""What commands share: options, days and ranges, completion, and groups that import a command when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from dwhctl.core.errors import UsageError
from dwhctl.core.files import set_group_access
from dwhctl.core.secrets import make_logging_printable
from dwhctl.core.waiting import delayed_signals
from dwhctl.core.words import nearest, quoted, use_zone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem

    from dwhctl.project.model import Project

    _TimeType = click.ParamType[timedelta]
else:
    _TimeType = click.ParamType  # click before 8.4 takes no type here

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
Option = Callable[[Any], Any]
Completion = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]
DATE_HELP = "YYYY-MM-DD, today, yesterday or -3d (three days ago), in the project's time zone."


@dataclass
class Settings:
    """The values of the options that every command has."""

    project: Path | None = None
    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    def open_project(self) -> Project:
        """Find and read the project, and use its group access and time zone from then on. Raise ConfigError."""
        from dwhctl.project.find import find_project

        with delayed_signals():
            from dwhctl.project.read import read_project

        make_logging_printable()
        project = read_project(find_project(self.project))
        project = replace(project, place=project.root if self.project else None)
        use_project(project)
        return project


def use_project(project: Project) -> None:
    """Write files for the project's group, and times in its zone, from now on."""
    set_group_access(project.group_access)
    use_zone(project.zone)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value:  # an option before the command holds unless the command has it too
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
    click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=_keep, help="Show more detail."
    ),
    click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_keep, help="Show only failures."
    ),
    click.option(
        "--debug", is_flag=True, expose_value=False, callback=_keep, help="Show where an error comes from."
    ),
)


def with_options(*options: Option) -> Option:
    """Return a decorator that gives a command these options, in this order."""

    def decorate(function: AnyFunction) -> AnyFunction:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


common_options = with_options(*_COMMON)


def with_settings(function: Callable[..., Any]) -> Any:
    """Add the common options to a command; its first argument is their Settings."""
    return common_options(pass_settings(function))


scheduled_option = click.option(
    "--scheduled",
    is_flag=True,
    help="In the lines of `crontab install`: send wrong usage, and a lock held three times in a row, to the alert"
    " channels.",
)


def choice_option(*names: str, choices: Sequence[str], help_text: str) -> Option:
    """Return an option with these values, of which the first is the default."""
    kind = click.Choice(tuple(choices))
    return click.option(*names, type=kind, default=choices[0], show_default=True, help=help_text)


def form_option(*forms: str, help_text: str) -> Option:
    """Return the --format of a command."""
    return choice_option("--format", "form", choices=forms, help_text=help_text)


format_option = form_option("table", "json", "csv", help_text="How the listing is written.")
result_option = form_option(
    "text", "json", help_text="How the result is written: as text, or as one JSON object (dwhctl docs json)."
)


def limit_option(default: int, help_text: str, most: int = 1_000_000) -> Option:
    return click.option(
        "--limit",
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        metavar="N",
        help=help_text,
    )


def days_option(help_text: str, most: int, default: int | None = None) -> Option:
    days = click.IntRange(1, most)
    return click.option(
        "--days", type=days, default=default, show_default=default is not None, metavar="N", help=help_text
    )


class Duration(_TimeType):
    """A time such as 30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read the text as the configuration does."""
        from dwhctl.project.days import parse_duration

        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def complete(names: Callable[[Project], Iterable[str]]) -> Completion:
    """Return a completion with names of the project; without a valid project it is empty and silent."""

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


complete_loads = complete(lambda project: project.loads)
complete_loads_and_reports = complete(lambda project: (*project.loads, *project.reports))
complete_reports = complete(lambda project: project.reports)
complete_shards = complete(
    lambda project: (shard.name for group in project.shard_groups.values() for shard in group)
)
complete_connections = complete(lambda project: project.connections)
shards_option = click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
wait_option = click.option(
    "--wait", type=Duration(), default="0s", metavar="DURATION", help="Wait so long for a lock, such as 30m."
)


# The period that a command works on: one day (`--date`), or a range of days (`-s`, `-e`)


class _Day(click.types.StringParamType):
    """A day as text, which is resolved in the project's zone; its error when it is missing has an example."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        return f"For example: {param.opts[-1]} yesterday"


def date_option(what: str, default: str | None = None) -> Option:
    """Return the --date of a command; without a default it is required."""
    # click takes an explicit None for a default.
    more: dict[str, Any] = {"default": default, "show_default": True} if default else {"required": True}
    return click.option("--date", "day", type=_Day(), metavar="D", help=f"{what}: {DATE_HELP}", **more)


def start_option(what: str = "The first day", *, required: bool = False) -> Option:
    text = f"{what}: {DATE_HELP}"
    return click.option("-s", "--start", type=_Day(), metavar="D", required=required, help=text)


def end_option(rest: str = ".", *, required: bool = False) -> Option:
    text = f"The last day, included, in the same forms{rest}"
    return click.option("-e", "--end", type=_Day(), metavar="D", required=required, help=text)


def chosen_day(
    project: Project, option: str, text: str, now: datetime | None = None, *, ahead: int = 1
) -> date:
    """Return the day of an option. Raise UsageError for one that is more than so many days ahead."""
    from dwhctl.project.days import resolve_day

    now = now or datetime.now(project.zone)
    day = resolve_day(text, project.zone, now)
    today = now.astimezone(project.zone).date()
    if day > today + timedelta(days=ahead):
        remedy = "; give a day up to tomorrow" if ahead else ""
        raise UsageError(f"{option} {day} lies in the future: today is {today} in {project.timezone}{remedy}")
    return day


def chosen_days(project: Project, start: str, end: str, *, newest_first: bool = False) -> tuple[date, ...]:
    """Return the days of --start and --end, both included. Raise UsageError for a range that cannot be."""
    from dwhctl.runtime.plan import days_between

    now = datetime.now(project.zone)
    first, last = (
        chosen_day(project, option, text, now) for option, text in (("--start", start), ("--end", end))
    )
    return days_between(first, last, newest_first=newest_first)


class CommandEntry(NamedTuple):
    """The module of a command within the group's package, and its line in the help of the group."""

    module: str
    summary: str


class CommandGroup(click.Group):
    """A group whose error for an unknown command has the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first argument. Raise UsageError with the nearest one."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            ctx.fail(f"No such command {quoted(name)}; {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
    """A group that prints its help without importing its commands."""

    package = "dwhctl.cli"
    table: Mapping[str, CommandEntry] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command: the module's `<name>_command`, or its only `command`."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        with delayed_signals():
            module = importlib.import_module(f"{self.package}.{entry.module}")
        own = f"{cmd_name.replace('-', '_')}_command"
        command: click.Command = getattr(module, own if hasattr(module, own) else "command")
        command.short_help = entry.summary
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        if not self.table:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.table.items()])
