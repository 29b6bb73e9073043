"""`dwhctl alert-test`: a real test message through every channel, and what came back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.options import Settings, common_options, complete, format_option, pass_settings
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.alerts.digest import Digest
    from dwhctl.project.model import Alert, Project

COLUMNS = ("channel", "type", "to", "ok", "latency_ms", "answer", "reason")
DRY_RUN_COLUMNS = ("channel", "type", "to", "ok", "subject", "text", "reason")
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
def command(settings: Settings, names: Sequence[str], dry_run: bool, form: str) -> ExitCode:
    """Send a real test message through every channel (or through the named ones), and say what came back.

    The message is the channel's own template with a failure that did not happen, about the project's own shards.
    Ends with 1 if any message did not arrive with everybody.

    \b
    Example:
      dwhctl alert-test telegram_failures
    """
    from datetime import datetime

    from dwhctl.alerts.sample import sample_digest
    from dwhctl.cli.output import show, tell

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
        show(COLUMNS, shown, form)
    return ExitCode.DONE if all(row[3] for row in rows) else ExitCode.FAILED


def _chosen(project: Project, names: Sequence[str]) -> list[Alert]:
    from dwhctl.errors import UsageError
    from dwhctl.project.words import nearest, quoted

    for name in names:
        if name not in project.alerts:
            raise UsageError(f"there is no channel {quoted(name)}; {nearest(name, project.alerts)}")
    return [alert for alert in project.alerts.values() if not names or alert.name in names]


def _send(project: Project, alert: Alert, digest: Digest, *, debug: bool) -> tuple[object, ...]:
    """Send the message and give the channel's line of the listing."""
    import time
    import traceback

    from dwhctl.alerts.channels import open_channel
    from dwhctl.alerts.message import render
    from dwhctl.cli.output import one_line, tell
    from dwhctl.errors import DwhctlError

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
    from dwhctl.cli.output import say, show

    rows = [_rendered(project, alert, digest) for alert in alerts]
    if form != "table":
        show(DRY_RUN_COLUMNS, rows, form)
    for number, (name, kind, to, ok, subject, text, reason) in enumerate(rows if form == "table" else ()):
        if number:
            say()
        say(f"-- {name} ({kind} to {to})" if to else f"-- {name} ({kind})")
        if kind == "email" and ok:
            say(f"Subject: {subject}\n")
        say(str(text if ok else f"cannot be sent: {reason}"))
    return ExitCode.DONE if all(row[3] for row in rows) else ExitCode.FAILED


def _rendered(project: Project, alert: Alert, digest: Digest) -> tuple[object, ...]:
    from dwhctl.alerts.channels import open_channel
    from dwhctl.alerts.message import render
    from dwhctl.errors import DwhctlError

    try:
        channel = open_channel(project, alert)
        message = render(project, alert, digest)
    except DwhctlError as error:
        return (alert.name, alert.type, None, False, None, None, str(error))
    return (alert.name, alert.type, channel.address, True, message.subject, message.text, None)
