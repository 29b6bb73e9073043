"""How a command ends: the page is written, errors become a message and an exit code, and channels are notified of them.

`dwhctl --help` imports this module: what only a failure needs is imported when it happens.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from dwhctl.cli.common.options import Settings, use_project
from dwhctl.cli.common.output import CANNOT_WRITE, begin_output, has_result, silence, tell
from dwhctl.core.errors import (
    ConfigError,
    DwhctlError,
    ExitCode,
    InternalError,
    Interrupted,
    LockHeldError,
    UsageError,
)
from dwhctl.core.files import denied
from dwhctl.core.waiting import Waiting, announced, caught_signals
from dwhctl.core.words import SCHEDULED, one_line, shown_command, shown_time, without_arguments

if TYPE_CHECKING:
    from dwhctl.project.model import Project

PROGRAM = "dwhctl"
COMPLETION = "_DWHCTL_COMPLETE"
_ACCESS = "give the user that runs dwhctl access, or use another path"
#: Why the system refuses a file without any defect of dwhctl, with the remedy.
_OF_THE_SYSTEM: Mapping[int | None, str] = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: _ACCESS,
    errno.EISDIR: "give a file, or move the folder away",
    errno.ENOTDIR: "move the file away that is in the place of a folder of this path",
    errno.ELOOP: "put the file itself there, not a symbolic link",
    errno.EINVAL: "put a regular file there",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EIO: "check the disk",
}
EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.DONE: "all done (a slice without rows counts as done)",
    ExitCode.FAILED: "something failed",
    ExitCode.USAGE: "wrong usage or configuration, nothing was touched",
    ExitCode.LOCK_HELD: "a lock is held: another dwhctl does this work now (--wait 10m waits for it)",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.TERMINATED: "ended by SIGTERM, or by SIGHUP when its terminal was closed",
}


def exit_codes_help(codes: Iterable[ExitCode]) -> str:
    """Return the part of a help text that lists exit codes."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {EXIT_CODES[code]}" for code in codes)


def exit_codes(*codes: ExitCode) -> Callable[[click.Command], click.Command]:
    """List in a command's help the exit codes that it ends with, beside 0 and 2."""

    def listed(command: click.Command) -> click.Command:
        command.epilog = exit_codes_help(sorted({ExitCode.DONE, ExitCode.USAGE, *codes}))
        return command

    return listed


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a command, write on stderr what went wrong, and return the exit code."""
    settings = Settings()
    for stream in (sys.stdout, sys.stderr):
        _write_any_character(stream)
    given = list(sys.argv[1:] if arguments is None else arguments)
    begin_output()
    try:
        with announced(lambda waiting: _show_wait(waiting, settings)):
            code = _invoke(command, given, settings)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        shown, message = _without_values(error, given)
        tell(shown)
        _show_error(given, UsageError.__name__, message, error.exit_code)
        return _notified(error.exit_code, given, message, settings)
    except (click.Abort, KeyboardInterrupt, Interrupted) as stop:
        tell("Error: interrupted")
        code = stop.exit_code if isinstance(stop, Interrupted) else ExitCode.INTERRUPTED
        _show_error(given, Interrupted.__name__, "interrupted", code)
        return code
    except Exception as error:
        code, problems = _end(error, debug=settings.debug)
        if problems:
            tell(_listed(problems))
            # A defect is an InternalError.
            kind = type(error) if isinstance(error, DwhctlError | OSError) else InternalError
            _show_error(given, kind.__name__, "\n".join(problems), code)
        return _notified(code, given, str(error), settings)


def _show_wait(waiting: Waiting, settings: Settings) -> None:
    """Write what a command waits for; a run shows it in its progress instead."""
    if waiting.text and not settings.quiet:
        tell(f"{shown_time()} {one_line(waiting.text)}")


def _without_values(error: click.ClickException, arguments: Sequence[str]) -> tuple[str, str]:
    """Return click's text on wrong usage, whole and as a message, without the arguments: they may be secrets."""
    text = io.StringIO()
    error.show(file=text)
    return (
        without_arguments(text.getvalue(), arguments).rstrip("\n"),
        without_arguments(error.format_message(), arguments),
    )


def _invoke(command: click.Command, arguments: Sequence[str], settings: Settings) -> int:
    instruction = os.environ.get(COMPLETION)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(command, {"obj": settings}, PROGRAM, COMPLETION, instruction)
    with command.make_context(PROGRAM, list(arguments), obj=settings) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else ExitCode.DONE


def _end(error: Exception, *, debug: bool) -> tuple[ExitCode, list[str]]:
    """Return the exit code of a command that an error ended, and what is wrong; nothing when the reader has gone."""
    if isinstance(error, OSError) and _came_from_writing(error):
        return _without_output(error)
    if debug:
        import traceback

        tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, DwhctlError):
        # Not `splitlines`: a separator of lines in a server's text begins no problem of its own.
        lines = [line for line in str(error).split("\n") if line.strip()]
        return error.exit_code, lines or [type(error).__name__]
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM and error.filename is not None:
        path = os.fsdecode(error.filename)
        remedy = denied(Path(path)) if isinstance(error, PermissionError) else _OF_THE_SYSTEM[error.errno]
        return ExitCode.FAILED, [f"{path}: {error.strerror}; {remedy}"]
    hint = "" if debug else " (--debug shows where)"
    first_line = str(error).partition("\n")[0]
    problem = f"internal error, a defect in dwhctl: {type(error).__name__}: {first_line}{hint}"
    return ExitCode.FAILED, [problem]


def _without_output(error: OSError) -> tuple[ExitCode, list[str]]:
    silence(sys.stdout)
    if isinstance(error, BrokenPipeError):  # the reader has gone
        return ExitCode.DONE, []
    return ExitCode.FAILED, [f"{CANNOT_WRITE}: {error.strerror}"]


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"Error: {problems[0]}"
    return "\n".join([f"Error: {len(problems)} problems:", *(f"  {line}" for line in problems)])


def _show_error(arguments: Sequence[str], error_class: str, message: str, code: int) -> None:
    """With `--format json` write the error to stdout as an object, unless the command has written its result."""
    if _typed(arguments).get("--format") != "json" or has_result():
        return
    from dwhctl.cli.common.objects import ErrorObject, ErrorPart, show_object

    part = ErrorPart(error_class, message, tuple(message.split("\n")))
    # Where stdout cannot be written, stderr has the error.
    with suppress(DwhctlError):
        show_object(ErrorObject(exit_code=code, error=part))


def _came_from_writing(error: BaseException) -> bool:
    """Return whether click could not write its help, or the last flush failed: commands write by `output.say`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    return code is not None and code.co_qualname in {"echo", "run"}


def hold_standard_streams() -> None:
    """Open standard streams that are closed: else the next file opened gets what is written to them.

    Writing to such a stdout fails, as on a full disk; such a stderr takes everything.
    """
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:  # pragma: no cover - the lowest free number is given
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _write_any_character(stream: TextIO) -> None:
    # A name that the terminal's encoding does not have must not end a run.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


# A scheduled command that could not begin

#: The commands in the lines of `crontab install`, and the kind of run of each.
_WORKING = {"load": "load", "refresh-reports": "refresh", "watch": "watch"}


def _notified(code: int, arguments: Sequence[str], message: str, settings: Settings) -> int:
    """Return the exit code; when it is 2 and a scheduler started the command, notify the channels first."""
    if code == ExitCode.USAGE and _is_scheduled(arguments):
        try:
            for line in _notify(arguments, message, settings):
                tell(one_line(line))
        except (Interrupted, KeyboardInterrupt):
            tell("interrupted while the alerts were sent")
        except Exception as error:
            tell(one_line(f"the alerts cannot be sent: {type(error).__name__}: {error}"))
    return code


def _is_scheduled(arguments: Sequence[str]) -> bool:
    """Return whether a scheduler started this to do work: a person who types a command sees what is wrong with it."""
    given = set(arguments)
    return (
        SCHEDULED in given
        and _typed(arguments).get("command") in _WORKING
        and not {"--dry-run", "--help"} & given
    )


def _typed(arguments: Sequence[str]) -> dict[str, str]:
    """Return the command, --project and --format, the last of each, of arguments that click may have refused."""
    found: dict[str, str] = {}
    left = iter(arguments)
    for argument in left:
        option, equals, value = argument.partition("=")
        if option in ("--project", "--format"):
            found[option] = value if equals else next(left, "")
        elif not argument.startswith("-"):
            found.setdefault("command", argument)
    return found


def _notify(arguments: Sequence[str], message: str, settings: Settings) -> list[str]:
    from dwhctl.alerts.digest import RunKind
    from dwhctl.notify import notify_usage_error
    from dwhctl.project.find import find_project
    from dwhctl.project.read import read_for_alerts

    typed = _typed(arguments)
    given = Path(typed["--project"]) if "--project" in typed else None
    try:
        root = find_project(settings.project or given)
    except ConfigError:
        return []  # without a project there is no channel
    project = read_for_alerts(root)
    if project is None or not project.alerts:
        return []
    use_project(project)
    sent = notify_usage_error(project, shown_command(arguments), message, RunKind(_WORKING[typed["command"]]))
    return [alert.words() for alert in sent]


# The page at the end of a run: written anew where the configuration has a path for it


@contextmanager
def page_afterwards(project: Project) -> Iterator[None]:
    """Write the page when the run in the block has ended, also when an error ended it.

    Not after a command that did no work, and not after an interruption. A page that cannot be written is one warning:
    it changes neither the result of the run nor its exit code.
    """
    try:
        yield
    except (LockHeldError, UsageError, Interrupted):
        raise
    except DwhctlError:
        rewrite_page(project)
        raise
    rewrite_page(project)


def rewrite_page(project: Project) -> None:
    """Write the page where the configuration has a path for it. Raise nothing."""
    if project.page.path is None:
        return
    try:
        from dwhctl.page.render import write_page

        with caught_signals():
            write_page(project, project.page.path)
    except Interrupted:
        tell("interrupted while the page was written; the next run writes it")
    except DwhctlError as error:
        text = str(error)
        problem = text if text.startswith("the page") else f"the page cannot be written: {text}"
        tell(one_line(f"warning: {problem}; the run itself is not affected"))
    except Exception as error:
        tell(one_line(f"warning: the page cannot be written: {type(error).__name__}: {error}"))
