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
    "sql/orders/create.vertica.sql": "create.vertica.sql",
}


@click.command("init")
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default=".")
@common_options
@pass_settings
def command(settings: Settings, directory: Path) -> None:
    """Make a commented empty project in DIR (default: here), with SQL Server and Vertica in it.

    Files that are there already are never overwritten.

    \b
    Example:
      dwhctl init warehouse
    """
    from dwhctl.cli.new_files import read_template, write_new_files

    texts = {path: read_template("init", name) for path, name in FILES.items()}
    written = write_new_files(directory, {**texts, "state/.gitignore": "*\n"})
    if not settings.quiet:
        _tell_what_next(directory, written)


def _tell_what_next(directory: Path, written: list[str]) -> None:
    from dwhctl.cli.output import say

    say(f"A new project in {directory.absolute()}:")
    for path in written:
        say(f"  {path}")
    say()
    say("Edit config/dwhctl.toml, export the passwords that it names, and go on with:")
    if directory != Path():
        say(f"  cd {shlex.quote(str(directory))}")
    say("  dwhctl config check")
    say("  dwhctl connections test")
    say("  dwhctl load --date yesterday --dry-run")
