"""Arithmetic with SQL Server's types of results."""

from __future__ import annotations

from .convert import Typed, convert, fail_with, family
from .convert_text import fit
from .errors import error
from .types import (
    DATETIME,
    DECIMALS,
    FLOATS,
    INT,
    INTEGERS,
    LATIN,
    MOMENTS,
    SqlType,
    as_decimal,
    higher,
    numeric,
)

_SIGNS = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "%": "modulo",
    "&": "'&'",
    "|": "'|'",
    "^": "'^'",
}


def combine(sign: str, left: Typed, right: Typed) -> Typed:
    """Two values with a sign between them. Raises 402, 8117, 206 where there is no such operation."""
    if sign == "+" and family(left.type) == family(right.type) and family(left.type) in ("text", "binary"):
        return _joined(left, right)
    kind = higher(left.type, right.type)
    if kind.name in MOMENTS:
        return _moved(sign, left, right, kind)
    if not kind.is_number:
        raise error(402 if left.type != right.type else 8117, *_words(left, right, sign))
    return _arithmetic(sign, convert(left, _calculable(left, kind)), convert(right, _calculable(right, kind)))


def _moved(sign: str, left: Typed, right: Typed, kind: SqlType) -> Typed:
    """A datetime plus or minus days; the newer types do not know it."""
    if kind.name not in ("datetime", "smalldatetime") or sign not in "+-":
        raise error(206, left.type.name if left.type.is_number else right.type.name, kind.name)
    if not left.type.is_number and not right.type.is_number:
        days = f"(epoch_us({left.sql}) {sign} epoch_us({right.sql})) // 1"
        return Typed(f"make_timestamp(({days} - 2208988800000000)::BIGINT)", DATETIME)
    moment, days = (left, right.sql) if right.type.is_number else (right, left.sql)
    moved = f"make_timestamp((epoch_us({moment.sql}) {sign} round(({days}) * 86400000000))::BIGINT)"
    return Typed(moved, moment.type)


def _joined(left: Typed, right: Typed) -> Typed:
    kind = higher(left.type, right.type)
    lengths = (left.type.length, right.type.length)
    if -1 in lengths or kind.name in ("text", "ntext"):
        length = -1
    else:
        length = min(sum(lengths), 4000 if kind.name.startswith("n") else 8000)
    name = {"char": "varchar", "nchar": "nvarchar", "sysname": "nvarchar", "text": "varchar", "ntext": "nvarchar",
            "binary": "varbinary"}.get(kind.name, kind.name)  # fmt: skip
    # The collation that somebody named goes before the server's own.
    named = [each.type.collation for each in (left, right) if each.type.collation not in (None, LATIN)]
    made = SqlType(name, length, collation=named[0] if named else kind.collation)
    joined = f"({left.sql} || {right.sql})"
    if 0 < length < sum(lengths) and made.is_text:
        # A text that is written once: to cut it in place would repeat it several times at each level of a long sum.
        joined = f"list_transform([{joined}], lambda joined: {fit('joined', made)})[1]"
    return Typed(joined, made, left.nullable or right.nullable)


def _calculable(value: Typed, kind: SqlType) -> SqlType:
    if kind.name in ("decimal", "numeric") and value.type.is_number:
        return SqlType(
            kind.name, precision=as_decimal(value.type).precision, scale=as_decimal(value.type).scale
        )
    return INT if kind.name == "bit" else kind


def _words(left: Typed, right: Typed, sign: str) -> tuple[str, ...]:
    if left.type != right.type:
        return left.type.name, right.type.name, _SIGNS[sign].strip("'")
    return left.type.name, _SIGNS[sign]


def _arithmetic(sign: str, left: Typed, right: Typed) -> Typed:
    kind = left.type
    nullable = left.nullable or right.nullable
    if sign in "&|^":
        if kind.name not in INTEGERS:
            raise error(402, left.type.name, right.type.name, _SIGNS[sign])
        made = f"xor({left.sql}, {right.sql})" if sign == "^" else f"({left.sql} {sign} {right.sql})"
        return Typed(f"CAST({made} AS {kind.stored})", kind, nullable)
    if sign in "/%":
        right = _not_zero(right)
    if kind.name in DECIMALS and not kind.name.endswith("money"):
        return _exact(sign, left, right)
    if kind.name.endswith("money"):
        made = (
            f"({left.sql} {sign} {right.sql})"
            if sign in "+-"
            else f"({left.sql}::DOUBLE {sign} {right.sql}::DOUBLE)"
        )
        return Typed(f"CAST({made} AS {kind.stored})", kind, nullable)
    operator = "//" if sign == "/" and kind.name in INTEGERS else sign
    if kind.name in FLOATS and sign == "%":
        raise error(402, left.type.name, right.type.name, "modulo")
    return Typed(f"CAST(({left.sql} {operator} {right.sql}) AS {kind.stored})", kind, nullable)


def _not_zero(value: Typed) -> Typed:
    checked = f"(CASE WHEN {value.sql} = 0 THEN {fail_with(error(8134))} ELSE {value.sql} END)"
    return Typed(checked, value.type, value.nullable)


def _exact(sign: str, left: Typed, right: Typed) -> Typed:
    """https://learn.microsoft.com/sql/t-sql/data-types/precision-scale-and-length-transact-sql"""
    (p1, s1), (p2, s2) = left.type.digits, right.type.digits
    nullable = left.nullable or right.nullable
    if sign in "+-":
        scale = max(s1, s2)
        kind = numeric(max(p1 - s1, p2 - s2) + scale + 1, scale)
        inner = kind.stored
        made = f"CAST({left.sql} AS {inner}) {sign} CAST({right.sql} AS {inner})"
    elif sign == "*":
        kind = numeric(p1 + p2 + 1, s1 + s2)
        made = f"{left.sql} * {right.sql}" if p1 + p2 <= 38 else f"{left.sql}::DOUBLE * {right.sql}::DOUBLE"
    elif sign == "/":
        kind = numeric(p1 - s1 + s2 + max(6, s1 + p2 + 1), max(6, s1 + p2 + 1))
        made = f"{left.sql}::DOUBLE / {right.sql}::DOUBLE"
    else:
        kind = numeric(min(p1 - s1, p2 - s2) + max(s1, s2), max(s1, s2))
        made = f"{left.sql} % {right.sql}"
    return Typed(f"CAST(({made}) AS {kind.stored})", kind, nullable)
