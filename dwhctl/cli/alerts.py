"""`dwhctl watch` and `dwhctl alert-test`: what is not loaded in time, and a test of the channels."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
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
from dwhctl.cli.common.output import say, tell
from dwhctl.core.errors import DwhctlError, ExitCode, UsageError
from dwhctl.core.words import nearest, one_line, quoted, shown_command

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dwhctl.alerts.digest import Digest
    from dwhctl.monitor.freshness import Sla
    from dwhctl.project.model import Alert, Project

# `--help` imports neither the configuration's classes nor the channels.


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("watch")
@scheduled_option
@common_options
@pass_settings
def watch_command(settings: Settings, scheduled: bool) -> ExitCode:
    """Check that every load and report keeps its `deadline` and its `max_age`; end with 1 if one does not.

    Channels with "sla_miss" are notified of what is missed: once, again after their repeat_after, and when it has
    recovered. Only the sessions table is read. `dwhctl crontab install` makes a line for it.

    \b
    Example:
      dwhctl watch
    """
    from dwhctl.cli.common.page import page_afterwards
    from dwhctl.cli.common.summary import show_alerts
    from dwhctl.monitor.watch import run_watch

    project = settings.open_project()
    typed = shown_command(sys.argv[1:])
    with page_afterwards(project):
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
or one of type "email" with host, from and to, "webhook" (Slack, Mattermost, Teams) or "apprise" with url;
dwhctl docs alerts explains them"""


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
    """Send a real test message through every channel (or through the named ones), and show the answers.

    The message is the channel's own template with a failure that did not happen, about the project's own shards.
    Ends with 1 if any message did not reach every recipient.

    \b
    Example:
      dwhctl alert-test telegram_failures
    """
    from dwhctl.alerts.digest import sample_digest

    project = settings.open_project()
    if not project.alerts:
        tell(NO_CHANNELS)
        return ExitCode.USAGE
    for name in names:
        if name not in project.alerts:
            raise UsageError(f"there is no channel {quoted(name)}; {nearest(name, project.alerts)}")
    chosen = [alert for alert in project.alerts.values() if not names or alert.name in names]
    digest = sample_digest(project, datetime.now(project.zone).date())
    rows = [_row(project, alert, digest, dry_run=dry_run, debug=settings.debug) for alert in chosen]
    shown = [row for row in rows if not (settings.quiet and row[3])]
    if dry_run and form == "table":
        _say_texts(rows)
    elif dry_run:
        DRY_RUN.show(rows, form)
    elif shown or not settings.quiet:
        ALERT_TEST.show(shown, form)
    return ExitCode.DONE if all(row[3] for row in rows) else ExitCode.FAILED


def _row(project: Project, alert: Alert, digest: Digest, *, dry_run: bool, debug: bool) -> tuple[object, ...]:
    """Render the message, send it without `dry_run`, and return the channel's line of the listing."""
    from dwhctl.alerts.channels import open_channel, render

    address = None
    try:
        channel = open_channel(project, alert)
        address = channel.address
        message = render(project, alert, digest)
        if dry_run:
            return (alert.name, alert.type, address, True, message.subject, message.text, None)
        started = time.perf_counter()
        receipt = channel.send(message)
    except DwhctlError as error:
        reason = str(error) if dry_run else one_line(str(error))
        if debug and not dry_run:
            tell("".join(traceback.format_exception(error)).rstrip())
        return (alert.name, alert.type, address, False, None, None, reason)
    latency = round((time.perf_counter() - started) * 1000, 1)
    remarks = [f"refused: {refusal}" for refusal in receipt.refused]
    if receipt.migrated_to:
        remarks.append(
            f'the group has a new id: write chat_id = "{receipt.migrated_to}" into alerts.{alert.name}'
        )
    remark = one_line("; ".join(remarks)) or None
    return (alert.name, alert.type, address, not receipt.refused, latency, one_line(receipt.answer), remark)


def _say_texts(rows: Sequence[tuple[object, ...]]) -> None:
    for number, (name, kind, to, ok, subject, text, reason) in enumerate(rows):
        if number:
            say()
        say(f"-- {name} ({kind} to {to})" if to else f"-- {name} ({kind})")
        if kind == "email" and ok:
            say(f"Subject: {subject}\n")
        say(str(text if ok else f"cannot be sent: {reason}"))
