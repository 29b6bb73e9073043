"""Parse T-SQL's expressions and conditions."""

from __future__ import annotations

from .errors import TdsError
from .lexer import Token
from .parse_tokens import Tokens
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
    Over,
    Parts,
    Predicate,
    Query,
    Star,
    Subquery,
    Unary,
    Variable,
)
from .types import COLLATIONS, SqlType, declare

_COMPARISONS = {
    "=": "=",
    "<>": "<>",
    "!=": "<>",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "!<": ">=",
    "!>": "<=",
}
#: Keywords that are called as functions.
_CALLED = ("COALESCE", "NULLIF", "LEFT", "RIGHT")
_BARE = ("CURRENT_TIMESTAMP", "CURRENT_USER", "SESSION_USER", "SYSTEM_USER", "USER")
#: Functions whose first argument is a bare word.
_DATEPARTS = ("DATEADD", "DATEDIFF", "DATEDIFF_BIG", "DATEPART", "DATENAME", "DATETRUNC")


class ExpressionParser(Tokens):
    """Expressions."""

    def query(self) -> Query:
        """A whole query; the next class knows how."""
        raise NotImplementedError

    def parts(self) -> Parts:
        """A name of up to four parts; a part may be left out between two dots."""
        found = [self.identifier()]
        while self.op("."):
            found.append("" if self.is_op(".") else self.identifier())
        return tuple(found)

    def type_name(self, *, cast: bool = False, ordinal: int = 1) -> SqlType:
        """A declared type."""
        name = self.identifier() if not self.word("DOUBLE") else "float"
        if name.upper() == "DOUBLE" or name == "float":
            self.word("PRECISION")
        if self.word("VARYING"):
            name = "varchar"
        if self.op("."):
            name = self.identifier()
        given: tuple[int, ...] = ()
        if self.is_op("(") and not (self.ahead().kind == "word" and self.ahead().value != "MAX"):
            given = self.in_parentheses(self._length)
        return declare(name, given, cast=cast, ordinal=ordinal)

    def _length(self) -> int:
        token = self.take()
        if token.kind == "word" and token.value == "MAX":
            return -1
        if token.kind != "number" or not token.value.isdigit():
            raise token.near()
        return int(token.value)

    def expr(self) -> Expr:
        """An expression that has a value."""
        left = self._product()
        while self.is_op("+", "-", "&", "|", "^"):
            sign = self.take().value
            left = Binary(sign, left, self._product())
        return left

    def _product(self) -> Expr:
        left = self._unary()
        while self.is_op("*", "/", "%"):
            sign = self.take().value
            left = Binary(sign, left, self._unary())
        return left

    def _unary(self) -> Expr:
        if self.is_op("-", "+", "~"):
            sign = self.take().value
            return Unary(sign, self._unary())
        found = self._primary()
        while True:
            if self.word("COLLATE"):
                name = self.identifier()
                known = {each.lower(): each for each in COLLATIONS}
                if name.lower() not in known:
                    raise TdsError(448, f"Invalid collation '{name}'.")
                found = Collate(found, known[name.lower()])
            elif self.word("AT", "TIME", "ZONE"):
                found = AtZone(found, self._primary())
            else:
                return found

    def _primary(self) -> Expr:
        token = self.next
        if token.kind in ("string", "nstring", "number", "binary"):
            self.at += 1
            return Literal(token.kind, token.value)
        if token.kind == "variable":
            self.at += 1
            return Variable(token.value)
        if token.kind == "op" and token.value == "(":
            return self._parenthesis()
        if token.kind == "word" and token.reserved:
            return self._keyword(token)
        if token.kind in ("word", "name"):
            return self._name()
        raise token.near()

    def _parenthesis(self) -> Expr:
        self.need_op("(")
        if self.is_word("SELECT", "WITH"):
            found: Expr = Subquery(self.query())
        else:
            found = self.expr()
        self.need_op(")")
        return found

    def _keyword(self, token: Token) -> Expr:
        if self.word("NULL"):
            return Literal("null", "")
        if self.word("CASE"):
            return self._case()
        if self.word("CONVERT") or self.word("TRY_CONVERT"):
            return self._convert(forgiving=token.value == "TRY_CONVERT")
        if token.value in _BARE:
            self.at += 1
            return Call(token.value, ())
        if token.value in _CALLED and self.ahead().text == "(":
            self.at += 1
            return self._call(token.value)
        raise token.near()

    def _name(self) -> Expr:
        if self.next.kind == "word" and self.next.value in ("CAST", "TRY_CAST") and self.ahead().text == "(":
            return self._cast(forgiving=self.take().value == "TRY_CAST")
        found = [self.identifier()]
        if self.is_op("("):
            return self._call(found[0].upper())
        while self.op("."):
            if self.op("*"):
                return Star(tuple(found))
            found.append("" if self.is_op(".") else self.identifier())
        if self.is_op("("):
            return self._call(".".join(found).upper())
        return Name(tuple(found))

    def _call(self, name: str) -> Expr:
        self.need_op("(")
        distinct = self.word("DISTINCT")
        arguments: tuple[Expr, ...] = ()
        if self.op("*"):
            arguments = (Star(),)
        elif name == "IIF":
            condition = self.predicate()
            self.need_op(",")
            yes = self.expr()
            self.need_op(",")
            no = self.expr()
            self.need_op(")")
            return Case(None, ((condition, yes),), no)
        elif name in _DATEPARTS:
            arguments = (Literal("string", self.identifier().lower()),)
            self.need_op(",")
            arguments += self.listed(self.expr)
        elif not self.is_op(")"):
            arguments = self.listed(self.expr)
        self.need_op(")")
        return Call(name, arguments, distinct, self._over() if self.word("OVER") else None)

    def _over(self) -> Over:
        self.need_op("(")
        partition = self.listed(self.expr) if self.word("PARTITION", "BY") else ()
        order = self.listed(self.ordering) if self.word("ORDER", "BY") else ()
        frame = []
        while not self.is_op(")"):
            token = self.take()
            if token.kind not in ("word", "number"):
                raise token.near()
            frame.append(token.value)
        self.need_op(")")
        return Over(partition, order, " ".join(frame))

    def ordering(self) -> tuple[Expr, bool]:
        """x [ASC|DESC]; True is descending."""
        found = self.expr()
        descending = self.word("DESC")
        if not descending:
            self.word("ASC")
        return found, descending

    def _case(self) -> Expr:
        operand = None if self.is_word("WHEN") else self.expr()
        branches: list[tuple[Expr | Predicate, Expr]] = []
        while self.word("WHEN"):
            condition = self.predicate() if operand is None else self.expr()
            self.need_word("THEN")
            branches.append((condition, self.expr()))
        if not branches:
            raise self.next.near()
        otherwise = self.expr() if self.word("ELSE") else None
        self.need_word("END")
        return Case(operand, tuple(branches), otherwise)

    def _cast(self, *, forgiving: bool) -> Expr:
        self.need_op("(")
        operand = self.expr()
        self.need_word("AS")
        kind = self.type_name(cast=True)
        self.need_op(")")
        return Cast(operand, kind, None, forgiving)

    def _convert(self, *, forgiving: bool) -> Expr:
        self.need_op("(")
        kind = self.type_name(cast=True)
        self.need_op(",")
        operand = self.expr()
        style = self.expr() if self.op(",") else None
        self.need_op(")")
        return Cast(operand, kind, style, forgiving)

    def predicate(self) -> Predicate:
        """A condition: in T-SQL no value, so it stands only where a condition may."""
        left = self._conjunction()
        while self.word("OR"):
            left = Logic("OR", left, self._conjunction())
        return left

    def _conjunction(self) -> Predicate:
        left = self._negation()
        while self.word("AND"):
            left = Logic("AND", left, self._negation())
        return left

    def _negation(self) -> Predicate:
        if self.word("NOT"):
            return Not(self._negation())
        if self.word("EXISTS"):
            self.need_op("(")
            query = self.query()
            self.need_op(")")
            return Exists(query)
        if self.is_op("("):
            start = self.at
            try:
                return self._bracketed()
            except TdsError as first:
                reached, self.at = self.at, start
                try:
                    return self._test()
                except TdsError:
                    # The parser that came further has the better idea of where the mistake is.
                    if self.at >= reached:
                        raise
                    raise first from None
        return self._test()

    def _bracketed(self) -> Predicate:
        self.need_op("(")
        found = self.predicate()
        self.need_op(")")
        if self.is_op(*_COMPARISONS, "+", "-", "*", "/", "%") or self.is_word(
            "IS", "IN", "BETWEEN", "LIKE", "COLLATE"
        ):
            raise self.next.near()
        return found

    def _test(self) -> Predicate:
        left = self.expr()
        if self.next.kind == "op" and self.next.value in _COMPARISONS:
            sign = _COMPARISONS[self.take().value]
            return Compare(sign, left, self.expr())
        if self.word("IS"):
            negated = self.word("NOT")
            self.need_word("NULL")
            return IsNull(left, negated)
        negated = self.word("NOT")
        if self.word("BETWEEN"):
            least = self.expr()
            self.need_word("AND")
            return Between(left, least, self.expr(), negated)
        if self.word("LIKE"):
            pattern = self.expr()
            return Like(left, pattern, self.expr() if self.word("ESCAPE") else None, negated)
        if self.word("IN"):
            return self._in(left, negated)
        if self.next.kind == "end" or self.next.reserved or self.is_op(")", ";"):
            at = self.next.text
            raise TdsError(4145, "An expression of non-boolean type specified in a context where a condition is"
                           f" expected, near '{at}'.", 15)  # fmt: skip
        raise self.next.near()

    def _in(self, left: Expr, negated: bool) -> Predicate:
        self.need_op("(")
        choices = self.query() if self.is_word("SELECT", "WITH") else self.listed(self.expr)
        self.need_op(")")
        return In(left, choices, negated)
