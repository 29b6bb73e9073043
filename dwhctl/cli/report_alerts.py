"""`dwhctl report alerts`: what people were told, and what could not be told them."""

from __future__ import annotations

import click

from dwhctl.cli.options import Settings, common_options, format_option, pass_settings

COLUMNS = ("id", "created", "channel", "subject", "state", "answer", "attempts", "sent_at")


@click.command("alerts")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, metavar="N", help="How many."
)
@click.option("--open", "only_open", is_flag=True, help="Only what did not surely arrive, and still matters.")
@format_option
@common_options
@pass_settings
def command(settings: Settings, limit: int, only_open: bool, form: str) -> None:
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
    from dwhctl.cli.output import Look, show
    from dwhctl.sessions import REPORT_TIMEOUT, open_if_there

    project = settings.open_project()
    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    rows = []
    if store is not None:
        with store:
            rows = Outbox(store).newest(limit, only_open=only_open)
    look = Look(texts=("subject", "answer"), spare=("attempts", "created", "answer"), names=("id",))
    empty = "" if settings.quiet else "no message that did not arrive" if only_open else "no message yet"
    show(COLUMNS, [tuple(getattr(row, name) for name in COLUMNS) for row in rows], form, look, empty)
