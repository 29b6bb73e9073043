"""Convert a value from one of SQL Server's types to another, as DuckDB SQL.

What cannot be converted becomes an error at the row that has it; which pairs there are:
https://learn.microsoft.com/sql/t-sql/functions/cast-and-convert-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .errors import TdsError, error
from .storage import DAY_TICKS, DAYS_1900, M, in_session_order, iso_day, quoted, read_moment
from .types import BINARIES, CLR, DECIMALS, FLOATS, INTEGERS, MOMENTS, TEXTS, SqlType


@dataclass(frozen=True)
class Typed:
    """A value in DuckDB SQL with its SQL Server type; `text` is that of a string constant, `null` a bare NULL."""

    sql: str
    type: SqlType
    nullable: bool = True
    text: str | None = None
    null: bool = False
    #: Called with the type that a parameter without a declaration is converted to; such a parameter is NULL.
    deduce: Callable[[SqlType], object] | None = None


#: From a family to a family: i implicitly too, e only explicitly; what is not there is refused.
_ALLOWED = {
    "text": {"text": "i", "binary": "e", "number": "i", "moment": "i", "guid": "i", "xml": "i", "variant": "i",
             "clr": "i"},
    "binary": {"text": "i", "binary": "i", "number": "i", "moment": "i", "guid": "i", "xml": "i", "variant": "i",
               "clr": "i"},
    "number": {"text": "i", "binary": "i", "number": "i", "moment": "i", "variant": "i"},
    "moment": {"text": "i", "binary": "e", "number": "e", "moment": "i", "variant": "i"},
    "guid": {"text": "i", "binary": "e", "guid": "i", "variant": "i"},
    "xml": {"text": "e", "binary": "e", "xml": "i"},
    "variant": {"text": "e", "binary": "e", "number": "e", "moment": "e", "guid": "e", "variant": "i"},
    "clr": {"text": "e", "binary": "e", "clr": "i"},
}  # fmt: skip


def family(kind: SqlType) -> str:
    """The family of a type."""
    if kind.name in TEXTS:
        return "text"
    if kind.name in BINARIES:
        return "binary"
    if kind.name in MOMENTS:
        return "moment"
    if kind.name in CLR:
        return "clr"
    return {"uniqueidentifier": "guid", "xml": "xml", "sql_variant": "variant"}.get(kind.name, "number")


def fail(number: int, message: str) -> str:
    """SQL that raises an error; `message` is an SQL expression."""
    return f"error('tds:{number}:' || {message})"


def fail_with(known: TdsError) -> str:
    """SQL that raises this error."""
    return fail(known.number, quoted(known.message))


def convert(
    value: Typed,
    target: SqlType,
    *,
    explicit: bool = False,
    style: int | None = None,
    forgiving: bool = False,
) -> Typed:
    """The value as the target type. Raises 529, 257 or 206 where there is no such conversion."""
    if value.deduce is not None:
        value.deduce(target)
    if value.null:
        return Typed(f"CAST(NULL AS {target.stored})", target)
    if value.type == target:
        return Typed(value.sql, target, value.nullable)
    allowed = _ALLOWED[family(value.type)].get(family(target), "")
    if not allowed or _apart(value.type, target) or _apart(target, value.type):
        raise error(529 if explicit else 206, value.type.name, target.name)
    if allowed == "e" and not explicit:
        raise error(257, value.type.name, target.name)
    if value.text is not None and target.name in MOMENTS:
        return Typed(_constant(value.text, target, forgiving=forgiving), target, nullable=False)
    maker = globals()[f"_to_{family(target)}"]
    sql: str = maker(value, target, style, forgiving)
    return Typed(sql, target, value.nullable)


def _apart(kind: SqlType, moment: SqlType) -> bool:
    """Whether there is no conversion: of the moments only datetime is a number, and a time is no date."""
    if moment.name not in MOMENTS or moment.name in ("datetime", "smalldatetime"):
        return False
    return kind.is_number or {kind.name, moment.name} == {"date", "time"}


def checked(operand: str, converted: str, number: int, message: str, *, forgiving: bool) -> str:
    """The conversion, that gives NULL where it fails, and an error in its place."""
    if forgiving:
        return converted
    return f"CASE WHEN {operand} IS NOT NULL AND {converted} IS NULL THEN {fail(number, message)} ELSE {converted} END"


#: https://learn.microsoft.com/sql/t-sql/data-types/money-and-smallmoney-transact-sql
_MONEY = {
    "money": ("-922337203685477.5808", "922337203685477.5807"),
    "smallmoney": ("-214748.3648", "214748.3647"),
}


def _to_number(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    kind, x = value.type, value.sql
    if kind.name in TEXTS:
        return _text_to_number(value, target, forgiving)
    if family(kind) == "binary":
        return _octets_to_number(x, target)
    if family(kind) == "variant":
        return _text_to_number(Typed(f"({x}).v", replace(target, name="varchar")), target, forgiving)
    if family(kind) == "moment":
        days = f"(({to_ticks(value)}) - {DAYS_1900 * DAY_TICKS})::DOUBLE / {DAY_TICKS}"
        return f"CAST({'floor' if target.name in INTEGERS else ''}({days}) AS {target.stored})"
    if target.name == "bit":
        return f"({x} <> 0)" if kind.name != "bit" else x
    if kind.name == "bit":
        return f"CAST(CAST({x} AS INTEGER) AS {target.stored})"
    if target.name in INTEGERS and kind.name not in INTEGERS:
        x = f"trunc({x})" if not kind.name.endswith("money") else f"round({x})"
    if target.name in DECIMALS and kind.name in FLOATS:
        x = f"round({x}, {4 if target.name.endswith('money') else target.scale})"
    if _widens(kind, target):
        return f"CAST({x} AS {target.stored})"
    tried = f"TRY_CAST({x} AS {target.stored})"
    if target.name in _MONEY:
        # DuckDB's decimals of as many digits hold more.
        low, high = _MONEY[target.name]
        tried = f"CASE WHEN {tried} BETWEEN {low} AND {high} THEN {tried} END"
    number = 220 if target.name in ("tinyint", "smallint") and kind.name in INTEGERS else 8115
    words = (
        f"'Arithmetic overflow error for data type {target.name}, value = ' || ({x})::VARCHAR || '.'"
        if number == 220
        else quoted(error(8115, _wording(kind), _wording(target)).message)
    )
    return checked(x, tried, number, words, forgiving=forgiving)


def _octets_to_number(x: str, target: SqlType) -> str:
    """The last octets of a binary, as the number of two's complement that they are."""
    length = {"bigint": 8, "int": 4, "smallint": 2, "tinyint": 1}.get(target.name)
    if length is None:
        raise error(529, "varbinary", target.name)
    digits = f"right('{'0' * 2 * length}' || hex({x}), {2 * length})"
    number = f"CAST(CAST('0x' || {digits} AS UBIGINT) AS HUGEINT)"
    if target.name != "tinyint":
        half = 2 ** (8 * length - 1)
        number = f"(({number} + {half}::HUGEINT) % {2 * half}::HUGEINT - {half}::HUGEINT)"
    return f"CAST({number} AS {target.stored})"


def _wording(kind: SqlType) -> str:
    if kind.name in INTEGERS:
        return "expression" if kind.name == "int" else kind.name
    return "numeric" if kind.name == "decimal" else kind.name


def _widens(kind: SqlType, target: SqlType) -> bool:
    if kind.name in INTEGERS and target.name in INTEGERS:
        return INTEGERS.index(kind.name) <= INTEGERS.index(target.name)
    if target.name in FLOATS:
        return target.name == "float" or kind.name == "real" or kind.name in INTEGERS
    return False


def _text_to_number(value: Typed, target: SqlType, forgiving: bool) -> str:
    x, kind = value.sql, value.type
    if target.name == "bit":
        low = f"lower(trim({x}))"
        tried = (
            f"CASE WHEN {low} IN ('true', '') OR regexp_matches({low}, '^[-+]?0*[1-9]\\d*$') THEN {low} <> ''"
            f" WHEN {low} = 'false' OR regexp_matches({low}, '^[-+]?0+$') THEN false END"
        )
    elif target.name in INTEGERS:
        clean = f"trim({x}, ' ' || chr(9) || chr(10) || chr(13))"
        tried = (
            f"CASE WHEN {clean} = '' THEN CAST(0 AS {target.stored})"
            f" WHEN regexp_matches({clean}, '^[-+]?\\d+$') THEN TRY_CAST({clean} AS {target.stored}) END"
        )
        return _overflowing(x, tried, clean, value.type, target, forgiving)
    elif target.name in FLOATS:
        tried = f"CASE WHEN trim({x}) = '' THEN 0 ELSE TRY_CAST(trim({x}) AS {target.stored}) END"
    elif target.name in ("money", "smallmoney"):
        tried = f"TRY_CAST(replace(replace(trim({x}), ',', ''), '$', '') AS {target.stored})"
        return checked(x, tried, 235, "'Cannot convert a char value to money. The char value has incorrect syntax.'",
                       forgiving=forgiving)  # fmt: skip
    else:
        tried = f"TRY_CAST(trim({x}) AS {target.stored})"
    number = 245 if target.name == "bit" else 8114
    words = quoted(error(8114, kind.name, "numeric" if target.name == "decimal" else target.name).message)
    if number == 245:
        words = _conversion_failed(value.type, x, target)
    return checked(x, tried, number, words, forgiving=forgiving)


def _conversion_failed(kind: SqlType, x: str, target: SqlType) -> str:
    return f"'Conversion failed when converting the {kind.name} value ''' || {x} || ''' to data type {target.name}.'"


def _overflowing(x: str, tried: str, clean: str, kind: SqlType, target: SqlType, forgiving: bool) -> str:
    """Digits that are too many are an overflow (248, 244, 8115 by the type), other signs a failure (245)."""
    if forgiving:
        return tried
    number = {"int": 248, "tinyint": 244, "smallint": 244, "bigint": 8115}[target.name]
    words = f"'The conversion of the {kind.name} value ''' || {x} || ''' overflowed an {target.name} column.'"
    if number == 8115:
        words = quoted(error(8115, kind.name, "bigint").message)
    return (
        f"CASE WHEN {x} IS NULL THEN NULL WHEN {tried} IS NOT NULL THEN {tried}"
        f" WHEN regexp_matches({clean}, '^[-+]?\\d+$') THEN {fail(number, words)}"
        f" ELSE {fail(245, _conversion_failed(kind, x, target))} END"
    )


def to_ticks(value: Typed) -> str:
    """A moment as ticks: since 0001-01-01 on its own clock, a time since midnight of 1900-01-01."""
    x = value.sql
    match value.type.name:
        case "date":
            return f"{M}.date_ticks({x})"
        case "time":
            return f"({x} + {DAYS_1900 * DAY_TICKS})" if value.type.has_ticks else (
                f"({M}.time_ticks({x}) + {DAYS_1900 * DAY_TICKS})"
            )  # fmt: skip
        case "datetimeoffset":
            return f"{M}.dto_local({x})"
        case "datetime":
            return f"{M}.datetime_ticks({x})"
        case _:
            return x if value.type.has_ticks else f"{M}.ticks({x})"


def from_ticks(ticks: str, target: SqlType, offset: str = "0") -> str:
    """Ticks on a clock as a moment of this type, rounded to its digits; the moment's own range is checked."""
    step = 10 ** (7 - target.scale)
    rounded = f"{M}.rounded({ticks}, {step})" if step > 1 else ticks
    match target.name:
        case "date":
            return f"{M}.ticks_date({ticks})"
        case "time":
            day = f"(({rounded}) % {DAY_TICKS})"
            return day if target.has_ticks else f"{M}.ticks_time({day})"
        case "datetimeoffset":
            # A structure of NULLs is not NULL.
            return f"CASE WHEN ({ticks}) IS NOT NULL THEN {M}.dto({rounded}, {offset}) END"
        case "datetime":
            return _bounded(
                ticks, f"{M}.ticks_datetime({ticks})", 639_905 * DAY_TICKS, 3_652_059 * DAY_TICKS, target
            )
        case "smalldatetime":
            most = (DAYS_1900 + 65_536) * DAY_TICKS
            return _bounded(ticks, f"{M}.ticks_minute({ticks})", DAYS_1900 * DAY_TICKS, most, target)
        case _:
            return rounded if target.has_ticks else f"{M}.ts({rounded})"


def _bounded(ticks: str, sql: str, least: int, below: int, target: SqlType) -> str:
    words = error(242, "datetime2", target.name)
    return f"CASE WHEN {ticks} < {least} OR {ticks} >= {below} THEN {fail_with(words)} ELSE {sql} END"


def _to_moment(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    kind, x = value.type, value.sql
    if family(kind) == "variant":
        kind, x = replace(target, name="varchar"), f"({x}).v"
    if kind.name in TEXTS:
        return _text_to_moment(x, target, forgiving)
    if kind.is_number:
        return from_ticks(f"({DAYS_1900 * DAY_TICKS} + round(({x}) * {DAY_TICKS})::BIGINT)", target)
    if kind.name == target.name and kind.scale <= target.scale and kind.has_ticks == target.has_ticks:
        return x
    if {kind.name, target.name} == {"date", "datetime2"} and not (kind.has_ticks or target.has_ticks):
        return f"CAST({x} AS {target.stored})"
    offset = f"({x}).o" if kind.name == "datetimeoffset" else "0"
    return from_ticks(to_ticks(value), target, offset)


def _text_to_moment(x: str, target: SqlType, forgiving: bool) -> str:
    ticks = f"{M}.text_ticks({x})"
    if target.name in ("datetime", "smalldatetime"):
        # More digits than a datetime has, and an offset, are refused; so it is documented.
        odd = f"regexp_matches({x}, '(\\.\\d{{4,}})|([+-]\\d\\d:\\d\\d\\s*$)')"
        ticks = f"CASE WHEN {odd} THEN NULL ELSE {ticks} END"
    offset = "0"
    if target.name == "datetimeoffset":
        offset = f"{M}.text_offset(trim({x}))"
        ticks = f"CASE WHEN {offset} BETWEEN -840 AND 840 THEN {ticks} END"
    return checked(x, from_ticks(ticks, target, offset), 241, quoted(error(241).message), forgiving=forgiving)


def _constant(text: str, target: SqlType, *, forgiving: bool) -> str:
    """A string constant as a moment, calculated here."""
    bad = (
        f"CAST(NULL AS {target.stored})" if forgiving else f"CAST({fail_with(error(241))} AS {target.stored})"
    )
    read = read_moment(text)
    if read is None:
        return bad
    if target.name in ("datetime", "smalldatetime"):
        read = read_moment(in_session_order(text))
        if read is None:
            return f"CAST({fail_with(error(242, 'varchar', target.name))} AS {target.stored})"
    days, ticks, offset, digits = read
    if target.name in ("datetime", "smalldatetime") and (digits > 3 or offset is not None):
        return bad
    if target.name == "date":
        return f"DATE '{iso_day(days)}'"
    whole = days * DAY_TICKS + ticks
    if target.name in ("datetime", "smalldatetime") and not whole >= 639_905 * DAY_TICKS:
        known = error(242, "varchar", target.name)
        return f"CAST({fail_with(known)} AS {target.stored})"
    step = 10 ** (7 - target.scale)
    if target.name in ("time", "datetime2", "datetimeoffset"):
        whole = (whole + step // 2) // step * step
    if target.name == "datetimeoffset":
        return f"{{'t': {whole - (offset or 0) * 600_000_000}::BIGINT, 'o': {offset or 0}::SMALLINT}}"
    if target.name == "time":
        whole %= DAY_TICKS
    if target.has_ticks:
        return f"{whole}::BIGINT"
    if target.name == "datetime2":
        return f"TIMESTAMP '{_timestamp(whole)}'"
    if target.name == "time":
        return f"TIME '{_timestamp(whole)[11:]}'"
    return from_ticks(f"{whole}::BIGINT", target)


def _timestamp(ticks: int) -> str:
    seconds, fraction = divmod(ticks % DAY_TICKS, 10_000_000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction // 10:06}"
    return f"{iso_day(ticks // DAY_TICKS)} {clock}"


def _to_text(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    from .convert_text import as_text, fit

    return fit(as_text(value, target, style), target)


def _to_binary(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    from .convert_text import as_binary

    return as_binary(value, target, style)


def _to_guid(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    x = value.sql if family(value.type) != "variant" else f"({value.sql}).v"
    if family(value.type) == "binary":
        words = "'binary to uniqueidentifier is not supported here'"
        return fail(529, words)
    text = f"trim(left({x}, 38), '{{}}')"
    form = "'^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$'"
    tried = f"CASE WHEN regexp_matches({text}, {form}) THEN TRY_CAST({text} AS UUID) END"
    return checked(x, tried, 8169, quoted(error(8169).message), forgiving=forgiving)


def _to_xml(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    return value.sql if value.type.name in TEXTS else f"decode({value.sql})"


def _to_variant(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    from .convert_text import as_text

    text = as_text(value, SqlType("nvarchar", -1), 126 if value.type.name in MOMENTS else 3)
    return f"CASE WHEN {value.sql} IS NOT NULL THEN {{'b': {quoted(value.type.declared)}, 'v': {text}}} END"


def _to_clr(value: Typed, target: SqlType, style: int | None, forgiving: bool) -> str:
    return f"encode({value.sql})" if value.type.name in TEXTS else value.sql
