"""Fold what `verify` found into a few lines: each reason once, with its shards and ranges of days."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.runs.gaps import Gap, fold_shards
from dwhctl.runs.verdicts import Check, Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

_ONE_DAY = timedelta(days=1)
#: The detail of these is their reason; of the others it is about one slice.
_SAY_WHY = (Check.MISSING, Check.INCOMPLETE, Check.NOT_COMPARED, Check.ROWS_IN_NO_SLICE, Check.UNKNOWN_SOURCE)
_SHOWN_RANGES = 3
_SHOWN_SHARDS = 3
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Fold:
    """One reason, and the slices that have it; `rows` is None where the rows of no slice were counted.

    `finding` is that of the slice `example`: the first one, or the first one of which a key is known.
    """

    load: str
    finding: Finding
    example: Verdict
    verdicts: list[Verdict] = field(default_factory=list)
    rows: int | None = None
    #: How many slices have a number of rows.
    counted: int = 0

    @property
    def slices(self) -> int:
        """Count the slices; 0 for a reason that is about no slice."""
        return sum(one.day is not None for one in self.verdicts)

    def where(self) -> str:
        """Say which slices: shards by name or number, and days as ranges."""
        gaps = sorted(
            fold_shards(ranges_of(self.verdicts)), key=lambda gap: (-gap.slices, gap.start, gap.shards)
        )
        if not gaps:
            return _shards(sorted({one.shard for one in self.verdicts}))
        shown = gaps if len(gaps) <= _SHOWN_RANGES + 1 else gaps[:_SHOWN_RANGES]
        texts = [_place(gap) for gap in shown]
        if left := sum(gap.slices for gap in gaps[len(shown) :]):
            texts.append(f"and {left:,} more slices")
        return ", ".join(texts)


def fold(verdicts: Iterable[Verdict], *, equal: bool = False) -> list[Fold]:
    """Fold findings by load, check, column and reason, in their order; with `equal` also the slices without any."""
    found: dict[tuple[object, ...], Fold] = {}
    for one in verdicts:
        findings = one.findings
        if equal and one.is_equal:
            findings = [Finding(Check.EQUAL, rows=one.rows)]
        for finding in findings:
            key = (one.load, finding.check, finding.column, _reason(one, finding))
            folded = found.setdefault(key, Fold(one.load, finding, one))
            if folded.finding.key is None and finding.key is not None:
                folded.finding, folded.example = finding, one
            folded.verdicts.append(one)
            if finding.rows is not None:
                folded.rows = (folded.rows or 0) + finding.rows
                folded.counted += 1
    return list(found.values())


def ranges_of(verdicts: Iterable[Verdict]) -> list[Gap]:
    """Fold the slices into ranges of days, by load and shard."""
    found: list[Gap] = []
    days = sorted((one.load, one.shard, one.day) for one in verdicts if one.day is not None)
    for load, shard, day in days:
        last = found[-1] if found else None
        if last is not None and (last.load, last.shards, last.end + _ONE_DAY) == (load, (shard,), day):
            found[-1] = Gap(load, (shard,), last.start, day)
        else:
            found.append(Gap(load, (shard,), day, day))
    return found


def _reason(one: Verdict, finding: Finding) -> str:
    """Give a text that is the same for slices with the same reason: without names and numbers of one slice."""
    if finding.check not in _SAY_WHY:
        return ""
    text = finding.detail or ""
    if one.shard:
        text = text.replace(one.shard, "*")
    return _NUMBER.sub("#", text)


def _place(gap: Gap) -> str:
    if gap.start == gap.end:
        days = str(gap.start)
    elif gap.start.year == gap.end.year:
        days = f"{gap.start}..{gap.end:%m-%d}"
    else:
        days = f"{gap.start}..{gap.end}"
    shards = _shards(gap.shards)
    return f"{shards} {days}" if gap.slices == 1 else f"{shards} x {days}"


def _shards(names: tuple[str, ...] | list[str]) -> str:
    if len(names) > _SHOWN_SHARDS:
        return f"{len(names):,} shards"
    return ", ".join(name or "NULL" for name in names)
