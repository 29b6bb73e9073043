"""`dwhctl report metrics`: numbers for a monitoring system."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from dwhctl.cli.options import Settings, common_options, pass_settings


@click.command("metrics")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write this file, such as .../dwhctl.prom, in the place of the old one at once.",
)
@common_options
@pass_settings
def command(settings: Settings, /, output: Path | None) -> None:
    """Write metrics of every load and report as OpenMetrics text: the last success, rows, duration, streak, states.

    Made for the textfile collector of node_exporter; a line in the crontab writes the file every few minutes.

    \b
    Examples:
      dwhctl report metrics
      dwhctl report metrics --output /var/lib/node_exporter/textfile/dwhctl.prom
    """
    from dwhctl.cli.output import write_out
    from dwhctl.runs.metrics import metrics_text, write_atomically

    project = settings.open_project()
    text = metrics_text(project, datetime.now(project.zone).date())
    if output is None:
        write_out(text, end="")
    else:
        write_atomically(output, text)
