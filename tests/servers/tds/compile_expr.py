"""Expressions and conditions to DuckDB SQL, with SQL Server's types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import functions
from .arithmetic import combine
from .convert import Typed, convert, family
from .errors import error
from .octets import squeezed
from .scope import Context, Scope
from .storage import quoted
from .syntax import (
    AtZone,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Collate,
    Compare,
    Exists,
    Expr,
    In,
    IsNull,
    Like,
    Literal,
    Logic,
    Name,
    Not,
    Predicate,
    Query,
    Star,
    Subquery,
    Unary,
    Variable,
)
from .types import (
    CODED,
    COLLATIONS,
    DECIMALS,
    FLOAT,
    INT,
    INTEGERS,
    WIDE,
    SqlType,
    higher,
    nvarchar,
    varchar,
)

if TYPE_CHECKING:
    from .scope import Compiled


class ExpressionCompiler:
    """Expressions within one scope."""

    def __init__(self, context: Context, scope: Scope) -> None:
        self.context = context
        self.scope = scope

    def subquery(self, query: Query) -> Compiled:
        """Compile a query inside this one; the next class knows how."""
        raise NotImplementedError

    def expr(self, node: Expr) -> Typed:
        """Compile an expression."""
        maker = getattr(self, f"_{type(node).__name__.lower()}")
        found: Typed = maker(node)
        return found

    def _literal(self, node: Literal) -> Typed:
        match node.kind:
            case "null":
                return Typed("NULL", INT, null=True)
            case "string":
                return Typed(_text(node.text), varchar(len(node.text)), nullable=False, text=node.text)
            case "nstring":
                length = len(node.text.encode("utf-16-le", "surrogatepass")) // 2
                length = length if length <= 4000 else -1
                return Typed(_text(node.text), nvarchar(length), nullable=False, text=node.text)
            case "binary":
                digits = node.text[2:]
                digits = "0" * (len(digits) % 2) + digits
                return Typed(
                    f"unhex('{digits}')", SqlType("varbinary", max(1, len(digits) // 2)), nullable=False
                )
            case _:
                return _number(node.text)

    def _name(self, node: Name) -> Typed:
        return self.scope.resolve(node.parts).value

    def _star(self, node: Star) -> Typed:
        raise error(102, "*")

    def _variable(self, node: Variable) -> Typed:
        if node.name.startswith("@@"):
            maker = self.context.values.get(node.name.upper())
            if maker is None:
                raise error(137, node.name)
            return maker()
        if node.name not in self.context.variables:
            raise error(137, node.name)
        return self.context.variables[node.name]

    def _call(self, node: Call) -> Typed:
        return functions.call(self, node)

    def _subquery(self, node: Subquery) -> Typed:
        compiled = self.subquery(node.query)
        if len(compiled.columns) != 1:
            raise error(116)
        return Typed(f"({compiled.sql})", compiled.columns[0].type)

    def _unary(self, node: Unary) -> Typed:
        operand = self.expr(node.operand)
        if node.sign == "+":
            return operand
        if not operand.type.is_number or (node.sign == "~" and operand.type.name not in INTEGERS):
            raise error(8117, operand.type.name, "minus" if node.sign == "-" else "'~'")
        if node.sign == "~" and operand.type.name == "bit":
            return Typed(f"(NOT {operand.sql})", operand.type, operand.nullable)
        return Typed(f"({node.sign}{operand.sql})", operand.type, operand.nullable)

    def _binary(self, node: Binary) -> Typed:
        left, right = self.expr(node.left), self.expr(node.right)
        if left.null and not right.null:
            left = convert(left, right.type)
        if right.null and not left.null:
            right = convert(right, left.type)
        return combine(node.sign, left, right)

    def _case(self, node: Case) -> Typed:
        conditions = [self._condition(node.operand, condition) for condition, _ in node.branches]
        results = [self.expr(result) for _, result in node.branches]
        otherwise = self.expr(node.otherwise) if node.otherwise is not None else Typed("NULL", INT, null=True)
        kind = common([*results, otherwise])
        branches = " ".join(
            f"WHEN {condition} THEN {convert(result, kind).sql}"
            for condition, result in zip(conditions, results, strict=True)
        )
        nullable = any(each.nullable for each in (*results, otherwise))
        return Typed(f"CASE {branches} ELSE {convert(otherwise, kind).sql} END", kind, nullable)

    def _condition(self, operand: Expr | None, condition: Expr | Predicate) -> str:
        if operand is None:
            return self.predicate(condition)  # type: ignore[arg-type]
        return self.predicate(Compare("=", operand, condition))  # type: ignore[arg-type]

    def _cast(self, node: Cast) -> Typed:
        operand = self.expr(node.operand)
        style = None
        if node.style is not None:
            # A constant or a variable: in both the number is the first thing.
            given = re.search(r"\d+", self.expr(node.style).sql)
            style = int(given[0]) if given else 0
        # A text keeps its collation: in UTF-8 its length counts other octets.
        to = node.to.collated(operand.type.collation) if operand.type.collation else node.to
        made = convert(operand, to, explicit=True, style=style, forgiving=node.forgiving)
        if made.type.name in CODED and operand.type.is_text and _octets(operand) != _octets(made):
            # A sign that the code page does not have becomes a question mark, here and not only on the wire.
            made = Typed(squeezed(made.sql, made.type), made.type, made.nullable)
        # An explicit conversion may always give NULL, says the description.
        return Typed(made.sql, made.type, nullable=True)

    def _collate(self, node: Collate) -> Typed:
        operand = self.expr(node.operand)
        if not operand.type.is_text:
            raise error(102, node.collation)
        if node.collation not in COLLATIONS:
            raise error(448, node.collation)
        return Typed(operand.sql, operand.type.collated(node.collation), operand.nullable)

    def _atzone(self, node: AtZone) -> Typed:
        return functions.at_zone(self, node)

    def predicate(self, node: Predicate) -> str:
        """Compile a condition."""
        maker = getattr(self, f"_p_{type(node).__name__.lower()}")
        found: str = maker(node)
        return found

    def _p_compare(self, node: Compare) -> str:
        left, right = comparable(self.expr(node.left), self.expr(node.right), node.sign)
        return f"({left} {node.sign} {right})"

    def _p_logic(self, node: Logic) -> str:
        return f"({self.predicate(node.left)} {node.word} {self.predicate(node.right)})"

    def _p_not(self, node: Not) -> str:
        return f"(NOT {self.predicate(node.operand)})"

    def _p_isnull(self, node: IsNull) -> str:
        return f"({self.expr(node.operand).sql} IS {'NOT ' if node.negated else ''}NULL)"

    def _p_between(self, node: Between) -> str:
        least = self._p_compare(Compare(">=", node.operand, node.least))
        most = self._p_compare(Compare("<=", node.operand, node.most))
        inside = f"({least} AND {most})"
        return f"(NOT {inside})" if node.negated else inside

    def _p_in(self, node: In) -> str:
        negated = "NOT " if node.negated else ""
        if isinstance(node.choices, Query):
            compiled = self.subquery(node.choices)
            if len(compiled.columns) != 1:
                raise error(116)
            inner = Typed("c0", compiled.columns[0].type)
            left, right = comparable(self.expr(node.operand), inner, "IN")
            return f"({left} {negated}IN (SELECT {right} FROM ({compiled.sql})))"
        tests = " OR ".join(self._p_compare(Compare("=", node.operand, each)) for each in node.choices)
        return f"({negated}({tests}))"

    def _p_like(self, node: Like) -> str:
        operand = convert(self.expr(node.operand), nvarchar(-1), explicit=True).sql
        pattern = convert(self.expr(node.pattern), nvarchar(-1), explicit=True).sql
        negated = "NOT " if node.negated else ""
        if node.escape is not None:
            return f"({operand} {negated}ILIKE {pattern} ESCAPE {self.expr(node.escape).sql})"
        if isinstance(node.pattern, Literal) and "[" in node.pattern.text:
            return f"({negated}regexp_full_match({operand}, {_text(_regex(node.pattern.text))}, 'is'))"
        return f"({operand} {negated}ILIKE {pattern})"

    def _p_exists(self, node: Exists) -> str:
        return f"EXISTS ({self.subquery(node.query).sql})"


def _octets(value: Typed) -> str:
    return "utf-16" if value.type.name in WIDE else value.type.codec


def _regex(pattern: str) -> str:
    made = ""
    inside = False
    for sign in pattern:
        if inside or sign in "[]":
            inside = sign == "[" or (inside and sign != "]")
            made += sign
        else:
            made += {"%": ".*", "_": "."}.get(sign, re.escape(sign))
    return made


def _text(text: str) -> str:
    return " || chr(0) || ".join(quoted(part) for part in text.split("\0")) if "\0" in text else quoted(text)


def _number(text: str) -> Typed:
    if "e" in text.lower():
        return Typed(f"CAST('{text}' AS DOUBLE)", FLOAT, nullable=False)
    whole, dot, part = text.partition(".")
    digits = len(whole.lstrip("0"))
    if not dot and digits <= 10 and int(text) < 2**31:
        return Typed(f"{int(text)}::INTEGER", INT, nullable=False)
    precision = max(1, digits + len(part))
    if precision > 38:
        raise error(1007, text)
    kind = SqlType("numeric", precision=precision, scale=len(part))
    return Typed(f"CAST('{text}' AS {kind.stored})", kind, nullable=False)


def common(values: list[Typed]) -> SqlType:
    """The type of an expression that may be any of these."""
    kinds = [each.type for each in values if not each.null]
    if not kinds:
        return INT
    kind = kinds[0]
    for each in kinds[1:]:
        kind = higher(kind, each)
    return kind


def comparable(left: Typed, right: Typed, sign: str) -> tuple[str, str]:
    """Both sides in a form in which DuckDB compares them as SQL Server does."""
    for one, other in ((left, right), (right, left)):
        if one.deduce is not None and not other.null:
            one.deduce(other.type)
    if left.null or right.null:
        return (left.sql, "NULL") if right.null else ("NULL", right.sql)
    kind = higher(left.type, right.type)
    if kind.name in ("text", "ntext", "image", "xml"):
        raise error(402, left.type.name, right.type.name, {"=": "equal to"}.get(sign, sign))
    if kind.name in ("decimal", "numeric"):
        # Each keeps its own digits: DuckDB compares decimals of any two scales.
        sides = [
            each if each.type.name in (*DECIMALS, *INTEGERS) else convert(each, kind)
            for each in (left, right)
        ]
        return key(sides[0]), key(sides[1])
    return key(convert(left, _bare(left, kind))), key(convert(right, _bare(right, kind)))


def _bare(value: Typed, kind: SqlType) -> SqlType:
    # A text is not cut to the other side's length, nor a moment rounded to the other side's digits.
    return (
        value.type
        if family(value.type) == family(kind) and family(kind) in ("text", "binary", "guid")
        else kind
    )


def key(value: Typed) -> str:
    """What DuckDB orders and compares: an instant for datetimeoffset, small letters without last blanks for text."""
    if value.type.name == "datetimeoffset":
        return f"({value.sql}).t"
    if value.type.is_text:
        if value.text is not None:
            return _text(value.text.rstrip(" ").lower())
        return f"lower(rtrim({value.sql}, ' '))" if "BIN" not in (value.type.collation or "") else value.sql
    if value.type.name == "sql_variant":
        return f"({value.sql}).v"
    return value.sql
