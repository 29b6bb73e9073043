"""`dwhctl demo`: a new project with data, a failure in it, and its repair."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from datetime import date, datetime, timedelta
from pathlib import Path

import click

from dwhctl.alerts.notifier import preview
from dwhctl.cli.common.objects import DemoCommandPart, DemoObject, show_object
from dwhctl.cli.common.options import Settings, result_option, with_settings
from dwhctl.cli.common.output import say
from dwhctl.cli.load import load_and_show
from dwhctl.cli.new_project.init import program_name, read_template, write_new_files
from dwhctl.core.errors import DwhctlError, ExitCode, UsageError
from dwhctl.core.words import counted
from dwhctl.project.files import CONNECTION_PREFIX, VARIABLE_PREFIX
from dwhctl.project.find import VARIABLE
from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.runtime.events import RunResult
from dwhctl.runtime.plan import LoadRequest
from dwhctl.sessions import open_store

#: The files of the project, and the templates that they are made from.
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
#: The commands to try next, and what they show.
NEXT = (
    ("load --date today", "today's orders so far"),
    ("report timeline last", "what that run did, and when"),
    ("watch", "whether the load keeps its deadline"),
    ("query warehouse 'SELECT * FROM reports.city_orders'", "a report"),
    ("docs", "the documentation, page by page"),
)
WIDTH = 80
#: How many days are expected of the load; the cities have orders of more.
EXPECTED_DAYS = 7
DOWN = "omsk"


@click.command("demo")
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default="demo")
@result_option
@with_settings
def command(settings: Settings, directory: Path, form: str) -> ExitCode:
    """Make a project in DIR (default: ./demo), fill it with data, and show a failure and its repair.

    Three servers with four city databases each, a warehouse and the sessions table: all of them files in DIR. A day was
    never loaded and a city is down. The demo shows the message about it, what is missing, and how to load it.

    \b
    Example:
      dwhctl demo /tmp/demo
    """
    with ExitStack() as stack:
        stack.enter_context(_without_other_projects())
        if settings.quiet:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        elif form == "json":
            stack.enter_context(redirect_stdout(sys.stderr))
        project = make_project(directory, settings)
        stack.enter_context(chdir(directory))
        demo = _Demo(project, settings.debug)
        demo.play()
    if form == "json":
        done = ExitCode.DONE.value
        show_object(DemoObject(exit_code=done, project=str(project.root), commands=tuple(demo.commands)))
    elif not settings.quiet:
        _say_next(directory)
    return ExitCode.DONE


@contextmanager
def _without_other_projects() -> Iterator[None]:
    """Hide another project of the environment: the demo must not write to its servers."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name == VARIABLE or name.startswith((CONNECTION_PREFIX, VARIABLE_PREFIX))
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


class _Demo:
    def __init__(self, project: Project, debug: bool) -> None:
        self._project = project
        self._debug = debug
        self._today = datetime.now(project.zone).date()
        self._number = 0
        self.commands: list[DemoCommandPart] = []

    def play(self) -> None:
        """Run every step. Raise DwhctlError when one does not end as it should."""
        first, never, yesterday = self._back(EXPECTED_DAYS), self._back(3), self._back(1)
        self._step(f"The past week, without {never}: cron did not run on the day after.")
        self._run("backfill", "-s", str(first), "-e", str(self._back(4)), quiet=True)
        self._run("load", "--date", str(self._back(2)), quiet=True)
        self._step(f"This morning's load. The city {DOWN} is down.")
        report = self._load_with_a_city_down(yesterday)
        self._step("The message to your chat, if one is configured (dwhctl docs alerts):")
        self._show_digest(report)
        self._step("What is loaded: a line for each city, a column for each day.")
        self._run("report", "grid", "--days", str(EXPECTED_DAYS + 1))
        self._step("What is missing, and the commands that load it.")
        self._run("report", "gaps")
        self._step(f"{DOWN} is up again. The last command loads all that is missing.")
        self._run("backfill", "orders", "-s", str(never), "-e", str(yesterday), "--only-missing")
        self._step("The reports were waiting for complete days.")
        self._run("refresh-reports")
        self._step("Are the rows in the warehouse those of the cities? Counts and checksums.")
        self._run("verify", "-s", str(first), "-e", str(yesterday))

    def _back(self, days: int) -> date:
        return self._today - timedelta(days=days)

    def _load_with_a_city_down(self, yesterday: date) -> RunResult:
        arguments = ("load", "--date", "yesterday")
        self._show_command(arguments)
        # Two workers start faster than four.
        request = LoadRequest((yesterday,), jobs=2, command=_typed(arguments))
        with _is_down(self._project, DOWN):
            report = load_and_show(self._project, request, Settings())
        self._check(arguments, report.exit_code, ExitCode.FAILED)
        return report

    def _show_digest(self, report: RunResult) -> None:
        from rich.console import Console
        from rich.panel import Panel
        from rich.text import Text

        assert report.outcome is not None
        with open_store(self._project.sessions) as store:
            text = preview(self._project, store, report.outcome)
        console = Console(file=sys.stdout, width=WIDTH, highlight=False)
        with console.capture() as captured:
            console.print(Panel(Text(text.strip()), width=WIDTH - 10, padding=(0, 1)))
        say(captured.get().rstrip("\n"))

    def _step(self, text: str) -> None:
        self._number += 1
        say(f"\n{self._number}. {text}")

    def _show_command(self, arguments: tuple[str, ...]) -> None:
        say(f"$ {_typed(arguments)}")

    def _run(self, *arguments: str, quiet: bool = False) -> None:
        """Show a command and run it, `quiet` without its progress. Raise DwhctlError when it does not end with 0."""
        from dwhctl.cli.main import dwhctl

        self._show_command(arguments)
        # Starting workers takes longer than these small slices.
        inline = ("--inline",) if arguments[0] in ("load", "backfill") else ()
        shell, sys.argv[1:] = sys.argv[1:], list(arguments)  # sessions and locks have the command from it
        try:
            with ExitStack() as stack:
                if quiet:
                    stack.enter_context(redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
                settings = Settings(debug=self._debug)
                context = dwhctl.make_context("dwhctl", [*arguments, *inline], obj=settings)
                code = stack.enter_context(context).command.invoke(context)
        finally:
            sys.argv[1:] = shell
        self._check(arguments, code or ExitCode.DONE)

    def _check(self, arguments: tuple[str, ...], code: ExitCode, expected: ExitCode = ExitCode.DONE) -> None:
        self.commands.append(DemoCommandPart(_typed(arguments), code.value))
        if code is not expected:
            raise DwhctlError(
                f"the demo stops here: {_typed(arguments)} ended with {code.value}, not with {expected.value};"
                f" the project is in {self._project.root}"
            )


def _typed(arguments: tuple[str, ...]) -> str:
    return shlex.join(["dwhctl", *arguments])


@contextmanager
def _is_down(project: Project, city: str) -> Iterator[None]:
    shard = next(shard for group in project.shard_groups.values() for shard in group if shard.name == city)
    path: Path = getattr(project.connections[shard.connection], "path") / f"{shard.database}.duckdb"  # noqa: B009
    away = path.with_suffix(".down")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


def make_project(folder: Path, settings: Settings) -> Project:
    """Write the project's files and databases. Raise UsageError when the folder is in use."""
    from dwhctl.cli.new_project.demo_data import first_day, make_shards

    _refuse_used(folder)
    write_new_files(folder, {path: read_template("demo", name) for path, name in FILES.items()})
    now = datetime.now(read_project(folder).zone)
    start, path = now.date() - timedelta(days=EXPECTED_DAYS), folder / "config/loads/orders.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("2020-02-08", f"{start}"), encoding="utf-8")
    project = read_project(folder)
    orders = make_shards(project, now)
    if not settings.quiet:
        shards = sum(len(group) for group in project.shard_groups.values())
        say(f"A project in {folder.absolute()}:")
        say(
            f"{counted(orders, 'order')} from {first_day(now.date())} on, in {shards} city databases on 3 servers."
        )
    return project


def _refuse_used(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder.absolute()} is not a folder; give another one: dwhctl demo DIR")
    if any(folder.iterdir()):
        raise UsageError(
            f"{folder.absolute()} is not empty; give another folder (dwhctl demo DIR),"
            f" or remove this one first if it is an old demo: rm -r {shlex.quote(str(folder))}"
        )


def _say_next(folder: Path) -> None:
    program = program_name()
    say("\nWhat to try next:")
    say(f"  cd {shlex.quote(str(folder))}")
    if os.environ.get(VARIABLE):
        say(f"  unset {VARIABLE}   # it is of another project")
    width = max(len(arguments) for arguments, _ in NEXT)
    lines = [f"  {program} {arguments:<{width}}  # {why}" for arguments, why in NEXT]
    if max(map(len, lines)) > WIDTH:
        lines = [line for arguments, why in NEXT for line in (f"  # {why}", f"  {program} {arguments}")]
    for line in lines:
        say(line)
