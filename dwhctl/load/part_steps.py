"""What a worker does for a slice in parts: cut it, check the rows of a part, look for a key that two parts have."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import DoubledKeyError, OutsideSliceError, QueryError
from dwhctl.core.faults import reach
from dwhctl.load.cast import by_lower_name, row_text, value_text
from dwhctl.load.hash_ids import doubled_key
from dwhctl.project.parts import KeyRange, KeyValue, key_ranges
from dwhctl.runtime.messages import NOTES
from dwhctl.systems.base.system import TargetOptions, system_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dwhctl.runtime.messages import StageOrder
    from dwhctl.systems.base.source import Source

_KINDS = (Kind.INTEGER, Kind.DECIMAL, Kind.DATE)


def cut(order: StageOrder, source: Source) -> tuple[KeyRange, ...]:
    """Return the ranges of the slice's parts; none without a column to split by. Raise AttemptError."""
    reach("stage.cut")
    if order.split_by is None:
        return ()
    columns = source.columns(order.query)
    if not order.login_known:
        NOTES.answered()  # the limits of a large slice may take long
    try:
        column = split_column(order.split_by, columns)
    except QueryError as error:
        error.place = "`split_by` of the load"
        raise
    try:
        low, high = (_value(limit, column) for limit in source.key_limits(order.query, column.name))
        ranges = tuple(key_ranges(column.name, low, high, order.parts))
        for one in ranges:
            RangeCheck(one, order.key, columns)
    except (ValueError, ArithmeticError) as error:
        raise QueryError(
            f"split_by column {column.name} is not cut into ranges, for a value of it is out of bounds: {error};"
            " split by another column, or by time without split_by"
        ) from error
    return ranges


def split_column(name: str, columns: Sequence[Column]) -> Column:
    """Return the column of an extract that `split_by` names. Raise QueryError when a slice cannot be split by it."""
    column = {column.name.lower(): column for column in columns}.get(name.lower())
    if column is None:
        raise QueryError(f"the extract has no column {name}, by which the load is split")
    if column.kind not in _KINDS:
        raise QueryError(
            f"split_by column {column.name} is {column.declared}; a slice is split by whole numbers, decimals or dates,"
            " or by time without split_by"
        )
    return column


def _value(limit: object, column: Column) -> KeyValue | None:
    if limit is None:
        return None
    if column.kind is Kind.DATE:
        if not isinstance(limit, date):  # one that Python does not have comes as a text
            raise ValueError(f"{limit}")
        return limit
    number = Decimal(str(limit))
    if not number.is_finite():
        raise ValueError(f"{limit}")
    return int(number) if column.kind is Kind.INTEGER else number


class RangeCheck:
    """Refuses a row outside the range that the source was asked for: another part may have it as well."""

    def __init__(self, key_range: KeyRange, key: Sequence[str], columns: Sequence[Column]) -> None:
        column = next(column for column in columns if column.name == key_range.column)
        self._name, self._key = column.name, key
        self._low, self._high = (
            None if bound is None else pa.scalar(bound, column.type)
            for bound in (key_range.low, key_range.high)
        )

    def __call__(self, batch: pa.RecordBatch) -> None:
        """Raise OutsideSliceError with the first row outside."""
        array = batch.column(self._name)
        inside = pc.or_kleene(pc.is_valid(array), self._low is None)
        if self._low is not None:
            inside = pc.and_kleene(inside, pc.greater_equal(array, self._low))
        if self._high is not None:
            inside = pc.and_kleene(inside, pc.less(array, self._high).fill_null(True))
        if not pc.all(inside, min_count=0).as_py():
            row = pc.index(inside, False).as_py()
            shown = row_text(by_lower_name(batch), self._key, row)
            raise OutsideSliceError(
                f"{shown} has {self._name} {value_text(array, row)}, outside the part that the source was asked for"
            )


def of_part(check: Callable[[pa.RecordBatch], None]) -> Callable[[pa.RecordBatch], None]:
    """Return a check by the bounds of a part by time, whose errors say that they are those of a part."""

    def checked(batch: pa.RecordBatch) -> None:
        try:
            check(batch)
        except OutsideSliceError as error:
            raise OutsideSliceError(
                f"{error}, the bounds of the part that the source was asked for: the extract must return only rows"
                " from :start to before :end"
            ) from error

    return checked


def check_keys(order: StageOrder) -> None:
    """Raise DoubledKeyError for a key that two rows of the slice have, whose parts are all staged."""
    reach("stage.keys")
    table = order.table
    target = system_of(table.connection).open_target(
        table.connection, TargetOptions(table.state_dir, table.timeout, f"dwhctl:{order.group.run_id}")
    )
    schema = pa.schema([pa.field(column.name, column.type) for column in table.columns])
    none = pa.RecordBatch.from_pylist([], schema)
    with target.stage(order.group, order.token, table.columns) as stage:
        stage.write(iter([none]))
        if (key := doubled_key(stage, order.key)) is not None:
            raise DoubledKeyError(
                f"{key} occurs twice in the slice, in two of its parts; a row whose {order.slice_by or order.split_by}"
                " changes while the parts are read is read twice, so it is tried again"
            )
