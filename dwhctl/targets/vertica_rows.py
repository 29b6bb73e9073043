"""Which rows of a Vertica table belong to slices."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.columns import Kind
from dwhctl.engines.vertica import literal, literals, quote
from dwhctl.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.columns import Column
    from dwhctl.project.slices import Slice


def conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[tuple[str, str]]:
    """For each pair of bounds give a condition of the shards, and one of the bounds ("" for none).

    Of a column by its name only, the type is not known: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for one in slices:
        by_bounds.setdefault(_bounds(one, slice_by), []).append(one.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards), bounds


def of_shards(shards: Sequence[str]) -> str:
    """Give the condition of the rows of these shards."""
    return f"etl_source IN ({literals(shards)})"


def _bounds(one: Slice, slice_by: Column | str | None) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    kind = slice_by.kind
    zoned = kind is Kind.TIMESTAMPTZ
    start, end = (one.start_at, one.end_at) if zoned else (one.start, one.end)
    if start is None or end is None:
        raise TargetError(f"the slice {one.day} of {one.shard} has no bounds")
    return _between(slice_by.name, _moment(start, kind), _moment(end, kind))


def _between(column: str, start: str, end: str) -> str:
    return f"{quote(column)} >= {start} AND {quote(column)} < {end}"


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        # The first date whose midnight is not before the bound.
        bound += timedelta(days=1) - timedelta(microseconds=1)
        return f"DATE {literal(bound.date().isoformat())}"
    if kind is Kind.TIMESTAMPTZ:
        return f"TIMESTAMPTZ {literal(bound.isoformat(sep=' '))}"
    return f"TIMESTAMP {literal(bound.isoformat(sep=' '))}"
