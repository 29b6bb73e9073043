"""The lines of the page's grid: shards with gaps first, the others folded; servers or loads where there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from zoneinfo import ZoneInfo

from msgspec import Struct

from dwhctl.monitor.coverage import Cell, Coverage, Row, SliceStatus, completeness, grouped, marks_of

#: More shards are folded by server, more servers by load; so many shards with gaps are shown beside them.
MOST_ROWS = 600
_MOST_WITH_GAPS = 100
#: The class of a cell, which has its colour.
_CLASSES: Mapping[str, str] = {
    SliceStatus.LOADED: "o",
    SliceStatus.SKIPPED: "o",
    SliceStatus.BEFORE_START: "n",
    SliceStatus.AFTER_END: "n",
    SliceStatus.NOT_YET: "n",
    SliceStatus.OPEN: "r",
    SliceStatus.RELOADING: "r",
    SliceStatus.RUNNING: "r",
    SliceStatus.RELOAD_FAILED: "w",
    SliceStatus.EARLY: "w",
    SliceStatus.UP_FOR_RETRY: "w",
}
_WORST_CLASS = "b"
#: Statuses whose reason the page shows.
_WITH_REASON = (
    SliceStatus.RELOAD_FAILED,
    SliceStatus.UP_FOR_RETRY,
    SliceStatus.UNKNOWN,
    SliceStatus.ABANDONED,
    SliceStatus.FAILED,
)


class PageCell(Struct, frozen=True):
    """One cell: its letter, its class, its session (None: it has none, or it is good) and when that began."""

    letter: str
    kind: str
    text: str
    session: int | None = None
    started: str = ""


class PageLine(Struct, frozen=True):
    """One line: a shard, or all shards of a server or a load (with an empty `shard`)."""

    load: str
    server: str
    shard: str
    cells: tuple[PageCell, ...]
    gaps: int
    shards: int = 1

    @property
    def letters(self) -> str:
        return "".join(sorted({cell.letter for cell in self.cells}))


class GridTable(Struct, frozen=True):
    """The lines of one load (or of all loads): those with gaps, and those without."""

    title: str
    complete: int
    expected: int
    with_gaps: tuple[PageLine, ...]
    without_gaps: tuple[PageLine, ...]
    left_out: int = 0

    @property
    def is_complete(self) -> bool:
        return self.complete == self.expected


class PageGrid(Struct, frozen=True):
    """The grid: its days, its tables, the statuses that it has, and whether its lines are folded."""

    days: tuple[date, ...]
    tables: tuple[GridTable, ...]
    statuses: tuple[SliceStatus, ...]
    is_folded: bool


def status_class(status: str) -> str:
    """Return the class of a status, or of the state of a session."""
    return _CLASSES.get(status, _WORST_CLASS)


def grid_of(coverage: Coverage, zone: ZoneInfo) -> PageGrid:
    """Return the grid of a coverage; times are shown in this zone."""
    statuses = {cell.status for row in coverage.rows for cell in row.cells}
    shown = tuple(sorted(statuses, key=lambda status: status.badness))
    is_folded = len(coverage.rows) > MOST_ROWS
    tables = _folded(coverage.rows, zone) if is_folded else _by_load(coverage.rows, zone)
    return PageGrid(coverage.days, tables, shown, is_folded)


def sessions_with_reason(coverage: Coverage) -> list[int]:
    """Return the sessions of the cells whose reason the page shows, the newest first."""
    found = (
        cell.session
        for row in coverage.rows
        for cell in row.cells
        if cell.session is not None and cell.status in _WITH_REASON
    )
    return sorted(found, reverse=True)


def _by_load(rows: Sequence[Row], zone: ZoneInfo) -> tuple[GridTable, ...]:
    return tuple(
        _table(name, of_load, [_line(row, zone) for row in of_load])
        for name, of_load in grouped(rows, lambda row: row.load.name).items()
    )


def _folded(rows: Sequence[Row], zone: ZoneInfo) -> tuple[GridTable, ...]:
    """Return a table of servers (of loads, where there are too many servers), and one of shards with gaps."""
    by_server = grouped(rows, lambda row: (row.load.name, row.shard.connection))
    groups = by_server if len(by_server) <= MOST_ROWS else grouped(rows, lambda row: (row.load.name, ""))
    lines = [_folded_line(load, server, of_group) for (load, server), of_group in groups.items()]
    title = "servers" if groups is by_server else "loads"
    bad = sorted((row for row in rows if row.gaps), key=lambda row: row.gaps, reverse=True)
    tables = [_table(title, rows, lines)]
    if bad:
        shown = tuple(_line(row, zone) for row in bad[:_MOST_WITH_GAPS])
        tables.append(GridTable("shards with gaps", *completeness(bad), shown, (), len(bad) - len(shown)))
    return tuple(tables)


def _table(title: str, rows: Sequence[Row], lines: Sequence[PageLine]) -> GridTable:
    bad = sorted((line for line in lines if _is_bad(line)), key=lambda line: -line.gaps)
    return GridTable(
        title, *completeness(rows), tuple(bad), tuple(line for line in lines if not _is_bad(line))
    )


def _is_bad(line: PageLine) -> bool:
    return bool(line.gaps or any(cell.kind in ("w", _WORST_CLASS) for cell in line.cells))


def _line(row: Row, zone: ZoneInfo) -> PageLine:
    cells = tuple(_cell(cell, zone) for cell in row.cells)
    return PageLine(row.load.name, row.shard.connection, row.shard.name, cells, row.gaps)


def _cell(cell: Cell, zone: ZoneInfo) -> PageCell:
    letter = cell.status.letter
    session = cell.session if cell.status in _WITH_REASON else None
    started = f"{cell.started.astimezone(zone):%m-%d %H:%M}" if cell.started is not None else ""
    return PageCell(letter, status_class(cell.status), letter, session, started)


def _folded_line(load: str, server: str, rows: Sequence[Row]) -> PageLine:
    marks = marks_of(rows)
    cells = tuple(PageCell(mark.worst.letter, status_class(mark.worst), mark.text(4)) for mark in marks)
    return PageLine(load, server, "", cells, sum(mark.gaps for mark in marks), len(rows))
