"""What the reports about slices have in common."""

from __future__ import annotations

import click

from dwhctl.cli.options import complete_shards

#: So many days a report looks at when nobody says how many.
DAYS = 14
MOST_DAYS = 3660

shard_option = click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
