"""From a query as the client wrote it to one for the engine: names looked up, rows filtered by what is visible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from tests.servers.vertica import meta_functions, system_tables, widths
from tests.servers.vertica.catalog import SYSTEM_SCHEMAS, Table, User, View
from tests.servers.vertica.dialect import engine, generate, parse, plain
from tests.servers.vertica.kinds import Kind
from tests.servers.vertica.lexer import Sql
from tests.servers.vertica.problems import missing_relation, unsupported
from tests.servers.vertica.store import View as Visible
from tests.servers.vertica.store import quote

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

#: A column of a result: its name, and its type where it is known better than by the engine.
Shape = list[tuple[str, Kind | None]]


@dataclass
class Rewritten:
    """A query for the engine, and what its columns are (None: ask the engine)."""

    sql: str
    shape: Shape | None


@dataclass
class Rewriter:
    """Rewrites within one statement of a session; `close` when it ran."""

    session: Session
    visible: Visible
    _registered: list[str] = field(default_factory=list)

    def query(self, sql: Sql) -> Rewritten:
        """A SELECT."""
        tree = parse(plain(sql))
        if not isinstance(tree, (exp.Query, exp.Values)):
            raise unsupported("This statement")
        return self.tree(tree)

    def tree(self, tree: exp.Expr) -> Rewritten:
        """A query that is parsed already."""
        widths.check(tree, self.session.server.catalog)
        tree = self._functions(tree)
        for select in tree.find_all(exp.Select):
            self._place_nulls(select)
        shape = self._shape(tree)
        return Rewritten(generate(self.tables(tree)), shape)

    def expression(self, tree: exp.Expr) -> str:
        """An expression or condition."""
        holder = exp.Paren(this=tree)
        return generate(self.tables(self._functions(holder)))

    def close(self) -> None:
        """Forget the system tables that were made up."""
        for name in self._registered:
            self.session.connection.unregister(name)
        self._registered.clear()

    def tables(self, tree: exp.Expr, user: User | None = None) -> exp.Expr:
        """Put visible rows in the place of each table."""
        named = {cte.alias.casefold() for cte in tree.find_all(exp.CTE)}
        for table in list(tree.find_all(exp.Table)):
            if not isinstance(table.this, exp.Identifier):
                continue
            path = _path(table)
            if len(path) == 1 and path[0].casefold() in named:
                continue
            source = self._source(path, user or self.session.user)
            alias = exp.TableAlias(this=exp.to_identifier(table.alias or path[-1], quoted=True))
            if table.args.get("alias") is not None and table.args["alias"].columns:
                alias.set("columns", table.args["alias"].columns)
            replaced = exp.Subquery(this=source, alias=alias)
            for each in ("joins", "laterals", "pivots"):
                if table.args.get(each):
                    replaced.set(each, table.args[each])
            if table is tree:
                return replaced
            table.replace(replaced)
        return tree

    def _source(self, path: tuple[str, ...], user: User) -> exp.Expr:
        catalog = self.session.server.catalog
        found = catalog.find(path)
        if found is None and (len(path) == 1 or path[0].casefold() in SYSTEM_SCHEMAS):
            return self._system(path)
        relation = catalog.relation(path)
        catalog.check(user, "SELECT", relation)
        if isinstance(relation, View):
            owner = catalog.users.get(relation.owner.casefold(), user)
            return self.tables(self._functions(parse(relation.sql)), owner)
        columns = ", ".join(f"v.{quote(each.name)}" for each in relation.columns)
        return engine(
            f"SELECT {columns} FROM {relation.engine_name} AS v WHERE {self.visible.condition('v')}"
        )

    def _system(self, path: tuple[str, ...]) -> exp.Expr:
        rows = system_tables.find(self.session, path)
        if rows is None:
            raise missing_relation(".".join(path))
        name = f"system_{len(self._registered)}"
        self.session.connection.register(name, rows)
        self._registered.append(name)
        return engine(f"SELECT * FROM {name}")

    def _functions(self, tree: exp.Expr) -> exp.Expr:
        return tree.transform(lambda node: meta_functions.replace(self.session, node), copy=False)

    def _place_nulls(self, select: exp.Select) -> None:
        """NULL before other values in whole numbers, numerics, dates and times, behind them in other types."""
        order = select.args.get("order")
        if order is None or not any(each.meta.get("auto") for each in order.expressions):
            return
        sources = self._sources(select)
        for ordered in order.expressions:
            kind = _kind(_selected(select, ordered.this), sources)
            if ordered.meta.get("auto") and kind is not None:
                ordered.set("nulls_first", (kind.name in _NULLS_FIRST) != bool(ordered.args.get("desc")))

    def _shape(self, tree: exp.Expr) -> Shape | None:
        select = tree.this if isinstance(tree, exp.Subquery) else tree
        if not isinstance(select, exp.Select):
            return None
        sources = self._sources(select)
        shape: Shape = []
        for each in select.expressions:
            if isinstance(each, exp.Star) or (
                isinstance(each, exp.Column) and isinstance(each.this, exp.Star)
            ):
                wanted = each.table if isinstance(each, exp.Column) else ""
                for name, columns in sources.items():
                    if wanted and name != wanted.casefold():
                        continue
                    if columns is None:
                        return None
                    shape += columns
            else:
                shape.append((_name(each), _kind(each, sources)))
        return shape

    def _sources(self, select: exp.Select) -> dict[str, Shape | None]:
        clauses = [select.args.get("from_") or select.args.get("from"), *(select.args.get("joins") or [])]
        found: dict[str, Shape | None] = {}
        for clause in clauses:
            if clause is None:
                continue
            source = clause.this
            if clause.args.get("using"):
                # Its columns stand once in the result: leave the counting to the engine.
                found["\0using"] = None
            found[source.alias_or_name.casefold()] = self._columns(source)
        return found

    def _columns(self, source: exp.Expr) -> Shape | None:
        if isinstance(source, exp.Subquery):
            return self._shape(source.this)
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            relation = self.session.server.catalog.find(_path(source))
            if isinstance(relation, Table):
                return [(each.name, each.kind) for each in relation.columns]
        return None


#: Types whose NULL comes first in ascending order (docs: "NULL Sort Order").
_NULLS_FIRST = (
    "int",
    "numeric",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "intervalym",
)


def _selected(select: exp.Select, node: exp.Expr) -> exp.Expr:
    """What an item of ORDER BY stands for: a number or an alias of the select list, or itself."""
    if isinstance(node, exp.Literal) and not node.is_string:
        index = int(node.this) - 1
        return select.expressions[index] if index < len(select.expressions) else node
    if isinstance(node, exp.Column) and not node.table:
        for each in select.expressions:
            if isinstance(each, exp.Alias) and each.alias.casefold() == node.name.casefold():
                return each
    return node


def _path(table: exp.Table) -> tuple[str, ...]:
    return (table.db, table.name) if table.db else (table.name,)


def _name(node: exp.Expr) -> str:
    if node.alias_or_name:
        return node.alias_or_name
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower()
    if isinstance(node, exp.Func):
        return node.sql_name().lower()
    return "?column?"


def _kind(node: exp.Expr, sources: dict[str, Shape | None]) -> Kind | None:
    inner = node.this if isinstance(node, exp.Alias) else node
    if "kind" in inner.meta:
        known: Kind = inner.meta["kind"]
        return known
    if not isinstance(inner, exp.Column):
        return None
    wanted = inner.table.casefold()
    for name, columns in sources.items():
        if columns is None or (wanted and name != wanted):
            continue
        for column, kind in columns:
            if column.casefold() == inner.name.casefold():
                return kind
    return None
