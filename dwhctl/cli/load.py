"""`dwhctl load` and `dwhctl backfill`: copy the rows of one or more days from every shard into the warehouse."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes, page_afterwards
from dwhctl.cli.common.options import (
    Settings,
    chosen_day,
    chosen_days,
    complete_loads,
    date_option,
    end_option,
    result_option,
    scheduled_option,
    shards_option,
    start_option,
    wait_option,
    with_options,
    with_settings,
)
from dwhctl.cli.common.output import tell
from dwhctl.core.errors import ExitCode
from dwhctl.core.words import shown_command

if TYPE_CHECKING:
    from dwhctl.load.worker_server import WorkerServer
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Listener, RunResult
    from dwhctl.runtime.plan import LoadRequest, Plan

# `load --help` imports neither the configuration's classes nor the engine.

loading_options = with_options(
    click.option(
        "--only-missing", is_flag=True, help="Only slices that are not complete: to catch up, or to go on."
    ),
    click.option(
        "--only-failed",
        is_flag=True,
        help="Only slices whose last session failed, also complete ones whose reload failed.",
    ),
    shards_option,
    click.option(
        "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Workers at once, up to max_workers."
    ),
    click.option(
        "--retries", type=click.IntRange(0, 1000), metavar="N", help="Attempts after a slice's first."
    ),
    click.option(
        "--allow-shrink", is_flag=True, help="Accept sources with far fewer rows than the warehouse."
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be loaded, and touch nothing."),
    click.option(
        "--table",
        metavar="SCHEMA.TABLE",
        help="A shadow run: into this table instead of the one load's own, which stays as it is.",
    ),
    wait_option,
    click.option(
        "--executor",
        type=click.Choice(("local", "dask")),
        help="Where attempts run: in processes of this machine, or on a Dask cluster. Default: that of [executor].",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="The Dask scheduler, as tls://HOST:8786."),
    click.option(
        "--inline",
        is_flag=True,
        help="Work in this process, for debugging: a worker's crash ends the run and no deadline holds.",
    ),
    result_option,
)


def _open(settings: Settings, loads: tuple[str, ...], table: str | None) -> tuple[Project, tuple[str, ...]]:
    """Open the project, and return it with the loads; with --table, the shadow of the one load."""
    from dwhctl.project.names import with_shadow

    project = settings.open_project()
    return (project, tuple(dict.fromkeys(loads))) if table is None else with_shadow(project, loads, table)


@contextmanager
def _early_workers(options: Mapping[str, Any], *, dry_run: bool) -> Iterator[WorkerServer | None]:
    """Start the worker server, which imports while the project is read; end it in any case.

    Where it may have nothing to do, a run starts it when its plan shows work.
    """
    may_not_work = ("only_missing", "only_failed", "inline", "scheduler")
    if dry_run or options["executor"] == "dask" or any(options[name] for name in may_not_work):
        yield None
        return
    from dwhctl.load.worker_server import WorkerServer

    with closing(WorkerServer()) as workers:
        workers.start_early()
        yield workers


def load_and_show(
    project: Project,
    request: LoadRequest,
    settings: Settings,
    plan: Plan | None = None,
    form: str = "text",
    workers: WorkerServer | None = None,
) -> RunResult:
    """Load with progress on stderr and the result on stdout."""
    from dwhctl.cli.common.progress import RunWatcher
    from dwhctl.cli.common.summary import show_summary
    from dwhctl.load.run import run_load

    with page_afterwards(project):
        with open_progress(settings) as progress:
            run = RunWatcher(progress)
            result = run_load(project, request, run, plan, workers)
        if form == "json":
            from dwhctl.cli.common.objects import show_object
            from dwhctl.cli.common.results import load_object

            show_object(load_object(result, run, request.command, settings.project))
        else:
            show_summary(result, settings)
    return result


def open_progress(settings: Settings) -> AbstractContextManager[Listener]:
    """Return the progress for stderr: live on a terminal, plain lines elsewhere, none with --quiet."""
    if settings.quiet:
        return nullcontext(lambda _: None)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from dwhctl.cli.common.live import LiveProgress

        return LiveProgress(verbose=settings.verbose)
    from dwhctl.cli.common.progress import PlainProgress

    return PlainProgress(verbose=settings.verbose)


def _run(
    project: Project,
    request: LoadRequest,
    settings: Settings,
    workers: WorkerServer | None,
    *,
    form: str,
    dry_run: bool,
    show_plan_first: bool = False,
) -> ExitCode:
    from dwhctl.cli.common.summary import show_plan, tell_plan
    from dwhctl.load.run import plan_load

    if dry_run and form == "json":
        from dwhctl.cli.common.objects import show_object
        from dwhctl.cli.common.results import plan_object

        plan = plan_load(project, request)
        return show_object(plan_object(project, request, plan, every_slice=settings.verbose))
    if dry_run:
        return show_plan(project, request, settings)
    first = plan_load(project, request) if show_plan_first else None
    if first and not settings.quiet:
        tell_plan(project, request, first)
    return load_and_show(project, request, settings, first, form, workers).exit_code


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("load")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@date_option("The day to load")
@click.option(
    "--lookback", type=click.IntRange(0, 3650), default=0, metavar="N", help="Also load the N days before."
)
@loading_options
@scheduled_option
@with_settings
def command(
    settings: Settings,
    /,
    loads: tuple[str, ...],
    day: str,
    lookback: int,
    dry_run: bool,
    form: str,
    table: str | None,
    **options: Any,
) -> ExitCode:
    """Load the day D of every LOAD (or of those given) from all shards.

    A slice that was loaded before is replaced, so loading a day again is always safe.

    \b
    Examples:
      dwhctl load --date yesterday
      dwhctl load orders --date today --lookback 1
      dwhctl load --date -1d --lookback 14 --only-missing
      dwhctl load orders --date 2020-07-13 --shard 'mos*' --dry-run
      dwhctl load orders --date yesterday --table stage.orders_new
    """
    with _early_workers(options, dry_run=dry_run) as workers:
        from dwhctl.runtime.plan import LoadRequest, days_back

        project, loads = _open(settings, loads, table)
        days = days_back(chosen_day(project, "--date", day), lookback)
        request = LoadRequest(days=days, loads=loads, command=shown_command(sys.argv[1:]), **options)
        return _run(project, request, settings, workers, form=form, dry_run=dry_run)


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("backfill")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@start_option(required=True)
@end_option(required=True)
@click.option("--reverse", is_flag=True, help="The newest day first.")
@loading_options
@with_settings
def backfill_command(
    settings: Settings,
    /,
    loads: tuple[str, ...],
    start: str,
    end: str,
    reverse: bool,
    dry_run: bool,
    form: str,
    table: str | None,
    **options: Any,
) -> ExitCode:
    """Load every day from START to END of every LOAD (or of those given) from all shards.

    The days come in order, the oldest first, and slices of several days run at once. Each load and day has its own
    lock, so today's load may run at the same time. After an interruption, the same command with --only-missing loads
    what is not complete. Days before a load's start_date or a shard's `from` are left out.

    \b
    Examples:
      dwhctl backfill -s 2020-07-01 -e 2020-07-13 --only-missing
      dwhctl backfill orders -s -14d -e yesterday --reverse
      dwhctl backfill orders -s 2020-07-01 -e 2020-07-13 --shard 'mos*' --dry-run
    """
    with _early_workers(options, dry_run=dry_run) as workers:
        from dwhctl.runtime.plan import LoadRequest, loads_with_days

        project, loads = _open(settings, loads, table)
        days = chosen_days(project, start, end, newest_first=reverse)
        filled, without_days = loads_with_days(project, loads)
        for name in without_days:
            tell(f"left out: load {name} has no slice_by, so it has no days to fill")
        # A ping would say that the day's load succeeded; a backfill does not know that.
        command = shown_command(sys.argv[1:])
        request = LoadRequest(days=days, loads=filled, command=command, pings=False, **options)
        return _run(project, request, settings, workers, form=form, dry_run=dry_run, show_plan_first=True)
