"""The command `dwhctl`: its commands, its exit codes, its entry."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from dwhctl import __version__
from dwhctl.cli.common.ending import EXIT_CODES, exit_codes_help, hold_standard_streams, run
from dwhctl.cli.common.options import CommandEntry, LazyGroup, common_options
from dwhctl.core.errors import ExitCode
from dwhctl.core.start import begin

_UTF8 = "PYTHONUTF8"
COMMANDS = {
    "demo": CommandEntry(
        "dwhctl.cli.new_project.demo", "Make a project with data in it, and show how it works."
    ),
    "init": CommandEntry("dwhctl.cli.new_project.init", "Make a commented empty project."),
    "load": CommandEntry("dwhctl.cli.load", "Load a day from every shard."),
    "backfill": CommandEntry("dwhctl.cli.load", "Load every day of a range.", "backfill_command"),
    "refresh-reports": CommandEntry("dwhctl.cli.refresh_reports", "Refresh report tables from their views."),
    "render": CommandEntry("dwhctl.cli.query", "Show the SQL exactly as it would run.", "render_command"),
    "query": CommandEntry("dwhctl.cli.query", "Run an ad hoc query, read only by default."),
    "alert-test": CommandEntry(
        "dwhctl.cli.alerts", "Send a test message through every channel.", "alert_test_command"
    ),
    "verify": CommandEntry("dwhctl.cli.verify", "Compare sources and warehouse slice by slice."),
    "adopt": CommandEntry(
        "dwhctl.cli.sessions", "Take days that another tool loaded as complete.", "adopt_command"
    ),
    "report": CommandEntry("dwhctl.cli.report.group", "Show what was loaded, what fails, what is missing."),
    "watch": CommandEntry("dwhctl.cli.alerts", "Tell of what is not loaded in time.", "watch_command"),
    "crontab": CommandEntry("dwhctl.cli.crontab", "Put the schedules into the crontab."),
    "sessions": CommandEntry(
        "dwhctl.cli.sessions", "Prune old sessions and what runs left in the state folder."
    ),
    "connections": CommandEntry("dwhctl.cli.connections", "List, test and import the connections."),
    "config": CommandEntry("dwhctl.cli.connections", "Check the configuration.", "config_command"),
    "docs": CommandEntry("dwhctl.cli.docs", "Show the documentation."),
}
EPILOG = "\b\nExample:\n  dwhctl load --date yesterday\n\n" + exit_codes_help(EXIT_CODES)


class _Dwhctl(LazyGroup):
    table = COMMANDS


@click.group(cls=_Dwhctl, epilog=EPILOG)
@click.version_option(__version__, prog_name="dwhctl", message="%(prog)s %(version)s")
@common_options
def dwhctl() -> None:
    """Loads sharded databases into a warehouse, whole and once, from cron.

    'dwhctl COMMAND --help' tells more about a command.
    """


def _speak_utf8() -> None:
    """Start anew in Python's UTF-8 mode where the locale has another encoding: DuckDB and Parquet name files in UTF-8.

    The child processes are in it as well. (Python itself does so for the locale C, unless it is told not to.)
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get(_UTF8) == "1" or not sys.executable:
        return
    os.environ[_UTF8] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def main() -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    from dwhctl.core.secrets import mask_python

    hold_standard_streams()
    begin()
    _speak_utf8()
    mask_python()
    try:
        code = run(dwhctl)
    except KeyboardInterrupt:  # while the command was ending
        code = ExitCode.INTERRUPTED
    # Python waits for threads now, and would answer another Ctrl-C with a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    sys.exit(code)
