"""What the lines of a grid are: one for each shard, or folded to one for each server or each load."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dwhctl.cli.output import counted
from dwhctl.cli.standings import LOOKS
from dwhctl.runs.coverage import BADNESS, NOT_EXPECTED, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dwhctl.runs.coverage import Cell, Coverage, Row

_K = TypeVar("_K")

#: Where no terminal's height says how many lines are too many.
MOST_LINES = 1_000
_LINES_AROUND = 8
_TROUBLED, _FEW_TROUBLED, _MOST_TROUBLED = 10, 3, 15


class Fold(enum.IntEnum):
    """What one line of the grid stands for."""

    SHARD = 0
    SERVER = 1
    LOAD = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """What one day of a line shows: how many of the slices expected are complete, and where the worst stands."""

    worst: Standing
    complete: int = 0
    expected: int = 0
    gaps: int = 0

    def text(self, width: int) -> str:
        """Give the letter, with counts where the mark stands for several slices and is not all complete."""
        letter = LOOKS[self.worst].letter
        if not self.gaps or self.expected <= 1:
            return letter
        whole = f"{self.complete}/{self.expected}{letter}"
        short = f"{self.gaps}{letter}"
        return next((text for text in (whole, short) if len(text) <= width), letter)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its names, and a mark for each day."""

    names: tuple[str, ...]
    marks: tuple[Mark, ...]

    @property
    def gaps(self) -> int:
        """Count the slices that are over and not complete."""
        return sum(mark.gaps for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines under one title."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]


def choose_fold(coverage: Coverage, height: int | None, fold: bool | None) -> Fold:
    """Say what a line stands for: what was asked, else the finest that fits."""
    if fold is False:
        return Fold.SHARD
    room = (height or MOST_LINES) - _LINES_AROUND
    loads = len({row.load.name for row in coverage.rows})
    servers = len({(row.load.name, row.shard.connection) for row in coverage.rows})
    if fold is None and len(coverage.rows) + 4 * (loads - 1) <= room:
        return Fold.SHARD
    return Fold.SERVER if servers <= room or loads == servers or loads == 1 else Fold.LOAD


def blocks_of(coverage: Coverage, fold: Fold, height: int | None) -> list[Block]:
    """Give what is to be drawn; under folded lines the shards with the most gaps, as many as there is room for."""
    if fold is Fold.SHARD:
        return _blocks_by_load(coverage.rows)
    heads = ("load", "server") if fold is Fold.SERVER else ("load",)
    lines = _folded(coverage.rows, len(heads))
    shards = {row.shard.name for row in coverage.rows}
    main = Block(f"{counted(len(shards), 'shard')}, {_completeness(coverage.rows)}", heads, lines)
    room = _TROUBLED if height is None else min(height - len(lines) - 2 * _LINES_AROUND, _MOST_TROUBLED)
    return [main, *_troubled(coverage.rows, max(room, _FEW_TROUBLED))]


def _blocks_by_load(rows: Sequence[Row]) -> list[Block]:
    return [
        Block(
            f"{name}: {counted(len(group), 'shard')}, {_completeness(group)}",
            ("server", "shard"),
            tuple(Line((row.shard.connection, row.shard.name), _marks([row])) for row in group),
        )
        for name, group in _grouped(rows, lambda row: row.load.name).items()
    ]


def _folded(rows: Sequence[Row], names: int) -> tuple[Line, ...]:
    groups = _grouped(rows, lambda row: (row.load.name, row.shard.connection)[:names])
    return tuple(Line(key, _marks(group)) for key, group in groups.items())


def _troubled(rows: Sequence[Row], room: int) -> list[Block]:
    gaps = [(sum(cell.is_gap for cell in row.cells), row) for row in rows]
    troubled = sorted((one for one in gaps if one[0]), key=lambda one: -one[0])
    if not troubled:
        return []
    shown = [
        Line((row.load.name, row.shard.connection, row.shard.name), _marks([row]))
        for _, row in troubled[:room]
    ]
    of = f"the {len(shown)} with the most gaps of {counted(len(troubled), 'shard')} that have any"
    title = of if len(shown) < len(troubled) else f"{counted(len(shown), 'shard')} with gaps"
    return [Block(title, ("load", "server", "shard"), tuple(shown))]


def _completeness(rows: Iterable[Row]) -> str:
    over = [cell.complete for row in rows for cell in row.cells if cell.over]
    return f"{sum(over):,} of {counted(len(over), 'slice')} complete"


def _grouped(rows: Sequence[Row], key: Callable[[Row], _K]) -> dict[_K, list[Row]]:
    groups: dict[_K, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _marks(rows: Sequence[Row]) -> tuple[Mark, ...]:
    """Put the rows' slices of each day together."""
    return tuple(_mark(cells) for cells in zip(*(row.cells for row in rows), strict=True))


def _mark(cells: Sequence[Cell]) -> Mark:
    standings = Counter(cell.standing for cell in cells)
    not_expected = {standing: standings.pop(standing, 0) for standing in NOT_EXPECTED}
    expected = len(cells) - sum(not_expected.values())
    if not expected:
        return Mark(max(not_expected, key=not_expected.__getitem__))
    worst = max(standings, key=BADNESS.__getitem__)
    if worst is Standing.SKIPPED and Standing.LOADED in standings:
        worst = Standing.LOADED
    complete = [cell.complete for cell in cells]
    over = sum([cell.over for cell in cells])
    return Mark(worst, sum(complete), expected, max(over - sum(complete), 0))
