"""T-SQL's functions, with the types of their results.

https://learn.microsoft.com/sql/t-sql/functions/functions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from . import functions_text, functions_time
from .convert import Typed, convert
from .errors import TdsError, error
from .storage import M
from .syntax import AtZone, Call, Literal, Over, Star
from .types import (
    BIGINT,
    FLOAT,
    FLOATS,
    INT,
    INTEGERS,
    SqlType,
    numeric,
    nvarchar,
)

if TYPE_CHECKING:
    from .compile_expr import ExpressionCompiler

AGGREGATES = frozenset(
    [
        "COUNT",
        "COUNT_BIG",
        "SUM",
        "AVG",
        "MIN",
        "MAX",
        "STRING_AGG",
        "STDEV",
        "STDEVP",
        "VAR",
        "VARP",
        "CHECKSUM_AGG",
    ]
)
_RANKS = frozenset(["ROW_NUMBER", "RANK", "DENSE_RANK", "NTILE", "LAG", "LEAD", "FIRST_VALUE", "LAST_VALUE"])
Maker: TypeAlias = Callable[["ExpressionCompiler", list[Typed]], Typed]


def call(compiler: ExpressionCompiler, node: Call) -> Typed:
    """Compile a call. Raises 195 for a function that is not known."""
    if node.name in AGGREGATES:
        return _aggregate(compiler, node)
    if node.name in _RANKS:
        return _rank(compiler, node)
    if node.name in functions_time.WITH_PART:
        part = node.arguments[0]
        assert isinstance(part, Literal)
        given = [compiler.expr(each) for each in node.arguments[1:]]
        return functions_time.with_part(node.name, part.text, given)
    if node.name not in _FUNCTIONS:
        raise error(195, node.name, "built-in function name")
    least, most, maker = _FUNCTIONS[node.name]
    if not least <= len(node.arguments) <= most or any(isinstance(each, Star) for each in node.arguments):
        raise error(174, node.name.lower(), least)
    return maker(compiler, [compiler.expr(each) for each in node.arguments])


def _over(compiler: ExpressionCompiler, over: Over | None) -> str:
    if over is None:
        return ""
    parts = []
    if over.partition:
        parts.append("PARTITION BY " + ", ".join(compiler.expr(each).sql for each in over.partition))
    if over.order:
        ordered = (f"{compiler.expr(each).sql} {'DESC NULLS LAST' if down else 'ASC NULLS FIRST'}"
                   for each, down in over.order)  # fmt: skip
        parts.append("ORDER BY " + ", ".join(ordered))
    if over.frame:
        parts.append(over.frame)
    return f" OVER ({' '.join(parts)})"


def _aggregate(compiler: ExpressionCompiler, node: Call) -> Typed:
    over = _over(compiler, node.over)
    counts = node.name in ("COUNT", "COUNT_BIG")
    kind = BIGINT if node.name == "COUNT_BIG" else INT
    if counts and node.arguments and isinstance(node.arguments[0], Star):
        return Typed(f"CAST(count(*){over} AS {kind.stored})", kind)
    if not node.arguments:
        raise error(174, node.name.lower(), 1)
    value = compiler.expr(node.arguments[0])
    distinct = "DISTINCT " if node.distinct else ""
    if counts:
        return Typed(f"CAST(count({distinct}{value.sql}){over} AS {kind.stored})", kind)
    if node.name == "STRING_AGG":
        separator = compiler.expr(node.arguments[1])
        text = convert(value, nvarchar(-1) if not value.type.is_text else value.type, explicit=True)
        return Typed(f"string_agg({text.sql}, {separator.sql}){over}", text.type)
    if node.name in ("MIN", "MAX"):
        return _extreme(node.name, value, over)
    if not value.type.is_number or value.type.name == "bit":
        raise error(8117, value.type.name, node.name.lower())
    if node.name in ("SUM", "AVG"):
        return _total(node.name, value, distinct, over)
    name = {"STDEV": "stddev_samp", "STDEVP": "stddev_pop", "VAR": "var_samp", "VARP": "var_pop"}.get(
        node.name
    )
    if name is None:
        return Typed(f"CAST(bit_xor({value.sql}){over} AS INTEGER)", INT)
    return Typed(f"{name}({value.sql}::DOUBLE){over}", FLOAT)


def _extreme(name: str, value: Typed, over: str) -> Typed:
    if value.type.name in ("bit", "text", "ntext", "image", "xml"):
        raise error(8117, value.type.name, name.lower())
    if value.type.name == "datetimeoffset":
        return Typed(f"arg_{name.lower()}({value.sql}, ({value.sql}).t){over}", value.type)
    if value.type.is_text and not over:
        from .compile_expr import key

        # By the collation, as comparisons are.
        return Typed(f"arg_{name.lower()}({value.sql}, {key(value)})", value.type)
    return Typed(f"{name.lower()}({value.sql}){over}", value.type)


def _total(name: str, value: Typed, distinct: str, over: str) -> Typed:
    kind = value.type
    if kind.name in ("tinyint", "smallint"):
        kind = INT
    elif kind.name == "smallmoney":
        kind = SqlType("money")
    elif kind.name in ("decimal", "numeric"):
        scale = kind.scale if name == "SUM" else max(kind.scale, 6)
        kind = numeric(38, scale, "numeric" if kind.name == "numeric" else "decimal")
    elif kind.name == "real":
        kind = FLOAT
    inner = f"sum({distinct}{value.sql}){over}"
    if name == "AVG":
        counted = f"count({distinct}{value.sql}){over}"
        divide = "//" if kind.name in INTEGERS else "/"
        inner = f"({inner}) {divide} nullif({counted}, 0)"
    return Typed(f"CAST({inner} AS {kind.stored})", kind)


def _rank(compiler: ExpressionCompiler, node: Call) -> Typed:
    if node.over is None:
        raise TdsError(10753, f"The function '{node.name}' must have an OVER clause.", 15)
    if not node.over.order:
        raise TdsError(4112, f"The function '{node.name}' must have an OVER clause with ORDER BY.", 15)
    given = [compiler.expr(each) for each in node.arguments]
    sql = f"{node.name.lower()}({', '.join(each.sql for each in given)}){_over(compiler, node.over)}"
    if node.name in ("LAG", "LEAD", "FIRST_VALUE", "LAST_VALUE"):
        return Typed(sql, given[0].type)
    return Typed(f"CAST({sql} AS BIGINT)", BIGINT, nullable=False)


def _coalesce(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    from .compile_expr import common

    kind = common(given)
    return Typed(f"coalesce({', '.join(convert(each, kind).sql for each in given)})", kind)


def _isnull(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    # Of the first argument's type, which cuts the second.
    first, second = given
    kind = first.type if not first.null else second.type
    other = convert(second, kind, explicit=True)
    first = convert(first, kind)
    return Typed(f"coalesce({first.sql}, {other.sql})", kind, first.nullable and second.nullable)


def _nullif(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    from .compile_expr import comparable

    left, right = comparable(given[0], given[1], "=")
    return Typed(f"CASE WHEN {left} = {right} THEN NULL ELSE {given[0].sql} END", given[0].type)


def _same(name: str, *, whole: bool = False) -> Maker:
    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        value = given[0]
        if value.type.is_text:
            value = convert(value, FLOAT)
        listed = ", ".join([value.sql, *(each.sql for each in given[1:])])
        return Typed(f"CAST({name}({listed}) AS {value.type.stored})", value.type, value.nullable)

    return make


def _floating(name: str) -> Maker:
    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        return Typed(f"{name}({', '.join(convert(each, FLOAT).sql for each in given)})", FLOAT)

    return make


def _power(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    kind = given[0].type if given[0].type.name not in FLOATS else FLOAT
    return Typed(f"CAST(pow({given[0].sql}, {given[1].sql}) AS {kind.stored})", kind)


def _fixed(sql: str, kind: SqlType, *, nullable: bool = False) -> Maker:
    return lambda compiler, given: Typed(sql, kind, nullable)


def _context(name: str) -> Maker:
    """A function that only the server can answer: its constant arguments are handed over."""

    def make(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
        from . import functions_server

        constants = [None if each.null else each.sql if each.text is None else each.text for each in given]
        return functions_server.answer(name, compiler.context, constants)

    return make


def _hash(compiler: ExpressionCompiler, given: list[Typed]) -> Typed:
    # Not SQL Server's formula: as stable within a server, as blind to the rest.
    parts = ", ".join(f"({each.sql})::VARCHAR" for each in given)
    return Typed(f"CAST((hash({parts}) % 4294967296)::BIGINT - 2147483648 AS INTEGER)", INT, nullable=False)


def at_zone(compiler: ExpressionCompiler, node: AtZone) -> Typed:
    """x AT TIME ZONE 'UTC': other zones have Windows names, which are not known here."""
    value = compiler.expr(node.operand)
    zone = node.zone.text if isinstance(node.zone, Literal) else ""
    if zone.upper() != "UTC":
        raise TdsError(9820, f"The time zone parameter '{zone}' provided to AT TIME ZONE clause is invalid.")
    return convert(value, SqlType("datetimeoffset", scale=value.type.scale), explicit=True)


_FUNCTIONS: dict[str, tuple[int, int, Maker]] = {
    "COALESCE": (2, 99, _coalesce),
    "ISNULL": (2, 2, _isnull),
    "NULLIF": (2, 2, _nullif),
    "ABS": (1, 1, _same("abs")),
    "ROUND": (2, 2, _same("round")),
    "FLOOR": (1, 1, _same("floor")),
    "CEILING": (1, 1, _same("ceil")),
    "SIGN": (1, 1, _same("sign")),
    "SQRT": (1, 1, _floating("sqrt")),
    "EXP": (1, 1, _floating("exp")),
    "LOG": (1, 1, _floating("ln")),
    "POWER": (2, 2, _power),
    "RAND": (0, 1, _fixed("random()", FLOAT)),
    "PI": (0, 0, _fixed("pi()", FLOAT)),
    "CHECKSUM": (1, 99, _hash),
    "BINARY_CHECKSUM": (1, 99, _hash),
    "NEWID": (0, 0, _fixed("gen_random_uuid()", SqlType("uniqueidentifier"))),
    "ISDATE": (
        1,
        1,
        lambda c, given: Typed(f"CAST({M}.text_ticks({given[0].sql}) IS NOT NULL AS INTEGER)", INT),
    ),
    "ISNUMERIC": (
        1,
        1,
        lambda c, given: Typed(f"CAST(TRY_CAST({given[0].sql} AS DOUBLE) IS NOT NULL AS INTEGER)", INT),
    ),
    **functions_text.TEXT,
    "SWITCHOFFSET": (2, 2, functions_time.switch_offset),
    **{name: (0, 1, maker) for name, maker in functions_time.NOW.items()},
    **{
        name: (0, 3, _context(name))
        for name in [
            "DB_NAME",
            "DB_ID",
            "OBJECT_ID",
            "SCHEMA_ID",
            "SCHEMA_NAME",
            "SUSER_SNAME",
            "SUSER_NAME",
            "ORIGINAL_LOGIN",
            "USER_NAME",
            "CURRENT_USER",
            "SESSION_USER",
            "SYSTEM_USER",
            "USER",
            "APP_NAME",
            "HOST_NAME",
            "SERVERPROPERTY",
            "DATABASEPROPERTYEX",
            "HAS_DBACCESS",
            "HAS_PERMS_BY_NAME",
            "IS_SRVROLEMEMBER",
            "IS_MEMBER",
            "IS_ROLEMEMBER",
            "OBJECT_NAME",
            "TYPE_NAME",
            "XACT_STATE",
            "SCOPE_IDENTITY",
            "CONNECTIONPROPERTY",
            "COLLATIONPROPERTY",
        ]
    },
}
