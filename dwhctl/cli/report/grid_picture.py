"""The grid as lines of text: names on the left, a coloured cell with a letter for each day."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from msgspec import Struct
from msgspec.structs import replace
from rich.text import Text

from dwhctl.core.words import counted
from dwhctl.monitor.coverage import Coverage, Mark, Row, SliceStatus, completeness, grouped, marks_of

#: In rich's words.
COLOURS: Mapping[SliceStatus, str] = {
    SliceStatus.LOADED: "#dff5e3 on #2f7d4f",
    SliceStatus.SKIPPED: "#dfeef0 on #55808a",
    SliceStatus.BEFORE_START: "dim",
    SliceStatus.AFTER_END: "dim",
    SliceStatus.NOT_YET: "dim",
    SliceStatus.OPEN: "#10243a on #8fb8de",
    SliceStatus.RELOADING: "#dff5e3 on #1f5fbf",
    SliceStatus.RELOAD_FAILED: "#ffe3e3 on #a3543a",
    SliceStatus.RUNNING: "bold #ffffff on #1f5fbf",
    SliceStatus.EARLY: "#2a2500 on #e0cf5a",
    SliceStatus.UP_FOR_RETRY: "#2b1600 on #f0a23a",
    SliceStatus.MISSING: "bold #ffd9d9 on #6b2230",
    SliceStatus.UNKNOWN: "bold #ffffff on #5a5a5a",
    SliceStatus.ABANDONED: "bold #ffffff on #8b3fa8",
    SliceStatus.FAILED: "bold #ffffff on #d22f2f",
}


def legend(statuses: Iterable[SliceStatus], width: int | None, more: Iterable[str]) -> list[Text]:
    """Return lines that explain these statuses, the best first, no wider than the terminal."""
    lines = [Text()]
    shown = sorted(set(statuses), key=lambda status: status.badness)
    entries = [Text.assemble((f" {status.letter} ", COLOURS[status]), f" {status.words}") for status in shown]
    for entry in [*entries, *map(Text, more)]:
        gap = "   " if lines[-1] else ""
        if width is not None and lines[-1] and lines[-1].cell_len + len(gap) + entry.cell_len > width:
            lines.append(Text())
            gap = ""
        lines[-1].append(gap).append_text(entry)
    return lines


#: More lines of shards are folded where there is no terminal.
MOST_LINES = 1_000
_LINES_AROUND = 8
_WITH_GAPS, _FEWEST_WITH_GAPS, _MOST_WITH_GAPS = 10, 3, 15


class GridFold(enum.IntEnum):
    """What one line of the grid shows."""

    SHARD = 0
    SERVER = 1
    LOAD = 2


class GridLine(Struct, frozen=True):
    """One line: its names, and a mark for each day."""

    names: tuple[str, ...]
    marks: tuple[Mark, ...]

    @property
    def gaps(self) -> int:
        """Return how many slices are over and not complete."""
        return sum(mark.gaps for mark in self.marks)


class Block(Struct, frozen=True):
    """Lines under one title."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[GridLine, ...]


def choose_fold(coverage: Coverage, height: int | None, fold: bool | None) -> GridFold:
    """Return what a line shows: as the option says, else the finest that fits."""
    if fold is False:
        return GridFold.SHARD
    room = (height or MOST_LINES) - _LINES_AROUND
    loads = len({row.load.name for row in coverage.rows})
    servers = len({(row.load.name, row.shard.connection) for row in coverage.rows})
    if fold is None and len(coverage.rows) + 4 * (loads - 1) <= room:
        return GridFold.SHARD
    return GridFold.SERVER if servers <= room or loads == servers or loads == 1 else GridFold.LOAD


def blocks_of(coverage: Coverage, fold: GridFold, height: int | None) -> list[Block]:
    """Return what is drawn; below folded lines the shards with the most gaps, as many as there is room for."""
    if fold is GridFold.SHARD:
        return _blocks_by_load(coverage.rows)
    heads = ("load", "server") if fold is GridFold.SERVER else ("load",)
    groups = grouped(coverage.rows, lambda row: (row.load.name, row.shard.connection)[: len(heads)])
    lines = tuple(GridLine(key, marks_of(group)) for key, group in groups.items())
    shards = {row.shard.name for row in coverage.rows}
    main = Block(f"{counted(len(shards), 'shard')}, {_completeness(coverage.rows)}", heads, lines)
    room = _WITH_GAPS if height is None else min(height - len(lines) - 2 * _LINES_AROUND, _MOST_WITH_GAPS)
    return [main, *_with_gaps(coverage.rows, max(room, _FEWEST_WITH_GAPS))]


def _blocks_by_load(rows: Sequence[Row]) -> list[Block]:
    return [
        Block(
            f"{name}: {counted(len(group), 'shard')}, {_completeness(group)}",
            ("server", "shard"),
            tuple(GridLine((row.shard.connection, row.shard.name), marks_of([row])) for row in group),
        )
        for name, group in grouped(rows, lambda row: row.load.name).items()
    ]


def _with_gaps(rows: Sequence[Row], room: int) -> list[Block]:
    with_gaps = sorted((row for row in rows if row.gaps), key=lambda row: -row.gaps)
    if not with_gaps:
        return []
    shown = [
        GridLine((row.load.name, row.shard.connection, row.shard.name), marks_of([row]))
        for row in with_gaps[:room]
    ]
    of = f"the {len(shown)} with the most gaps of {counted(len(with_gaps), 'shard')} that have any"
    title = of if len(shown) < len(with_gaps) else f"{counted(len(shown), 'shard')} with gaps"
    return [Block(title, ("load", "server", "shard"), tuple(shown))]


def _completeness(rows: Iterable[Row]) -> str:
    complete, over = completeness(rows)
    return f"{complete:,} of {counted(over, 'slice')} complete"


_WIDEST_CELL = 8
_CELL_OF_A_FILE = 3
#: Columns kept for days, between two names, and for a name.
_LEAST_DAYS = 14
_GAP = 2
_SHORTEST_NAME = 8
_GAPS = 6


def grid_picture(coverage: Coverage, size: tuple[int, int] | None, fold: bool | None) -> list[Text]:
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
    """Cut names that leave no room for days, in the middle: their ends differ."""
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
    """Lines of a width: names, as many of the last days as fit, the count of gaps."""

    def __init__(self, blocks: Sequence[Block], days: Sequence[date], width: int | None) -> None:
        self._names = max(sum(widths) + 2 * (len(widths) - 1) for widths in map(_widths, blocks))
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
        """Return the explanation of a mark with counts, if there is one."""
        for mark in marks:
            text = mark.text(self._inner)
            words = mark.worst.words.partition(",")[0]
            if "/" in text:
                return [f"{text}: {mark.complete} of {mark.expected} complete, the worst {words}"]
            if len(text) > 1:
                return [f"{text}: {mark.gaps} not complete, the worst {words}"]
        return []

    def _line(self, line: GridLine, columns: Sequence[int]) -> Text:
        *first, last = [f"{name:{width}}" for name, width in zip(line.names, columns, strict=True)]
        start = "".join(f"{name}  " for name in first)
        drawn = Text.assemble((start, "dim"), f"{last:{self._names - len(start)}}  ")
        for mark in line.marks[self.left_out :]:
            drawn.append(mark.text(self._inner).center(self._inner), COLOURS[mark.worst])
            if self._inner < self._cell:
                drawn.append(" ")
        return drawn.append(f"{line.gaps or '':>{_GAPS}}", "bold")

    @property
    def _inner(self) -> int:
        """Return how much of a cell is coloured: the rest separates it from the next."""
        return self._cell - 1 if self._cell > 3 else self._cell

    def _months(self) -> str:
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
        """Return the days of the month: all of them, or Mondays where there is no room."""
        form = "%a %d" if self._inner >= len("Mon 13") else "%d"
        labels = [day.strftime(form) for day in self.days]
        if self._cell >= 3:
            return "".join(f"{label.center(self._inner):{self._cell}}" for label in labels)
        text = ""
        for place, (day, label) in enumerate(zip(self.days, labels, strict=True)):
            if day.weekday() == 0 and place * self._cell + len(label) <= len(self.days) * self._cell:
                text = f"{text:{place * self._cell}}{label}"
        return f"{text:{len(self.days) * self._cell}}"


def _widths(block: Block) -> list[int]:
    names = [block.heads, *(line.names for line in block.lines)]
    return [max(map(len, column)) for column in zip(*names, strict=True)]


def _joined(names: Sequence[str], columns: Sequence[int]) -> str:
    return "  ".join(f"{name:{width}}" for name, width in zip(names, columns, strict=True))
