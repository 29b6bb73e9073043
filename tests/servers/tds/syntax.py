"""What T-SQL's queries say, as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

from .types import SqlType

Parts: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Literal:
    """A constant: kind is string, nstring, number, binary or null."""

    kind: str
    text: str


@dataclass(frozen=True)
class Name:
    """A column, by up to four parts."""

    parts: Parts


@dataclass(frozen=True)
class Star:
    """`*` or `t.*`."""

    parts: Parts = ()


@dataclass(frozen=True)
class Variable:
    """@x or @@x, in lower case."""

    name: str


@dataclass(frozen=True)
class Over:
    """A window."""

    partition: tuple[Expr, ...] = ()
    order: tuple[tuple[Expr, bool], ...] = ()
    frame: str = ""


@dataclass(frozen=True)
class Call:
    """A function call; `words` are arguments that are bare words (dateparts)."""

    name: str
    arguments: tuple[Expr, ...]
    distinct: bool = False
    over: Over | None = None


@dataclass(frozen=True)
class Unary:
    """-x, +x, ~x."""

    sign: str
    operand: Expr


@dataclass(frozen=True)
class Binary:
    """Arithmetic."""

    sign: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Case:
    """CASE; with an operand the conditions are expressions."""

    operand: Expr | None
    branches: tuple[tuple[Expr | Predicate, Expr], ...]
    otherwise: Expr | None


@dataclass(frozen=True)
class Cast:
    """CAST, CONVERT, TRY_CAST, TRY_CONVERT."""

    operand: Expr
    to: SqlType
    style: Expr | None = None
    forgiving: bool = False


@dataclass(frozen=True)
class Collate:
    """x COLLATE name."""

    operand: Expr
    collation: str


@dataclass(frozen=True)
class AtZone:
    """x AT TIME ZONE z."""

    operand: Expr
    zone: Expr


@dataclass(frozen=True)
class Subquery:
    """A query as a value."""

    query: Query


Expr: TypeAlias = Union[
    "Literal",
    "Name",
    "Star",
    "Variable",
    "Call",
    "Unary",
    "Binary",
    "Case",
    "Cast",
    "Collate",
    "AtZone",
    "Subquery",
]


@dataclass(frozen=True)
class Compare:
    """l op r."""

    sign: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Logic:
    """AND, OR."""

    word: str
    left: Predicate
    right: Predicate


@dataclass(frozen=True)
class Not:
    """NOT p."""

    operand: Predicate


@dataclass(frozen=True)
class IsNull:
    """x IS [NOT] NULL."""

    operand: Expr
    negated: bool


@dataclass(frozen=True)
class Between:
    """x [NOT] BETWEEN a AND b."""

    operand: Expr
    least: Expr
    most: Expr
    negated: bool


@dataclass(frozen=True)
class In:
    """x [NOT] IN (...)."""

    operand: Expr
    choices: tuple[Expr, ...] | Query
    negated: bool


@dataclass(frozen=True)
class Like:
    """x [NOT] LIKE p [ESCAPE e]."""

    operand: Expr
    pattern: Expr
    escape: Expr | None
    negated: bool


@dataclass(frozen=True)
class Exists:
    """EXISTS (...)."""

    query: Query


Predicate: TypeAlias = Union["Compare", "Logic", "Not", "IsNull", "Between", "In", "Like", "Exists"]


@dataclass(frozen=True)
class TableRef:
    """A table or a view by its name."""

    parts: Parts
    alias: str | None = None
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """A query as a table."""

    query: Query
    alias: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValuesTable:
    """(VALUES ...) AS t(...)."""

    rows: tuple[tuple[Expr, ...], ...]
    alias: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class FunctionTable:
    """A function as a table."""

    name: str
    arguments: tuple[Expr, ...]
    alias: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Join:
    """INNER, LEFT, RIGHT, FULL, CROSS, CROSS APPLY, OUTER APPLY."""

    kind: str
    left: Source
    right: Source
    on: Predicate | None = None


Source: TypeAlias = Union["TableRef", "Derived", "ValuesTable", "FunctionTable", "Join"]


@dataclass(frozen=True)
class Item:
    """A column of a SELECT list."""

    expr: Expr
    alias: str | None = None


@dataclass(frozen=True)
class Select:
    """SELECT ... FROM ... WHERE ... GROUP BY ... HAVING."""

    items: tuple[Item, ...]
    source: Source | None = None
    where: Predicate | None = None
    group: tuple[Expr, ...] = ()
    having: Predicate | None = None
    distinct: bool = False
    top: Expr | None = None
    into: Parts = ()


@dataclass(frozen=True)
class Compound:
    """UNION [ALL], EXCEPT, INTERSECT."""

    word: str
    left: Body
    right: Body


Body: TypeAlias = Union["Select", "Compound", "Query"]


@dataclass(frozen=True)
class Query:
    """A whole query."""

    body: Body
    order: tuple[tuple[Expr, bool], ...] = ()
    offset: Expr | None = None
    fetch: Expr | None = None
    tables: tuple[tuple[str, tuple[str, ...], Query], ...] = ()
    """Common table expressions: name, columns, query."""
