"""`dwhctl report`: the past at a glance."""

from __future__ import annotations

import click

from dwhctl.cli.lazy import Entry, LazyGroup
from dwhctl.cli.options import common_options

COMMANDS: dict[str, Entry] = {
    # One line for each report, in the order in which a person needs them.
    "grid": Entry("dwhctl.cli.report_grid", "Shards down, days across: where every slice stands."),
    "gaps": Entry("dwhctl.cli.report_gaps", "What is missing, and the command that fills it."),
    "timeline": Entry("dwhctl.cli.report_timeline", "What a run did when, on which worker."),
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
