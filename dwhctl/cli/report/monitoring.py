"""`dwhctl report sla`: deadlines and ages, and who keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.options import Settings, common_options, format_option, pass_settings
from dwhctl.core.errors import ExitCode

if TYPE_CHECKING:
    from dwhctl.monitor.freshness import Sla
    from dwhctl.monitor.timeline import Bar


SLA_COLUMNS = (
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
def sla_command(settings: Settings, exit_code: bool, form: str) -> ExitCode:
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
    from dwhctl.cli.common.output import TableStyle, show
    from dwhctl.cli.report.group import open_history
    from dwhctl.monitor.freshness import look

    project, now = settings.open_project(), datetime.now(UTC)
    with open_history(project, settings) as store:
        slas = look(project, store, now)
    wide = TableStyle(
        texts=("command",),
        spare=("kind", "last_success", "next_deadline", "since", "oldest"),
        styles={"state": lambda state: STYLES.get(state, "")},
        zone=project.zone,
    )
    empty = "" if settings.quiet else "no load and no report has a deadline or a max_age"
    show(SLA_COLUMNS, [_row(sla, now) for sla in slas], form, wide, empty)
    return ExitCode.FAILED if exit_code and any(sla.missed for sla in slas) else ExitCode.DONE


def _row(sla: Sla, now: datetime) -> tuple[object, ...]:
    from dwhctl.project.days import format_duration

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
    from dwhctl.project.days import format_duration

    minute = timedelta(minutes=1)
    return format_duration(age // minute * minute if age >= minute else age)


@click.command("metrics")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write this file, such as .../dwhctl.prom, in the place of the old one at once.",
)
@common_options
@pass_settings
def metrics_command(settings: Settings, /, output: Path | None) -> None:
    """Write metrics of every load and report as OpenMetrics text: the last success, rows, duration, streak, states.

    Made for the textfile collector of node_exporter; a line in the crontab writes the file every few minutes.

    \b
    Examples:
      dwhctl report metrics
      dwhctl report metrics --output /var/lib/node_exporter/textfile/dwhctl.prom
    """
    from dwhctl.cli.common.output import write_out
    from dwhctl.monitor.metrics import metrics_text, write_atomically

    project = settings.open_project()
    text = metrics_text(project, datetime.now(project.zone).date())
    if output is None:
        write_out(text, end="")
    else:
        write_atomically(output, text)


ALERTS_COLUMNS = ("id", "created", "channel", "subject", "state", "answer", "attempts", "sent_at")


@click.command("alerts")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, metavar="N", help="How many."
)
@click.option("--open", "only_open", is_flag=True, help="Only what did not surely arrive, and still matters.")
@format_option
@common_options
@pass_settings
def alerts_command(settings: Settings, limit: int, only_open: bool, form: str) -> None:
    """Show the messages to the channels, the newest first, and what became of each.

    \b
    States:
      queued      to be sent by the next run
      sending     a run has it in hand
      sent        the channel took it
      unknown     it may have arrived; it is sent once more, marked
      refused     the channel refused it, and said why; runs try again, once an hour
      given_up    it could not be sent for days, or never can be
      superseded  not sent: a later message says what is so now, or it is over

    \b
    Example:
      dwhctl report alerts --open
    """
    from dwhctl.alerts.outbox import Outbox
    from dwhctl.cli.common.output import TableStyle, show
    from dwhctl.sessions import REPORT_TIMEOUT, open_if_there

    project = settings.open_project()
    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    rows = []
    if store is not None:
        with store:
            rows = Outbox(store).newest(limit, only_open=only_open)
    look = TableStyle(texts=("subject", "answer"), spare=("attempts", "created", "answer"), names=("id",))
    empty = "" if settings.quiet else "no message that did not arrive" if only_open else "no message yet"
    show(
        ALERTS_COLUMNS,
        [tuple(getattr(row, name) for name in ALERTS_COLUMNS) for row in rows],
        form,
        look,
        empty,
    )


COLUMNS = (
    "worker",
    "load",
    "shard",
    "day",
    "attempt",
    "state",
    "started",
    "busy_until",
    "finished",
    "busy_seconds",
    "waited_seconds",
    "loaded_rows",
    "error_class",
    "id",
)


@click.command("timeline")
@click.argument("run", metavar="RUN")
@format_option
@common_options
@pass_settings
def timeline_command(settings: Settings, /, run: str, form: str) -> None:
    """Show what the run RUN did when, on which worker. RUN is its id, the beginning of it, or 'last'.

    A bar is the time for which a slice held its worker; below stands how many staged slices waited to be published,
    and how many for their next attempt. JSON and CSV have a line for each session.

    \b
    Examples:
      dwhctl report timeline last
      dwhctl report timeline 20200714T0600
    """
    from dwhctl.cli.common.output import paint, screen, show
    from dwhctl.monitor.timeline import read_run, timeline_of

    project = settings.open_project()
    run_id, sessions = read_run(project, run)
    timeline = timeline_of(project, run_id, sessions, datetime.now(UTC))
    if form != "table":
        show(COLUMNS, [_bar_row(bar) for bar in timeline.bars], form)
        return
    from dwhctl.cli.report.pictures import timeline_picture

    paint(timeline_picture(timeline, screen()))


def _bar_row(bar: Bar) -> tuple[object, ...]:
    one = bar.session
    known = one.busy_seconds is not None
    return (
        one.worker,
        one.load,
        one.shard,
        one.day,
        one.attempt,
        one.state.value,
        one.started,
        bar.end if known else None,
        one.finished,
        one.busy_seconds,
        (bar.closed - bar.end).total_seconds() if known and one.finished else None,
        one.loaded_rows,
        one.error_class,
        one.id,
    )


@click.command("log")
@click.argument("run", metavar="RUN")
@click.option("--session", type=click.IntRange(1), metavar="ID", help="Only of this session (etl_id).")
@click.option(
    "--level",
    type=click.Choice(("info", "warning", "error")),
    default="info",
    show_default=True,
    help="Only lines of this level, or a worse one.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="As text, or the lines as they are: a JSON object each.",
)
@common_options
@pass_settings
def log_command(settings: Settings, /, run: str, session: int | None, level: str, form: str) -> None:
    """Show the log of the run RUN. RUN is its id, the beginning of it, or 'last'.

    A run writes its log on its own machine, into logs/ of the state folder. Text shows times in the project's time
    zone, JSON in UTC.

    \b
    Examples:
      dwhctl report log last --level warning
      dwhctl report log 20200714T0600 --session 4711
      dwhctl report log last --format json | jq 'select(.state == "failed")'
    """
    from dwhctl.cli.common.output import say, tell
    from dwhctl.core.errors import StateDirError
    from dwhctl.core.words import one_line, printable_json
    from dwhctl.runtime.locks import StateDir
    from dwhctl.runtime.log_reader import find_log, is_wanted, read_log, text_of

    project = settings.open_project()
    path = find_log(StateDir(project.state_dir).logs, run)
    shown = 0
    try:
        for line in read_log(path):
            if is_wanted(line, session, level):
                shown += 1
                texts = [line.text] if form == "json" else text_of(line.fields, project.zone)
                for text in texts:
                    say(printable_json(text) if form == "json" else _clean(text))
    except OSError as error:
        raise StateDirError(f"the log {path} cannot be read: {error.strerror}") from error
    if not shown and not settings.quiet:
        tell(f"no such line in the log of {one_line(path.stem)}")


def _clean(text: str) -> str:
    """Keep the indentation of what belongs to the line above."""
    from dwhctl.core.words import one_line

    return "    " * text.startswith("    ") + one_line(text)
