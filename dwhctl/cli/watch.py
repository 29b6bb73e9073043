"""`dwhctl watch`: who should have loaded by now, and has not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.options import Settings, common_options, pass_settings, scheduled_option
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dwhctl.runs.sla import Sla


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("watch")
@scheduled_option
@common_options
@pass_settings
def command(settings: Settings, scheduled: bool) -> ExitCode:
    """Look whether every load and report keeps its `deadline` and its `max_age`; end with 1 if one does not.

    What is missed is told to the channels with "sla_miss": once, again after their repeat_after, and when it is well
    again. Only the sessions table is asked. `dwhctl crontab install` makes a line for it.

    \b
    Example:
      dwhctl watch
    """
    from dwhctl.cli.output import one_line, say, tell
    from dwhctl.cli.summary import show_alerts
    from dwhctl.project.words import shown_command
    from dwhctl.runs.watch import exit_code_of, run_watch

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
    return exit_code_of(report)


def _say_missed(sla: Sla, zone: ZoneInfo) -> None:
    from dwhctl.cli.output import say
    from dwhctl.runs.watch import words_of_late, words_of_old

    for words in filter(None, (words_of_late(sla, zone), words_of_old(sla, zone))):
        say(f"{sla.name}: {words}")
    say(f"  {sla.command}")
