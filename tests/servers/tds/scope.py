"""What names mean inside a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .catalog import Catalog, Database
from .convert import Typed
from .errors import error
from .syntax import Parts, Query
from .types import SqlType


@dataclass(frozen=True)
class Field:
    """A column of a table in FROM."""

    name: str | None
    value: Typed
    identity: bool = False


@dataclass(frozen=True)
class Bound:
    """A table in FROM: its alias, the name by which it may be called too, its columns."""

    alias: str
    parts: Parts
    fields: tuple[Field, ...]

    def called(self, parts: Parts) -> bool:
        """Whether these parts before a column's name mean it."""
        low = tuple(each.casefold() for each in parts if each)
        if len(low) == 1:
            return low[0] == self.alias.casefold()
        mine = tuple(each.casefold() for each in self.parts if each)
        return bool(mine) and low == mine[-len(low) :]


@dataclass
class Scope:
    """The tables that a query sees, its own first."""

    bound: list[Bound] = field(default_factory=list)
    parent: Scope | None = None
    grouped: bool = False

    def resolve(self, parts: Parts) -> Field:
        """The column that a name means. Raises 207, 209, 4104."""
        *before, name = parts
        scope: Scope | None = self
        while scope is not None:
            found = [
                each
                for table in scope.bound
                if not before or table.called(tuple(before))
                for each in table.fields
                if each.name is not None and each.name.casefold() == name.casefold()
            ]
            if len(found) > 1:
                raise error(209, name)
            if found:
                return found[0]
            if before and any(table.called(tuple(before)) for table in scope.bound):
                raise error(207, name)
            scope = scope.parent
        raise error(4104, ".".join(parts)) if before else error(207, name)


@dataclass
class Context:
    """What a statement is compiled in."""

    catalog: Catalog
    database: Database
    user: str = "sa"
    values: dict[str, Callable[[], Typed]] = field(default_factory=dict)
    """@@SPID and the like, by upper-case name."""
    variables: dict[str, Typed] = field(default_factory=dict)
    tables: set[tuple[str, str]] = field(default_factory=set)
    """The tables that it reads: database and table in lower case."""
    databases: set[str] = field(default_factory=set)
    common: dict[str, tuple[tuple[str, ...], Query, int]] = field(default_factory=dict)
    hints: set[str] = field(default_factory=set)
    aliases: int = 0
    sessions: Callable[[], list[tuple[object, ...]]] = list

    def alias(self) -> str:
        """A name that DuckDB has not heard yet."""
        self.aliases += 1
        return f"t{self.aliases}"


@dataclass(frozen=True)
class Output:
    """A column of an answer."""

    name: str | None
    type: SqlType
    nullable: bool = True
    identity: bool = False


@dataclass(frozen=True)
class Compiled:
    """A query as DuckDB SQL, whose columns are called c0, c1, ..."""

    sql: str
    columns: tuple[Output, ...]
