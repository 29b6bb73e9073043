"""What `verify` found, as the table shows it: a line for each reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.cli.output import counted
from dwhctl.runs.folding import Fold, fold
from dwhctl.runs.verdicts import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dwhctl.runs.verdicts import Verdict

COLUMNS = ("load", "check", "what")


def folded_rows(verdicts: Iterable[Verdict], *, everything: bool) -> list[tuple[str, str, str]]:
    """Give the rows of the table. `everything`: equal slices too."""
    return [(one.load, one.finding.check.value, _what(one)) for one in fold(verdicts, equal=everything)]


def _what(one: Fold) -> str:
    found, where = one.finding, one.where()
    if found.check is Check.VALUES:
        return _values(one, where)
    if found.check is Check.MISSING:
        return f"{found.detail}: {where} ({_size(one)})"
    if found.check is Check.EQUAL:
        return f"{where} ({_size(one)})"
    sides = " / ".join(text for text in (found.source, found.warehouse) if text is not None)
    example = "; ".join(text for text in (sides, found.detail) if text)
    if len(one.verdicts) == 1:
        return f"{where}: {example}"
    size = f" ({counted(one.slices, 'slice')})" if one.slices else ""
    if found.check in (Check.INCOMPLETE, Check.NOT_COMPARED):
        return f"{where}{size}: {example}"
    return f"{where}{size}, e.g. {_example(one)}: {example}"


def _values(one: Fold, where: str) -> str:
    found = one.finding
    text = f"{found.column}: {_size(one)}"
    if found.key is None:
        return f"{text}; {where}"
    pair = f"{found.key}: {found.source} / {found.warehouse}"
    return f"{text}, e.g. {pair} ({_example(one)}){'' if len(one.verdicts) == 1 else f'; {where}'}"


def _size(one: Fold) -> str:
    """Count slices and rows, and never claim rows that were not counted."""
    slices = counted(one.slices, "slice")
    if one.rows is None:
        return f"{slices}, rows not counted"
    rows = counted(one.rows, "row")
    return (
        f"{slices}, {rows}"
        if one.counted == len(one.verdicts)
        else f"{slices}, {rows} in {one.counted:,} of them"
    )


def _example(one: Fold) -> str:
    verdict = one.example
    return " ".join(part for part in (verdict.shard or "NULL", str(verdict.day or "")) if part)
