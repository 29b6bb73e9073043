"""`dwhctl render`: the SQL of one slice exactly as it would run."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads,
    complete_shards,
    pass_settings,
)

if TYPE_CHECKING:
    from dwhctl.project.model import Load, Project, Shard


@click.command("render")
@click.argument("load", shell_complete=complete_loads)
@click.option("--date", "day", metavar="D", required=True, help=f"The day: {DATE_HELP}")
@click.option("--shard", metavar="S", shell_complete=complete_shards, help="The shard; default: the first.")
@common_options
@pass_settings
def command(settings: Settings, load: str, day: str, shard: str | None) -> None:
    """Show the SQL of LOAD for the day D exactly as it would run, with its bound values.

    \b
    Example:
      dwhctl render orders --date yesterday --shard abakan
    """
    from dwhctl.cli.output import say, write_out
    from dwhctl.project.names import find_load
    from dwhctl.project.secrets import mask
    from dwhctl.project.slices import make_slice, resolve_day
    from dwhctl.project.templates import render_extract

    project = settings.open_project()
    found = find_load(project, load)
    chosen = _shard(project, found, shard)
    slice = make_slice(project, found, chosen, resolve_day(day, project.zone))
    query = render_extract(project, found, chosen, slice)
    if not settings.quiet:
        where = f"database {chosen.database} on {chosen.connection}"
        say(f"-- load {found.name}, shard {chosen.name}, day {slice.day}: {where}")
        for name, value in sorted(query.binds.items(), reverse=True):
            say(f"-- :{name} = {value.isoformat(sep=' ')}")
    with suppress(BrokenPipeError):  # the reader has seen enough
        write_out(mask(query.sql.rstrip()))


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
