"""What a command writes: results to stdout, everything else to stderr, no secret to either."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from typing import Any, TextIO

from dwhctl.errors import DwhctlError
from dwhctl.project.secrets import mask

FORMATS = ("table", "json", "csv")
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


@dataclass(frozen=True, slots=True)
class Look:
    """How a listing looks as a table on a terminal; JSON and CSV do not mind.

    `texts` are columns that may be long: they come last and wrap, the others never do. While these do not fit, `spare`
    columns fall away in this order. `names` are columns whose numbers are names, such as ids. A style is rich's, by the
    value of the cell. Times are shown in `zone`. A cell of more than `longest` characters is cut.
    """

    texts: Collection[str] = ()
    spare: Sequence[str] = ()
    names: Collection[str] = ()
    styles: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    zone: tzinfo | None = None
    longest: int | None = None


def say(text: str = "") -> None:
    """Write a line of the result to stdout."""
    _write(sys.stdout, mask(text))


def tell(text: str) -> None:
    """Write a line to stderr: what a person should know that is no result."""
    _write(sys.stderr, mask(text))


def show(
    columns: Sequence[str], rows: Iterable[Sequence[object]], form: str = "table", look: Look | None = None
) -> None:
    """Write a listing to stdout as a table, JSON or CSV; the columns' names are snake_case."""
    masked = [[mask(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    if form == "table":
        from dwhctl.cli.table import table_text

        _write(sys.stdout, table_text(columns, masked, look))
    else:
        _write(sys.stdout, {"json": _json, "csv": _csv}[form](columns, masked))


def one_line(text: str) -> str:
    """Make a text fit for one line of a log or a terminal: no control character acts any more."""
    return " ".join(text.split("\n")).strip().translate(_CONTROLS)


def shown_seconds(seconds: float) -> str:
    """Write a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s"


def counted(number: int, thing: str) -> str:
    """Write a number with its noun: `1 slice`, `2 slices`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2] not in "aeiou" else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def _write(stream: TextIO, text: str) -> None:
    from dwhctl.cli.ending import CANNOT_WRITE, silence

    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:  # the reader has seen enough; the work goes on
        silence(stream)
    except OSError as error:
        silence(stream)
        if stream is sys.stdout:  # without its log a run still does its work
            raise DwhctlError(f"{CANNOT_WRITE}: {error.strerror}") from None


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
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if value is None or isinstance(value, int | float) else str(value)
