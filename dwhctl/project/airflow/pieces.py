"""What an import is made of: the pieces that will stand in the configuration, and what could not be mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret on its way out of the configuration. `hint` is what its reference is named after."""

    text: str
    hint: str

    def __repr__(self) -> str:
        return f"Hidden({self.hint})"


@dataclass(slots=True)
class Piece:
    """One connection, variable or alert, in the values of TOML; secrets in it are Hidden.

    One without a `value` is left out, its notes say why. An `incomplete` one is written as a comment to be completed.
    """

    kind: str  # connection | variable | alert
    origin: str  # its name in Airflow
    name: str
    value: Any = None
    notes: list[str] = field(default_factory=list)
    comment: str = ""
    incomplete: bool = False
    guessed: tuple[str, ...] = ()  # keys that Airflow does not say; a value that is there already wins

    @property
    def table(self) -> str:
        """The table of the configuration that it stands in."""
        return f"{self.kind}s"

    def note(self, what: str) -> None:
        """Say what a person should know about it."""
        self.notes.append(what)


def hidden_in(value: object) -> Iterator[Hidden]:
    """Every secret in a tree of values."""
    if isinstance(value, Hidden):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from hidden_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from hidden_in(each)


def with_references(value: Any, references: Mapping[Hidden, dict[str, str]]) -> Any:
    """The tree with each secret replaced by its reference."""
    if isinstance(value, Hidden):
        return references[value]
    if isinstance(value, Mapping):
        return {key: with_references(each, references) for key, each in value.items()}
    return [with_references(each, references) for each in value] if isinstance(value, list) else value
