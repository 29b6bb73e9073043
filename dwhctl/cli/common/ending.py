"""How a command ends: the one place that turns its errors into words and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import click

from dwhctl.cli.common.options import Settings
from dwhctl.core.errors import DwhctlError, ExitCode, Interrupted
from dwhctl.core.waiting import Waiting, announced

PROGRAM = "dwhctl"
COMPLETION = "_DWHCTL_COMPLETE"
CANNOT_WRITE = "the output cannot be written"
_ACCESS = "give the user that runs dwhctl access, or name another path"
#: What a file can be refused for without any defect of ours, with the remedy.
_OF_THE_SYSTEM: Mapping[int | None, str] = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: _ACCESS,
    errno.EISDIR: "name a file, or move the folder away",
    errno.ENOTDIR: "move the file away that stands for a folder in this path",
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
    ExitCode.TERMINATED: "ended by SIGTERM",
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
    """Run a command to its end, tell on stderr what went wrong, and give the exit code."""
    settings = Settings()
    for stream in (sys.stdout, sys.stderr):
        _write_any_character(stream)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with announced(lambda waiting: _tell_of_wait(waiting, settings)):
            code = _invoke(command, given, settings)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        said, message = _shown(error, given)
        _tell(said)
        return _told(error.exit_code, given, message, settings)
    except (click.Abort, KeyboardInterrupt):
        _tell("Error: interrupted")
        return ExitCode.INTERRUPTED
    except Interrupted as stop:
        _tell("Error: interrupted")
        return stop.exit_code
    except Exception as error:
        return _told(_end(error, debug=settings.debug), given, str(error), settings)


def _tell_of_wait(waiting: Waiting, settings: Settings) -> None:
    """Say what a command waits for; a run shows it in its progress instead."""
    if waiting.text and not settings.quiet:
        from dwhctl.core.words import one_line, shown_time

        _tell(f"{shown_time()} {one_line(waiting.text)}")


def _shown(error: click.ClickException, arguments: Sequence[str]) -> tuple[str, str]:
    """Return what click says of wrong usage, whole and as a message: arguments in it may be secrets."""
    from dwhctl.core.words import without_arguments

    text = io.StringIO()
    error.show(file=text)
    said, message = (without_arguments(each, arguments) for each in (text.getvalue(), error.format_message()))
    return said.rstrip("\n"), message


def _told(code: int, arguments: Sequence[str], message: str, settings: Settings) -> int:
    """Notify the channels of a scheduled command that could not begin, and give its exit code."""
    if code == ExitCode.USAGE:
        from dwhctl.cli.common.unattended import tell_of_usage

        tell_of_usage(arguments, message, settings)
    return code


def _invoke(command: click.Command, arguments: Sequence[str], settings: Settings) -> int:
    instruction = os.environ.get(COMPLETION)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(command, {"obj": settings}, PROGRAM, COMPLETION, instruction)
    with command.make_context(PROGRAM, list(arguments), obj=settings) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else ExitCode.DONE


def _end(error: Exception, *, debug: bool) -> ExitCode:
    if isinstance(error, OSError) and _came_from_writing(error):
        return _without_output(error)
    if debug:
        import traceback

        _tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, DwhctlError):
        _tell(_translate_error(error))
        return error.exit_code
    if isinstance(error, PermissionError) and error.filename is not None:
        from dwhctl.core.files import denied

        _tell(f"Error: {error.filename}: {error.strerror}; {denied(Path(os.fsdecode(error.filename)))}")
        return ExitCode.FAILED
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM and error.filename is not None:
        _tell(f"Error: {os.fsdecode(error.filename)}: {error.strerror}; {_OF_THE_SYSTEM[error.errno]}")
        return ExitCode.FAILED
    hint = "" if debug else " (--debug shows where)"
    _tell(f"Error: internal error, a defect in dwhctl: {type(error).__name__}: {_first_line(error)}{hint}")
    return ExitCode.FAILED


def _without_output(error: OSError) -> ExitCode:
    silence(sys.stdout)
    if isinstance(error, BrokenPipeError):  # the reader has seen enough
        return ExitCode.DONE
    _tell(f"Error: {CANNOT_WRITE}: {error.strerror}")
    return ExitCode.FAILED


def _translate_error(error: DwhctlError) -> str:
    # Not `splitlines`: a separator of lines in a server's text begins no problem of its own.
    lines = [line for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
    if len(lines) == 1:
        return f"Error: {lines[0]}"
    return "\n".join([f"Error: {len(lines)} problems:", *(f"  {line}" for line in lines)])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _tell(text: str) -> None:
    from dwhctl.cli.common.output import tell

    tell(text)


def _came_from_writing(error: BaseException) -> bool:
    """Tell whether click could not write its help or our last flush failed: commands write by `output.say`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    return code is not None and code.co_qualname in {"echo", "run"}


def hold_standard_streams() -> None:
    """Take the places of standard streams that are closed: else the next file opened gets what is written to them.

    A closed stdout then refuses what is written, as a full disk does; a closed stderr takes all.
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


def silence(stream: TextIO) -> None:
    """From now on drop what is written to the stream: Python's own last flush is then quiet as well."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _write_any_character(stream: TextIO) -> None:
    # A name that the terminal's encoding does not have must not end a run.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
