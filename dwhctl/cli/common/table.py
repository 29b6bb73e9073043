"""A listing as a table: as wide as the terminal, elsewhere plain with one line for each row.

No date, number, name or command is broken over two lines; only texts of several words wrap. Where the columns still do
not fit, the rows are shown one below the other, a line for each value.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dwhctl.core.words import one_line, printable, shown_time

if TYPE_CHECKING:
    from dwhctl.cli.common.listing import ListingColumn


class Screen(Console):
    """A console that makes every text printable, whoever wrote it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
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


def table_text(
    columns: Sequence[ListingColumn[Any]],
    rows: Sequence[Sequence[object]],
    spare: Sequence[str],
    longest: int | None,
) -> str:
    """Return the table, without a line's end behind it; on a terminal cells are cut at `longest` characters."""
    headers = [column.name.replace("_", " ") for column in columns]
    texts = [[_text(column, value) for column, value in zip(columns, row, strict=True)] for row in rows]
    right = [_is_right(column, [row[place] for row in rows]) for place, column in enumerate(columns)]
    if not sys.stdout.isatty():
        return "\n".join(_lines([headers, *texts], right))
    has_texts = any(column.is_text for column in columns)
    drawn = [
        _Drawn(
            headers[place],
            [
                _styled(column, row[place], text[place], longest)
                for row, text in zip(rows, texts, strict=True)
            ],
            right[place],
            spare=spare.index(column.name) + 1 if column.name in spare else 0,
            is_text=column.is_text and column.name not in _TO_COPY if has_texts else None,
            comes_last=column.is_text,
        )
        for place, column in enumerate(columns)
    ]
    return _drawn(drawn, len(rows))


def draw(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Return a table of texts; the columns of numbers are aligned to the right."""
    if not sys.stdout.isatty():
        return "\n".join(_lines([names, *cells], right))
    columns = [
        _Drawn(name, [Text(row[place]) for row in cells], right[place]) for place, name in enumerate(names)
    ]
    return _drawn(columns, len(cells))


def _drawn(columns: list[_Drawn], rows: int) -> str:
    console = Screen(file=sys.stdout)
    fitting = _that_fit(columns, console.width)
    with console.capture() as captured:
        if fitting is None:
            _print_below_each_other(console, columns, rows)
        else:
            console.print(_table(fitting, rows))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


class _Drawn:
    """A column and the widths it can have: `least` breaks no value, `width` is what it gets."""

    def __init__(
        self,
        header: str,
        cells: list[Text],
        right: bool,
        *,
        spare: int = 0,
        is_text: bool | None = None,
        comes_last: bool = False,
    ) -> None:
        self.name, self.cells, self.right = header, cells, right
        self.spare, self.comes_last = spare, comes_last
        longest = max((cell.cell_len for cell in cells), default=cell_len(header))
        words = textwrap.wrap(header, max(longest, _HEADER_WIDTH), break_long_words=False)
        self.header = "\n".join(words)
        of_header = max(map(cell_len, words), default=1)
        self.width = self.least = max(longest, of_header, 1)
        if is_text is None:
            has_words = any(" " in cell.plain and not _MOMENT.fullmatch(cell.plain) for cell in cells)
            is_text = header not in _TO_COPY and not right and has_words
        self.is_text = is_text
        if is_text:
            values = (cell_len(word) for cell in cells for word in _VALUE.findall(cell.plain))
            kept = max((width for width in values if width <= _LONGEST_VALUE), default=1)
            self.least = min(self.width, max(of_header, kept, _TEXT_WIDTH))


def _that_fit(columns: Sequence[_Drawn], width: int) -> list[_Drawn] | None:
    """Return the columns without those that must fall away, empty ones first; None when they do not fit either."""
    left = list(columns)
    if _least(left) > width and any(column.cells for column in left):
        left = [column for column in left if any(cell.plain for cell in column.cells)]
    for column in sorted((column for column in left if column.spare), key=lambda column: column.spare):
        if _least(left) <= width:
            break
        left.remove(column)
    if _least(left) > width:
        return None
    room = width - _GAP * (len(left) - 1)
    while (over := sum(column.width for column in left) - room) > 0:
        widest = max(
            (column for column in left if column.width > column.least),
            key=lambda column: column.width - column.least,
        )
        widest.width -= max(1, min(over, (widest.width - widest.least + 1) // 2))
    return sorted(left, key=lambda column: column.comes_last)


def _least(columns: Sequence[_Drawn]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _table(columns: Sequence[_Drawn], rows: int) -> Table:
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


def _print_below_each_other(console: Screen, columns: Sequence[_Drawn], rows: int) -> None:
    """Print each row as lines of name and value; only texts wrap, and a value longer than the line runs on."""
    head = max((cell_len(column.name) for column in columns), default=0) + _GAP
    for number in range(rows):
        if number:
            console.print()
        for column in columns:
            if not (cell := column.cells[number]).plain:
                continue
            room = max(console.width - head, _TEXT_WIDTH)
            lines = cell.wrap(console, room, overflow="fold") if column.is_text else [cell]
            for place, line in enumerate(lines):
                name = column.name if place == 0 else ""
                text = Text.assemble((f"{name:<{head}}", "bold" if name else ""), line)
                console.print(text, soft_wrap=True)


def _lines(cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    laid_out = []
    for column, to_the_right in zip(zip(*cells, strict=True), right, strict=True):
        widths = [cell_len(cell) for cell in column]
        padding = [" " * (max(widths) - width) for width in widths]
        laid_out.append(
            [pad + cell if to_the_right else cell + pad for cell, pad in zip(column, padding, strict=True)]
        )
    return [(" " * _GAP).join(line).rstrip() for line in zip(*laid_out, strict=True)]


def _styled(column: ListingColumn[Any], value: object, text: str, longest: int | None) -> Text:
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return Text(text, style=column.style(value) if column.style and value is not None else "")


def _is_right(column: ListingColumn[Any], values: Sequence[object]) -> bool:
    kinds = {type(value) for value in values if value is not None}
    return not column.is_id and kinds <= {int, float}


def _text(column: ListingColumn[Any], value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return shown_time(value) if value.tzinfo else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, int | float) and not column.is_id:
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return one_line(str(value))
