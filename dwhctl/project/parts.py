"""The parts that `split` cuts a slice into: by time, or by ranges of a column. Each row is in exactly one of them.

Every part is half-open and begins where the one before it ends. By time the first begins with the slice and the last
ends with it; by ranges the first has no lower bound, the last no upper one, and NULL is in the first.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.sql import same_but_comments
from dwhctl.project.names import declared_at
from dwhctl.project.query import Query
from dwhctl.project.templates import render_extract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project

#: Parts begin at a whole minute: a smalldatetime holds no seconds, and a datetime rounds what is shorter.
_STEPS = (timedelta(minutes=1), timedelta(seconds=1), timedelta(microseconds=1))
#: A part that would begin at a time that the clock shows twice, or skips, begins later.
_SHIFTS = tuple(timedelta(hours=hours) for hours in range(4))


def time_parts(slice_: Slice, parts: int) -> list[Slice]:
    """Cut a slice into so many parts of about the same length; into fewer where it is too short, or its clock jumps."""
    if slice_.start is None or slice_.end is None or slice_.start_at is None or slice_.end_at is None:
        return [slice_]
    zone = ZoneInfo(slice_.zone)
    length = slice_.end_at - slice_.start_at
    step = next((step for step in _STEPS if length >= parts * step), _STEPS[-1])
    bounds = [(slice_.start, slice_.start_at)]
    for number in range(1, parts):
        for shift in _SHIFTS:
            if (found := _on_clock(slice_.start_at + length * number // parts + shift, zone, step)) is None:
                continue
            if bounds[-1][0] < found[0] < slice_.end and bounds[-1][1] < found[1] < slice_.end_at:
                bounds.append(found)
            break
    bounds.append((slice_.end, slice_.end_at))
    return [
        replace(slice_, start=start, start_at=start_at, end=end, end_at=end_at)
        for (start, start_at), (end, end_at) in pairwise(bounds)
    ]


def _on_clock(at: datetime, zone: ZoneInfo, step: timedelta) -> tuple[datetime, datetime] | None:
    """Return the last whole step before an instant, by the clock and in UTC; None if it is not shown exactly once."""
    shown = at.astimezone(zone).replace(tzinfo=None, fold=0)
    shown -= (shown - datetime.combine(shown.date(), time.min)) % step
    first, second = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return (shown, first) if first == second else None


def check_split(project: Project, load: Load, shard: Shard, slice_: Slice) -> None:
    """Raise ConfigError where the parts by time would repeat rows, for the query does not depend on both bounds."""
    halves = time_parts(slice_, 2)
    if load.split == 1 or load.split_by is not None or len(halves) == 1:
        return
    whole = render_extract(project, load, shard, slice_)
    moved = {"start": halves[1], "end": halves[0]}
    unused = [
        bound for bound, half in moved.items() if _same(render_extract(project, load, shard, half), whole)
    ]
    if unused:
        raise declared_at(load).at("split").error(_unused(load, unused))


def _unused(load: Load, bounds: Sequence[str]) -> str:
    if load.endpoint is not None:
        shown = " and ".join(f"{{{{ data_interval_{bound} }}}}" for bound in bounds)
        return f"cuts by time, and params do not have {shown}: each part would have all rows; add what is missing"
    shown = " or ".join(f":{bound}" for bound in bounds)
    return (
        f"cuts by time, and the extract does not depend on {shown}: parts would repeat rows; write WHERE"
        f" {load.slice_by} >= :start AND {load.slice_by} < :end, or cut by a column with split_by"
    )


def _same(query: Query, other: Query) -> bool:
    return (
        same_but_comments(query.sql, other.sql)
        and query.binds == other.binds
        and query.request == other.request
    )


def by_ranges(load: Load) -> str:
    """Return how `split_by` cuts, for a reader: the values are known only at the source."""
    by = load.split_by
    return (
        f"{load.split} parts at once: SELECT MIN({by}), MAX({by}) FROM (this query), and then for each of {load.split}"
        f" ranges of the same width SELECT * FROM (this query) WHERE {by} >= <low> AND {by} < <high>; without <low> in"
        " the first, which also has NULL, without <high> in the last"
    )


#: More digits than any system's decimals have.
_EXACT = Context(prec=100)
#: A value by which a slice is cut into ranges.
KeyValue = int | Decimal | date


class KeyRange(Struct, frozen=True):
    """The rows whose `column` is in `[low, high)`. None is no bound; without a lower one NULL is in the range too."""

    column: str
    low: KeyValue | None = None
    high: KeyValue | None = None

    def condition(self, quoted: str) -> str:
        """Return it in SQL, for the quoted name of the column; empty when it has every row."""
        above = f"{quoted} >= {_literal(self.low)}" if self.low is not None else ""
        below = f"{quoted} < {_literal(self.high)}" if self.high is not None else ""
        if below and not above:
            return f"({below} OR {quoted} IS NULL)"
        return " AND ".join(filter(None, (above, below)))


def _literal(value: KeyValue) -> str:
    if isinstance(value, date):
        return f"CAST('{value.isoformat()}' AS date)"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def key_ranges(column: str, low: KeyValue | None, high: KeyValue | None, parts: int) -> list[KeyRange]:
    """Cut the values from `low` to `high`, both included, into up to so many ranges of about the same width."""
    if low is None or high is None:
        return [KeyRange(column)]
    digits = max(_digits(low), _digits(high))
    first, last = _number(low, digits), _number(high, digits)
    cuts = sorted({first + (last + 1 - first) * number // parts for number in range(1, parts)} - {first})
    bounds = [None, *(_value(cut, low, digits) for cut in cuts), None]
    return [KeyRange(column, *pair) for pair in pairwise(bounds)]


def _digits(value: KeyValue) -> int:
    exponent = value.as_tuple().exponent if isinstance(value, Decimal) else 0
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _number(value: KeyValue, digits: int) -> int:
    if isinstance(value, date):
        return value.toordinal()
    return int(value.scaleb(digits, _EXACT)) if isinstance(value, Decimal) else int(value) * 10**digits


def _value(number: int, like: KeyValue, digits: int) -> KeyValue:
    if isinstance(like, date):
        return date.fromordinal(number)
    return Decimal(number).scaleb(-digits, _EXACT) if isinstance(like, Decimal) or digits else number
