"""Queries to DuckDB SQL. Every answer's columns are called c0, c1, ...; their names stand beside."""

from __future__ import annotations

from dataclasses import replace

from . import sysviews
from .compile_expr import ExpressionCompiler, common, key
from .convert import Typed, convert
from .errors import TdsError, error
from .functions import AGGREGATES
from .scope import Bound, Compiled, Context, Field, Output, Scope
from .storage import M, named
from .syntax import (
    Body,
    Call,
    Case,
    Cast,
    Compound,
    Derived,
    Expr,
    FunctionTable,
    Item,
    Join,
    Literal,
    Name,
    Parts,
    Query,
    Select,
    Source,
    Star,
    TableRef,
    ValuesTable,
)
from .types import BIGINT, INT

_LOCKLESS = frozenset({"NOLOCK", "READUNCOMMITTED"})


class QueryCompiler(ExpressionCompiler):
    """Queries."""

    def subquery(self, query: Query) -> Compiled:
        """Compile a query that sees this scope from within."""
        return compile_inner(query, self.context, self.scope)

    def source(self, node: Source) -> str:
        """Compile what stands in FROM; binds its columns."""
        maker = getattr(self, f"_s_{type(node).__name__.lower()}")
        found: str = maker(node)
        return found

    def _bind(self, alias: str, parts: Parts, fields: tuple[Field, ...]) -> None:
        if any(each.alias.casefold() == alias.casefold() and (not parts or each.parts == parts)
               for each in self.scope.bound):  # fmt: skip
            raise TdsError(
                1011, f"The correlation name '{alias}' is specified multiple times in a FROM clause.", 15
            )
        self.scope.bound.append(Bound(alias, parts, fields))

    def _s_tableref(self, node: TableRef) -> str:
        if len(node.parts) == 1 and node.parts[0].casefold() in self.context.common:
            names, query, _ = self.context.common[node.parts[0].casefold()]
            return self._derived(compile_inner(query, self.context, None), node.alias or node.parts[0], names)
        duck = self.context.alias()
        name, alias = node.parts[-1], node.alias or node.parts[-1]
        parts = () if node.alias else node.parts
        view = sysviews.find(node.parts, self.context)
        if view is not None:
            sql, outputs = view
            self._bind(alias, parts, _fields(duck, outputs))
            return f"({sql}) AS {duck}"
        database, table = self.context.catalog.table(node.parts, self.context.database.name)
        self._may_read(database.name, table.name)
        self.context.databases.add(database.name.casefold())
        if not _LOCKLESS & set(node.hints):
            self.context.tables.add((database.name.casefold(), name.casefold()))
        self.context.hints.update(node.hints)
        fields = tuple(
            Field(each.name, Typed(f"{duck}.{named(each.name)}", each.type, each.nullable), each.identity)
            for each in table.columns
        )
        self._bind(alias, parts, fields)
        return f"{self.context.catalog.stored_name(database, table)} AS {duck}"

    def _may_read(self, database: str, table: str) -> None:
        found = self.context.catalog.database(database)
        if self.context.user.casefold() in found.closed:
            raise error(916, self.context.user, found.name)
        if (table.casefold(), "SELECT") in found.denied:
            raise error(229, "SELECT", table, found.name)

    def _s_derived(self, node: Derived) -> str:
        return self._derived(compile_inner(node.query, self.context, None), node.alias, node.columns)

    def _derived(self, compiled: Compiled, alias: str, names: tuple[str, ...]) -> str:
        outputs = compiled.columns
        if names:
            if len(names) != len(outputs):
                raise error(8158 if len(names) < len(outputs) else 8159, alias)
            outputs = tuple(replace(each, name=name) for each, name in zip(outputs, names, strict=True))
        seen: set[str] = set()
        for number, each in enumerate(outputs, 1):
            if each.name is None:
                raise error(8155, number, alias)
            if each.name.casefold() in seen:
                raise error(8156, each.name, alias)
            seen.add(each.name.casefold())
        duck = self.context.alias()
        self._bind(alias, (), _fields(duck, outputs))
        return f"({compiled.sql}) AS {duck}"

    def _s_valuestable(self, node: ValuesTable) -> str:
        rows = [[self.expr(each) for each in row] for row in node.rows]
        if any(len(row) != len(node.columns) for row in rows):
            raise error(8158 if len(rows[0]) > len(node.columns) else 8159, node.alias)
        kinds = [common(list(column)) for column in zip(*rows, strict=True)]
        duck = self.context.alias()
        values = ", ".join(
            "(" + ", ".join(convert(each, kind).sql for each, kind in zip(row, kinds, strict=True)) + ")"
            for row in rows
        )
        outputs = tuple(
            Output(name, kind, any(row[at].nullable for row in rows))
            for at, (name, kind) in enumerate(zip(node.columns, kinds, strict=True))
        )
        self._bind(node.alias, (), _fields(duck, outputs))
        return f"(VALUES {values}) AS {duck}({', '.join(f'c{at}' for at in range(len(kinds)))})"

    def _s_functiontable(self, node: FunctionTable) -> str:
        duck = self.context.alias()
        arguments = [self.expr(each) for each in node.arguments]
        if node.name == "GENERATE_SERIES" and 2 <= len(arguments) <= 3:
            kind = BIGINT if any(each.type.name == "bigint" for each in arguments) else INT
            given = ", ".join(each.sql for each in arguments)
            sql = f"(SELECT CAST(unnest AS {kind.stored}) AS c0 FROM unnest(generate_series({given}))) AS {duck}"
            if len(arguments) == 2:
                # A range() streams where a list would have to be built.
                start, stop = (each.sql for each in arguments)
                sql = f"(SELECT CAST(range AS {kind.stored}) AS c0 FROM range({start}, {stop} + 1)) AS {duck}"
            outputs: tuple[Output, ...] = (Output("value", kind, nullable=False),)
        elif node.name == "STRING_SPLIT" and len(arguments) >= 2:
            text, sign = arguments[0], arguments[1]
            sql = f"(SELECT unnest(string_split({text.sql}, {sign.sql})) AS c0) AS {duck}"
            outputs = (Output("value", text.type, nullable=False),)
        else:
            raise error(208, node.name)
        if node.columns:
            outputs = tuple(
                replace(each, name=name) for each, name in zip(outputs, node.columns, strict=False)
            )
        self._bind(node.alias or node.name, (), _fields(duck, outputs))
        return sql

    def _s_join(self, node: Join) -> str:
        left = self.source(node.left)
        before = len(self.scope.bound)
        if node.kind.endswith("APPLY"):
            inner = QueryCompiler(self.context, Scope(parent=self.scope))
            right = inner.source_lateral(node.right)
            self.scope.bound.extend(inner.scope.bound)
            kind, on = ("CROSS", "") if node.kind == "CROSS APPLY" else ("LEFT", " ON true")
            sql = f"{left} {kind} JOIN LATERAL {right}{on}"
        else:
            right = self.source(node.right)
            on = f" ON {self.predicate(node.on)}" if node.on is not None else ""
            sql = f"{left} {node.kind} JOIN {right}{on}"
        if node.kind in ("RIGHT", "FULL"):
            self._loosen(0, before)
        if node.kind in ("LEFT", "FULL", "OUTER APPLY"):
            self._loosen(before, len(self.scope.bound))
        return sql

    def source_lateral(self, node: Source) -> str:
        """A source of an APPLY: its query sees what stands to the left."""
        if isinstance(node, Derived):
            return self._derived(
                compile_inner(node.query, self.context, self.scope.parent), node.alias, node.columns
            )
        return (
            f"(SELECT * FROM {self.source(node)})" if isinstance(node, FunctionTable) else self.source(node)
        )

    def _loosen(self, start: int, stop: int) -> None:
        """The outer side of a join may be NULL."""
        for at in range(start, stop):
            bound = self.scope.bound[at]
            fields = tuple(replace(each, value=replace(each.value, nullable=True)) for each in bound.fields)
            self.scope.bound[at] = replace(bound, fields=fields)

    def items(self, node: Select) -> list[tuple[Output, Typed]]:
        """The SELECT list, with every * spelt out."""
        found: list[tuple[Output, Typed]] = []
        for item in node.items:
            if isinstance(item.expr, Star):
                found.extend(self._all(item.expr))
            else:
                found.append(self._one(item))
        return found

    def _all(self, star: Star) -> list[tuple[Output, Typed]]:
        tables = [each for each in self.scope.bound if not star.parts or each.called(star.parts)]
        if not tables:
            if star.parts:
                raise TdsError(107, f"The column prefix '{'.'.join(star.parts)}' does not match with a table name or"
                               " alias name used in the query.", 15)  # fmt: skip
            raise TdsError(263, "Must specify table to select from.")
        return [
            (Output(each.name, each.value.type, each.value.nullable, each.identity), each.value)
            for table in tables
            for each in table.fields
        ]

    def _one(self, item: Item) -> tuple[Output, Typed]:
        name, identity = item.alias, False
        if isinstance(item.expr, Name):
            found = self.scope.resolve(item.expr.parts)
            name, identity = name or found.name, found.identity
        value = self.expr(item.expr)
        return Output(name, value.type, value.nullable, identity), value


def _fields(duck: str, outputs: tuple[Output, ...]) -> tuple[Field, ...]:
    return tuple(
        Field(each.name, Typed(f"{duck}.c{at}", each.type, each.nullable), each.identity)
        for at, each in enumerate(outputs)
    )


def compile_inner(query: Query, context: Context, parent: Scope | None) -> Compiled:
    """A query within a query. Raises 1033."""
    if query.order and query.offset is None and not (isinstance(query.body, Select) and query.body.top):
        raise error(1033)
    return compile_query(query, context, parent)


def compile_query(query: Query, context: Context, parent: Scope | None) -> Compiled:
    """A whole query."""
    before = dict(context.common)
    for name, columns, inner in query.tables:
        context.common[name.casefold()] = (columns, inner, 0)
    try:
        return _whole(query, context, parent)
    finally:
        context.common.clear()
        context.common.update(before)


def _whole(query: Query, context: Context, parent: Scope | None) -> Compiled:
    page = ""
    compiler = QueryCompiler(context, Scope(parent=parent))
    if query.offset is not None:
        page += f" OFFSET {compiler.expr(query.offset).sql}"
    if query.fetch is not None:
        page = f" LIMIT {compiler.expr(query.fetch).sql}{page}"
    if isinstance(query.body, Select):
        return _select(query.body, context, parent, query.order, page)
    compiled = _body(query.body, context, parent)
    if not query.order and not page:
        return compiled
    order = ", ".join(_by_output(expr, descending, compiled) for expr, descending in query.order)
    return Compiled(f"SELECT * FROM ({compiled.sql}) ORDER BY {order}{page}", compiled.columns)


def _body(body: Body, context: Context, parent: Scope | None) -> Compiled:
    if isinstance(body, Select):
        return _select(body, context, parent, (), "")
    if isinstance(body, Query):
        return _whole(body, context, parent)
    return _compound(body, context, parent)


def _compound(body: Compound, context: Context, parent: Scope | None) -> Compiled:
    left, right = _body(body.left, context, parent), _body(body.right, context, parent)
    if len(left.columns) != len(right.columns):
        raise error(205)
    outputs, sides = [], ([], [])  # type: tuple[list[Output], tuple[list[str], list[str]]]
    for at, (one, other) in enumerate(zip(left.columns, right.columns, strict=True)):
        values = [Typed(f"c{at}", one.type, one.nullable), Typed(f"c{at}", other.type, other.nullable)]
        kind = common(values)
        outputs.append(Output(one.name, kind, one.nullable or other.nullable))
        for side, value in zip(sides, values, strict=True):
            side.append(f"{convert(value, kind, explicit=True).sql} AS c{at}")
    first, second = (
        f"SELECT {', '.join(side)} FROM ({compiled.sql})"
        for side, compiled in zip(sides, (left, right), strict=True)
    )
    return Compiled(f"({first}) {body.word} ({second})", tuple(outputs))


def _by_output(expr: Expr, descending: bool, compiled: Compiled) -> str:
    at = _ordinal(expr, [each.name for each in compiled.columns])
    if at is None:
        raise TdsError(104, "ORDER BY items must appear in the select list if the statement contains a UNION, INTERSECT"
                       " or EXCEPT operator.", 15)  # fmt: skip
    return _ordered(key(Typed(f"c{at}", compiled.columns[at].type)), descending)


def _ordinal(expr: Expr, names: list[str | None]) -> int | None:
    if isinstance(expr, Literal) and expr.kind == "number" and expr.text.isdigit():
        if not 1 <= int(expr.text) <= len(names):
            raise error(108, expr.text)
        return int(expr.text) - 1
    if isinstance(expr, Name) and len(expr.parts) == 1:
        low = [name.casefold() if name is not None else None for name in names]
        if expr.parts[0].casefold() in low:
            return low.index(expr.parts[0].casefold())
    return None


def _ordered(sql: str, descending: bool) -> str:
    # NULL is the least of all: https://learn.microsoft.com/sql/t-sql/queries/select-order-by-clause-transact-sql
    return f"{sql} {'DESC NULLS LAST' if descending else 'ASC NULLS FIRST'}"


def _select(
    node: Select, context: Context, parent: Scope | None, order: tuple[tuple[Expr, bool], ...], page: str
) -> Compiled:
    compiler = QueryCompiler(context, Scope(parent=parent))
    source = f" FROM {compiler.source(node.source)}" if node.source is not None else ""
    where = f" WHERE {compiler.predicate(node.where)}" if node.where is not None else ""
    items = compiler.items(node)
    _check_groups(node, compiler)
    group = f" GROUP BY {', '.join(compiler.expr(each).sql for each in node.group)}" if node.group else ""
    having = f" HAVING {compiler.predicate(node.having)}" if node.having is not None else ""
    if node.top is not None:
        page = f" LIMIT {compiler.expr(node.top).sql}"
    ordering = _ordering(node, compiler, items, order)
    listed = ", ".join(f"{_plain(value)} AS c{at}" for at, (_, value) in enumerate(items))
    distinct = "DISTINCT " if node.distinct else ""
    sql = f"SELECT {distinct}{listed}{source}{where}{group}{having}{ordering}{page}"
    return Compiled(sql, tuple(output for output, _ in items))


def _plain(value: Typed) -> str:
    # A NULL of no type would be an INTEGER to DuckDB too, but not inside a UNION.
    return f"CAST(NULL AS {value.type.stored})" if value.null else value.sql


def _ordering(
    node: Select,
    compiler: QueryCompiler,
    items: list[tuple[Output, Typed]],
    order: tuple[tuple[Expr, bool], ...],
) -> str:
    if not order:
        return ""
    made = []
    for expr, descending in order:
        at = _ordinal(expr, [output.name for output, _ in items])
        if at is not None:
            value = items[at][1]
            made.append(_ordered(f"c{at}" if node.distinct else key(value), descending))
        else:
            made.append(_ordered(key(compiler.expr(expr)), descending))
    return f" ORDER BY {', '.join(made)}"


def _check_groups(node: Select, compiler: QueryCompiler) -> None:
    """8120: a column beside an aggregate must be grouped by."""
    plain = [item.expr for item in node.items]
    if not node.group and not any(_aggregates(each) for each in plain) and node.having is None:
        return
    grouped = {compiler.expr(each).sql for each in node.group}
    for expr in plain:
        _check_grouped(expr, grouped, compiler)


def _check_grouped(expr: Expr, grouped: set[str], compiler: QueryCompiler) -> None:
    if isinstance(expr, Star):
        raise error(8120, "*")
    if _is_aggregate(expr) or (not isinstance(expr, Literal) and compiler.expr(expr).sql in grouped):
        return
    if isinstance(expr, Name):
        found = compiler.scope.resolve(expr.parts)
        own = any(found in bound.fields for bound in compiler.scope.bound)
        if own:
            raise error(8120, ".".join(expr.parts))
    for inner in _children(expr):
        _check_grouped(inner, grouped, compiler)


def _is_aggregate(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.name in AGGREGATES and expr.over is None


def _aggregates(expr: Expr) -> bool:
    return _is_aggregate(expr) or any(_aggregates(each) for each in _children(expr))


def _children(expr: Expr) -> list[Expr]:
    if isinstance(expr, Call):
        return [each for each in expr.arguments if not isinstance(each, Star)]
    if isinstance(expr, Case):
        return [result for _, result in expr.branches] + ([expr.otherwise] if expr.otherwise else [])
    if isinstance(expr, Cast):
        return [expr.operand]
    left, right = getattr(expr, "left", None), getattr(expr, "right", None)
    found = [each for each in (left, right, getattr(expr, "operand", None)) if each is not None]
    return list(found)


__all__ = ["M", "QueryCompiler", "compile_query"]
