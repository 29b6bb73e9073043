"""`dwhctl init`: a commented empty project."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from dwhctl.cli.options import Settings, common_options, pass_settings

#: Where each file of the package stands in a project.
FILES = {
    "config/dwhctl.toml": "dwhctl.toml",
    "config/loads/orders.toml": "orders.toml",
    "config/reports.toml": "reports.toml",
    "sql/orders/extract.sql": "extract.sql",
    "sql/orders/create.{target}.sql": "create.sql",
    "sql/reports/city_orders.{target}.sql": "city_orders.sql",
}
#: The variables that a new project reads passwords from.
SOURCES = {"mssql": ("MSSQL_0_PASSWORD",), "duckdb": ()}
TARGETS = {"vertica": ("DWH_PASSWORD",), "duckdb": ()}


@click.command("init")
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default=".")
@click.option(
    "--source",
    type=click.Choice(tuple(SOURCES)),
    default="mssql",
    show_default=True,
    help="Where the shards are: databases of SQL Server, or DuckDB files.",
)
@click.option(
    "--target",
    type=click.Choice(tuple(TARGETS)),
    default="vertica",
    show_default=True,
    help="What the warehouse is: Vertica, or a DuckDB file.",
)
@common_options
@pass_settings
def command(settings: Settings, directory: Path, source: str, target: str) -> None:
    """Make a commented empty project in DIR (default: here).

    Four places in it are marked EDIT: the addresses, the key, the query and the table. After them it loads. Files that
    are there already are never overwritten.

    \b
    Examples:
      dwhctl init warehouse
      dwhctl init warehouse --source duckdb --target duckdb
    """
    from dwhctl.cli.new_files import fill_template, write_new_files

    texts = {
        path.format(target=target): fill_template("init", name, source=source, target=target)
        for path, name in FILES.items()
    }
    written = write_new_files(directory, {**texts, "state/.gitignore": "*\n"})
    if not settings.quiet:
        _say_what_next(directory, written, (*SOURCES[source], *TARGETS[target]))


def _say_what_next(directory: Path, written: list[str], passwords: tuple[str, ...]) -> None:
    from dwhctl.cli.demo import program_name
    from dwhctl.cli.output import say

    program = program_name()
    say(f"A new project in {directory.absolute()}:")
    for path in written:
        say(f"  {path}")
    say()
    say("Next:")
    if directory != Path():
        say(f"  cd {shlex.quote(str(directory))}")
    say("  # change what is marked EDIT 1 to EDIT 4: grep -rn EDIT config sql")
    for name in passwords:
        say(f"  export {name}=...")
    say(f"  {program} config check")
    say(f"  {program} connections test")
    say(f"  {program} load --date yesterday --dry-run")
    say(f"  {program} load --date yesterday")
