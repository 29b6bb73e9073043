"""`dwhctl report sla`: deadlines and ages, and who keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from dwhctl.cli.options import Settings, common_options, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.runs.sla import Sla

COLUMNS = (
    "kind",
    "name",
    "state",
    "missing",
    "expected",
    "oldest",
    "since",
    "deadline",
    "next_deadline",
    "max_age",
    "age",
    "last_success",
    "command",
)
STYLES = {"met": "green", "missed": "bold red", "open": "dim"}


@click.command("sla")
@click.option("--exit-code", is_flag=True, help="End with 1 if something is missed, for scripts.")
@format_option
@common_options
@pass_settings
def command(settings: Settings, exit_code: bool, form: str) -> ExitCode:
    """Show each load and report that has a `deadline` or a `max_age`, and whether it keeps them.

    \b
    met     all that was due is there
    missed  of 'expected' shards 'missing' lack something; 'command' brings it
    open    nothing of it is expected yet

    'age' and 'last_success' are those of the shard that is furthest behind, from when its last successful session
    started. Slices are looked back on for 14 days, fewer in a project with very many: report gaps looks further.

    \b
    Examples:
      dwhctl report sla
      dwhctl report sla --exit-code --quiet || echo 'somebody is late'
    """
    from dwhctl.cli.history import open_history
    from dwhctl.cli.output import Look, show
    from dwhctl.runs.sla import look

    project, now = settings.open_project(), datetime.now(UTC)
    with open_history(project, settings) as store:
        slas = look(project, store, now)
    wide = Look(
        texts=("command",),
        spare=("kind", "last_success", "next_deadline", "since", "oldest"),
        styles={"state": lambda state: STYLES.get(state, "")},
        zone=project.zone,
    )
    empty = "" if settings.quiet else "no load and no report has a deadline or a max_age"
    show(COLUMNS, [_row(sla, now) for sla in slas], form, wide, empty)
    return ExitCode.FAILED if exit_code and any(sla.missed for sla in slas) else ExitCode.DONE


def _row(sla: Sla, now: datetime) -> tuple[object, ...]:
    from dwhctl.project.slices import format_duration

    return (
        sla.kind,
        sla.name,
        sla.state.value,
        len(sla.missed),
        len(sla.tasks),
        sla.oldest,
        sla.since,
        f"{sla.deadline:%H:%M}" if sla.deadline is not None else None,
        sla.next_deadline,
        format_duration(sla.max_age) if sla.max_age is not None else None,
        _age(now - sla.last_success) if sla.last_success else None,
        sla.last_success,
        sla.command,
    )


def _age(age: timedelta) -> str:
    from dwhctl.project.slices import format_duration

    minute = timedelta(minutes=1)
    return format_duration(age // minute * minute if age >= minute else age)
