"""`dwhctl demo`: a new project with data in it, a day of it loaded, its reports refreshed."""

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

    from dwhctl.alerts.outcome import Outcome
    from dwhctl.project.model import Project

#: Where each file of the package stands in the project.
FILES = {
    "config/dwhctl.toml": "dwhctl.toml",
    "config/loads/orders.toml": "orders.toml",
    "sql/orders/extract.sql": "extract.sql",
    "sql/orders/create.sql": "create.sql",
    "config/reports.toml": "reports.toml",
    "sql/reports/city_orders.sql": "city_orders.sql",
    "sql/reports/daily_orders.sql": "daily_orders.sql",
    "sql/reports/order_duration.sql": "order_duration.sql",
    "sql/reports/order_duration_query.sql": "order_duration_query.sql",
}
#: What the next commands are, and why one would type them.
NEXT = (
    ("load --date today", "load today's rows so far; again later, the slices are replaced"),
    ("load --date yesterday --lookback 20 --only-missing", "catch up on the days before"),
    ("refresh-reports", "replace the reports again, now over all those days"),
    ("refresh-reports --date -3d --dry-run", "see whether what the reports need was loaded"),
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
    """Make a project in DIR (default: ./demo), fill it with data, load a day of it and refresh its reports.

    Three servers with four city databases each, a warehouse and the sessions table: all of them files in DIR.

    \b
    Example:
      dwhctl demo /tmp/demo
    """
    from dwhctl.cli.loading import load_and_show
    from dwhctl.cli.output import say
    from dwhctl.cli.refresh_reports import refresh_and_show
    from dwhctl.runs import load, refresh
    from dwhctl.runs.plan import LoadRequest
    from dwhctl.runs.refresh import RefreshRequest

    project = make_project(directory, settings)
    yesterday = datetime.now(project.zone).date() - timedelta(days=1)
    if not settings.quiet:
        say(f"$ dwhctl load --date yesterday    # {yesterday}")
    typed = f"dwhctl demo {shlex.quote(str(directory))}"
    loaded = load_and_show(project, LoadRequest(days=(yesterday,), command=typed), settings)
    code = load.exit_code_of(loaded)
    if code is not ExitCode.DONE:
        return code
    if not settings.quiet:
        _show_sessions(project)
        _show_warehouse(project, yesterday)
        say()
        say("$ dwhctl refresh-reports")
    refreshed = refresh_and_show(project, RefreshRequest(yesterday), settings)
    code = refresh.exit_code_of(refreshed)
    if code is ExitCode.DONE and not settings.quiet:
        _show_reports(project)
        _show_digest(project, loaded.outcome, refreshed.outcome)
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
    from dwhctl.cli.output import say, show
    from dwhctl.engines import duckdb as engine

    path = getattr(project.connections["warehouse"], "path")  # noqa: B009
    with engine.connect(str(path), {}, read_only=True) as db:
        count = db.sql("SELECT count(*), count(DISTINCT etl_source) FROM stage.orders").fetchall()[0]
        rows = db.sql(
            "SELECT etl_source, etl_id, hash_id, id, start_time, customer, price FROM stage.orders"
            f" ORDER BY start_time LIMIT {SHOWN}"
        )
        say()
        held = f"{count[0]:,} rows of {day} from {count[1]} shards"
        say(f"The table stage.orders in {path.name} now has {held}; the first {SHOWN}:")
        show(rows.columns, [_as_ids(row) for row in rows.fetchall()])


def _show_reports(project: Project) -> None:
    from dwhctl.cli.output import say, show
    from dwhctl.engines import duckdb as engine

    path = getattr(project.connections["warehouse"], "path")  # noqa: B009
    tables = ", ".join(report.target for report in project.reports.values())
    say()
    say(f"Each of {tables} was replaced in one transaction; reports.city_orders begins with:")
    with engine.connect(str(path), {}, read_only=True) as db:
        rows = db.sql(
            f"SELECT city, orders, cancelled, revenue FROM reports.city_orders ORDER BY city LIMIT {SHOWN}"
        )
        show(rows.columns, rows.fetchall())


def _show_digest(project: Project, *outcomes: Outcome | None) -> None:
    from dwhctl.alerts.teller import preview
    from dwhctl.cli.output import say

    text = preview(project, [one for one in outcomes if one is not None])
    say()
    say("No channel is configured; a mail to the team ([alerts.NAME] in config/dwhctl.toml) would have said:")
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
        return f"{shlex.quote(sys.executable)} -P -m dwhctl"
    found = shutil.which("dwhctl")
    if found and Path(found).resolve() == started.resolve():
        return "dwhctl"
    return shlex.quote(str(started))
