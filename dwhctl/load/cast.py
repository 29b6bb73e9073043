"""Bring a source's batches into the target's columns, or refuse by name: nothing is changed silently.

`compare` checks declared columns before data moves; `SliceCheck` and `TargetCast` the values as they pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import OWN_COLUMNS, SERVICE_FIELDS, Column, Kind
from dwhctl.core.errors import OutsideSliceError, SchemaDriftError, ValueRefusedError

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.runtime.messages import Delivered


class Constraint(Struct, frozen=True):
    """A constraint of one column: `breaks` returns for each value whether it breaks it; `reason` is for the message."""

    breaks: Callable[[pa.Array], pa.Array]
    reason: str

    def first_break(self, array: pa.Array) -> int | None:
        """Return the index of the first value that breaks it."""
        row: int = pc.index(self.breaks(array), True).as_py()
        return None if row < 0 else row


def constraints(column: Column) -> Iterator[Constraint]:
    """Yield the constraints of a column of the target."""
    octets = column.octets
    if octets is not None:
        yield Constraint(
            lambda array: pc.greater(pc.binary_length(array), octets),
            f"the value has more than the {octets} octets of {column.declared}",
        )
    characters = column.characters
    if characters is not None:
        yield Constraint(
            lambda array: pc.greater(pc.utf8_length(array), characters),
            f"the value has more than the {characters} characters of {column.declared}",
        )
    if column.no_nul:
        yield Constraint(_with_nul, f"the value has a NUL character, which {column.declared} cannot hold")
    if column.padded and column.kind is Kind.BINARY:
        yield Constraint(
            lambda array: pc.less(pc.binary_length(array), octets),
            f"{column.declared} would fill the value up with zero octets; VARBINARY does not",
        )
    if column.padded and column.kind is Kind.TEXT:
        yield Constraint(
            lambda array: pc.ends_with(array, " "),
            f"the value ends in a blank, which {column.declared} does not keep; VARCHAR does",
        )
    if column.allowed is not None:
        known = pa.array(column.allowed, pa.string())
        yield Constraint(
            lambda array: pc.and_(pc.is_valid(array), pc.invert(pc.is_in(array, known))),
            f"the value is none of {column.declared}",
        )
    if column.least is not None:
        least = pa.scalar(column.least, column.type)
        yield Constraint(
            lambda array: pc.less(array, least),
            f"the value is below {column.least}, the least of {column.declared}",
        )
    if column.most is not None:
        most = pa.scalar(column.most, column.type)
        yield Constraint(
            lambda array: pc.greater(array, most),
            f"the value is above {column.most}, the most of {column.declared}",
        )


def _with_nul(array: pa.Array) -> pa.Array:
    """Return for each text whether it has a NUL character: none, where no octet is zero, which is seen fast."""
    _, offsets, octets = array.buffers()
    ends = np.frombuffer(offsets or b"\0" * 4, np.int32)[[array.offset, array.offset + len(array)]]
    has_zero = not np.frombuffer(octets or b"", np.uint8)[slice(*ends)].min(initial=1)
    return pc.match_substring(array, "\0") if has_zero else pa.repeat(pa.scalar(False), len(array))


#: To which kinds a kind may go without a value changing its meaning. Within them every value is checked.
_FITS: dict[Kind, frozenset[Kind]] = {kind: frozenset({kind}) for kind in Kind} | {
    Kind.INTEGER: frozenset({Kind.INTEGER, Kind.DECIMAL}),
    Kind.UUID: frozenset({Kind.UUID, Kind.TEXT}),
    Kind.DATE: frozenset({Kind.DATE, Kind.TIMESTAMP}),
}

_MOST_DIGITS = 38


def compare(
    source: Sequence[Column],
    target: Sequence[Column],
    *,
    fill_missing: bool,
    delivered: Delivered | None = None,
) -> list[Column]:
    """Compare declared columns, names without case. Raise SchemaDriftError that names every difference.

    With `fill_missing` a nullable column of the target that the source lacks is no difference, unless the shard has
    `delivered` it before. Return these columns: they get NULL.
    """
    known = delivered.columns if delivered and fill_missing else {}
    ours = {column.name.lower(): column for column in target}
    theirs = {column.name.lower(): column for column in source}
    differences = [
        f"column {column.name} occurs twice in the extract"
        for column in source
        if column is not theirs[column.name.lower()]
    ]
    differences += [
        f"column {name} is dwhctl's own and must not come from the extract"
        for name in theirs
        if name in OWN_COLUMNS
    ]
    missing = [column for name, column in ours.items() if name not in theirs and name not in SERVICE_FIELDS]
    filled = [column for column in missing if fill_missing and column.nullable]
    differences += [
        f"column {column.name} is missing at the source" for column in missing if column not in filled
    ]
    if delivered and (
        gone := {column.name: known[column.name.lower()] for column in filled if column.name.lower() in known}
    ):
        differences.append(delivered.dropped(gone))
    differences += [
        f"column {column.name} is {column.declared} at the source and {ours[name].shown} in the target"
        for name, column in theirs.items()
        if name in ours and not fits(column, ours[name])
    ]
    new = [column for name, column in theirs.items() if name not in ours]
    differences += [f"column {column.name} ({column.declared}) is new at the source" for column in new]
    if differences:
        only_new = len(differences) == len(new)
        raise SchemaDriftError("; ".join(differences), new if only_new else ())
    return filled


def fits(source: Column, target: Column) -> bool:
    """Return whether values of one declared type keep their meaning in the other; each value is checked later."""
    if source.kind is Kind.FLOAT and target.kind is Kind.FLOAT:
        return bool(source.type.bit_width <= target.type.bit_width)
    if target.rewrites and source.declared != target.declared:
        return False
    return target.kind in _FITS[source.kind] or (source.kind is Kind.BINARY and target.any_octets)


def for_source(source: Sequence[Column], target: Sequence[Column]) -> list[Column]:
    """Return the target's columns as they hold this source's values: a column of any octets as text or as binary."""
    binary = {column.name.lower() for column in source if column.kind is Kind.BINARY}
    return [
        replace(column, kind=Kind.BINARY, type=pa.binary())
        if column.any_octets and column.name.lower() in binary
        else column
        for column in target
    ]


class SliceCheck:
    """Refuses a row outside the slice, NULL included."""

    def __init__(
        self, slice_: Slice, slice_by: str | None, key: Sequence[str], columns: Sequence[Column]
    ) -> None:
        by_name = {column.name.lower(): column for column in columns}
        absent = [name for name in (*key, slice_by or key[0]) if name.lower() not in by_name]
        if absent:
            raise SchemaDriftError(f"the extract has no column {', '.join(dict.fromkeys(absent))}")
        self._slice = slice_
        self._key = key
        self._column = by_name[slice_by.lower()] if slice_by else None
        if self._column is not None:
            self._bounds = self._bounds_for(self._column)
            self._shown = ", ".join(str(bound.as_py()) for bound in self._bounds)

    def _bounds_for(self, column: Column) -> tuple[pa.Scalar, pa.Scalar]:
        if column.kind is Kind.TIMESTAMPTZ:
            start, end = self._slice.start_at, self._slice.end_at
        elif column.kind in (Kind.DATE, Kind.TIMESTAMP):
            start, end = self._slice.start, self._slice.end
        else:
            raise SchemaDriftError(f"slice_by column {column.name} is {column.declared}, not a date or time")
        if column.kind is Kind.DATE:
            return _first_date(start), _first_date(end)
        try:
            return pa.scalar(start).cast(column.type), pa.scalar(end).cast(column.type)
        except pa.ArrowInvalid as error:
            raise SchemaDriftError(f"slice_by column {column.name} is {column.declared}: {error}") from error

    def __call__(self, batch: pa.RecordBatch) -> None:
        """Raise OutsideSliceError with the first row outside."""
        if self._column is None:
            return
        array = batch.column(self._column.name)
        start, end = self._bounds
        inside = pc.and_(pc.greater_equal(array, start), pc.less(array, end)).fill_null(False)
        if not pc.all(inside).as_py():
            row = pc.index(inside, False).as_py()
            shown = row_text(by_lower_name(batch), self._key, row)
            raise OutsideSliceError(
                f"{shown} has {self._column.name} {value_text(array, row)}, outside [{self._shown})"
            )


def _first_date(bound: datetime | None) -> pa.Scalar:
    """Return the first date whose midnight is not before the bound: dates are not cast, for some do not fit."""
    if bound is None:
        return pa.scalar(None, pa.date32())
    return pa.scalar((bound + timedelta(days=1) - timedelta(microseconds=1)).date())


class TargetCast:
    """Casts batches to the target's columns, in their order. Every value arrives unchanged or is refused."""

    def __init__(self, target: Sequence[Column], key: Sequence[str]) -> None:
        self._target = target
        self._key = [name.lower() for name in key]
        self._schema = pa.schema([pa.field(column.name, column.type) for column in target])
        self._constraints = {column.name: list(constraints(column)) for column in target}

    def __call__(self, batch: pa.RecordBatch, service: dict[str, pa.Array]) -> pa.RecordBatch:
        """Return the batch with the target's columns. Raise ValueRefusedError with column and key."""
        given = by_lower_name(batch) | service
        arrays = [self._column(column, given, batch.num_rows) for column in self._target]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        """Return one column as the target will hold it."""
        target = next(column for column in self._target if column.name.lower() == name.lower())
        return self._column(target, by_lower_name(batch), batch.num_rows)

    def _column(self, column: Column, given: dict[str, pa.Array], rows: int) -> pa.Array:
        array = given.get(column.name.lower())
        if array is None:
            return pa.nulls(rows, column.type)
        if not column.nullable and array.null_count:
            row = pc.index(pc.is_null(array), True).as_py()
            raise ValueRefusedError(
                f"column {column.name}, {self.describe(given, row)}: NULL, but the target says NOT NULL"
            )
        try:
            fitting = cast(array, column.type)
        except pa.ArrowInvalid as error:
            row = first_failing(array, lambda part: cast(part, column.type))
            raise ValueRefusedError(
                f"column {column.name}, {self.describe(given, row)}: the value does not fit {column.declared}"
            ) from error
        for constraint in self._constraints[column.name]:
            if (broken := constraint.first_break(fitting)) is not None:
                raise ValueRefusedError(
                    f"column {column.name}, {self.describe(given, broken)}: {constraint.reason}"
                )
        return fitting

    def describe(self, given: dict[str, pa.Array], row: int) -> str:
        """Return the key of a row, for a message."""
        return row_text(given, self._key, row)


def by_lower_name(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the columns of a batch by name in lower case."""
    return {name.lower(): array for name, array in zip(batch.schema.names, batch.columns, strict=True)}


def row_text(given: Mapping[str, pa.Array], key: Sequence[str], row: int) -> str:
    """Return a row of the columns, by name in lower case, as the values of its key."""
    shown = (f"{name}={value_text(given[name.lower()], row)}" for name in key if name.lower() in given)
    return f"row {', '.join(shown)}"


def cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast without loss. Raise pa.ArrowInvalid where a value would change."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_decimal(wanted):
        return _to_decimal(array, wanted)
    if wanted == pa.timestamp("s"):
        # Whole seconds are staged as milliseconds, which do not hold each of them.
        array.cast(wanted, safe=True).cast(pa.timestamp("ms"), safe=True)
    return array if array.type == wanted else array.cast(wanted, safe=True)


def _to_decimal(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_integer(array.type):
        # Arrow needs room for every 64-bit integer, whatever the values are.
        array = array.cast(pa.decimal128(20, 0))
    if array.type.precision == _MOST_DIGITS:
        # A HUGEINT of 39 digits reaches Arrow as a decimal that its type does not hold, and Arrow's own checks
        # let the smallest of them pass: it has no absolute value in 128 bits.
        array.validate(full=True)
        if pc.any(pc.equal(array, _smallest(array.type))).as_py():
            raise pa.ArrowInvalid("a value has 39 digits")
    return array if array.type == wanted else array.cast(wanted, safe=True)


def _smallest(type_: pa.DataType) -> pa.Scalar:
    bits = pa.py_buffer((-(2**127)).to_bytes(16, "little", signed=True))
    return pa.Array.from_buffers(type_, 1, [None, bits])[0]


def first_failing(array: pa.Array, check: Callable[[pa.Array], object]) -> int:
    """Return the index of the first value on which `check` fails, by halving."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check(array.slice(low, middle - low))
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def value_text(array: pa.Array, row: int) -> str:
    """Return one value as text; a date or time that Python cannot hold as its number."""
    try:
        return str(array[row].as_py())
    except (ValueError, OverflowError):
        return f"{array[row].value} ({array.type})"
