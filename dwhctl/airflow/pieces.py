"""What an import is made of: the pieces that will stand in the configuration, and what could not be mapped."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dwhctl.core.secrets import is_reference, is_sensitive
from dwhctl.core.words import looks_secret
from dwhctl.project.checks import slug


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


_WRAPPER = {"value", "description"}
_TOML_INT = 2**63
_LONG_ENOUGH = 6
HALF_A_CHARACTER = "holds half a character (a lone surrogate); correct it in the file"
#: `token: 123` and `token = "123"` in what is neither JSON nor Python: YAML, INI, JSON that ends too early.
_ASSIGNED = re.compile(
    r"""(?<![\w.-])([\w.-]{1,64})\\?["']?\s{0,9}[:=](?=>?\s{0,99}(?!(?:null|none|true|false)\b)\\?["']?[^\s"'\\,;})\]])""",
    re.IGNORECASE,
)


def convert_variable(name: str, value: Any, known: Collection[str]) -> Piece:
    """The variable as a value of TOML; `known` are secrets that stand elsewhere and may stand here again."""
    piece = Piece("variable", name, name)
    if isinstance(value, Mapping) and "value" in value and value.keys() <= _WRAPPER:
        piece.comment, value = str(value.get("description") or ""), value["value"]
    finder = _Finder(known)
    try:
        _check_text(name, value)
        found = finder.hide(slug(name), value, sensitive=is_sensitive(name))
        fits = _fits(found)
    except ValueError as error:
        piece.note(str(error))
        return piece
    except RecursionError:
        piece.note("is nested too deeply; make it flatter in the file")
        return piece
    if fits:
        piece.value = found
        return piece
    text = json.dumps(value, ensure_ascii=False)
    secret = any(True for _ in hidden_in(found))
    piece.value = Hidden(text, slug(name)) if secret else text
    piece.note(
        "holds what TOML cannot (null, or a table that reads as a reference): stands as its JSON text, for var.json"
    )
    return piece


def _check_text(name: str, value: Any) -> None:
    if value is None:
        raise ValueError("is null, which TOML has not; drop it, or give it a value in the file")
    try:
        f"{name}{json.dumps(value, ensure_ascii=False)}".encode()
    except UnicodeEncodeError:
        raise ValueError(HALF_A_CHARACTER) from None


class _Finder:
    """Finds secrets in a tree of values."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = {each for each in known if len(each) >= _LONG_ENOUGH}

    def hide(self, hint: str, value: Any, *, sensitive: bool) -> Any:
        """The tree with its secrets Hidden."""
        if isinstance(value, Mapping):
            return {
                key: self.hide(f"{hint}_{slug(key)}", each, sensitive=sensitive or is_sensitive(key))
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [
                self.hide(f"{hint}_{place}", each, sensitive=sensitive) for place, each in enumerate(value)
            ]
        if isinstance(value, str):
            return Hidden(value, hint) if value and (sensitive or self._is_secret(value)) else value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # A number stays one for var.json, so the whole variable is told to be a text.
        return _HiddenNumber(json.dumps(value), hint) if sensitive and number else value

    def _is_secret(self, text: str) -> bool:
        if looks_secret(text) or any(each in text for each in self._known):
            return True
        inside = _inside(text)
        if inside is None:
            return any(is_sensitive(found[1]) for found in _ASSIGNED.finditer(text))
        try:
            return any(True for _ in hidden_in(self.hide("", inside, sensitive=False)))
        except RecursionError:  # too deep to be searched, so it may hold one
            return True


class _HiddenNumber(Hidden):
    """A secret that is a number."""

    __slots__ = ()


def _inside(text: str) -> Any:
    """What a text of JSON or of Python holds, when that is more than a word.

    `variables set --json` of Airflow 3 writes JSON in JSON; `Variable.set("x", {...})` of 1.10 writes Python's repr.
    """
    if not text.lstrip().startswith(("{", "[", '"', "(")):
        return None
    found = _as_json(_read_literal(text))
    return found if isinstance(found, dict | list) or (isinstance(found, str) and found != text) else None


def _read_literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an escape like \d, which would show a part of the text
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _as_json(value: Any) -> Any:
    """Return Python's literal in the types of JSON."""
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(each) for each in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _fits(value: Any, *, top: bool = True) -> bool:
    """Whether TOML holds this, and dwhctl reads it as the same."""
    if isinstance(value, Mapping):
        read_as_secret = is_reference(dict(value))
        return not read_as_secret and all(_fits(each, top=False) for each in value.values())
    if isinstance(value, list):
        return all(_fits(each, top=False) for each in value)
    if isinstance(value, _HiddenNumber):
        return top
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -_TOML_INT <= value < _TOML_INT
    return value is not None
