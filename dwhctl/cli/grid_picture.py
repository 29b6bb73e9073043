"""The grid as lines of text: names to the left, a coloured cell with a letter for each day."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.text import Text

from dwhctl.cli.grid_lines import blocks_of, choose_fold
from dwhctl.cli.standings import LOOKS, legend

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from dwhctl.cli.grid_lines import Block, Line, Mark
    from dwhctl.runs.coverage import Coverage

_WIDEST_CELL = 8
_CELL_OF_A_FILE = 3
#: Columns kept for days, between two names, and for a name.
_LEAST_DAYS = 14
_GAP = 2
_SHORTEST_NAME = 8
_GAPS = 6


def grid_picture(
    coverage: Coverage, size: tuple[int, int] | None = None, fold: bool | None = None
) -> list[Text]:
    """Draw a coverage for a terminal of so many columns and lines; None: for a file, at full width."""
    width, height = size or (None, None)
    kind = choose_fold(coverage, height, fold)
    blocks = [_narrowed(block, width) for block in blocks_of(coverage, kind, height)]
    paper = _Paper(blocks, coverage.days, width)
    lines = [line for block in blocks for line in (*paper.block(block), Text())]
    marks = [mark for block in blocks for line in block.lines for mark in line.marks]
    lines += legend({mark.worst for mark in marks}, width, paper.example(marks))
    if paper.left_out:
        hidden = f"{paper.left_out} days" if paper.left_out > 1 else "1 day"
        lines.append(
            Text(f"{hidden} before {paper.days[0]} do not fit; a wider terminal or a file shows them")
        )
    return lines


def _narrowed(block: Block, width: int | None) -> Block:
    """Cut the names that would leave no room for days, in the middle: their ends tell them apart."""
    if width is None:
        return block
    heads = len(block.heads)
    room = max((width - _GAPS - _LEAST_DAYS) // heads - _GAP, _SHORTEST_NAME)
    lines = (replace(line, names=tuple(_cut(name, room) for name in line.names)) for line in block.lines)
    return replace(block, lines=tuple(lines))


def _cut(name: str, room: int) -> str:
    start = (room - 1) // 2
    return name if len(name) <= room else f"{name[:start]}…{name[start + 1 - room :]}"


class _Paper:
    """Where things stand on a page of this width: names, as many of the last days as fit, the count of gaps."""

    def __init__(self, blocks: Sequence[Block], days: Sequence[date], width: int | None) -> None:
        self._names = max(len(_joined(names, columns)) for names, columns in _all_names(blocks))
        room = len(days) * _CELL_OF_A_FILE if width is None else width - self._names - 2 - _GAPS
        self.left_out = max(len(days) - max(room, 1), 0)
        self.days = days[self.left_out :]
        self._cell = max(min(room // len(self.days), _WIDEST_CELL), 1)

    def block(self, block: Block) -> Iterator[Text]:
        columns = _widths(block)
        yield Text(block.title, style="bold")
        yield Text(f"{'':{self._names + 2}}{self._months()}".rstrip(), style="dim")
        heads = f"{_joined(block.heads, columns):{self._names}}  {self._labels()}{'gaps':>{_GAPS}}"
        yield Text(heads, style="dim")
        for line in block.lines:
            yield self._line(line, columns)

    def example(self, marks: Sequence[Mark]) -> list[str]:
        """Explain a mark with counts, if there is one."""
        for mark in marks:
            text = mark.text(self._inner)
            words = LOOKS[mark.worst].words.partition(",")[0]
            if "/" in text:
                return [f"{text}: {mark.complete} of {mark.expected} complete, the worst {words}"]
            if len(text) > 1:
                return [f"{text}: {mark.gaps} not complete, the worst {words}"]
        return []

    def _line(self, line: Line, columns: Sequence[int]) -> Text:
        *first, last = [f"{name:{width}}" for name, width in zip(line.names, columns, strict=True)]
        start = "".join(f"{name}  " for name in first)
        drawn = Text.assemble((start, "dim"), f"{last:{self._names - len(start)}}  ")
        for mark in line.marks[self.left_out :]:
            look = LOOKS[mark.worst]
            drawn.append(mark.text(self._inner).center(self._inner), look.style)
            if self._inner < self._cell:
                drawn.append(" ")
        return drawn.append(f"{line.gaps or '':>{_GAPS}}", "bold")

    @property
    def _inner(self) -> int:
        """How much of a cell is coloured: the rest parts it from the next."""
        return self._cell - 1 if self._cell > 3 else self._cell

    def _months(self) -> str:
        """Name each month above its first day, the first one with its year if there is room."""
        text = ""
        starts = [place for place, day in enumerate(self.days) if place == 0 or day.day == 1]
        for place, following in zip(starts, [*starts[1:], len(self.days)], strict=True):
            pad = " " if self._cell >= 3 else ""
            forms = [f"{pad}{self.days[place]:{form}}" for form in ("%b %Y", "%b")]
            room = (following - place) * self._cell
            name = next((form for form in forms if len(form) < room), "")
            text = f"{text:{place * self._cell}}{name}"
        return text

    def _labels(self) -> str:
        """Number the days: each, or as many as there is room for, Mondays first."""
        form = "%a %d" if self._inner >= len("Mon 13") else "%d"
        labels = [day.strftime(form) for day in self.days]
        if self._cell >= 3:
            return "".join(f"{label.center(self._inner):{self._cell}}" for label in labels)
        text = ""
        for place, (day, label) in enumerate(zip(self.days, labels, strict=True)):
            if day.weekday() == 0 and place * self._cell + len(label) <= len(self.days) * self._cell:
                text = f"{text:{place * self._cell}}{label}"
        return f"{text:{len(self.days) * self._cell}}"


def _all_names(blocks: Sequence[Block]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    for block in blocks:
        yield block.heads, _widths(block)


def _widths(block: Block) -> list[int]:
    names = [block.heads, *(line.names for line in block.lines)]
    return [max(map(len, column)) for column in zip(*names, strict=True)]


def _joined(names: Sequence[str], columns: Sequence[int]) -> str:
    return "  ".join(f"{name:{width}}" for name, width in zip(names, columns, strict=True))
