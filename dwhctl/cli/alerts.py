"""`dwhctl watch` and `dwhctl alert-test`: what is not loaded in time, and a test of the channels."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal

import click

from dwhctl.cli.common.ending import exit_codes, page_afterwards
from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.objects import AlertPart, ErrorObject, ErrorPart, ResultObject, part_of, show_object
from dwhctl.cli.common.options import (
    Settings,
    complete,
    format_option,
    result_option,
    scheduled_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell
from dwhctl.core.errors import DwhctlError, ExitCode, UsageError
from dwhctl.core.words import nearest, one_line, quoted, shown_command

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dwhctl.alerts.digest import Digest
    from dwhctl.monitor.freshness import Sla
    from dwhctl.monitor.watch import WatchReport
    from dwhctl.project.model import Alert, Project

# `--help` imports neither the configuration's classes nor the channels.


@dataclass(frozen=True, slots=True)
class SlaPart:
    """A load or report that has a `deadline` or a `max_age`. The fields are columns of `report sla`."""

    kind: Literal["load", "report"]
    """What it is."""
    name: str
    """Its name."""
    state: Literal["met", "missed", "open"]
    """Whether it keeps them; `open`: nothing of it is expected yet."""
    missing: int
    """How many shards lack something."""
    expected: int
    """How many shards it has; 1 of a report."""
    oldest: date | None
    """The oldest day that missed the deadline."""
    since: datetime | None
    """Since when something is missed, if that is known."""
    deadline: str | None
    """The time of day, such as `07:00`, by the project's clock."""
    next_deadline: datetime | None
    """The next deadline."""
    max_age: str | None
    """The longest permitted time since the last success, such as `6h`."""
    last_success: datetime | None
    """The start of the last success of the shard that is furthest behind."""
    messages: tuple[str, ...]
    """What is missed, in words."""
    command: str | None
    """The command that loads what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchObject(ResultObject):
    """The result of `watch`; its exit code is 1 when something is missed."""

    missed: int
    """How many loads and reports are not in time."""
    slas: tuple[SlaPart, ...]
    """Every load and report that has a deadline or a max_age."""
    alerts: tuple[AlertPart, ...]
    """The messages to the channels."""


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("watch")
@result_option
@scheduled_option
@with_settings
def watch_command(settings: Settings, scheduled: bool, form: str) -> ExitCode:
    """Check that every load and report keeps its `deadline` and its `max_age`; end with 1 if one does not.

    Channels with "sla_miss" are notified of what is missed: once, again after their repeat_after, and when it has
    recovered. Only the sessions table is read. `dwhctl crontab install` makes a line for it.

    \b
    Example:
      dwhctl watch
    """
    from dwhctl.cli.common.summary import show_alerts
    from dwhctl.monitor.watch import run_watch

    project = settings.open_project()
    typed = shown_command(sys.argv[1:])
    with page_afterwards(project):
        report = run_watch(project, typed, lambda notice: tell(one_line(notice.text)), scheduled=scheduled)
    code = ExitCode.FAILED if report.missed else ExitCode.DONE
    if form == "json":
        return show_object(_watch_object(report, project.zone, code))
    for sla in report.missed:
        for words in _messages(sla, project.zone):
            say(f"{sla.name}: {words}")
        say(f"  {sla.command}")
    if not report.slas:
        tell('no load and no report has a deadline or a max_age: add deadline = "07:00" to one')
    elif not report.missed and not settings.quiet:
        say(f"all in time: {', '.join(sla.name for sla in report.slas)}")
    show_alerts(report.alerts, settings)
    return code


def _messages(sla: Sla, zone: ZoneInfo) -> tuple[str, ...]:
    from dwhctl.monitor.watch import words_of_late, words_of_old

    return tuple(filter(None, (words_of_late(sla, zone), words_of_old(sla, zone))))


def _watch_object(report: WatchReport, zone: ZoneInfo, code: ExitCode) -> WatchObject:
    from dwhctl.cli.common.results import alert_parts

    return WatchObject(
        exit_code=code.value,
        missed=len(report.missed),
        slas=tuple(_sla(sla, zone) for sla in report.slas),
        alerts=alert_parts(report.alerts),
    )


def _sla(sla: Sla, zone: ZoneInfo) -> SlaPart:
    from dwhctl.project.days import format_duration

    return part_of(
        SlaPart,
        sla,
        state=sla.state.value,
        missing=len(sla.missed),
        expected=len(sla.tasks),
        deadline=f"{sla.deadline:%H:%M}" if sla.deadline is not None else None,
        max_age=format_duration(sla.max_age) if sla.max_age is not None else None,
        messages=_messages(sla, zone),
    )


@dataclass(frozen=True, slots=True)
class _ChannelTest:
    """What became of the test message to a channel; with --dry-run its texts."""

    channel: str
    type: str
    to: str | None
    ok: bool
    reason: str | None = None
    latency_ms: float | None = None
    answer: str | None = None
    subject: str | None = None
    text: str | None = None


ALERT_TEST: Listing[_ChannelTest] = Listing("channel", "type", "to", "ok", "latency_ms", "answer", "reason")
DRY_RUN: Listing[_ChannelTest] = Listing("channel", "type", "to", "ok", "subject", "text", "reason")
NO_CHANNELS = """\
no channel is configured; add one to config/dwhctl.toml, for instance
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
@with_settings
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
        tell(f"Error: {NO_CHANNELS}")
        if form == "json":
            part = ErrorPart(UsageError.__name__, NO_CHANNELS, (NO_CHANNELS,))
            show_object(ErrorObject(exit_code=ExitCode.USAGE.value, error=part))
        return ExitCode.USAGE
    for name in names:
        if name not in project.alerts:
            raise UsageError(f"there is no channel {quoted(name)}; {nearest(name, project.alerts)}")
    chosen = [alert for alert in project.alerts.values() if not names or alert.name in names]
    digest = sample_digest(project, datetime.now(project.zone).date())
    tests = [_test(project, alert, digest, dry_run=dry_run, debug=settings.debug) for alert in chosen]
    shown = [test for test in tests if not (settings.quiet and test.ok)]
    if dry_run and form == "table":
        _say_texts(tests)
    elif dry_run:
        DRY_RUN.show(tests, form)
    elif shown or not settings.quiet:
        ALERT_TEST.show(shown, form)
    return ExitCode.DONE if all(test.ok for test in tests) else ExitCode.FAILED


def _test(project: Project, alert: Alert, digest: Digest, *, dry_run: bool, debug: bool) -> _ChannelTest:
    """Render the message and, without `dry_run`, send it."""
    from dwhctl.alerts.channels import open_channel, render

    address = None
    try:
        channel = open_channel(project, alert)
        address = channel.address
        message = render(project, alert, digest)
        if dry_run:
            return _ChannelTest(
                alert.name, alert.type, address, ok=True, subject=message.subject, text=message.text
            )
        started = time.perf_counter()
        receipt = channel.send(message)
    except DwhctlError as error:
        if debug and not dry_run:
            tell("".join(traceback.format_exception(error)).rstrip())
        reason = str(error) if dry_run else one_line(str(error))
        return _ChannelTest(alert.name, alert.type, address, ok=False, reason=reason)
    latency = round((time.perf_counter() - started) * 1000, 1)
    remarks = [f"refused: {refusal}" for refusal in receipt.refused]
    if receipt.migrated_to:
        remarks.append(
            f'the group has a new id: write chat_id = "{receipt.migrated_to}" into alerts.{alert.name}'
        )
    remark, answer = one_line("; ".join(remarks)) or None, one_line(receipt.answer)
    return _ChannelTest(alert.name, alert.type, address, not receipt.refused, remark, latency, answer)


def _say_texts(tests: Sequence[_ChannelTest]) -> None:
    for number, test in enumerate(tests):
        if number:
            say()
        say(f"-- {test.channel} ({test.type}{f' to {test.to}' if test.to else ''})")
        if test.type == "email" and test.ok:
            say(f"Subject: {test.subject}\n")
        say(str(test.text) if test.ok else f"cannot be sent: {test.reason}")
