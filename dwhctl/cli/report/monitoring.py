"""`dwhctl report sla`, `metrics` and `alerts`, and the `timeline` and `log` of one run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from dwhctl.alerts.outbox import Listed, Outbox
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import choice_option, form_option, limit_option
from dwhctl.cli.common.output import paint, say, screen, write_out
from dwhctl.cli.report.group import View, define_report, exit_code_option
from dwhctl.core.errors import ExitCode, StateDirError
from dwhctl.core.words import one_line, printable_json
from dwhctl.monitor.freshness import Sla, read_slas
from dwhctl.monitor.timeline import Bar, read_run, timeline_of
from dwhctl.project.days import format_duration
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log_reader import find_log, is_wanted, read_log, text_of

_STYLES = {"met": "green", "missed": "bold red", "open": "dim"}
_MINUTE = timedelta(minutes=1)


def _age(sla: Sla) -> str | None:
    """Return the time since the last success, without seconds from a minute on."""
    if sla.last_success is None:
        return None
    age = datetime.now(UTC) - sla.last_success
    return format_duration(age // _MINUTE * _MINUTE if age >= _MINUTE else age)


SLA: Listing[Sla] = Listing(
    "kind", "name",
    ListingColumn("state", style=lambda state: _STYLES.get(state, "")),
    ListingColumn("missing", lambda sla: len(sla.missed)),
    ListingColumn("expected", lambda sla: len(sla.tasks)),
    "oldest", "since",
    ListingColumn("deadline", lambda sla: None if sla.deadline is None else f"{sla.deadline:%H:%M}"),
    "next_deadline",
    ListingColumn("max_age", lambda sla: None if sla.max_age is None else format_duration(sla.max_age)),
    ListingColumn("age", _age),
    "last_success",
    ListingColumn("command", is_text=True),
    spare=("kind", "last_success", "next_deadline", "since", "oldest"),
)  # fmt: skip


@define_report("sla", exit_code_option("End with 1 if something is missed, for scripts."))
def sla_command(view: View, *, exit_code: bool) -> ExitCode:
    """Show each load and report that has a `deadline` or a `max_age`, and whether it keeps them.

    \b
    met     everything that was due is complete
    missed  'missing' of 'expected' shards lack something; 'command' loads it
    open    nothing of it is expected yet

    'age' and 'last_success' are those of the shard that is furthest behind, from the start of its last successful
    session. It checks the slices of 14 days, fewer in a project with very many; report gaps checks older ones.

    \b
    Examples:
      dwhctl report sla
      dwhctl report sla --exit-code --quiet || echo 'something is late'
    """
    with view.history() as store:
        slas = read_slas(view.project, store, view.now)
    view.show(SLA, slas, "no load and no report has a deadline or a max_age")
    return ExitCode.FAILED if exit_code and any(sla.missed for sla in slas) else ExitCode.DONE


@define_report(
    "metrics",
    click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write this file, such as .../dwhctl.prom; it replaces the old one at once.",
    ),
    form=None,
)
def metrics_command(view: View, *, output: Path | None) -> None:
    """Write metrics of every load and report as OpenMetrics text: the last success, rows, duration, streak, states.

    For the textfile collector of node_exporter: have cron write the file every few minutes.

    \b
    Examples:
      dwhctl report metrics
      dwhctl report metrics --output /var/lib/node_exporter/textfile/dwhctl.prom
    """
    from dwhctl.monitor.metrics import metrics_text, write_atomically

    text = metrics_text(view.project, view.today)
    if output is None:
        write_out(text, end="")
    else:
        write_atomically(output, text)


ALERTS: Listing[Listed] = Listing(
    ListingColumn("id", is_id=True),
    "created", "channel",
    ListingColumn("subject", is_text=True),
    "state",
    ListingColumn("answer", is_text=True),
    "attempts", "sent_at",
    spare=("attempts", "created", "answer"),
)  # fmt: skip


@define_report(
    "alerts",
    limit_option(20, "How many.", 100_000),
    click.option(
        "--open", "only_open", is_flag=True, help="Only what did not surely arrive, and still matters."
    ),
)
def alerts_command(view: View, *, limit: int, only_open: bool) -> None:
    """Show the messages to the channels, the newest first, and the state of each.

    \b
    States:
      queued      the next run sends it
      sending     a run is sending it
      sent        the channel accepted it
      unknown     it may have arrived; it is sent once more, marked
      refused     the channel refused it, with the reason; runs try again, once an hour
      given_up    it could not be sent for days, or never can be
      superseded  not sent: a later message has the current state, or the failure is over

    \b
    Example:
      dwhctl report alerts --open
    """
    with view.history("") as store:
        messages = Outbox(store).newest(limit, only_open=only_open) if store else []
    view.show(ALERTS, messages, "no message that did not arrive" if only_open else "no message yet")


def _of_session(name: str) -> ListingColumn[Bar]:
    return ListingColumn(name, lambda bar: getattr(bar.session, name))


TIMELINE: Listing[Bar] = Listing(
    *map(_of_session, ("worker", "load", "shard", "day", "attempt", "state", "started")),
    "busy_until",
    *map(_of_session, ("finished", "busy_seconds")),
    "waited_seconds",
    *map(_of_session, ("loaded_rows", "error_class", "id")),
)
run_argument = click.argument("run", metavar="RUN")


@define_report("timeline", run_argument)
def timeline_command(view: View, *, run: str) -> None:
    """Show what the run RUN did when, on which worker. RUN is its id, the beginning of it, or 'last'.

    A bar is the time for which a slice held its worker. Below are the numbers of staged slices that waited to be
    published, and of slices that waited for their next attempt. JSON and CSV have a line for each session.

    \b
    Examples:
      dwhctl report timeline last
      dwhctl report timeline 20200714T0600
    """
    timeline = timeline_of(view.project, *read_run(view.project, run), view.now)
    if view.is_table:
        from dwhctl.cli.report.pictures import timeline_picture

        paint(timeline_picture(timeline, screen()))
    else:
        TIMELINE.show(timeline.bars, view.form)


@define_report(
    "log",
    run_argument,
    click.option("--session", type=click.IntRange(1), metavar="ID", help="Only of this session (etl_id)."),
    choice_option(
        "--level",
        choices=("info", "warning", "error"),
        help_text="Only lines of this level, or a worse one.",
    ),
    form=form_option("text", "json", help_text="As text, or the lines as they are: a JSON object each."),
)
def log_command(view: View, *, run: str, session: int | None, level: str) -> None:
    """Show the log of the run RUN. RUN is its id, the beginning of it, or 'last'.

    A run writes its log on its own machine, into logs/ of the state folder. Text shows times in the project's time
    zone, JSON in UTC.

    \b
    Examples:
      dwhctl report log last --level warning
      dwhctl report log 20200714T0600 --session 4711
      dwhctl report log last --format json | jq 'select(.state == "failed")'
    """
    path = find_log(StateDir(view.project.state_dir).logs, run)
    shown = 0
    try:
        for line in read_log(path):
            if not is_wanted(line, session, level):
                continue
            shown += 1
            if view.form == "json":
                say(printable_json(line.text))
                continue
            for text in text_of(line.fields, view.project.zone):
                # What belongs to the line above is indented.
                say("    " * text.startswith("    ") + one_line(text))
    except OSError as error:
        raise StateDirError(f"the log {path} cannot be read: {error.strerror}") from error
    if not shown:
        view.tell(f"no such line in the log of {one_line(path.stem)}")
