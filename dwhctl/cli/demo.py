"""`dwhctl demo`: a new project with data in it, and a day of it loaded."""

from __future__ import annotations

import shlex
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import Settings, common_options, pass_settings
from dwhctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.runs.events import RunReport

#: Where each file of the package stands in the project.
FILES = {
    "config/dwhctl.toml": "dwhctl.toml",
    "config/loads/orders.toml": "orders.toml",
    "sql/orders/extract.sql": "extract.sql",
    "sql/orders/create.sql": "create.sql",
}
#: What the next commands are, and why one would type them.
NEXT = (
    ("load --date today", "load today's rows so far; again later, the slices are replaced"),
    ("load --date yesterday --lookback 20 --only-missing", "catch up on the days before"),
    ("load --date yesterday --shard 'k*' --dry-run", "see what would be loaded"),
    ("render orders --date yesterday --shard tomsk", "see the SQL of a slice"),
    ("connections test", "make a round trip over every connection"),
    ("config check", "validate config/ and sql/ after you changed them"),
)
SHOWN = 5


@click.command("demo")
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default="demo")
@common_options
@pass_settings
def command(settings: Settings, directory: Path) -> ExitCode:
    """Make a project in DIR (default: ./demo), fill it with data and load a day of it.

    Three servers with four city databases each, a warehouse and the sessions table: all of them files in DIR.

    \b
    Example:
      dwhctl demo /tmp/demo
    """
    from dwhctl.cli.load import load_and_show
    from dwhctl.cli.output import say
    from dwhctl.runs.load import exit_code_of
    from dwhctl.runs.plan import LoadRequest

    project = make_project(directory, settings)
    yesterday = datetime.now(project.zone).date() - timedelta(days=1)
    if not settings.quiet:
        say(f"$ dwhctl load --date yesterday    # {yesterday}")
    request = LoadRequest(days=(yesterday,), command=f"dwhctl demo {shlex.quote(str(directory))}")
    report = load_and_show(project, request, settings)
    code = exit_code_of(report)
    if code is ExitCode.DONE and not settings.quiet:
        _show_sessions(project)
        _show_warehouse(project, yesterday)
        _show_digest(project, report)
        _say_next(directory)
    return code


def make_project(folder: Path, settings: Settings) -> Project:
    """Write the project's files and databases. Raise UsageError when the folder is in use."""
    from dwhctl.cli.demo_data import first_day, make_shards
    from dwhctl.cli.new_files import read_template, write_new_files
    from dwhctl.cli.output import counted, say
    from dwhctl.project.read import read_project

    _refuse_used(folder)
    write_new_files(folder, {path: read_template("demo", name) for path, name in FILES.items()})
    now = datetime.now(read_project(folder).zone)
    _set_start_date(folder / "config/loads/orders.toml", first_day(now.date()))
    project = read_project(folder)
    orders = make_shards(project, now)
    if not settings.quiet:
        shards = sum(len(group) for group in project.shard_groups.values())
        start = first_day(now.date())
        has = f"{counted(orders, 'order')} in {shards} city databases, from {start} on"
        say(f"{folder.absolute()}: a project with {has}")
        say()
    return project


def _refuse_used(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder.absolute()} is no folder; name another one: dwhctl demo DIR")
    if any(folder.iterdir()):
        quoted = shlex.quote(str(folder))
        raise UsageError(
            f"{folder.absolute()} is not empty; name another folder (dwhctl demo DIR),"
            f" or remove this one first if it is an old demo: rm -r {quoted}"
        )


def _set_start_date(path: Path, day: date) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("2020-02-08", day.isoformat()), encoding="utf-8")


def _show_sessions(project: Project) -> None:
    from dwhctl.cli.output import say, show
    from dwhctl.sessions import open_store

    with open_store(project.sessions) as store:
        sessions = store.recent(SHOWN)
    say()
    say(f"The sessions table has a row for each attempt at a slice; the newest {SHOWN}:")
    columns = ("id", "task_name", "slice_date", "state", "loaded_rows", "started")
    show(columns, [(s.id, s.task_name, s.day, s.state.value, s.loaded_rows, s.started) for s in sessions])


def _show_warehouse(project: Project, day: date) -> None:
    import duckdb

    from dwhctl.cli.output import say, show

    path = getattr(project.connections["warehouse"], "path")  # noqa: B009
    with duckdb.connect(str(path), read_only=True) as db:
        count = db.sql("SELECT count(*), count(DISTINCT etl_source) FROM stage.orders").fetchall()[0]
        rows = db.sql(
            "SELECT etl_source, etl_id, hash_id, id, start_time, customer, price FROM stage.orders"
            f" ORDER BY start_time LIMIT {SHOWN}"
        )
        say()
        held = f"{count[0]:,} rows of {day} from {count[1]} shards"
        say(f"The table stage.orders in {path.name} now has {held}; the first {SHOWN}:")
        show(rows.columns, [_as_ids(row) for row in rows.fetchall()])


def _show_digest(project: Project, *reports: RunReport) -> None:
    from dwhctl.alerts.teller import preview
    from dwhctl.cli.output import say

    text = preview(project, [report.outcome for report in reports if report.outcome])
    say()
    say("What a mail would say of it ([alerts.NAME] in config/dwhctl.toml, then dwhctl alert-test):")
    for line in text.splitlines():
        say(f"  | {line}".rstrip())


def _as_ids(row: tuple[object, ...]) -> tuple[object, ...]:
    # An id is a name, not an amount: no thousands separators.
    return tuple(str(value) if isinstance(value, int) else value for value in row)


def _say_next(folder: Path) -> None:
    from dwhctl.cli.output import say

    program = program_name()
    width = max(len(arguments) for arguments, _ in NEXT)
    say()
    say("What to try next:")
    say(f"  cd {shlex.quote(str(folder))}")
    for arguments, why in NEXT:
        say(f"  {program} {arguments:<{width}}   # {why}")


def program_name() -> str:
    """Name dwhctl so that a shell in any folder finds the one that runs now."""
    started = Path(sys.argv[0]).absolute()
    if started.name != "dwhctl":
        return f"{shlex.quote(sys.executable)} -m dwhctl"
    found = shutil.which("dwhctl")
    if found and Path(found).resolve() == started.resolve():
        return "dwhctl"
    return shlex.quote(str(started))
