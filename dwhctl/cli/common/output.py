"""What a command writes: results to stdout, everything else to stderr, no secret to either.

Nothing that comes from others acts on the terminal: `say`, `tell`, `show` and `paint` make it printable. Only data that
goes elsewhere than to a terminal (CSV, `write_out`) is written as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from typing import TYPE_CHECKING, Any, TextIO

from dwhctl.core.errors import DwhctlError
from dwhctl.core.secrets import mask
from dwhctl.core.words import one_line as one_line  # for the commands
from dwhctl.core.words import printable, printable_json

if TYPE_CHECKING:
    from rich.text import Text

FORMATS = ("table", "json", "csv")


@dataclass(frozen=True, slots=True)
class TableStyle:
    """How a listing looks as a table on a terminal; JSON and CSV do not mind.

    `texts` are columns that may be long: they come last and wrap, the others never do. While these do not fit, `spare`
    columns fall away in this order. `names` are columns whose numbers are names, such as ids. A style is rich's, by the
    value of the cell. Times are shown in `zone`, or in the project's. A cell of more than `longest` characters is cut.
    """

    texts: Collection[str] = ()
    spare: Sequence[str] = ()
    names: Collection[str] = ()
    styles: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    zone: tzinfo | None = None
    #: Fractions have one digit.
    short: bool = True
    longest: int | None = None


def say(text: str = "") -> None:
    """Write a line of the result to stdout."""
    _write(sys.stdout, mask(text))


def tell(text: str) -> None:
    """Write a line to stderr: what a person should know that is no result."""
    _write(sys.stderr, mask(text))


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    form: str = "table",
    look: TableStyle | None = None,
    empty: str | None = None,
) -> None:
    """Write a listing to stdout as a table, JSON or CSV; the columns' names are snake_case.

    A table without rows is the sentence `empty` on stderr, or nothing where that is empty too.
    """
    masked = [[mask(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    if form == "table" and not masked and empty is not None:
        if empty:
            tell(empty)
    elif form == "table":
        from dwhctl.cli.common.table import table_text

        # On a terminal it has colours, and a screen made it printable.
        _write(sys.stdout, table_text(columns, masked, look), as_it_is=sys.stdout.isatty())
    elif form == "json":
        _write(sys.stdout, printable_json(_json(columns, masked)))
    else:
        _write(sys.stdout, _csv(columns, masked), as_it_is=not sys.stdout.isatty())


def screen() -> tuple[int, int] | None:
    """Give columns and lines of the terminal that stdout is; None when it is none."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    size = Console(file=sys.stdout).size
    return size.width, size.height


def paint(lines: Iterable[Text]) -> None:
    """Write lines of a picture to stdout: coloured on a terminal, elsewhere their letters only.

    What is longer than the terminal is wide runs on in its next line: a command stays one that can be copied.
    """
    if not sys.stdout.isatty():
        _write(sys.stdout, mask("\n".join(line.plain.rstrip() for line in lines)))
        return
    from dwhctl.cli.common.table import Screen

    console = Screen(file=sys.stdout, highlight=False)
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    _write(sys.stdout, mask(captured.get().rstrip("\n")), as_it_is=True)


def shown_seconds(seconds: float) -> str:
    """Write a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s"


def about(seconds: float) -> str:
    """Write a time that is only guessed: in whole seconds, or whole minutes from ten on."""
    if seconds < 600:
        return shown_seconds(seconds) if seconds >= 60 else f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} m" if hours else f"{minutes} m"


def counted(number: int, thing: str) -> str:
    """Write a number with its noun: `1 slice`, `2 slices`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2] not in "aeiou" else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def packed(text: str, width: int) -> list[str]:
    """Break a sentence into lines at its commas and semicolons only, so that no value is broken."""
    lines = [""]
    for part in re.findall(r".+?(?:[,;] |$)", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def write_out(text: str, end: str = "\n", *, drawn: bool = False) -> None:
    """Write a piece of a result to stdout, data that is not ours to mask; it is as it is, but on a terminal printable.

    `drawn`: a table, which has been made printable and may have colours. Raise BrokenPipeError when the reader has
    gone: who can end early does.
    """
    if not _write(sys.stdout, text, end, as_it_is=drawn or not sys.stdout.isatty()):
        raise BrokenPipeError


def _write(stream: TextIO, text: str, end: str = "\n", *, as_it_is: bool = False) -> bool:
    """Write; tell whether the reader is still there. `as_it_is`: nothing in the text needs to be made printable."""
    from dwhctl.cli.common.ending import CANNOT_WRITE, silence

    try:
        stream.write(f"{text if as_it_is else printable(text)}{end}")
        stream.flush()
    except BrokenPipeError:  # the reader has seen enough; the work goes on
        silence(stream)
        return False
    except OSError as error:
        silence(stream)
        if stream is sys.stdout:  # without its log a run still does its work
            raise DwhctlError(f"{CANNOT_WRITE}: {error.strerror}") from None
    return True


def _json(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    import json

    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    return json.dumps(objects, ensure_ascii=False, indent=2, default=_plain)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def _plain(value: object) -> object:
    if value is None or isinstance(value, str):  # most are
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if isinstance(value, int | float) else str(value)
