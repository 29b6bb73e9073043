"""The command `dwhctl`: its commands, its exit codes, its entry."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from dwhctl import __version__
from dwhctl.cli.ending import EXIT_CODES, exit_codes_help, hold_standard_streams, run
from dwhctl.cli.lazy import Entry, LazyGroup
from dwhctl.cli.options import common_options
from dwhctl.errors import ExitCode
from dwhctl.start import begin

_UTF8 = "PYTHONUTF8"
COMMANDS = {
    "demo": Entry("dwhctl.cli.demo", "Make a project with data in it, and show how it works."),
    "init": Entry("dwhctl.cli.init", "Make a commented empty project."),
    "load": Entry("dwhctl.cli.load", "Load a day from every shard."),
    "backfill": Entry("dwhctl.cli.backfill", "Load every day of a range."),
    "refresh-reports": Entry("dwhctl.cli.refresh_reports", "Refresh report tables from their views."),
    "render": Entry("dwhctl.cli.render", "Show the SQL exactly as it would run."),
    "query": Entry("dwhctl.cli.query", "Run an ad hoc query, read only by default."),
    "alert-test": Entry("dwhctl.cli.alert_test", "Send a test message through every channel."),
    "verify": Entry("dwhctl.cli.verify", "Compare sources and warehouse slice by slice."),
    "adopt": Entry("dwhctl.cli.adopt", "Take days that another tool loaded as complete."),
    "report": Entry("dwhctl.cli.report", "Show what was loaded, what fails, what is missing."),
    "watch": Entry("dwhctl.cli.watch", "Tell of what is not loaded in time."),
    "crontab": Entry("dwhctl.cli.crontab", "Put the schedules into the crontab."),
    "sessions": Entry("dwhctl.cli.sessions", "Prune old sessions and what runs left in the state folder."),
    "connections": Entry("dwhctl.cli.connections", "List, test and import the connections."),
    "config": Entry("dwhctl.cli.config", "Check the configuration."),
    "docs": Entry("dwhctl.cli.docs", "Show the documentation."),
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
    from dwhctl.project.masked_stderr import mask_python

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
