"""`dwhctl init`: a commented empty project."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.options import Settings, common_options, pass_settings
from dwhctl.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


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

    texts = {
        path.format(target=target): fill_template("init", name, source=source, target=target)
        for path, name in FILES.items()
    }
    written = write_new_files(directory, {**texts, "state/.gitignore": "*\n"})
    if not settings.quiet:
        _say_what_next(directory, written, (*SOURCES[source], *TARGETS[target]))


def _say_what_next(directory: Path, written: list[str], passwords: tuple[str, ...]) -> None:
    from dwhctl.cli.common.output import say

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


def read_template(kind: str, name: str) -> str:
    """Read a file that travels with the package."""
    return (
        resources.files("dwhctl.cli.new_project")
        .joinpath("templates", kind, name)
        .read_text(encoding="utf-8")
    )


def fill_template(kind: str, name: str, **names: str) -> str:
    """Render a file that travels with the package: <% %> and << >> are ours, {{ }} and {% %} stay for the project."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - no HTML, and only our own values
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.from_string(read_template(kind, name)).render(names)


def write_new_files(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Write the files and name them; UsageError, and nothing written, when one is there already."""
    there = [path for path in texts if (folder / path).exists()]
    if there:
        raise UsageError(
            f"{folder.absolute()} already has {', '.join(there)}, which dwhctl does not overwrite;"
            " name another folder, or move these files away"
        )
    try:
        for path, text in texts.items():
            _write(folder / path, text)
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename}: {error.strerror}; name a folder that this user may write"
        ) from None
    return list(texts)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def program_name() -> str:
    """Name dwhctl so that a shell in any folder finds the one that runs now."""
    started = Path(sys.argv[0]).absolute()
    if started.name != "dwhctl":
        return f"{shlex.quote(sys.executable)} -P -m dwhctl"
    found = shutil.which("dwhctl")
    if found and Path(found).resolve() == started.resolve():
        return "dwhctl"
    return shlex.quote(str(started))
