"""How long the texts of a query may become by the declared lengths: what the original refuses before it runs.

https://www.vertica.com/docs/9.2.x/HTML/Content/Authoring/SQLReferenceManual/Functions/String/LOWER.htm (the width of a
column is that of its definition), .../ErrorCodes/SqlState-54000.htm (3460, 4283).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from tests.servers.vertica.catalog import Table
from tests.servers.vertica.dialect import WRITTEN
from tests.servers.vertica.kinds import MOST_LONG_OCTETS, MOST_OCTETS
from tests.servers.vertica.problems import VerticaError, syntax_error

if TYPE_CHECKING:
    from tests.servers.vertica.catalog import Catalog

_SAME = (exp.Paren, exp.Alias, exp.Trim, exp.Substring, exp.Left, exp.Right, exp.Max, exp.Min)
_HASHED = 32
#: The octets of a text, None where they are not known.
_Octets = int | None
_Columns = dict[str, _Octets]


def check(tree: exp.Expr, catalog: Catalog) -> None:
    """Refuse a query whose texts could become too long, or with a derived table that has no name."""
    if isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        _columns(tree, catalog, {})


def _columns(query: exp.Expr, catalog: Catalog, common: dict[str, _Columns]) -> _Columns:
    common = dict(common)
    for each in query.find_all(exp.CTE) if query.args.get("with_") or query.args.get("with") else ():
        common[each.alias.casefold()] = _columns(each.this, catalog, common)
    if isinstance(query, exp.Subquery):
        return _columns(query.this, catalog, common)
    if isinstance(query, exp.SetOperation):
        left, right = (_columns(each, catalog, common) for each in (query.this, query.expression))
        return {
            name: _most([one, other])
            for (name, one), other in zip(left.items(), right.values(), strict=False)
        }
    if not isinstance(query, exp.Select):
        return {}
    sources: dict[str, _Columns] = {}
    for clause in [query.args.get("from_") or query.args.get("from"), *(query.args.get("joins") or [])]:
        if clause is not None:
            sources[clause.this.alias_or_name.casefold()] = _source(clause.this, catalog, common)
    found: _Columns = {}
    for number, each in enumerate(query.expressions):
        if isinstance(each, exp.Star) or (isinstance(each, exp.Column) and isinstance(each.this, exp.Star)):
            for columns in sources.values():
                found.update(columns)
        else:
            found[(each.alias_or_name or f"?{number}").casefold()] = _octets(each, sources)
    return found


def _source(source: exp.Expr, catalog: Catalog, common: dict[str, _Columns]) -> _Columns:
    if isinstance(source, exp.Subquery):
        if not source.alias and isinstance(source.this, exp.Query):
            raise syntax_error("(")
        return _columns(source, catalog, common)
    if not isinstance(source, exp.Table) or not isinstance(source.this, exp.Identifier):
        return {}
    if not source.db and source.name.casefold() in common:
        return common[source.name.casefold()]
    relation = catalog.find((source.db, source.name) if source.db else (source.name,))
    if not isinstance(relation, Table):
        return {}
    return {
        each.name.casefold(): each.kind.length if each.kind.is_text or each.kind.is_binary else None
        for each in relation.columns
    }


def _octets(node: exp.Expr, sources: dict[str, _Columns]) -> _Octets:
    if (kind := node.meta.get("kind")) is not None:
        _inside(node, sources)
        return kind.length if kind.is_text or kind.is_binary else None
    if isinstance(node, exp.Literal):
        return len(node.this.encode()) if node.is_string else None
    if isinstance(node, exp.Column):
        return _column(node, sources)
    if isinstance(node, _SAME):
        return _octets(node.this, sources)
    if isinstance(node, exp.DPipe):
        return _joined(node, sources)
    if isinstance(node, (exp.Lower, exp.Upper)):
        return _changed(node, sources)
    if isinstance(node, exp.Coalesce):
        return _most([_octets(each, sources) for each in (node.this, *node.expressions)])
    if isinstance(node, exp.Anonymous) and node.meta.get(WRITTEN):
        octets = _octets(node.expressions[0], sources)
        return None if octets is None else _limited("Function to_hex", 3460, 2 * octets, [octets])
    _inside(node, sources)
    return _HASHED if isinstance(node, exp.MD5) else None


def _inside(node: exp.Expr, sources: dict[str, _Columns]) -> None:
    for each in node.iter_expressions():
        if not isinstance(each, exp.Query):
            _octets(each, sources)


def _column(node: exp.Column, sources: dict[str, _Columns]) -> _Octets:
    wanted = node.table.casefold()
    for name, columns in sources.items():
        if (not wanted or name == wanted) and node.name.casefold() in columns:
            return columns[node.name.casefold()]
    return None


def _joined(node: exp.DPipe, sources: dict[str, _Columns]) -> _Octets:
    parts: list[_Octets] = []
    left: exp.Expr = node
    while isinstance(left, exp.DPipe):
        parts.append(_octets(left.expression, sources))
        left = left.this
    parts.append(_octets(left, sources))
    known = [each for each in parts if each is not None]
    return _limited("Operator ||", 4283, sum(known), known)


def _changed(node: exp.Lower | exp.Upper, sources: dict[str, _Columns]) -> _Octets:
    octets = _octets(node.this, sources)
    if octets is None or not node.meta.get(WRITTEN):
        return octets
    return _limited(f"Function {node.key}", 3460, 2 * octets, [octets])


def _limited(what: str, number: int, octets: int, given: list[int]) -> int:
    # What is longer than a VARCHAR is LONG, and so is the result.
    most = MOST_LONG_OCTETS if any(each > MOST_OCTETS for each in given) else MOST_OCTETS
    if octets > most:
        word = " Varchar" if number == 4283 else ""
        raise VerticaError(
            "54000", number, f"{what} may give a {octets}-octet{word} result; the limit is {most} octets"
        )
    return octets


def _most(octets: list[_Octets]) -> _Octets:
    known = [each for each in octets if each is not None]
    return max(known) if known else None
