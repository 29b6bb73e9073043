"""`dwhctl report`: the past at a glance."""

from __future__ import annotations

import click

from dwhctl.cli.lazy import Entry, LazyGroup
from dwhctl.cli.options import common_options

COMMANDS: dict[str, Entry] = {
    # In the order in which a person needs them.
    "failures": Entry("dwhctl.cli.report_failures", "What is failing now, since when and why."),
    "gaps": Entry("dwhctl.cli.report_gaps", "What is missing, and the command that fills it."),
    "sla": Entry("dwhctl.cli.report_sla", "Deadlines and ages, and who keeps them."),
    "grid": Entry("dwhctl.cli.report_grid", "Shards down, days across: where every slice stands."),
    "runs": Entry("dwhctl.cli.report_runs", "One line for each run."),
    "sessions": Entry("dwhctl.cli.report_sessions", "Each attempt to load a slice."),
    "timeline": Entry("dwhctl.cli.report_timeline", "What a run did when, on which worker."),
    "log": Entry("dwhctl.cli.report_log", "What a run wrote down while it worked."),
    "metrics": Entry("dwhctl.cli.report_metrics", "Numbers for Prometheus, as OpenMetrics text."),
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
