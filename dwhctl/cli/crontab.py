"""`dwhctl crontab`: the schedules of the project in the user's crontab, or as files for other schedulers."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import (
    CommandGroup,
    Settings,
    common_options,
    form_option,
    format_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell, write_out
from dwhctl.core.errors import CrontabError, ExitCode, UsageError
from dwhctl.core.words import shown_time

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dwhctl.cron import CronJob
    from dwhctl.project.model import Project

# `--help` does not import the configuration's classes, which `dwhctl.cron` needs.

NEXT: Listing[tuple[object, ...]] = Listing(
    "at", "machine_time", "command", ListingColumn("names", is_text=True), spare=("names", "machine_time")
)
#: How far ahead clock changes are reported: the next two are within it.
_DAYS_AHEAD = 366
#: The formats beside the crontab, and their options.
_OPTIONS_OF = {
    "systemd": ("output", "name", "user", "env_file"),
    "kubernetes": ("output", "name", "image", "config_map", "state_claim", "secret"),
}
_NO_SCHEDULE = 'no load and no report has a schedule: add schedule = "0 */6 * * *" to config/loads/NAME.toml'
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would change.")


@click.group("crontab", cls=CommandGroup, epilog="\b\nExample:\n  dwhctl crontab install")
@common_options
def command() -> None:
    """Put the schedules of loads and reports into the crontab."""


@command.command("show", short_help="Show the block as it would be installed; or units of systemd, CronJobs.")
@form_option(
    "crontab",
    *_OPTIONS_OF,
    help_text="For whom: cron, systemd (a service and a timer each) or Kubernetes (a CronJob each).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="systemd, kubernetes: write the files there; those of other programs are left alone.",
)
@click.option(
    "--name", help="systemd, kubernetes: how their names begin. Default: dwhctl-FOLDER of the project."
)
@click.option("--user", help="systemd: who runs it. Default: the owner of the project's folder.")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="systemd: secrets as NAME=value. Default: /etc/dwhctl.env.",
)
@click.option("--image", help="kubernetes: the image. Default: dwhctl:VERSION.")
@click.option(
    "--config-map",
    metavar="NAME",
    help="kubernetes: has the files of the project. Default: the image has them.",
)
@click.option(
    "--state-claim", metavar="NAME", help="kubernetes: the volume claim of state_dir. Default: NAME-state."
)
@click.option("--secret", metavar="NAME", help="kubernetes: has the secrets. Default: NAME.")
@with_settings
def show_block(settings: Settings, /, form: str, output: Path | None, **options: Any) -> ExitCode:
    """Show the lines that `install` puts into the crontab, made from the `schedule` of loads and reports.

    For systemd and Kubernetes it shows or writes files instead, with the times in the project's time zone.

    \b
    Examples:
      dwhctl crontab show
      dwhctl crontab show --format systemd --output /etc/systemd/system
      dwhctl crontab show --format kubernetes --image registry.example.com/dwhctl:1 | kubectl apply -f -
    """
    from dwhctl.cron import block_of

    given = {name: value for name, value in options.items() if value is not None}
    known = _OPTIONS_OF.get(form, ())
    for name in [*given, *(["output"] if output else [])]:
        if name not in known:
            formats = " or ".join(other for other, names in _OPTIONS_OF.items() if name in names)
            raise UsageError(f"--{name.replace('_', '-')} belongs to --format {formats}")
    project = settings.open_project()
    if form != "crontab":
        return _show_files(project, form, output, given)
    block = block_of(project, program())
    for line in block:
        say(line)
    _tell_installed_differs(project, block)
    _tell_what_cron_lacks(project)
    return ExitCode.DONE


def _show_files(project: Project, form: str, folder: Path | None, options: dict[str, Any]) -> ExitCode:
    from dwhctl import __version__
    from dwhctl.deploy.files import PodOptions, UnitOptions, kubernetes_jobs, systemd_units, write_files

    if form == "systemd":
        files = systemd_units(project, UnitOptions(program(), **options))
    else:
        files = kubernetes_jobs(project, PodOptions(**{"image": f"dwhctl:{__version__}"} | options))
    if not files.texts:
        tell(_NO_SCHEDULE)
    for hint in files.hints:
        tell(hint)
    if folder is None:
        between = "---\n" if form == "kubernetes" else "\n"
        parts = (f"# {name}\n{text}" for name, text in files.texts.items())
        write_out(between.join(parts), end="")
        return ExitCode.DONE
    for old in write_files(files, folder):
        tell(f"{old} has no schedule any more: stop it, then remove the file")
    for name in files.texts:
        say(str(folder / name))
    return ExitCode.DONE


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD)
@command.command("install", short_help="Put the block into your crontab, or update it.")
@_dry_run_option
@with_settings
def install(settings: Settings, dry_run: bool) -> ExitCode:
    """Show what changes, then put the project's block into your crontab; every other line stays as it is.

    \b
    Examples:
      dwhctl crontab install --dry-run
      dwhctl crontab install
    """
    from dwhctl.cron import block_of
    from dwhctl.runtime.locks import CRON_LOG, StateDir

    project = settings.open_project()
    block = block_of(project, program())
    if not dry_run:
        state = StateDir(project.state_dir)
        state.make_log(state.logs / CRON_LOG)
    code = _change(project, block, dry_run=dry_run)
    _tell_what_cron_lacks(project)
    return code


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD)
@command.command("remove", short_help="Take the block out of your crontab.")
@_dry_run_option
@with_settings
def remove(settings: Settings, dry_run: bool) -> ExitCode:
    """Take the project's block out of your crontab; every other line stays as it is.

    \b
    Example:
      dwhctl crontab remove
    """
    return _change(settings.open_project(), [], dry_run=dry_run)


@command.command("next", short_help="Show when cron starts what next.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="So many times.")
@format_option
@with_settings
def show_next(settings: Settings, limit: int, form: str) -> ExitCode:
    """Show the next times at which cron starts loads and reports, in the project's zone and by the machine's clock.

    Times that a clock change skips or doubles within a year are reported on stderr.

    \b
    Example:
      dwhctl crontab next --limit 10
    """
    from dwhctl.cron import fire_times, jobs_of, machine_zone

    project = settings.open_project()
    now, zone, jobs = datetime.now(UTC), machine_zone(), jobs_of(project)
    times = [(at, job) for job in jobs for at in islice(fire_times(job.schedule, now, zone), limit)]
    rows = [
        (
            at,
            shown_time(at, zone) if form == "table" else at.replace(tzinfo=None),
            " ".join(job.arguments),
            ", ".join(job.names),
        )
        for at, job in sorted(times, key=lambda due: due[0])[:limit]
    ]
    NEXT.show(rows, form, "no load and no report has a schedule")
    _tell_clock_changes(project, jobs, now, zone)
    return ExitCode.DONE


def program() -> list[str]:
    """Return the words that start this dwhctl from anywhere, whatever the environment."""
    started = Path(sys.argv[0]).absolute()
    if started.name == "dwhctl" and shutil.which(str(started)):
        return [str(started)]
    return [sys.executable, "-P", "-m", "dwhctl"]


def _change(project: Project, block: list[str], *, dry_run: bool) -> ExitCode:
    from dwhctl.cron import difference, locked_crontab, read_crontab, replace_crontab, with_block

    with nullcontext() if dry_run else locked_crontab():
        before = read_crontab()
        after = with_block(before, project.root, block)
        changes = difference(before, after)
        if not changes:
            tell("the crontab is as it should be" if block else "the crontab has no block of this project")
            return ExitCode.DONE
        for line in changes:
            say(line)
        if not dry_run:
            replace_crontab(before, after)
            tell("the crontab is changed")
    return ExitCode.DONE


def _tell_clock_changes(project: Project, jobs: Iterable[CronJob], now: datetime, zone: ZoneInfo) -> None:
    from dwhctl.cron import clock_changes, same_clock

    if not same_clock(zone, project.zone, now):
        tell(f"cron goes by this machine's clock ({zone.key}), the project by {project.timezone}")
    for job in jobs:
        for change in clock_changes(job.schedule, now, _DAYS_AHEAD, zone):
            what = "does not exist" if change.what == "skipped" else "comes twice"
            tell(
                f"{shlex.join(job.arguments)}: {change.at:%Y-%m-%d %H:%M} {what} in {zone.key}: Debian's cron starts it"
                " once, others may not; choose an hour outside 01:00 to 03:59"
            )


def _tell_installed_differs(project: Project, block: list[str]) -> None:
    """Write a hint where the crontab has a block of this project with other lines, as earlier versions wrote them."""
    from dwhctl.cron import read_crontab, with_block

    try:
        crontab = read_crontab()
        # Without a block of this project, or without a crontab, there is nothing to compare.
        if with_block(crontab, project.root, []) != crontab != with_block(crontab, project.root, block):
            tell("the installed lines differ from these: dwhctl crontab install")
    except CrontabError:
        return


def _tell_what_cron_lacks(project: Project) -> None:
    """Write a hint for each variable that the shell's environment may have, and cron's has not."""
    from dwhctl.cron import jobs_of

    if not jobs_of(project):
        tell(_NO_SCHEDULE)
    for name in dict.fromkeys(secret.variable for secret in project.secrets() if secret.variable):
        tell(
            f"cron does not know {name}, which a secret is read from: keep the secret in a file"
            ' ({ file = "/etc/dwhctl/secret" }), or set NAME=value in the crontab, above the block'
        )
