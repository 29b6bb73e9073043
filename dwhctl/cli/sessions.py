"""`dwhctl sessions`: what is done to the sessions themselves."""

from __future__ import annotations

from datetime import timedelta

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.lazy import Group
from dwhctl.cli.options import Duration, Settings, common_options, format_option, pass_settings
from dwhctl.errors import ExitCode

PRUNE_COLUMNS = ("what", "looked_at", "removed", "bytes")


@click.group("sessions", cls=Group, epilog="\b\nExample:\n  dwhctl sessions prune --keep 400d --dry-run")
@common_options
def command() -> None:
    """Prune old sessions and what runs left in the state folder."""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@command.command("prune", short_help="Fold old sessions into daily sums, tidy the state folder.")
@click.option(
    "--keep", type=Duration(), required=True, metavar="DURATION", help="Keep what is younger, such as 400d."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also those that tell the state of a slice: it then counts as never loaded.",
)
@click.option("--dry-run", is_flag=True, help="Count what would go, and touch nothing.")
@format_option
@common_options
@pass_settings
def prune(settings: Settings, keep: timedelta, everything: bool, dry_run: bool, form: str) -> None:
    """Remove sessions that started longer ago than --keep, and old files of the state folder.

    Each removed session is counted in dwhctl_days, a row for each load, shard and slice date, which stays. Sessions
    that run, and rows of other programs, are never touched. Of every slice the last closed session stays, the last
    successful one, and the one by which it is complete: gaps, --only-missing, failing streaks and verify see what they
    saw before. With --all they go too:
    then --only-missing loads such old slices again, and verify knows nothing of their rows.

    It runs beside loads, in short transactions, and may be killed at any moment. SQLite uses the room again, its file
    does not shrink. In the state folder go, if older than a week: locks of work that nobody holds, staging whose run
    is over; and logs older than --keep.

    \b
    Examples:
      dwhctl sessions prune --keep 400d --dry-run
      dwhctl sessions prune --keep 400d --format json
    """
    from dwhctl.cli.output import show, tell
    from dwhctl.runs.prune import PruneRequest, run_prune

    project = settings.open_project()
    removals = run_prune(project, PruneRequest(keep, everything=everything, dry_run=dry_run))
    if dry_run:
        tell("dry run: nothing was removed")
    show(
        PRUNE_COLUMNS,
        [(one.what, one.looked_at, one.removed, one.bytes) for one in removals],
        form,
        empty="nothing to remove",
    )
