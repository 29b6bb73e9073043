"""A listing as a table: for a terminal as wide as it is, else plain and one line a row.

No date, number, name or command is broken over two lines. Only texts of several words wrap; where the columns do not
fit all the same, each row is shown below the other, a line for each of its values.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dwhctl.cli.common.output import TableStyle
from dwhctl.core.words import one_line, printable, shown_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

    from rich.console import ConsoleOptions, RenderableType


class Screen(Console):
    """A console on which no text acts, whoever wrote it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the segments of what is drawn."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


_GAP = 2
#: What a column of long texts should have at least, before others fall away.
_TEXT_WIDTH = 24
#: What a header may have without a line's break.
_HEADER_WIDTH = 7
#: A word with a digit is a value (a date, a number, an id): so long a one stays whole in a text.
_LONGEST_VALUE = 32
_VALUE = re.compile(r"\S*\d\S*")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d [\d:.+ -]*")
#: Columns that hold something to copy.
_TO_COPY = ("command",)
Rows = Sequence[Sequence[object]]


def table_text(columns: Sequence[str], rows: Rows, look: TableStyle | None = None) -> str:
    """The table, without a line's end behind it."""
    look = look or TableStyle(short=False)
    cells = [[_text(name, value, look) for name, value in zip(columns, row, strict=True)] for row in rows]
    right = [_is_right(name, [row[index] for row in rows], look) for index, name in enumerate(columns)]
    if not sys.stdout.isatty():
        return "\n".join(_lines([[name.replace("_", " ") for name in columns], *cells], right))
    styled = [
        [_styled(name, value, text, look) for name, value, text in zip(columns, row, texts, strict=True)]
        for row, texts in zip(rows, cells, strict=True)
    ]
    return _drawn(columns, styled, right, look)


def draw(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Draw a table of texts; the columns of numbers stand to the right."""
    if not sys.stdout.isatty():
        return "\n".join(_lines([names, *cells], right))
    return _drawn(names, [[Text(cell) for cell in row] for row in cells], right, None)


def _drawn(
    names: Sequence[str], cells: Sequence[Sequence[Text]], right: Sequence[bool], look: TableStyle | None
) -> str:
    console = Screen(file=sys.stdout)
    shown = [name if look is None else name.replace("_", " ") for name in names]
    columns = [
        _Column(name, shown[index], [row[index] for row in cells], right[index], look)
        for index, name in enumerate(names)
    ]
    fitting = _that_fit(columns, look, console.width)
    with console.capture() as captured:
        if fitting is None:
            _print_below_each_other(console, columns, len(cells))
        else:
            console.print(_table(fitting, len(cells)))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


class _Column:
    """A column and the widths it can have: `least` breaks no value, `width` is what it gets."""

    def __init__(
        self, name: str, shown: str, cells: list[Text], right: bool, look: TableStyle | None
    ) -> None:
        self.name, self.shown, self.cells, self.right = name, shown, cells, right
        longest = max((cell.cell_len for cell in cells), default=cell_len(shown))
        words = textwrap.wrap(shown, max(longest, _HEADER_WIDTH), break_long_words=False)
        self.header = "\n".join(words)
        of_header = max(map(cell_len, words), default=1)
        self.width = self.least = max(longest, of_header, 1)
        if look is not None and look.texts:
            self.is_text = name in look.texts and name not in _TO_COPY
        else:
            words_in_it = any(" " in cell.plain and not _MOMENT.fullmatch(cell.plain) for cell in cells)
            self.is_text = name not in _TO_COPY and not right and words_in_it
        if self.is_text:
            values = (cell_len(word) for cell in cells for word in _VALUE.findall(cell.plain))
            kept = max((width for width in values if width <= _LONGEST_VALUE), default=1)
            self.least = min(self.width, max(of_header, kept, _TEXT_WIDTH))


def _that_fit(columns: Sequence[_Column], look: TableStyle | None, width: int) -> list[_Column] | None:
    """The columns without those that must fall away, empty ones first; None when they do not fit either."""
    left = list(columns)
    if _least(left) > width and any(column.cells for column in left):
        left = [column for column in left if any(cell.plain for cell in column.cells)]
    for name in (None, *(look.spare if look else ())):
        left = [column for column in left if column.name != name]
        if _least(left) <= width:
            break
    if _least(left) > width:
        return None
    room = width - _GAP * (len(left) - 1)
    while (over := sum(column.width for column in left) - room) > 0:
        widest = max((one for one in left if one.width > one.least), key=lambda one: one.width - one.least)
        widest.width -= max(1, min(over, (widest.width - widest.least + 1) // 2))
    if look is not None:
        left.sort(key=lambda column: column.name in look.texts)
    return left


def _least(columns: Sequence[_Column]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _table(columns: Sequence[_Column], rows: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold"
    )
    for column in columns:
        table.add_column(
            Text(column.header),
            justify="right" if column.right else "left",
            no_wrap=not column.is_text,
            overflow="fold",
            width=column.width,
        )
    for number in range(rows):
        table.add_row(*(column.cells[number] for column in columns))
    return table


def _print_below_each_other(console: Screen, columns: Sequence[_Column], rows: int) -> None:
    """Print each row as lines of name and value; only texts wrap, and a value longer than the line runs on."""
    head = max((cell_len(column.shown) for column in columns), default=0) + _GAP
    for number in range(rows):
        if number:
            console.print()
        for column in columns:
            if not (cell := column.cells[number]).plain:
                continue
            room = max(console.width - head, _TEXT_WIDTH)
            lines = cell.wrap(console, room, overflow="fold") if column.is_text else [cell]
            for place, line in enumerate(lines):
                name = column.shown if place == 0 else ""
                text = Text.assemble((f"{name:<{head}}", "bold" if name else ""), line)
                console.print(text, soft_wrap=True)


def _lines(cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """The table for a file: nothing is wrapped or cut. (rich takes a second for every two thousand rows.)"""
    laid_out = []
    for column, to_the_right in zip(zip(*cells, strict=True), right, strict=True):
        widths = [cell_len(cell) for cell in column]
        padding = [" " * (max(widths) - width) for width in widths]
        laid_out.append(
            [pad + cell if to_the_right else cell + pad for cell, pad in zip(column, padding, strict=True)]
        )
    return [(" " * _GAP).join(line).rstrip() for line in zip(*laid_out, strict=True)]


def _styled(name: str, value: object, text: str, look: TableStyle) -> Text:
    if look.longest is not None and len(text) > look.longest:
        text = f"{text[: look.longest - 1]}…"
    style = look.styles.get(name)
    return Text(text, style=style(value) if style and value is not None else "")


def _text(name: str, value: object, look: TableStyle) -> str:
    if name in look.names and value is not None:
        return one_line(str(value))
    return f"{value:,.1f}" if isinstance(value, float) and look.short else _cell(value, look.zone)


def _is_right(name: str, values: Sequence[object], look: TableStyle) -> bool:
    return name not in look.names and all(value is None or _is_number(value) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object, zone: tzinfo | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return shown_time(value, zone) if value.tzinfo else value.isoformat(sep=" ", timespec="seconds")
    return one_line(f"{value:,}" if isinstance(value, int | float) else str(value))
