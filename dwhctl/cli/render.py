"""`dwhctl render`: the SQL of a load's slice, or of a report, as it would run."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads_and_reports,
    complete_shards,
    pass_settings,
)
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from dwhctl.project.model import Load, Project, Shard
    from dwhctl.runs.rendering import Part

_PARTS = ("extract", "create", "source", "publish", "all")


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@click.command("render")
@click.argument("name", shell_complete=complete_loads_and_reports)
@click.option("--date", "day", metavar="D", required=True, help=f"The day: {DATE_HELP}")
@click.option(
    "--shard", metavar="S", shell_complete=complete_shards, help="A load's shard; default: the first."
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(_PARTS),
    help="What to show, repeatable; default: the extract of a load, all of a report.",
)
@click.option("--create", is_flag=True, help="Short for --part create.")
@click.option(
    "--online", is_flag=True, help="Ask the warehouse for the columns that the publish statements list."
)
@common_options
@pass_settings
def command(
    settings: Settings,
    name: str,
    day: str,
    shard: str | None,
    parts: tuple[str, ...],
    create: bool,
    online: bool,
) -> None:
    """Show the SQL of the load or report NAME for the day D as it would run, with its bound values.

    A load has an extract, a create and what publishes a slice; a report has a create, a source and what replaces the
    table's rows. Comments say where each runs. Nothing is connected to without --online: what only the warehouse knows,
    and what each attempt chooses, is shown as <...> then, and COMMIT as a comment. Nothing is run but what asks for
    columns.

    \b
    Examples:
      dwhctl render orders --date yesterday --shard abakan
      dwhctl render orders --date yesterday --part publish --online
      dwhctl render city_orders --date yesterday
    """
    from dwhctl.cli.output import say
    from dwhctl.project.slices import resolve_day

    project = settings.open_project()
    wanted = (*parts, "create") if create else parts
    shown = _shown(project, name, shard, wanted, resolve_day(day, project.zone), online)
    for number, part in enumerate(shown):
        if number:
            say()
        alone = len(shown) == 1 and part.name in ("extract", "source")
        _show(part, comments=not settings.quiet, ended=not alone)


def _show(part: Part, *, comments: bool, ended: bool) -> None:
    from dwhctl.cli.output import one_line, say, write_out
    from dwhctl.project.secrets import mask

    def comment(*lines: str) -> None:
        for line in lines if comments else ():
            say(f"-- {one_line(line)}")

    comment(part.about, *part.notes)
    for one in part.statements[:-1] if part.has_placeholders else part.statements:
        comment(*([one.about] if one.about else []), *map(_value, one.values.items()))
        with suppress(BrokenPipeError):  # the reader has seen enough
            write_out(mask(_ended(one.sql) if ended else one.sql.rstrip()))
    if part.has_placeholders:
        comment(f"{part.statements[-1].sql} is a comment here, because of the placeholders above")


def _shown(
    project: Project, name: str, shard: str | None, parts: Sequence[str], day: date, online: bool
) -> list[Part]:
    """Render the parts that are wanted, in the order in which they run."""
    from dwhctl.errors import UsageError
    from dwhctl.project.model import Load
    from dwhctl.project.names import find_load_or_report
    from dwhctl.runs.rendering import load_parts, report_parts

    found = find_load_or_report(project, name)
    if isinstance(found, Load):
        kind = "load"
        rendered = load_parts(project, found, _shard(project, found, shard), day, online=online)
        default = ["extract"]
    else:
        if shard is not None:
            raise UsageError(f"{name} is a report, which has no shards; leave --shard out")
        kind, rendered = "report", report_parts(project, found, day, online=online)
        default = list(rendered)
    wanted = list(rendered) if "all" in parts else list(parts) or default
    for part in wanted:
        if part not in rendered:
            raise UsageError(f"{name} is a {kind}, which has no {part}; its parts are {', '.join(rendered)}")
        if part == "create" and found.create is None and part in parts:
            raise UsageError(f"the {kind} {name} has no create; its table has to be there")
    return [render() for part, render in rendered.items() if part in wanted]


def _value(named: tuple[str, object]) -> str:
    """Write a bound value: a moment as a person does, a list as SQL does."""
    name, value = named
    name = name if name.startswith(":") else f"${name}"
    if isinstance(value, datetime):
        return f"{name} = {value.isoformat(sep=' ')}"
    if isinstance(value, list):
        quoted = ("'" + str(each).replace("'", "''") + "'" for each in value)
        return f"{name} = [{', '.join(quoted)}]"
    return f"{name} = {value}"


def _ended(sql: str) -> str:
    """End a statement by a semicolon, which a comment in its last line must not swallow."""
    sql = sql.rstrip()
    return f"{sql}\n;" if "--" in sql.rpartition("\n")[2] else f"{sql};"


def _shard(project: Project, load: Load, name: str | None) -> Shard:
    from dwhctl.errors import UsageError
    from dwhctl.project.names import meant
    from dwhctl.project.words import quoted

    shards = {shard.name: shard for shard in project.shards_of(load)}
    if not shards:
        raise UsageError(f"the shard group '{load.shards}' of the load '{load.name}' is empty")
    if name is None:
        return next(iter(shards.values()))
    if name not in shards:
        raise UsageError(
            f"the load '{load.name}' has no shard {quoted(name)}; {meant(project, name, shards)}"
        )
    return shards[name]
