"""`dwhctl report`: the past at a glance."""

from __future__ import annotations

import click

from dwhctl.cli.lazy import Entry, LazyGroup
from dwhctl.cli.options import common_options

COMMANDS: dict[str, Entry] = {
    # One line for each report, in the order in which a person needs them.
    "failures": Entry("dwhctl.cli.report_failures", "What is failing now, since when and why."),
    "runs": Entry("dwhctl.cli.report_runs", "One line for each run."),
    "sessions": Entry("dwhctl.cli.report_sessions", "Each attempt to load a slice."),
    "durations": Entry("dwhctl.cli.report_durations", "How long each shard takes, the slowest first."),
    "alerts": Entry("dwhctl.cli.report_alerts", "What channels were told, and what could not be sent."),
}


class _Report(LazyGroup):
    table = COMMANDS


@click.group("report", cls=_Report)
@common_options
def command() -> None:
    """Show what was loaded, what fails, and what is missing.

    \b
    Example:
      dwhctl report failures
    """
