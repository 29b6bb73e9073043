"""Problems of the configuration as messages: file, key, what is wrong, remedy."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import read_text
from dwhctl.core.words import did_you_mean, may_show, nearest, shown_key, shown_path, shown_value
from dwhctl.project.fields import Table

Model = TypeVar("Model", bound=Table)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value: a file (or the environment) and the key in it.

    A part of the key that must not be shown is replaced by its length; `hidden` is the last such part. The place of
    the keys `inherited` is below `origin`: a load has them from its defaults.
    """

    file: str
    key: str = ""
    hidden: str = field(default="", repr=False)
    inherited: frozenset[str] = field(default=frozenset(), repr=False)
    origin: Place | None = field(default=None, repr=False)

    def at(self, *steps: str | int) -> Place:
        """Return the place of a key or item below this one."""
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

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self}: {what}")

    def __str__(self) -> str:
        return f"{self.file}: {self.key}" if self.key else self.file


MAIN = Place("config/dwhctl.toml")
REPORTS = Place("config/reports.toml")


def line_of(path: Path, root: Path, line: int | None) -> Place:
    """Return the place of a line of a file."""
    return Place(shown_path(path, root), f"line {line}" if line else "")


def source_text(path: Path, root: Path) -> str:
    """Return the text of a file of the project. Raise ConfigError."""
    try:
        return read_text(path, "utf-8-sig")
    except FileNotFoundError:
        place = line_of(path, root, None)
        hint = ", or make a new project with: dwhctl init" if place == MAIN else ""
        raise place.error(f"the file is missing; create it{hint}") from None
    except UnicodeDecodeError as error:
        place = line_of(path, root, error.object.count(b"\n", 0, error.start) + 1)
        raise place.error("not UTF-8; save the file in the encoding UTF-8") from None
    except OSError as error:
        remedy = "give the user that runs dwhctl access"
        text = f"the file cannot be read ({error.strerror}); {remedy}"
        raise line_of(path, root, None).error(text) from None


@dataclass
class Problems:
    """All problems found so far, in the order found."""

    root: Path
    lines: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict, repr=False)  # of the files that were read

    def add(self, place: Place, what: str) -> None:
        """Add a problem, once."""
        line = f"{place}{self._line_of(place)}: {what}"
        if line not in self.lines:
            self.lines.append(line)

    def _line_of(self, place: Place) -> str:
        """Return the line of a key that is not shown, if only one line contains it."""
        lines = enumerate(self.texts.get(place.file, "").split("\n"), 1)
        found = [number for number, text in lines if place.hidden and place.hidden in text]
        return f" (line {found[0]})" if len(found) == 1 else ""

    def raise_any(self) -> None:
        """Raise ConfigError with all problems, if there are any."""
        if self.lines:
            raise ConfigError("\n".join(self.lines))

    def table(self, value: object, place: Place) -> dict[str, Any]:
        """Return the value if it is a table, else an empty one with the problem added."""
        if isinstance(value, dict):
            return value
        remedy = f"write it as [{place.key}] with keys below"
        self.add(place, f"expected a table, got {shown_value(value)}; {remedy}")
        return {}

    def validated(self, model: type[Model], table: object, place: Place, **given: object) -> Model | None:
        """Return the table as a model, or None with its problems added."""
        values = dict(self.table(table, place))
        before = len(self.lines)
        for name in values.keys() & given.keys():
            self.add(place.at(name), f"unknown key: the {name} follows from the file or table; drop '{name}'")
            del values[name]
        checked = self.check_part(model, values, place, given)
        return checked if len(self.lines) == before else None

    def check_part(
        self,
        model: type[Model],
        values: Mapping[str, Any],
        place: Place,
        given: Mapping[str, object],
        *,
        partial: bool = False,
    ) -> Model | None:
        """Add the problems of a model's keys; of a `partial` table only those of the keys that it has."""
        try:
            # by_name would accept a model's own name of an aliased key, which is unknown in the file.
            return model.model_validate(
                {**values, **given}, context={"root": self.root}, by_alias=True, by_name=False
            )
        except ValidationError as error:
            for details in error.errors():
                steps = details["loc"]
                if partial and not (steps and steps[0] in values):
                    continue
                what = _described(model, details)
                if not steps:  # the message of a model's own check begins with the key
                    key, _, what = what.partition(": ")
                    steps = (key,)
                steps = _located(model, steps)[1]
                self.add(place.at(*steps, *(["type"] if details["type"] in _TAGS else [])), what)
            return None


def one_of(value: object, allowed: Collection[str]) -> str:
    """Return the problem of a value that is not one of the allowed ones."""
    hint = did_you_mean(value, allowed) if isinstance(value, str) else "write it in quotes"
    choices = ", ".join(f'"{choice}"' for choice in allowed)
    return f"expected one of {choices}; got {shown_value(value)}" + (f"; {hint}" if hint else "")


def _described(model: type[Table], error: ErrorDetails) -> str:
    name = str(error["loc"][-1]) if error["loc"] else ""
    table, _ = _located(model, error["loc"][:-1])
    value, context = error["input"], error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return f"unknown key; {nearest(name, table.file_keys())}"
    if error["type"] == "missing":
        return f"is missing; add {name} = {_example(table, name)}"
    if error["type"] == "literal_error":
        return one_of(value, re.findall(r"'([^']*)'", context["expected"]))
    if error["type"] == "union_tag_invalid":
        return one_of(context["tag"], re.findall(r"'([^']*)'", context["expected_tags"]))
    words = _WORDS.get(error["type"])
    if words is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    is_number = isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip())
    number = f"write {value} without quotes" if is_number and may_show(value) else _DIGITS
    return words.format(shown=shown_value(value), number=number, **context)


_DIGITS = "write it in digits, without quotes"
_NO_TABLE = 'expected a table, got {shown}; write it as {{ name = "value" }}'
#: The errors of a table whose `type` is missing or unknown.
_TAGS = ("union_tag_not_found", "union_tag_invalid")
_WORDS = {
    "union_tag_not_found": 'is missing; add type = "..." (`dwhctl docs reference` lists them)',
    "string_type": "expected a text, got {shown}; put it in quotes",
    "int_type": "expected a whole number, got {shown}; {number}",
    "int_from_float": "expected a whole number, got {shown}; {number}",
    "float_type": "expected a number, got {shown}; {number}",
    "bool_type": "expected true or false, got {shown}; write it without quotes",
    "tuple_type": "expected a list, got {shown}; put it in [ ]",
    "dict_type": _NO_TABLE,
    "model_type": _NO_TABLE,
    "model_attributes_type": _NO_TABLE,
    "greater_than_equal": "{shown} is out of range; the value must be at least {ge}",
    "less_than_equal": "{shown} is out of range; the value must be at most {le}",
    "finite_number": "{shown} is not finite; write a number",
    "string_too_short": "is empty; write a value or drop the key",
    "too_short": "is empty; write at least one value",
    "value_error": "{error}",
}


def _located(model: type[Table], steps: Sequence[str | int]) -> tuple[type[Table], tuple[str | int, ...]]:
    """Return the table at pydantic's steps, and the steps without the types of tables, which are not keys."""
    kept: list[str | int] = []
    kinds: Mapping[str | int, type[Table]] = {}
    for step in steps:
        if step in kinds:
            model, kinds = kinds[step], {}
            continue
        kept.append(step)
        if isinstance(step, str) and step in model.file_keys():
            found = tables_in(model.file_keys()[step].annotation)
            kinds = {table.model_fields["type"].default: table for table in found} if len(found) > 1 else {}
            model = found[0] if found else model
    return model, tuple(kept)


def types_in(annotation: object) -> set[Any]:
    """Return a type and all types that it is made of: those of a union, a list or Annotated."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    inner = arguments[:1] if origin is typing.Annotated else arguments
    return {annotation, origin}.union(*map(types_in, inner))


def tables_in(annotation: object) -> list[type[Table]]:
    """Return the tables that a type is made of, in their order."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return [annotation]
    return [table for inner in typing.get_args(annotation) for table in tables_in(inner)]


def _example(model: type[Table], key: str) -> str:
    found = model.file_keys().get(key)
    examples = found.examples if found else None
    return toml_value(examples[0]) if examples else "..."


def toml_value(value: object) -> str:
    """Return the value as TOML, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        # The escapes of JSON are TOML's, but for DEL.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{ {', '.join(toml_line(key, inner) for key, inner in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return value.isoformat() if isinstance(value, date) else str(value)


def toml_line(key: str, value: object) -> str:
    """Return a key and its value as TOML."""
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", key)
    return f"{key if bare else toml_value(key)} = {toml_value(value)}"
