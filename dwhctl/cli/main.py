"""The command `dwhctl`: its commands and the entry point of the process."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

import click

from dwhctl import __version__
from dwhctl.cli.common.ending import EXIT_CODES, exit_codes_help, hold_standard_streams, run
from dwhctl.cli.common.options import CommandEntry, LazyGroup, common_options
from dwhctl.core.errors import ExitCode, Interrupted
from dwhctl.core.secrets import mask_python
from dwhctl.core.start import begin
from dwhctl.core.waiting import ENDING_SIGNALS, caught_signals

_UTF8 = "PYTHONUTF8"
COMMANDS = {
    "demo": CommandEntry("new_project.demo", "Make a project with data in it, and show how it works."),
    "init": CommandEntry("new_project.init", "Make a commented empty project."),
    "load": CommandEntry("load", "Load a day from every shard."),
    "backfill": CommandEntry("load", "Load every day of a range."),
    "refresh-reports": CommandEntry("refresh_reports", "Refresh report tables from their views."),
    "render": CommandEntry("query", "Show the SQL exactly as it would run."),
    "query": CommandEntry("query", "Run an ad hoc query, read only by default."),
    "alert-test": CommandEntry("alerts", "Send a test message through every channel."),
    "verify": CommandEntry("verify", "Compare sources and warehouse slice by slice."),
    "adopt": CommandEntry("sessions", "Mark days that another tool loaded as complete."),
    "report": CommandEntry("report.group", "Show what was loaded, what fails, what is missing."),
    "page": CommandEntry("page", "Write the state of everything as one HTML page, or show it."),
    "watch": CommandEntry("alerts", "Notify the channels of what is not loaded in time."),
    "crontab": CommandEntry("crontab", "Put the schedules into the crontab."),
    "sessions": CommandEntry("sessions", "Prune old sessions and what runs left in the state folder."),
    "connections": CommandEntry("connections", "List, test and import the connections."),
    "config": CommandEntry("connections", "Check the configuration."),
    "schema": CommandEntry("schema", "Print the JSON Schema of --format json."),
    "docs": CommandEntry("docs", "Show the documentation."),
}
EPILOG = "\b\nExample:\n  dwhctl load --date yesterday\n\n" + exit_codes_help(EXIT_CODES)


class _Dwhctl(LazyGroup):
    table = COMMANDS


@click.group(cls=_Dwhctl, epilog=EPILOG)
@click.version_option(__version__, prog_name="dwhctl", message="%(prog)s %(version)s")
@common_options
def dwhctl() -> None:
    """Loads sharded databases into a warehouse, whole and once, from cron.

    'dwhctl COMMAND --help' describes a command.
    """


def _speak_utf8() -> None:
    """Restart in Python's UTF-8 mode where the locale has another encoding: DuckDB and Parquet have UTF-8 file names.

    Child processes inherit it. (Python does the same for the locale C by default.)
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get(_UTF8) == "1" or not sys.executable:
        return
    os.environ[_UTF8] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def main() -> NoReturn:
    """Run the command of the process's arguments, and end the process."""
    hold_standard_streams()
    begin()
    _speak_utf8()
    mask_python()
    # Python turns SIGINT into KeyboardInterrupt.
    with caught_signals(ENDING_SIGNALS - {signal.SIGINT}):
        try:
            code = run(dwhctl)
            _keep(code)
        except (KeyboardInterrupt, Interrupted) as stop:  # while the command was ending
            code = stop.exit_code if isinstance(stop, Interrupted) else ExitCode.INTERRUPTED
            _keep(code)
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        # Python would wait for threads that still wait for a server, and a driver in one of them may abort the process.
        os._exit(code)
    sys.exit(code)


def _keep(code: int) -> None:
    """Have no signal change the exit code any more."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            # Python waits for threads now; Ctrl-C would print a traceback.
            signal.signal(number, lambda *_: os._exit(code))
            # After that Python resets the handler.
            atexit.register(signal.signal, number, signal.SIG_IGN)
