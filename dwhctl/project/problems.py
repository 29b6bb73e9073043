"""What is wrong with the configuration, in words: file, key, what is wrong, remedy."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dwhctl.core.errors import ConfigError
from dwhctl.core.words import did_you_mean, may_show, nearest, shown_key, shown_value
from dwhctl.project.fields import Table

Model = TypeVar("Model", bound=Table)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is: a file (or the environment) and the key in it.

    A part of the key that must not be shown is in it as its length; `hidden` is the last such part. The keys
    `inherited` are below `origin`: a load has them from its defaults.
    """

    file: str
    key: str = ""
    hidden: str = field(default="", repr=False)
    inherited: frozenset[str] = field(default=frozenset(), repr=False)
    origin: Place | None = field(default=None, repr=False)

    def at(self, *steps: str | int) -> Place:
        """The place of a key or item below this one."""
        if self.origin is not None and steps and steps[0] in self.inherited:
            return self.origin.at(*steps)
        key, hidden = self.key, self.hidden
        for step in steps:
            if isinstance(step, int):
                key += f"[{step}]"
                continue
            shown = shown_key(step)
            hidden = hidden if shown == step else step
            key += f".{shown}" if key else shown
        return Place(self.file, key, hidden)

    def __str__(self) -> str:
        return f"{self.file}: {self.key}" if self.key else self.file


@dataclass
class Problems:
    """Everything that is wrong so far, in the order found."""

    root: Path
    lines: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict, repr=False)  # of the files that were read

    def add(self, place: Place, what: str) -> None:
        """Note a problem."""
        line = f"{place}{self._line_of(place)}: {what}"
        if line not in self.lines:
            self.lines.append(line)

    def _line_of(self, place: Place) -> str:
        """The line of a key that is not shown, if one line alone holds it."""
        lines = enumerate(self.texts.get(place.file, "").split("\n"), 1)
        found = [number for number, text in lines if place.hidden and place.hidden in text]
        return f" (line {found[0]})" if len(found) == 1 else ""

    def raise_any(self) -> None:
        """Raise them all as one error, if there are any."""
        if self.lines:
            raise ConfigError("\n".join(self.lines))

    def table(self, value: object, place: Place) -> dict[str, Any]:
        """The table that stands there; an empty one, and a problem, when something else does."""
        if isinstance(value, dict):
            return value
        self.add(
            place, f"expected a table, got {shown_value(value)}; write it as [{place.key}] with keys below"
        )
        return {}

    def validated(self, model: type[Model], table: object, place: Place, **given: object) -> Model | None:
        """The table as a model, or None with its problems noted."""
        values = dict(self.table(table, place))
        before = len(self.lines)
        for name in [name for name in values if name in given]:
            self.add(place.at(name), f"unknown key: it is told by where the table stands; drop '{name}'")
            del values[name]
        try:
            # Only as written in the file: the model's own name of an aliased key is unknown there.
            checked = model.model_validate(
                {**values, **given}, context={"root": self.root}, by_alias=True, by_name=False
            )
        except ValidationError as error:
            for each in error.errors():
                self._note(model, each, place)
            return None
        return checked if len(self.lines) == before else None

    def check_part(
        self, model: type[Table], values: Mapping[str, Any], place: Place, **given: object
    ) -> None:
        """Note what is wrong with some of a model's keys; the others may be missing."""
        try:
            model.model_validate(
                {**values, **given}, context={"root": self.root}, by_alias=True, by_name=False
            )
        except ValidationError as error:
            for each in error.errors():
                if each["loc"] and each["loc"][0] in values:
                    self._note(model, each, place)

    def _note(self, model: type[Table], error: ErrorDetails, place: Place) -> None:
        what = describe(model, error)
        if not error["loc"]:  # a model's own check names the key itself
            key, _, what = what.partition(": ")
            self.add(place.at(key), what)
        else:
            steps = _located(model, error["loc"])[1]
            if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
                steps = (*steps, "type")
            self.add(place.at(*steps), what)


def describe(model: type[Table], error: ErrorDetails) -> str:
    """What pydantic found, in a user's words, with the remedy."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown key; {nearest(name, _model_at(model, error['loc'][:-1]).file_keys())}"
    if error["type"] == "missing":
        return f"is missing; add {name} = {_example(_model_at(model, error['loc'][:-1]), name)}"
    words = _WORDS.get(error["type"])
    if words is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return words(shown_value(error["input"]), error)


def _expected(what: str, remedy: str) -> Callable[[str, ErrorDetails], str]:
    return lambda shown, _error: f"expected {what}, got {shown}; {remedy}"


def _number(what: str) -> Callable[[str, ErrorDetails], str]:
    def words(shown: str, error: ErrorDetails) -> str:
        value = error["input"]
        digits = isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip())
        remedy = (
            f"write {value} without quotes"
            if digits and may_show(value)
            else "write it in digits, without quotes"
        )
        return f"expected {what}, got {shown}; {remedy}"

    return words


def _bound(words: str, limit: str) -> Callable[[str, ErrorDetails], str]:
    return lambda shown, error: f"{shown} is out of range; the value must be {words} {error['ctx'][limit]}"


def _literal(shown: str, error: ErrorDetails) -> str:
    allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    value = error["input"]
    hint = did_you_mean(value, allowed) if isinstance(value, str) else "write it in quotes"
    choices = ", ".join(f'"{each}"' for each in allowed)
    return f"expected one of {choices}; got {shown}" + (f"; {hint}" if hint else "")


def _no_kind(_shown: str, _error: ErrorDetails) -> str:
    return 'is missing; add type = "..." (`dwhctl docs reference` lists them)'


def _unknown_kind(_shown: str, error: ErrorDetails) -> str:
    tag, known = str(error["ctx"]["tag"]), re.findall(r"'([^']*)'", error["ctx"]["expected_tags"])
    hint = did_you_mean(tag, known)
    choices = ", ".join(f'"{each}"' for each in known)
    return f"expected one of {choices}; got {shown_value(tag)}" + (f"; {hint}" if hint else "")


_WORDS: dict[str, Callable[[str, ErrorDetails], str]] = {
    "string_type": _expected("a text", "put it in quotes"),
    "int_type": _number("a whole number"),
    "int_from_float": _number("a whole number"),
    "float_type": _number("a number"),
    "bool_type": _expected("true or false", "write it without quotes"),
    "tuple_type": _expected("a list", "put it in [ ]"),
    "dict_type": _expected("a table", 'write it as { name = "value" }'),
    "model_type": _expected("a table", 'write it as { name = "value" }'),
    "model_attributes_type": _expected("a table", 'write it as { name = "value" }'),
    "literal_error": _literal,
    "union_tag_not_found": _no_kind,
    "union_tag_invalid": _unknown_kind,
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "finite_number": lambda shown, _error: f"{shown} is no amount; write a number",
    "string_too_short": lambda _shown, _error: "is empty; write a value or drop the key",
    "too_short": lambda _shown, _error: "is empty; name at least one",
    "value_error": lambda _shown, error: str(error["ctx"]["error"]),
}


def _model_at(model: type[Table], steps: Sequence[str | int]) -> type[Table]:
    return _located(model, steps)[0]


def _located(model: type[Table], steps: Sequence[str | int]) -> tuple[type[Table], tuple[str | int, ...]]:
    """Follow pydantic's steps to the table there; give them without the types of tables, which are no keys."""
    kept: list[str | int] = []
    kinds: Mapping[str | int, type[Table]] = {}
    for step in steps:
        if step in kinds:
            model, kinds = kinds[step], {}
            continue
        kept.append(step)
        if isinstance(step, str) and step in model.file_keys():
            found = list(tables_in(model.file_keys()[step].annotation))
            kinds = {each.model_fields["type"].default: each for each in found} if len(found) > 1 else {}
            model = found[0] if found else model
    return model, tuple(kept)


def tables_in(annotation: object) -> Iterator[type[Table]]:
    """Give the tables that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from tables_in(inner)


def _example(model: type[Table], key: str) -> str:
    found = model.file_keys().get(key)
    examples = found.examples if found else None
    return toml_value(examples[0]) if examples else "..."


def toml_value(value: object) -> str:
    """The value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return value.isoformat() if isinstance(value, date) else str(value)
