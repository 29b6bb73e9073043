"""A listing as a table: for a terminal as wide as it is, else plain and one line a row."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from dwhctl.cli.output import one_line
from dwhctl.cli.screen import Screen

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
    if look is not None and sys.stdout.isatty():
        console = Screen(file=sys.stdout)
        return _printed(console, _table(columns, rows, look, console.width))
    right = [_is_right(name, [row[index] for row in rows], look) for index, name in enumerate(columns)]
    cells = [[_text(name, value, look) for name, value in zip(columns, row, strict=True)] for row in rows]
    return draw([name.replace("_", " ") for name in columns], cells, right)


def draw(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Draw a table of texts; the columns of numbers stand to the right."""
    if not sys.stdout.isatty():
        return "\n".join(_lines([names, *cells], right))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, to_the_right in zip(names, right, strict=True):
        table.add_column(Text(name), justify="right" if to_the_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return _printed(Screen(file=sys.stdout), table)


def _printed(console: Screen, table: Table) -> str:
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


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
    """The columns without those that must fall away, the long texts last."""
    room = max(_TEXT_WIDTH, width // 4)
    widths = {name: _width(column, _header(name, column)) for name, column in cells.items()}
    widths |= {name: min(widths[name], room) for name in look.texts}
    for name in look.spare:
        if sum(widths.values()) + _GAP * (len(widths) - 1) <= width:
            break
        del widths[name]
    return sorted(widths, key=lambda name: name in look.texts)


def _width(column: Sequence[Text], header: str) -> int:
    return max(*map(len, header.splitlines()), *(cell.cell_len for cell in column), 1)


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
