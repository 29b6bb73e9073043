"""Gaps: incomplete slices folded into ranges of days, and the command that fills each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from dwhctl.runs.coverage import Coverage, Row

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """Days from `start` to `end`, both included, of which no slice of these shards is complete."""

    load: str
    shards: tuple[str, ...]
    start: date
    end: date

    @property
    def slices(self) -> int:
        """Count the slices."""
        return ((self.end - self.start).days + 1) * len(self.shards)


def find_gaps(coverage: Coverage) -> list[Gap]:
    """Fold the incomplete slices into ranges, each as long as it can be, by load and shard."""
    return [gap for row in coverage.rows for gap in _ranges(row, coverage.days)]


def _ranges(row: Row, days: Sequence[date]) -> Iterator[Gap]:
    shards = (row.shard.name,)
    start = end = None
    for day, cell in zip(days, row.cells, strict=True):
        if not cell.is_gap:
            continue
        if start is not None and end == day - _ONE_DAY:
            end = day
            continue
        if start is not None and end is not None:
            yield Gap(row.load.name, shards, start, end)
        start = end = day
    if start is not None and end is not None:
        yield Gap(row.load.name, shards, start, end)


def fold_shards(gaps: Iterable[Gap]) -> list[Gap]:
    """Put the shards of a load that lack the same days into one gap, in the order of load and day."""
    together: dict[tuple[str, date, date], tuple[str, ...]] = {}
    for gap in gaps:
        key = (gap.load, gap.start, gap.end)
        together[key] = together.get(key, ()) + gap.shards
    return [Gap(load, shards, start, end) for (load, start, end), shards in sorted(together.items())]


def fill_command(gap: Gap, project: Path | None = None, *, named: bool = True) -> str:
    """Give the command that fills the gap.

    Its shards need not be `named` where no other slice of the load in its days is incomplete. `project` is the
    project's folder, where the command was told it, as it was told.
    """
    words = ["dwhctl", "backfill", gap.load, "-s", str(gap.start), "-e", str(gap.end), "--only-missing"]
    if named:
        words += [word for shard in gap.shards for word in ("--shard", shard)]
    return shlex.join([*words, "--project", str(project)] if project else words)
