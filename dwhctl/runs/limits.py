"""What a target's column does not hold although its Arrow type does: texts too long, integers too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dwhctl.columns import Column


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of one column: `breaks` tells of each value whether it is beyond, `reason` says so in words."""

    breaks: Callable[[pa.Array], pa.Array]
    reason: str

    def first_beyond(self, array: pa.Array) -> int | None:
        """Give the index of the first value beyond the limit."""
        row: int = pc.index(self.breaks(array), True).as_py()
        return None if row < 0 else row


def limits(column: Column) -> list[Limit]:
    """Give the limits of a column."""
    return list(_limits(column))


def _limits(column: Column) -> Iterator[Limit]:
    octets = column.octets
    if octets is not None:
        yield Limit(
            lambda array: pc.greater(pc.binary_length(array), octets),
            f"the value has more than the {octets} octets of {column.declared}",
        )
    if column.padded and column.kind is Kind.BINARY:
        yield Limit(
            lambda array: pc.less(pc.binary_length(array), octets),
            f"{column.declared} would fill the value up with zero octets; VARBINARY does not",
        )
    if column.padded and column.kind is Kind.TEXT:
        yield Limit(
            lambda array: pc.ends_with(array, " "),
            f"the value ends in a blank, which {column.declared} does not keep; VARCHAR does",
        )
    if column.least is not None:
        least = pa.scalar(column.least, column.type)
        yield Limit(
            lambda array: pc.less(array, least),
            f"the value is below {column.least}, the least of {column.declared}",
        )
    if column.most is not None:
        most = pa.scalar(column.most, column.type)
        yield Limit(
            lambda array: pc.greater(array, most),
            f"the value is above {column.most}, the most of {column.declared}",
        )
