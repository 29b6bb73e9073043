"""What a command writes: results to stdout, everything else to stderr, no secret to either.

No control character of another system's text reaches the terminal: `say`, `tell` and `paint` make it printable. Only
data that does not go to a terminal (CSV, `write_out`) is written unchanged.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from dwhctl.core.errors import DwhctlError
from dwhctl.core.secrets import mask
from dwhctl.core.words import printable, shown_seconds

if TYPE_CHECKING:
    from rich.text import Text

CANNOT_WRITE = "the output cannot be written"


def say(text: str = "") -> None:
    """Write a line of the result to stdout."""
    write(sys.stdout, mask(text))


def tell(text: str) -> None:
    """Write a line to stderr: what a person should know that is no result."""
    write(sys.stderr, mask(text))


def screen() -> tuple[int, int] | None:
    """Return columns and lines of the terminal that stdout is; None when it is not a terminal."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    size = Console(file=sys.stdout).size
    return size.width, size.height


def paint(lines: Iterable[Text]) -> None:
    """Write lines of a picture to stdout, coloured on a terminal. Long lines, such as commands, are not broken."""
    if not sys.stdout.isatty():
        write(sys.stdout, mask("\n".join(line.plain.rstrip() for line in lines)))
        return
    from dwhctl.cli.common.table import Screen

    console = Screen(file=sys.stdout, highlight=False)
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    write(sys.stdout, mask(captured.get().rstrip("\n")), as_it_is=True)


def about(seconds: float) -> str:
    """Return an estimated duration: in whole seconds, or whole minutes from ten on."""
    if seconds < 600:
        return shown_seconds(seconds) if seconds >= 60 else f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} m" if hours else f"{minutes} m"


def packed(text: str, width: int) -> list[str]:
    """Return the lines of a sentence, broken only at commas and semicolons, so that no value is broken."""
    lines = [""]
    for part in re.findall(r".+?(?:[,;] |$)", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def write_out(text: str, end: str = "\n", *, drawn: bool = False) -> None:
    """Write a part of a result to stdout: data, which is not masked, and printable only on a terminal.

    `drawn`: a table that is printable already and may have colours. Raise BrokenPipeError when the reader has gone.
    """
    if not write(sys.stdout, text, end, as_it_is=drawn or not sys.stdout.isatty()):
        raise BrokenPipeError


#: Whether the command has written to stdout: by the stream, because a test or the demo may put another in its place.
_used: set[int] = set()


def has_result() -> bool:
    """Return whether anything was written to stdout since `begin_output`."""
    return id(sys.stdout) in _used


def begin_output() -> None:
    """Forget what was written to stdout: a command begins."""
    _used.clear()


def write(stream: TextIO, text: str, end: str = "\n", *, as_it_is: bool = False) -> bool:
    """Write, and return whether the reader is still there. `as_it_is`: the text is printable already, or data."""
    if stream is sys.stdout:
        _used.add(id(stream))
    try:
        stream.write(f"{text if as_it_is else printable(text)}{end}")
        stream.flush()
    except BrokenPipeError:  # the reader has gone; the work goes on
        silence(stream)
        return False
    except OSError as error:
        silence(stream)
        if stream is sys.stdout:  # without its log a run still does its work
            raise DwhctlError(f"{CANNOT_WRITE}: {error.strerror}") from None
    return True


def silence(stream: TextIO) -> None:
    """Drop what is written to the stream from now on, Python's own last flush included."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
