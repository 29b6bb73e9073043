"""A listing as a table: for a terminal as wide as it is, else plain and one line a row."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dwhctl.cli.output import one_line

if TYPE_CHECKING:
    from dwhctl.cli.output import Look

_GAP = 2
#: What a column of long texts should have at least, before others fall away.
_TEXT_WIDTH = 24
#: What a header may have without a line's break.
_HEADER_WIDTH = 7
Rows = Sequence[Sequence[object]]


def table_text(columns: Sequence[str], rows: Rows, look: Look | None = None) -> str:
    """The table, without a line's end behind it."""
    if not sys.stdout.isatty():
        return "\n".join(_lines(columns, rows, look))
    console = Console(file=sys.stdout)
    table = _table(columns, rows, look, console.width) if look else _simple_table(columns, rows)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _lines(columns: Sequence[str], rows: Rows, look: Look | None) -> list[str]:
    """The table for a file: nothing is wrapped or cut. (rich takes a second for every two thousand rows.)"""
    laid_out = []
    for index, name in enumerate(columns):
        values = [row[index] for row in rows]
        cells = [name.replace("_", " "), *(_text(name, value, look) for value in values)]
        widths = [cell_len(cell) for cell in cells]
        padding = [" " * (max(widths) - width) for width in widths]
        right = _is_right(name, values, look)
        laid_out.append(
            [pad + cell if right else cell + pad for cell, pad in zip(cells, padding, strict=True)]
        )
    return [(" " * _GAP).join(line).rstrip() for line in zip(*laid_out, strict=True)]


def _simple_table(columns: Sequence[str], rows: Rows) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        right = _is_right(name, [row[index] for row in rows], None)
        table.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _table(columns: Sequence[str], rows: Rows, look: Look, width: int) -> Table:
    """The table as it should look, within `width` characters."""
    places = {name: index for index, name in enumerate(columns)}
    cells = {name: [_styled(name, row[index], look) for row in rows] for name, index in places.items()}
    shown = _that_fit(cells, look, width)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold"
    )
    for name in shown:
        right = _is_right(name, [row[places[name]] for row in rows], look)
        table.add_column(
            _header(name, cells[name]),
            justify="right" if right else "left",
            no_wrap=name not in look.texts,
            overflow="fold" if name in look.texts else "ellipsis",
        )
    for number in range(len(rows)):
        table.add_row(*(cells[name][number] for name in shown))
    return table


def _that_fit(cells: dict[str, list[Text]], look: Look, width: int) -> list[str]:
    """The columns without those that must fall away."""
    widths = {name: _width(name, column, look) + _GAP for name, column in cells.items()}
    left = width + _GAP - sum(widths.values())
    fallen: list[str] = []
    for name in look.spare:
        if left >= 0:
            break
        fallen.append(name)
        left += widths[name]
    for name in reversed(fallen):  # the last one may have made room for one before
        if widths[name] <= left:
            fallen.remove(name)
            left -= widths[name]
    return sorted((name for name in cells if name not in fallen), key=lambda name: name in look.texts)


def _width(name: str, column: Sequence[Text], look: Look) -> int:
    """The width that a column needs; a long text can do with less than its own."""
    header = max(len(line) for line in _header(name, column).splitlines())
    needed = max(header, *(cell.cell_len for cell in column), 1)
    return min(needed, _TEXT_WIDTH) if name in look.texts else needed


def _header(name: str, column: Sequence[Text]) -> str:
    """A column's name in lines no longer than its cells, so that a small number has a small column."""
    longest = max((cell.cell_len for cell in column), default=len(name))
    return "\n".join(
        textwrap.wrap(name.replace("_", " "), max(longest, _HEADER_WIDTH), break_long_words=False)
    )


def _styled(name: str, value: object, look: Look) -> Text:
    text = _text(name, value, look)
    if look.longest is not None and len(text) > look.longest:
        text = f"{text[: look.longest - 1]}…"
    style = look.styles.get(name)
    return Text(text, style=style(value) if style and value is not None else "")


def _text(name: str, value: object, look: Look | None) -> str:
    if look is None or value is None:
        return _cell(value)
    if isinstance(value, datetime) and look.zone is not None:
        return f"{value.astimezone(look.zone):%Y-%m-%d %H:%M:%S}"
    if name in look.names:
        return one_line(str(value))
    return f"{value:,.1f}" if isinstance(value, float) else _cell(value)


def _is_right(name: str, values: Sequence[object], look: Look | None) -> bool:
    is_name = look is not None and name in look.names
    return not is_name and all(value is None or _is_number(value) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return one_line(f"{value:,}" if isinstance(value, int | float) else str(value))
