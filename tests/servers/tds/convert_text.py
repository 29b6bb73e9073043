"""Values as text and as bytes, in the styles of CONVERT."""

from __future__ import annotations

from .convert import Typed, fail_with, family, to_ticks
from .errors import TdsError, error
from .octets import octets_of
from .storage import DAY_TICKS, M
from .types import BINARIES, DECIMALS, FLOATS, MOMENTS, SqlType

#: Style: the form of a date, what stands before the time, the form of a time; {f} is a fraction.
_STYLES: dict[int, tuple[str, str, str]] = {
    0: ("%b %d %Y", " ", "%I:%M%p"),
    100: ("%b %d %Y", " ", "%I:%M%p"),
    1: ("%m/%d/%y", "", ""),
    101: ("%m/%d/%Y", "", ""),
    102: ("%Y.%m.%d", "", ""),
    103: ("%d/%m/%Y", "", ""),
    104: ("%d.%m.%Y", "", ""),
    105: ("%d-%m-%Y", "", ""),
    108: ("", "", "%H:%M:%S"),
    110: ("%m-%d-%Y", "", ""),
    111: ("%Y/%m/%d", "", ""),
    112: ("%Y%m%d", "", ""),
    114: ("", "", "%H:%M:%S:{f}"),
    20: ("%Y-%m-%d", " ", "%H:%M:%S"),
    120: ("%Y-%m-%d", " ", "%H:%M:%S"),
    21: ("%Y-%m-%d", " ", "%H:%M:%S.{f}"),
    121: ("%Y-%m-%d", " ", "%H:%M:%S.{f}"),
    23: ("%Y-%m-%d", "", ""),
    126: ("%Y-%m-%d", "T", "%H:%M:%S.{f}"),
    127: ("%Y-%m-%d", "T", "%H:%M:%S.{f}"),
}


def fit(text: str, target: SqlType) -> str:
    """Cut to the target's length, as an explicit conversion does, and pad a char."""
    if target.length <= 0:
        return text
    if target.name in ("nchar", "nvarchar"):
        cut = f"{M}.fit({text}, {target.length})"
        return f"{M}.pad({cut}, {target.length})" if target.name == "nchar" else cut
    if target.codec == "utf-8":
        cut = f"{M}.fit_octets({text}, {target.length})"
        return f"{M}.pad_octets({cut}, {target.length})" if target.name == "char" else cut
    return (
        f"rpad({text}, {target.length}, ' ')" if target.name == "char" else f"left({text}, {target.length})"
    )


def as_text(value: Typed, target: SqlType, style: int | None) -> str:
    """The value's text."""
    kind, x = value.type, value.sql
    if kind.is_text or kind.name == "xml":
        return x
    if kind.name in MOMENTS:
        return _moment(value, style)
    if kind.name == "bit":
        return f"CAST(CAST({x} AS INTEGER) AS VARCHAR)"
    if kind.name in FLOATS:
        return _float(x, kind, style)
    if kind.name in ("money", "smallmoney"):
        return f"CAST(CAST({x} AS DECIMAL(19,{4 if style in (2, 126) else 2})) AS VARCHAR)"
    if kind.name in DECIMALS:
        text = f"CAST({x} AS VARCHAR)"
        # The engine leaves out the zero before the point of a decimal(5,5).
        zero = f"ltrim(replace(replace(' ' || {text}, ' .', ' 0.'), ' -.', ' -0.'))"
        return zero if kind.precision == kind.scale else text
    if kind.name == "uniqueidentifier":
        return f"upper(CAST({x} AS VARCHAR))"
    if family(kind) == "binary":
        return _from_binary(x, target, style)
    if family(kind) == "variant":
        return f"({x}).v"
    return f"decode({x})" if family(kind) == "clr" else f"CAST({x} AS VARCHAR)"


def _float(x: str, kind: SqlType, style: int | None) -> str:
    if style == 3:
        # Seventeen digits and nine: what tells every value from its neighbours.
        return f"CAST({x} AS VARCHAR)"
    return f"regexp_replace(printf('%.6g', CAST({x} AS DOUBLE)), 'e([+-])(\\d\\d)$', 'e\\1' || '0' || '\\2')"


def _from_binary(x: str, target: SqlType, style: int | None) -> str:
    if style == 1:
        return f"'0x' || hex({x})"
    if style == 2:
        return f"hex({x})"
    return f"decode({x})"


def _moment(value: Typed, style: int | None) -> str:
    kind = value.type
    if style is None:
        style = 0 if kind.name in ("datetime", "smalldatetime") else 121
    if style not in _STYLES:
        words = f"{style} is not a valid style number when converting from {kind.name} to a character string."
        raise TdsError(281, words)
    day, between, clock = _STYLES[style]
    if kind.name == "date":
        between = clock = ""
    if kind.name == "time":
        day = between = ""
    ticks = to_ticks(value)
    digits = {"datetime": 3, "smalldatetime": 3}.get(kind.name, kind.scale)
    before, hole, _ = clock.partition(".{f}")
    form = day + between + before
    text = f"strftime({M}.ts({ticks}), '{form}')" if form else "''"
    if style in (0, 100):
        text = f"regexp_replace(replace({text}, ' 0', '  '), ' 0(\\d:)', '  \\1')"
    if hole and digits:
        text = f"{text} || {_fraction(ticks, kind, digits, style)}"
    if kind.name == "datetimeoffset" and clock:
        space = "" if style in (126, 127) else " "
        text = f"{text} || '{space}' || {M}.offset_text(({value.sql}).o)"
    return text


def _fraction(ticks: str, kind: SqlType, digits: int, style: int) -> str:
    # A datetime shows .003 for its 1/300 s, which is .0033333.
    shown = f"(({ticks}) % {DAY_TICKS} + 5000)" if kind.name == "datetime" else ticks
    text = f"'.' || {M}.fraction({shown}, {digits})"
    if style in (126, 127):
        return f"CASE WHEN ({ticks}) % 10000000 = 0 THEN '' ELSE {text} END"
    return text


def as_binary(value: Typed, target: SqlType, style: int | None) -> str:
    """The value's bytes, cut or padded with zeros to the target's length."""
    kind, x = value.type, value.sql
    if kind.name in BINARIES or family(kind) == "clr":
        raw = x
    elif kind.is_text and style in (1, 2):
        raw = f"unhex({x}[3:])" if style == 1 else f"unhex({x})"
    elif kind.is_text:
        raw = octets_of(x, kind)
    elif kind.is_number and kind.name not in (*FLOATS, *DECIMALS):
        length = {"bit": 1, "tinyint": 1, "smallint": 2, "int": 4}.get(kind.name, 8)
        raw = f"unhex(right(printf('%016x', CAST({x} AS BIGINT)), {2 * length}))"
        if target.length > 0:
            return f"unhex(lpad(right(hex({raw}), {2 * target.length}), {2 * target.length}, '0'))"
    else:
        return fail_with(error(529, kind.name, target.name))
    if target.length > 0 and target.name == "binary":
        return f"unhex(rpad(left(hex({raw}), {2 * target.length}), {2 * target.length}, '0'))"
    if target.length > 0 and kind.octets not in range(1, target.length + 1):
        return f"unhex(left(hex({raw}), {2 * target.length}))"
    return raw
