"""Vertica's queries in DuckDB's words: the parts that do not depend on who asks and what exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import sqlglot
import sqlglot.errors
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.parsers.postgres import PostgresParser

from tests.servers.vertica.kinds import MARKED, Kind, marked, read_kind, unmarked
from tests.servers.vertica.lexer import Reader, Sql, split
from tests.servers.vertica.problems import MARK, from_sqlglot, syntax_error

#: Marks a LOWER, UPPER or TO_HEX of the statement; those that the translation makes have no mark.
WRITTEN = "written"


class _Parser(PostgresParser):
    """PostgreSQL's parser; templates of dates stay as they are written."""

    FUNCTIONS: ClassVar[dict[str, Any]] = {
        **{
            name: build
            for name, build in PostgresParser.FUNCTIONS.items()
            if name not in ("TO_DATE", "TO_TIMESTAMP")
        },
        # Not one node of LOWER(TO_HEX(...)): each has a width.
        "LOWER": exp.Lower.from_arg_list,
    }


class Vertica(Postgres):
    """PostgreSQL's grammar, with a division that is not one of whole numbers."""

    TYPED_DIVISION = False
    Parser = _Parser


def plain(sql: Sql) -> str:
    """The statement with literals and type names that sqlglot knows too, and without hints."""
    sql = _without_hints(sql)
    pieces: list[str] = []
    at = 0
    for index, token in enumerate(sql.tokens):
        first = sql.text[token.start]
        if token.kind == "string" and first in "eE$":
            new = "'" + token.value.replace("'", "''") + "'"
        elif (kind := _cast_kind(sql, index)) is not None:
            new, end = kind
            pieces += [sql.text[at : token.start], sql.text[token.start : token.end], f" {new}"]
            at = end
            continue
        else:
            continue
        pieces += [sql.text[at : token.start], new]
        at = token.end
    return "".join([*pieces, sql.text[at:]])


#: Types that go through sqlglot under a name of their own.
_OWN = (
    "char", "varchar", "long varchar", "binary", "varbinary", "long varbinary", "interval", "intervalym", "timetz",
    "time", "timestamp", "timestamptz",
)  # fmt: skip


def _cast_kind(sql: Sql, index: int) -> tuple[str, int] | None:
    """For `::` or the AS of a CAST before a type of `_OWN`: the type's name for sqlglot, and where it ends."""
    token = sql.tokens[index]
    if not (token.kind == "op" and token.value == "::") and not _is_cast(sql, index):
        return None
    reader = Reader(sql)
    reader.at = index + 1
    kind = read_kind(reader)
    if kind.name not in _OWN or (
        kind.name in ("time", "timestamp", "timestamptz") and kind.precision is None
    ):
        return None
    return marked(kind), sql.tokens[reader.at - 1].end


def _is_cast(sql: Sql, index: int) -> bool:
    """Whether this AS belongs to a CAST: the bracket around it follows that word."""
    if sql.word(index) != "AS":
        return False
    depth = 0
    for at in range(index - 1, -1, -1):
        token = sql.tokens[at]
        if token.kind == "op" and token.value in "()":
            depth += 1 if token.value == ")" else -1
            if depth < 0:
                return sql.word(at - 1) == "CAST"
    return False


def _without_hints(sql: Sql) -> Sql:
    if "/*+" not in sql.text:
        return sql
    parts = [sql.text[token.start : token.end] for token in sql.tokens]
    gaps = [
        "" if before.end == token.start else " "
        for before, token in zip(sql.tokens, sql.tokens[1:], strict=False)
    ]
    return split("".join(part + gap for part, gap in zip(parts, [*gaps, ""], strict=True)))[0]


def parse(text: str) -> exp.Expr:
    """A query or a statement that changes rows, as a tree."""
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect=Vertica) if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise from_sqlglot(error) from None
    _mark_order(trees, text)
    if len(trees) != 1:
        raise syntax_error(text[:20])
    for node in trees[0].find_all(exp.Lower, exp.Upper):
        node.meta[WRITTEN] = True
    return translate(trees[0])


def _mark_order(trees: list[exp.Expr], text: str) -> None:
    """Mark what ORDER BY leaves to the column's type (docs: "NULL Sort Order")."""
    if re.search(r"\bNULLS\s+(FIRST|LAST)\b", text, re.IGNORECASE):
        return
    for tree in trees:
        for ordered in tree.find_all(exp.Ordered):
            if isinstance(ordered.parent, exp.Order) and isinstance(ordered.parent.parent, exp.Query):
                ordered.meta["auto"] = True


def generate(tree: exp.Expr) -> str:
    """DuckDB's SQL for a tree."""
    return tree.sql(dialect="duckdb", identify=True)


def engine(text: str) -> exp.Expr:
    """A tree from DuckDB's own SQL."""
    return sqlglot.parse_one(text, dialect="duckdb")


def translate(tree: exp.Expr) -> exp.Expr:
    """Put DuckDB's words in place of Vertica's."""
    # From the leaves up, so that a function within a function is met.
    for node in reversed(list(tree.walk(bfs=False))):
        changed = _node(node)
        if node is tree:
            tree = changed
        elif changed is not node:
            node.replace(changed)
    return tree


def _node(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.DataType):
        return _type(node)
    if isinstance(node, exp.Div):
        return _of_two("divided", node)
    if isinstance(node, exp.Mod):
        return _of_two("remainder", node)
    if isinstance(node, (exp.Cast, exp.TryCast)):
        return _cast(node)
    if isinstance(node, (exp.Like, exp.ILike)) and not isinstance(node.parent, exp.Escape):
        return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))
    if isinstance(node, exp.Anonymous):
        change = _FUNCTIONS.get(str(node.this).upper())
        return change(*node.expressions) if change is not None else node
    if isinstance(node, exp.Column) and node.args.get("db") is not None:
        node.set("db", None)
        node.set("catalog", None)
    return _known_function(node)


def _of_two(macro: str, node: exp.Binary) -> exp.Expr:
    """A division that fails on zero, as the engine's does not."""
    return exp.Anonymous(this=macro, expressions=[node.this.copy(), node.expression.copy()])


def _known_function(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Hex):
        return _lower_hex(node.this)
    if isinstance(node, exp.ByteLength):
        return _octets(node.this)
    if isinstance(node, exp.TimeToStr) and isinstance(node.this, exp.Cast) and node.this.is_type("timestamp"):
        node.set("this", _on_some_day(node.this))
    return node


def _on_some_day(cast: exp.Cast) -> exp.Expr:
    """A cast to TIMESTAMP, of a TIME too: the engine does not put a day before one."""
    value = cast.this
    text = exp.cast(value.copy(), "text")
    is_time = exp.EQ(
        this=exp.Anonymous(this="TYPEOF", expressions=[value.copy()]), expression=exp.Literal.string("TIME")
    )
    day = exp.Case().when(is_time, exp.Literal.string("1970-01-01 ")).else_(exp.Literal.string(""))
    return exp.cast(exp.DPipe(this=day, expression=text, safe=True), "timestamp")


def _from_hex_to_integer(value: exp.Expr) -> exp.Expr:
    digits = exp.Anonymous(
        this="REGEXP_REPLACE", expressions=[value, exp.Literal.string("^0[xX]"), exp.Literal.string("")]
    )
    return exp.cast(exp.DPipe(this=exp.Literal.string("0x"), expression=digits, safe=True), "bigint")


def _lower_hex(value: exp.Expr) -> exp.Expr:
    # On a number TO_HEX gives the shortest text, on octets two digits for each; the engine's two functions do so.
    name = "TO_HEX" if isinstance(value, exp.Literal) and not value.is_string else "HEX"
    digits = exp.Anonymous(this=name, expressions=[value])
    digits.meta[WRITTEN] = True
    return exp.func("LOWER", digits)


def _octets(value: exp.Expr) -> exp.Expr:
    # hex() takes both text and octets.
    return exp.cast(
        exp.Div(
            this=exp.func("LENGTH", exp.Anonymous(this="HEX", expressions=[value])),
            expression=exp.Literal.number(2),
        ),
        exp.DataType.build("BIGINT"),
    )


def _from_hex(value: exp.Expr) -> exp.Expr:
    stripped = exp.Anonymous(
        this="REGEXP_REPLACE", expressions=[value, exp.Literal.string("^0[xX]"), exp.Literal.string("")]
    )
    return exp.Anonymous(this="UNHEX", expressions=[stripped])


def _coalesce(*values: exp.Expr) -> exp.Expr:
    return exp.Coalesce(this=values[0], expressions=list(values[1:]))


def _zero_if_null(value: exp.Expr) -> exp.Expr:
    return _coalesce(value, exp.Literal.number(0))


def _throw_error(message: exp.Expr) -> exp.Expr:
    said = exp.DPipe(this=exp.Literal.string(f"{MARK}|P0001|7137|USER GENERATED ERROR: "), expression=message)
    # A text in the original; the engine's has no type of its own.
    return exp.cast(exp.Anonymous(this="ERROR", expressions=[said]), "text")


_FUNCTIONS: dict[str, Callable[..., exp.Expr]] = {
    "HEX_TO_BINARY": _from_hex,
    "TO_DATE": lambda text, template: exp.cast(_call("vertica_to_date", text, template), "date"),
    "TO_TIMESTAMP": lambda text, template: exp.cast(
        _call("vertica_to_timestamp", text, template), "timestamp"
    ),
    "HEX_TO_INTEGER": _from_hex_to_integer,
    "TO_HEX": _lower_hex,
    "OCTET_LENGTH": _octets,
    "NVL": _coalesce,
    "ISNULL": _coalesce,
    "ZEROIFNULL": _zero_if_null,
    "THROW_ERROR": _throw_error,
    "GETDATE": exp.CurrentTimestamp,
    "SYSDATE": exp.CurrentTimestamp,
    "STATEMENT_TIMESTAMP": exp.CurrentTimestamp,
    "CLOCK_TIMESTAMP": exp.CurrentTimestamp,
    "TRANSACTION_TIMESTAMP": exp.CurrentTimestamp,
}
_T = exp.DataType.Type
_TYPES = {
    **dict.fromkeys((_T.INT, _T.SMALLINT, _T.TINYINT, _T.BIGINT), "BIGINT"),
    **dict.fromkeys((_T.FLOAT, _T.DOUBLE), "DOUBLE"),
    **dict.fromkeys((_T.BINARY, _T.VARBINARY), "BLOB"),
    **dict.fromkeys((_T.CHAR, _T.VARCHAR, _T.TEXT, _T.NCHAR, _T.NVARCHAR), "TEXT"),
}


def _type(node: exp.DataType) -> exp.DataType:
    kind = node.this
    if kind == _T.DECIMAL and not node.expressions:
        return exp.DataType.build("DECIMAL(37, 15)", dialect="duckdb")
    name = _TYPES.get(kind)
    if name is None:
        return node
    built = exp.DataType.build(name, dialect="duckdb")
    if node.expressions:
        # What a cast cuts a string to; the engine's type does not say it.
        built.meta["length"] = node.expressions[0].name
    return built


def _cast(node: exp.Cast | exp.TryCast) -> exp.Expr:
    target = node.to
    named = target.args.get("kind")
    if target.this == _T.USERDEFINED and named is not None and named.name.startswith(MARKED):
        return _own_cast(node, unmarked(named.name))
    length = target.meta.get("length")
    if length is None or not target.is_type("text"):
        return node
    target.meta.pop("length")
    return exp.Anonymous(this="cut_octets", expressions=[node.copy(), exp.Literal.number(length)])


def _own_cast(node: exp.Cast | exp.TryCast, kind: Kind) -> exp.Expr:
    """A cast that the original does in another way than the engine."""
    value = node.this.copy()
    made = _OWN_CASTS[kind.name](value, kind)
    made.meta["kind"] = kind
    return made


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _to_text(value: exp.Expr, kind: Kind) -> exp.Expr:
    text: exp.Expr = exp.cast(value, "text")
    if not isinstance(value, exp.Literal):
        text = _call("with_zero", text, _call("typeof", value.copy()))
    return text if kind.length is None else _call("cut_octets", text, exp.Literal.number(kind.length))


def _to_binary(value: exp.Expr, kind: Kind) -> exp.Expr:
    return _call("cut_binary", _call("to_octets", value), exp.Literal.number(kind.length or 0))


def _to_interval(value: exp.Expr, kind: Kind) -> exp.Expr:
    number = _call(
        "vertica_interval",
        exp.cast(value, "text"),
        exp.Literal.string(kind.span),
        exp.Literal.number(kind.precision or 0),
    )
    return _call("to_months" if kind.name == "intervalym" else "to_span", number)


def _to_timetz(value: exp.Expr, kind: Kind) -> exp.Expr:
    zone = _call("current_setting", exp.Literal.string("TimeZone"))
    precision = exp.Literal.number(6 if kind.precision is None else kind.precision)
    return _call("vertica_timetz", exp.cast(value, "text"), precision, zone)


def _to_rounded(value: exp.Expr, kind: Kind) -> exp.Expr:
    return _call(
        "rounded_" + kind.name, exp.cast(value, kind.engine), exp.Literal.number(kind.precision or 0)
    )


_OWN_CASTS: dict[str, Callable[[exp.Expr, Kind], exp.Expr]] = {
    **dict.fromkeys(("char", "varchar", "long varchar"), _to_text),
    **dict.fromkeys(("binary", "varbinary", "long varbinary"), _to_binary),
    **dict.fromkeys(("interval", "intervalym"), _to_interval),
    "timetz": _to_timetz,
    **dict.fromkeys(("time", "timestamp", "timestamptz"), _to_rounded),
}
