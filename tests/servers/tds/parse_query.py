"""Parse T-SQL's queries."""

from __future__ import annotations

from .parse_expr import ExpressionParser
from .syntax import (
    Body,
    Compound,
    Derived,
    Expr,
    FunctionTable,
    Item,
    Join,
    Literal,
    Name,
    Query,
    Select,
    Source,
    Star,
    TableRef,
    ValuesTable,
)

_JOINS = {
    ("INNER", "JOIN"): "INNER",
    ("JOIN",): "INNER",
    ("LEFT", "OUTER", "JOIN"): "LEFT",
    ("LEFT", "JOIN"): "LEFT",
    ("RIGHT", "OUTER", "JOIN"): "RIGHT",
    ("RIGHT", "JOIN"): "RIGHT",
    ("FULL", "OUTER", "JOIN"): "FULL",
    ("FULL", "JOIN"): "FULL",
    ("CROSS", "JOIN"): "CROSS",
    ("CROSS", "APPLY"): "CROSS APPLY",
    ("OUTER", "APPLY"): "OUTER APPLY",
}
_HINTS = frozenset(
    [
        "NOLOCK",
        "READUNCOMMITTED",
        "READCOMMITTED",
        "READCOMMITTEDLOCK",
        "READPAST",
        "REPEATABLEREAD",
        "SERIALIZABLE",
        "HOLDLOCK",
        "SNAPSHOT",
        "TABLOCK",
        "TABLOCKX",
        "UPDLOCK",
        "XLOCK",
        "ROWLOCK",
        "PAGLOCK",
        "NOWAIT",
        "FORCESEEK",
        "FORCESCAN",
        "NOEXPAND",
    ]
)


class QueryParser(ExpressionParser):
    """Queries."""

    def query(self) -> Query:
        """[WITH ...] SELECT ... [ORDER BY ... [OFFSET ... FETCH ...]] [OPTION ...]."""
        tables = self.listed(self._common_table) if self.word("WITH") else ()
        body = self._union()
        order = self.listed(self.ordering) if self.word("ORDER", "BY") else ()
        offset, fetch = self._page() if order else (None, None)
        if self.word("OPTION"):
            self._skip_parentheses()
        return Query(body, order, offset, fetch, tables)

    def _skip_parentheses(self) -> None:
        self.need_op("(")
        depth = 1
        while depth:
            token = self.take()
            depth += {"(": 1, ")": -1}.get(token.value, 0) if token.kind == "op" else 0

    def _common_table(self) -> tuple[str, tuple[str, ...], Query]:
        name = self.identifier()
        columns = self.in_parentheses(self.identifier) if self.is_op("(") else ()
        self.need_word("AS")
        self.need_op("(")
        query = self.query()
        self.need_op(")")
        return name, columns, query

    def _page(self) -> tuple[Expr | None, Expr | None]:
        if not self.word("OFFSET"):
            return None, None
        offset = self.expr()
        if not self.word("ROWS"):
            self.need_word("ROW")
        if not self.word("FETCH"):
            return offset, None
        if not self.word("NEXT"):
            self.need_word("FIRST")
        fetch = self.expr()
        if not self.word("ROWS"):
            self.need_word("ROW")
        self.need_word("ONLY")
        return offset, fetch

    def _union(self) -> Body:
        left = self._intersect()
        while True:
            if self.word("UNION", "ALL"):
                left = Compound("UNION ALL", left, self._intersect())
            elif self.word("UNION"):
                left = Compound("UNION", left, self._intersect())
            elif self.word("EXCEPT"):
                left = Compound("EXCEPT", left, self._intersect())
            else:
                return left

    def _intersect(self) -> Body:
        left = self._select_or_group()
        while self.word("INTERSECT"):
            left = Compound("INTERSECT", left, self._select_or_group())
        return left

    def _select_or_group(self) -> Body:
        if self.op("("):
            inside = self._union()
            self.need_op(")")
            return inside
        return self._select()

    def _select(self) -> Select:
        self.need_word("SELECT")
        distinct = self.word("DISTINCT")
        if not distinct:
            self.word("ALL")
        top = self._top() if self.word("TOP") else None
        items = self.listed(self._item)
        into = self.parts() if self.word("INTO") else ()
        source = self._sources() if self.word("FROM") else None
        where = self.predicate() if self.word("WHERE") else None
        group = self.listed(self.expr) if self.word("GROUP", "BY") else ()
        having = self.predicate() if self.word("HAVING") else None
        return Select(items, source, where, group, having, distinct, top, into)

    def _top(self) -> Expr:
        if self.op("("):
            found = self.expr()
            self.need_op(")")
        else:
            token = self.take()
            if token.kind != "number":
                raise token.near()
            found = Literal("number", token.value)
        if self.is_word("PERCENT"):
            raise self.next.near()
        return found

    def _item(self) -> Item:
        if self.op("*"):
            return Item(Star())
        if self.next.kind in ("word", "name") and self.ahead().text == "=" and not self.next.reserved:
            alias = self.identifier()
            self.need_op("=")
            return Item(self.expr(), alias)
        found = self.expr()
        if self.word("AS"):
            return Item(found, self._alias())
        if self.next.kind in ("name", "string", "nstring") or (
            self.next.kind == "word" and not self._clause_ahead()
        ):
            return Item(found, self._alias())
        return Item(found)

    def _clause_ahead(self) -> bool:
        # The words that begin a statement and are no reserved words.
        return self.next.reserved or self.next.value in ("THROW",)

    def _alias(self) -> str:
        if self.next.kind in ("string", "nstring"):
            return self.take().value
        return self.identifier()

    def _sources(self) -> Source:
        left = self._joined()
        while self.op(","):
            left = Join("CROSS", left, self._joined())
        return left

    def _joined(self) -> Source:
        left = self._source()
        while True:
            kind = next((kind for words, kind in _JOINS.items() if self.word(*words)), None)
            if kind is None:
                return left
            right = self._source()
            on = None
            if kind in ("INNER", "LEFT", "RIGHT", "FULL"):
                self.need_word("ON")
                on = self.predicate()
            left = Join(kind, left, right, on)

    def _source(self) -> Source:
        if self.is_op("("):
            return self._bracketed_source()
        parts = self.parts()
        if self.is_op("(") and len(parts) <= 2 and not self._hint_ahead():
            arguments = () if self.ahead().text == ")" else self.in_parentheses(self.expr)
            if not arguments:
                self.need_op("(")
                self.need_op(")")
            alias, columns = self._correlation()
            return FunctionTable(".".join(parts).upper(), arguments, alias, columns)
        alias = self._optional_alias()
        hints = self._hints() if self.word("WITH") else ()
        if not hints and self.is_op("(") and self._hint_ahead():
            hints = self._hints()
        if alias is None:
            alias = self._optional_alias()
        return TableRef(parts, alias, hints)

    def _hint_ahead(self) -> bool:
        return self.ahead().kind == "word" and self.ahead().value in _HINTS

    def _hints(self) -> tuple[str, ...]:
        def one() -> str:
            token = self.take()
            if token.value == "INDEX":
                if not self.op("="):
                    self._skip_parentheses()
                else:
                    self.take()
            elif token.value not in _HINTS:
                raise token.near()
            return token.value

        return self.in_parentheses(one)

    def _bracketed_source(self) -> Source:
        self.need_op("(")
        if self.is_word("VALUES"):
            self.need_word("VALUES")
            rows = self.listed(lambda: self.in_parentheses(self.expr))
            self.need_op(")")
            alias, columns = self._correlation()
            if alias is None or not columns:
                raise self.next.near()
            return ValuesTable(rows, alias, columns)
        if self.is_word("SELECT", "WITH") or (self.is_op("(") and self._select_inside()):
            query = self.query()
            self.need_op(")")
            alias, columns = self._correlation()
            if alias is None:
                raise self.next.near()
            return Derived(query, alias, columns)
        inside = self._sources()
        self.need_op(")")
        return inside

    def _select_inside(self) -> bool:
        step = 0
        while self.ahead(step).text == "(":
            step += 1
        return self.ahead(step).kind == "word" and self.ahead(step).value == "SELECT"

    def _correlation(self) -> tuple[str | None, tuple[str, ...]]:
        alias = self._optional_alias()
        columns = self.in_parentheses(self.identifier) if alias is not None and self.is_op("(") else ()
        return alias, columns

    def _optional_alias(self) -> str | None:
        if self.word("AS"):
            return self.identifier()
        if self.next.kind == "name" or (self.next.kind == "word" and not self._clause_ahead()):
            return self.identifier()
        return None

    def column_name(self) -> str:
        """A column's name alone."""
        found = self.expr()
        if not isinstance(found, Name):
            raise self.next.near()
        return found.parts[-1]
