"""A listing as a table: for a terminal as wide as it is, else plain and one line a row."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dwhctl.cli.output import one_line

if TYPE_CHECKING:
    from dwhctl.cli.output import Look

#: Wide enough that nothing is wrapped or cut where no person looks.
_FILE_WIDTH = 10_000
_GAP = 2
#: What a column of long texts should have at least, before others fall away.
_TEXT_WIDTH = 24
#: What a header may have without a line's break.
_HEADER_WIDTH = 7
Rows = Sequence[Sequence[object]]


def table_text(columns: Sequence[str], rows: Rows, look: Look | None = None) -> str:
    """The table, without a line's end behind it."""
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else _FILE_WIDTH)
    if look is None:
        table = _plain_table(columns, rows, terminal=terminal)
    else:
        table = _table(columns, rows, look, console.width if terminal else None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _plain_table(columns: Sequence[str], rows: Rows, *, terminal: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = _is_numeric([row[index] for row in rows])
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _table(columns: Sequence[str], rows: Rows, look: Look, width: int | None) -> Table:
    """The table as it should look, within `width` characters; None: however wide it becomes."""
    cells = {
        name: [_styled(name, row[index], look, cut=width is not None) for row in rows]
        for index, name in enumerate(columns)
    }
    shown = list(columns) if width is None else _that_fit(cells, look, width)
    frame = box.SIMPLE_HEAD if width is not None else None
    table = Table(
        box=frame, show_edge=False, pad_edge=False, padding=(0, _GAP - bool(frame), 0, 0), header_style="bold"
    )
    for name in shown:
        numeric = name not in look.names and _is_numeric([row[columns.index(name)] for row in rows])
        table.add_column(
            name.replace("_", " ") if width is None else _header(name, cells[name]),
            justify="right" if numeric else "left",
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


def _styled(name: str, value: object, look: Look, *, cut: bool) -> Text:
    if isinstance(value, datetime) and look.zone is not None:
        text = f"{value.astimezone(look.zone):%Y-%m-%d %H:%M:%S}"
    elif name in look.names:
        text = "" if value is None else one_line(str(value))
    else:
        text = f"{value:,.1f}" if isinstance(value, float) else _cell(value)
    if cut and look.longest is not None and len(text) > look.longest:
        text = f"{text[: look.longest - 1]}…"
    style = look.styles.get(name)
    return Text(text, style=style(value) if style and value is not None else "")


def _is_numeric(values: Sequence[object]) -> bool:
    return all(value is None or _is_number(value) for value in values)


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
