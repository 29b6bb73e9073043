"""Compare how large a source's declared columns are with the target's: what a load would refuse value by value.

`cast.compare` refuses other columns and other kinds before data moves. Within a kind a load checks each value;
`config check --online` lists before the first load the columns that have too little room for some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetRefusedError
from dwhctl.load.cast import fits

UUID_OCTETS = 36
_MOST_DIGITS, _MOST_DIGITS_256 = 38, 76
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_UNIT_NAMES = {"s": "whole seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DIGITS_OF_BITS = {8: 3, 16: 5, 32: 10, 64: 19}
_MOMENTS = (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


class Misfit(Struct, frozen=True):
    """A column whose values may not all fit. Where `certain`, none of them fits."""

    what: str
    certain: bool = False


def misfits(
    source: Sequence[Column],
    target: Sequence[Column],
    declaration: Callable[[Column], str],
    *,
    slice_by: str | None,
    declares_null: bool,
) -> Iterator[Misfit]:
    """Yield each column of the source that the target has, but has too little room for.

    `declaration` returns the target's type for a column. A row without its `slice_by` is in no slice.
    """
    ours = {column.name.lower(): column for column in target}
    for column in source:
        to = ours.get(column.name.lower())
        if to is None or not fits(column, to):
            continue
        in_both = f"column {to.name} is {column.declared} at the source and {to.declared} in the target"
        for why, wanted, certain in _too_small(column, to):
            yield Misfit(f"{in_both}: {why}; {_remedy(wanted, to, declaration)}", certain)
        by_slice = slice_by is not None and to.name.lower() == slice_by.lower()
        if declares_null and column.nullable and not to.nullable and not by_slice:
            yield Misfit(
                f"column {to.name} may be NULL at the source and is NOT NULL in the target: a row without a value"
                " would be refused; allow NULL in the target, or write"
                f" COALESCE({to.name}, ...) AS {to.name} into the extract"
            )


#: Why values are refused, a column that has room for them, and whether every value is refused.
_Reason = tuple[str, Column, bool]


def _too_small(source: Column, target: Column) -> Iterator[_Reason]:
    if target.kind in (Kind.TEXT, Kind.BINARY):
        yield from _too_short(source, target)
    elif target.kind is Kind.DECIMAL:
        yield from _too_few_digits(source, target)
    elif target.kind is Kind.INTEGER:
        yield from _too_few_bits(source, target)
    elif target.kind in _MOMENTS:
        yield from _too_coarse(source, target)


def _too_short(source: Column, target: Column) -> Iterator[_Reason]:
    if source.kind is Kind.UUID:
        if target.octets is not None and target.octets < UUID_OCTETS:
            room = replace(target, octets=UUID_OCTETS, padded=False)
            yield f"each is a text of {UUID_OCTETS} characters, so every value would be refused", room, True
        return
    least = source.places if source.fixed and source.places else 0
    room = replace(source, padded=False)
    if target.octets is not None and least > target.octets:
        yield f"each has {least} octets or more, so every value would be refused", room, True
    elif target.octets is not None and (source.octets is None or source.octets > target.octets):
        need = "there is no limit at the source" if source.octets is None else f"there may be {source.octets}"
        yield f"a value of more than {target.octets} octets would be refused ({need})", room, False
    elif _has_fewer_characters(source, target):
        yield (
            f"a value of more than {target.characters} characters would be refused",
            replace(source, kind=target.kind, octets=None, characters=None, padded=False),
            False,
        )
    elif target.padded:
        yield from _padded(source, target)


def _has_fewer_characters(source: Column, target: Column) -> bool:
    """Return whether a text of the source may have more characters than fit. A place holds one character at most."""
    most = source.places if source.characters is None else source.characters
    return target.characters is not None and (most is None or most > target.characters)


def _padded(source: Column, target: Column) -> Iterator[_Reason]:
    if source.kind is Kind.TEXT:
        yield "a value that ends in a blank would be refused", replace(target, padded=False), False
    elif not (source.fixed and source.places == target.octets):
        shorter = source.places is not None and target.octets is not None and source.places < target.octets
        reason = "every value is shorter and" if shorter else f"a value of fewer than {target.octets} octets"
        yield f"{reason} would be refused", replace(target, padded=False), shorter


def _too_few_digits(source: Column, target: Column) -> Iterator[_Reason]:
    whole, places = _digits(source)
    room, kept = _digits(target)
    beyond = [f"{room} digits before the point"] if whole > room else []
    beyond += [f"{kept} digits after the point"] if places > kept else []
    if beyond:
        digits = max(whole, room) + max(places, kept)
        # More than Arrow has is refused below.
        wanted = replace(target, type=pa.decimal256(min(digits, _MOST_DIGITS_256), max(places, kept)))
        yield f"a value with more than {' or '.join(beyond)} would be refused", wanted, False


def _digits(column: Column) -> tuple[int, int]:
    """Return the number of digits before and after the point."""
    if column.kind is Kind.INTEGER:
        return 20 if column.type == pa.uint64() else _DIGITS_OF_BITS[column.type.bit_width], 0
    return column.type.precision - column.type.scale, column.type.scale


def _too_few_bits(source: Column, target: Column) -> Iterator[_Reason]:
    (least, most), (lowest, highest) = _range(source.type), _range(target.type)
    if least < lowest or most > highest:
        wanted = replace(source, octets=None)
        yield f"a value below {lowest} or above {highest} would be refused", wanted, False


def _range(type_: pa.DataType) -> tuple[int, int]:
    if pa.types.is_signed_integer(type_):
        return -(2 ** (type_.bit_width - 1)), 2 ** (type_.bit_width - 1) - 1
    return 0, 2**type_.bit_width - 1


def _too_coarse(source: Column, target: Column) -> Iterator[_Reason]:
    unit = target.type.unit
    if source.kind is target.kind:
        digits = _UNIT_DIGITS[source.type.unit] if source.fraction is None else source.fraction
        if digits > _UNIT_DIGITS[unit]:
            yield (
                f"a value finer than {_UNIT_NAMES[unit]} would be refused",
                replace(target, type=source.type),
                False,
            )
    if unit == "ns" and (source.kind is Kind.DATE or source.type.unit != "ns"):
        wanted = replace(target, type=pa.timestamp("us"))
        yield "a value before 1677-09-22 or after 2262-04-11 would be refused", wanted, False


def _remedy(wanted: Column, target: Column, declaration: Callable[[Column], str]) -> str:
    """Return what to change: the target's type, or the extract where no type of the target has the room."""
    declared = None
    if wanted.kind is not Kind.DECIMAL or wanted.type.precision <= _MOST_DIGITS:
        with suppress(TargetRefusedError):
            declared = declaration(wanted)
    if declared is None or declared.lower() == target.declared.lower():
        return f"CAST it in the extract to what {target.declared} holds"
    return f"make it {declared}"
