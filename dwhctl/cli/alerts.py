"""`dwhctl watch`: who should have loaded by now, and has not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.options import (
    Settings,
    common_options,
    complete,
    format_option,
    pass_settings,
    scheduled_option,
)
from dwhctl.core.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from dwhctl.alerts.digest import Digest
    from dwhctl.monitor.freshness import Sla
    from dwhctl.project.model import Alert, Project


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("watch")
@scheduled_option
@common_options
@pass_settings
def watch_command(settings: Settings, scheduled: bool) -> ExitCode:
    """Look whether every load and report keeps its `deadline` and its `max_age`; end with 1 if one does not.

    What is missed is told to the channels with "sla_miss": once, again after their repeat_after, and when it is well
    again. Only the sessions table is asked. `dwhctl crontab install` makes a line for it.

    \b
    Example:
      dwhctl watch
    """
    from dwhctl.cli.common.output import say, tell
    from dwhctl.cli.common.summary import show_alerts
    from dwhctl.core.words import one_line, shown_command
    from dwhctl.monitor.watch import run_watch

    project = settings.open_project()
    typed = shown_command(sys.argv[1:])
    report = run_watch(project, typed, lambda notice: tell(one_line(notice.text)), scheduled=scheduled)
    for sla in report.missed:
        _say_missed(sla, project.zone)
    if not report.slas:
        tell('no load and no report has a deadline or a max_age: add deadline = "07:00" to one')
    elif not report.missed and not settings.quiet:
        say(f"all in time: {', '.join(sla.name for sla in report.slas)}")
    show_alerts(report.alerts, settings)
    return ExitCode.FAILED if report.missed else ExitCode.DONE


def _say_missed(sla: Sla, zone: ZoneInfo) -> None:
    from dwhctl.cli.common.output import say
    from dwhctl.monitor.watch import words_of_late, words_of_old

    for words in filter(None, (words_of_late(sla, zone), words_of_old(sla, zone))):
        say(f"{sla.name}: {words}")
    say(f"  {sla.command}")


ALERT_TEST: Listing[tuple[object, ...]] = Listing(
    "channel", "type", "to", "ok", "latency_ms", "answer", "reason"
)
DRY_RUN: Listing[tuple[object, ...]] = Listing("channel", "type", "to", "ok", "subject", "text", "reason")
NO_CHANNELS = """\
Error: no channel is configured; add one to config/dwhctl.toml, for instance
[alerts.failures]
type    = "telegram"
when    = ["one_failed"]
token   = { env = "TG_TOKEN" }
chat_id = "-1001762374628"
or one of type "email" with host, from and to; dwhctl docs alerts explains them"""


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@click.command("alert-test")
@click.argument(
    "names", nargs=-1, metavar="[CHANNEL]...", shell_complete=complete(lambda project: project.alerts)
)
@click.option("--dry-run", is_flag=True, help="Print the messages and send nothing.")
@format_option
@common_options
@pass_settings
def alert_test_command(settings: Settings, names: Sequence[str], dry_run: bool, form: str) -> ExitCode:
    """Send a real test message through every channel (or through the named ones), and say what came back.

    The message is the channel's own template with a failure that did not happen, about the project's own shards.
    Ends with 1 if any message did not arrive with everybody.

    \b
    Example:
      dwhctl alert-test telegram_failures
    """
    from datetime import datetime

    from dwhctl.alerts.digest import sample_digest
    from dwhctl.cli.common.output import tell

    project = settings.open_project()
    if not project.alerts:
        tell(NO_CHANNELS)
        return ExitCode.USAGE
    chosen = _chosen(project, names)
    digest = sample_digest(project, datetime.now(project.zone).date())
    if dry_run:
        return _show_texts(project, chosen, digest, form)
    rows = [_send(project, alert, digest, debug=settings.debug) for alert in chosen]
    shown = [row for row in rows if not (settings.quiet and row[3])]
    if shown or not settings.quiet:
        ALERT_TEST.show(shown, form)
    return ExitCode.DONE if all(row[3] for row in rows) else ExitCode.FAILED


def _chosen(project: Project, names: Sequence[str]) -> list[Alert]:
    from dwhctl.core.errors import UsageError
    from dwhctl.core.words import nearest, quoted

    for name in names:
        if name not in project.alerts:
            raise UsageError(f"there is no channel {quoted(name)}; {nearest(name, project.alerts)}")
    return [alert for alert in project.alerts.values() if not names or alert.name in names]


def _send(project: Project, alert: Alert, digest: Digest, *, debug: bool) -> tuple[object, ...]:
    """Send the message and give the channel's line of the listing."""
    import time
    import traceback

    from dwhctl.alerts.delivery import open_channel
    from dwhctl.alerts.message import render
    from dwhctl.cli.common.output import tell
    from dwhctl.core.errors import DwhctlError
    from dwhctl.core.words import one_line

    address = None
    try:
        channel = open_channel(project, alert)
        address = channel.address
        message = render(project, alert, digest)
        started = time.perf_counter()
        receipt = channel.send(message)
    except DwhctlError as error:
        if debug:
            tell("".join(traceback.format_exception(error)).rstrip())
        return (alert.name, alert.type, address, False, None, None, one_line(str(error)))
    latency = round((time.perf_counter() - started) * 1000, 1)
    remarks = [f"refused: {each}" for each in receipt.refused]
    if receipt.migrated_to:
        remarks.append(
            f'the group has a new id: write chat_id = "{receipt.migrated_to}" into alerts.{alert.name}'
        )
    reason = one_line("; ".join(remarks)) or None
    return (alert.name, alert.type, address, not receipt.refused, latency, one_line(receipt.answer), reason)


def _show_texts(project: Project, alerts: Sequence[Alert], digest: Digest, form: str) -> ExitCode:
    from dwhctl.cli.common.output import say

    rows = [_rendered(project, alert, digest) for alert in alerts]
    if form != "table":
        DRY_RUN.show(rows, form)
    for number, (name, kind, to, ok, subject, text, reason) in enumerate(rows if form == "table" else ()):
        if number:
            say()
        say(f"-- {name} ({kind} to {to})" if to else f"-- {name} ({kind})")
        if kind == "email" and ok:
            say(f"Subject: {subject}\n")
        say(str(text if ok else f"cannot be sent: {reason}"))
    return ExitCode.DONE if all(row[3] for row in rows) else ExitCode.FAILED


def _rendered(project: Project, alert: Alert, digest: Digest) -> tuple[object, ...]:
    from dwhctl.alerts.delivery import open_channel
    from dwhctl.alerts.message import render
    from dwhctl.core.errors import DwhctlError

    try:
        channel = open_channel(project, alert)
        message = render(project, alert, digest)
    except DwhctlError as error:
        return (alert.name, alert.type, None, False, None, None, str(error))
    return (alert.name, alert.type, channel.address, True, message.subject, message.text, None)
