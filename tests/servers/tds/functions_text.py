"""T-SQL's functions of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .convert import Typed, convert, family
from .errors import error
from .octets import ALGORITHMS, hash_of, octets_of
from .storage import M
from .types import BIGINT, INT, SqlType, nvarchar, varchar

if TYPE_CHECKING:
    from .compile_expr import ExpressionCompiler

Maker: TypeAlias = Callable[["ExpressionCompiler", list[Typed]], Typed]


def _as_text(value: Typed) -> Typed:
    if value.type.is_text:
        return value
    return convert(value, varchar(8000), explicit=True)


def _string(name: str) -> Maker:
    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        value = _as_text(given[0])
        return Typed(f"{name}({value.sql})", _varying(value.type), value.nullable)

    return make


def _varying(kind: SqlType) -> SqlType:
    name = {"char": "varchar", "nchar": "nvarchar", "sysname": "nvarchar"}.get(kind.name, kind.name)
    return SqlType(name, kind.length or 128, collation=kind.collation)


def _trim(name: str) -> Maker:
    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        value = _as_text(given[0])
        return Typed(f"{name}({value.sql}, ' ')", _varying(value.type), value.nullable)

    return make


def _len(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    value = _as_text(given[0])
    kind = BIGINT if value.type.length == -1 else INT
    if family(value.type) == "binary":
        return Typed(f"octet_length({value.sql})::{kind.stored}", kind, value.nullable)
    return Typed(f"CAST({M}.units(rtrim({value.sql}, ' ')) AS {kind.stored})", kind, value.nullable)


def _datalength(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    value = given[0]
    kind = BIGINT if value.type.length == -1 else INT
    if value.type.name in ("nchar", "nvarchar", "ntext", "sysname"):
        counted = f"2 * {M}.units({value.sql})"
    elif value.type.is_text:
        counted = f"strlen({value.sql})" if value.type.codec == "utf-8" else f"length({value.sql})"
    elif family(value.type) in ("binary", "clr"):
        counted = f"octet_length({value.sql})"
    else:
        counted = f"CASE WHEN {value.sql} IS NOT NULL THEN {value.type.octets} END"
    return Typed(f"CAST({counted} AS {kind.stored})", kind, value.nullable)


def _part(name: str) -> Maker:
    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        value = _as_text(given[0])
        return Typed(
            f"{name}({', '.join([value.sql, *(each.sql for each in given[1:])])})", _varying(value.type)
        )

    return make


def _substring(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    value, start, length = given
    if family(value.type) == "binary":
        return Typed(
            f"unhex(substring(hex({value.sql}), 2 * ({start.sql}) - 1, 2 * ({length.sql})))", value.type
        )
    value = _as_text(value)
    return Typed(f"substring({value.sql}, {start.sql}, {length.sql})", _varying(value.type))


def _replace(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    texts = [_as_text(each) for each in given]
    kind = "nvarchar" if any(each.type.name.startswith("n") for each in texts) else "varchar"
    made = SqlType(kind, 4000 if kind == "nvarchar" else 8000, collation=texts[0].type.collation)
    if texts[0].type.length == -1:
        made = SqlType(kind, -1, collation=texts[0].type.collation)
    return Typed(f"replace({', '.join(each.sql for each in texts)})", made)


def _replicate(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    value = _as_text(given[0])
    most = {-1: -1}.get(value.type.length, 4000 if value.type.name.startswith("n") else 8000)
    repeated = f"repeat({value.sql}, ({given[1].sql})::BIGINT)"
    if most > 0:
        repeated = f"left({repeated}, {most})"
    return Typed(repeated, SqlType(_varying(value.type).name, most, collation=value.type.collation))


def _concat(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    texts = [_as_text(each) for each in given if not each.null]
    wide = any(each.type.name.startswith("n") for each in texts)
    lengths = [each.type.length or 128 for each in texts]
    length = -1 if -1 in lengths else min(sum(lengths), 4000 if wide else 8000)
    made = nvarchar(length) if wide else varchar(length)
    return Typed(f"concat({', '.join(each.sql for each in texts) or chr(39) * 2})", made, nullable=False)


def _char(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    code = f"({given[0].sql})::INTEGER"
    # The upper half of code page 1252 is not what Unicode has there, but above 160 it is.
    return Typed(
        f"CASE WHEN {code} BETWEEN 0 AND 255 THEN chr({code}) END",
        SqlType("char", 1, collation=varchar(1).collation),
    )


def _nchar(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    code = f"({given[0].sql})::INTEGER"
    half = f"CASE WHEN {code} BETWEEN 55296 AND 57343 THEN chr({code} + 1048576) ELSE chr({code}) END"
    return Typed(
        f"CASE WHEN {code} BETWEEN 0 AND 65535 THEN {half} END",
        SqlType("nchar", 1, collation=varchar(1).collation),
    )


def _charindex(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    sought, value = _as_text(given[0]), _as_text(given[1])
    return Typed(f"CAST(instr(lower({value.sql}), lower({sought.sql})) AS INTEGER)", INT)


def _hash(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    algorithm, value = given
    if not (value.type.is_text or family(value.type) == "binary"):
        raise error(8116, value.type.name, 2, "hashbytes")
    made = SqlType("varbinary", 8000)
    name = (algorithm.text or "").upper()
    if name not in ALGORITHMS:
        return Typed("CAST(NULL AS BLOB)", made)
    raw = octets_of(value.sql, value.type) if value.type.is_text else value.sql
    return Typed(hash_of(raw, name), made, value.nullable)


TEXT: dict[str, tuple[int, int, Maker]] = {
    "LEN": (1, 1, _len),
    "DATALENGTH": (1, 1, _datalength),
    "UPPER": (1, 1, _string("upper")),
    "LOWER": (1, 1, _string("lower")),
    "REVERSE": (1, 1, _string("reverse")),
    "LTRIM": (1, 1, _trim("ltrim")),
    "RTRIM": (1, 1, _trim("rtrim")),
    "TRIM": (1, 1, _trim("trim")),
    "LEFT": (2, 2, _part("left")),
    "RIGHT": (2, 2, _part("right")),
    "SUBSTRING": (3, 3, _substring),
    "REPLACE": (3, 3, _replace),
    "REPLICATE": (2, 2, _replicate),
    "SPACE": (1, 1, lambda compiler, given: Typed(f"repeat(' ', {given[0].sql})", varchar(8000))),
    "CONCAT": (2, 254, _concat),
    "CHAR": (1, 1, _char),
    "NCHAR": (1, 1, _nchar),
    "ASCII": (1, 1, lambda compiler, given: Typed(f"ascii({given[0].sql})", INT)),
    "UNICODE": (1, 1, lambda compiler, given: Typed(f"unicode({given[0].sql})", INT)),
    "CHARINDEX": (2, 2, _charindex),
    "HASHBYTES": (2, 2, _hash),
    "QUOTENAME": (
        1,
        1,
        lambda compiler, given: Typed(f"'[' || replace({given[0].sql}, ']', ']]') || ']'", nvarchar(258)),
    ),
}
