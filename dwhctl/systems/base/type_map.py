"""The type map: what every type of a source becomes in Arrow, and in the new column of every target.

Each system knows its own types (`System.source_types`, `System.declaration`); this is the only place where they meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dwhctl.core.errors import TargetRefusedError
from dwhctl.project.connections import SYSTEMS, types_for

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.systems.base.system import System


@dataclass(frozen=True, slots=True)
class SourceType:
    """A type of a source, as a query declares it. `column` is None where it is refused: then `note` is the remedy."""

    name: str
    column: Column | None
    note: str


@dataclass(frozen=True, slots=True)
class TypeMapRow:
    """A source's type and the type of a new column for it, by target; None where the target has none."""

    source: SourceType
    targets: Mapping[str, str | None]

    @property
    def arrow(self) -> str:
        """The name of the Arrow type; empty for a type that is refused."""
        return str(self.source.column.type) if self.source.column else ""


def type_map(source: str) -> Sequence[TypeMapRow]:
    """Return the rows of a source's types, by the source's type of connection."""
    targets = {name: _system(name) for name in types_for("is_target")}
    return [
        TypeMapRow(row, {name: _declared(target, row.column) for name, target in targets.items()})
        for row in _system(source).source_types()
    ]


def _system(kind: str) -> System[Any]:
    return cast("System[Any]", SYSTEMS[kind])


def _declared(target: System[Any], column: Column | None) -> str | None:
    if column is None:
        return None
    try:
        return target.declaration(column)
    except TargetRefusedError:
        return None
