"""`dwhctl init`: a commented empty project."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import click

from dwhctl.cli.common.options import Settings, choice_option, with_settings
from dwhctl.cli.common.output import say
from dwhctl.core.errors import UsageError
from dwhctl.core.files import create_whole, read_text

#: The files of a project, and the templates that they are made from.
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
@choice_option(
    "--source",
    choices=tuple(SOURCES),
    help_text="Where the shards are: databases of SQL Server, or DuckDB files.",
)
@choice_option(
    "--target",
    choices=tuple(TARGETS),
    help_text="What the warehouse is: Vertica, or a DuckDB file.",
)
@with_settings
def command(settings: Settings, directory: Path, source: str, target: str) -> None:
    """Make a commented empty project in DIR (default: here).

    Four places in it are marked EDIT: the addresses, the key, the query and the table. When they are edited, it loads.
    Existing files are never overwritten.

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
    program = program_name()
    say(f"A new project in {directory.absolute()}:")
    for path in written:
        say(f"  {path}")
    say("\nNext:")
    for line in (
        *([f"cd {shlex.quote(str(directory))}"] if directory != Path() else []),
        "# change what is marked EDIT 1 to EDIT 4: grep -rn EDIT config sql",
        *(f"export {name}=..." for name in passwords),
        f"{program} config check",
        f"{program} connections test",
        f"{program} load --date yesterday --dry-run",
        f"{program} load --date yesterday",
    ):
        say(f"  {line}")


def read_template(kind: str, name: str) -> str:
    return (resources.files(__package__) / "templates" / kind / name).read_text(encoding="utf-8")


def fill_template(kind: str, name: str, **names: str) -> str:
    """Render a template of the package: <% %> and << >> are its own, {{ }} and {% %} stay for the project."""
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
    """Write the files and return their paths. Raise UsageError, and write nothing, when one exists already.

    After a kill some of them are there as they are to be: then the others are added.
    """
    existing = [path for path in texts if (folder / path).exists()]
    if len(existing) == len(texts) or not all(_holds(folder / path, texts[path]) for path in existing):
        raise _exist(folder, existing)
    for path in texts:
        if path in existing:
            continue
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            create_whole(folder / path, texts[path])
        except FileExistsError:
            # Another process makes a project here: the first file decides whose it is.
            raise _exist(folder, [path]) from None
        except OSError as error:
            raise UsageError(
                f"cannot write {folder / path}: {error.strerror}; give a folder that this user may write to"
            ) from None
    return list(texts)


def _holds(path: Path, text: str) -> bool:
    try:
        return read_text(path) == text
    except (OSError, UnicodeDecodeError):
        return False


def _exist(folder: Path, paths: Sequence[str]) -> UsageError:
    return UsageError(
        f"{folder.absolute()} already has {', '.join(paths)}, which dwhctl does not overwrite;"
        " give another folder, or move these files away"
    )


def program_name() -> str:
    """Return the command by which a shell in any folder starts this dwhctl."""
    started = Path(sys.argv[0]).absolute()
    if started.name != "dwhctl":
        return f"{shlex.quote(sys.executable)} -P -m dwhctl"
    found = shutil.which("dwhctl")
    if found and Path(found).resolve() == started.resolve():
        return "dwhctl"
    return shlex.quote(str(started))
