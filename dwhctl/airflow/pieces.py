"""The parts of an import: what will be in the configuration, and the mapping of variables."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dwhctl.core.secrets import is_reference, is_sensitive
from dwhctl.core.words import looks_secret
from dwhctl.project.checks import slug
from dwhctl.project.fields import leaves


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret that will not be in the configuration. Its reference is named after `hint`."""

    text: str = field(repr=False)
    hint: str
    is_number: bool = False


@dataclass(slots=True)
class Piece:
    """A connection, variable or alert, in values of TOML; secrets in it are Hidden.

    A piece without a `value` is left out, and its notes say why. An `incomplete` one is written as a comment, to be
    completed. `result` says what became of it.
    """

    kind: str  # connection | variable | alert
    origin: str  # its name in Airflow
    name: str
    value: Any = None
    notes: list[str] = field(default_factory=list)
    comment: str = ""
    incomplete: bool = False
    guessed: tuple[str, ...] = ()  # keys that Airflow does not have; an existing value wins
    result: str = ""

    @property
    def table(self) -> str:
        """The table of the configuration for this kind."""
        return f"{self.kind}s"

    def note(self, what: str) -> None:
        self.notes.append(what)


def hidden_in(value: object) -> list[Hidden]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Hidden)]


_TOML_INT = 2**63
_LONG_ENOUGH = 6
HALF_A_CHARACTER = "contains half a character (a lone surrogate); correct it in the file"
#: `token: 123` and `token = "123"` in a text that is neither JSON nor Python: YAML, INI, truncated JSON.
_ASSIGNED = re.compile(
    r"""(?<![\w.-])([\w.-]{1,64})\\?["']?\s{0,9}[:=](?=>?\s{0,99}(?!(?:null|none|true|false)\b)\\?["']?[^\s"'\\,;})\]])""",
    re.IGNORECASE,
)


def convert_variable(name: str, value: Any, known: Collection[str]) -> Piece:
    """Return the variable as a value of TOML; `known` are secrets of other entries, which it may contain."""
    piece = Piece("variable", name, name)
    if isinstance(value, Mapping) and "value" in value and value.keys() <= {"value", "description"}:
        piece.comment, value = str(value.get("description") or ""), value["value"]
    long_enough = {secret for secret in known if len(secret) >= _LONG_ENOUGH}
    try:
        _check_text(name, value)
        found = _hide(value, slug(name), long_enough, sensitive=is_sensitive(name))
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
    piece.value = Hidden(text, slug(name)) if hidden_in(found) else text
    piece.note(
        "contains what TOML cannot (null, or a table that reads as a reference): is written as JSON text, for var.json"
    )
    return piece


def _check_text(name: str, value: Any) -> None:
    if value is None:
        raise ValueError("is null, which TOML does not have; drop it, or give it a value in the file")
    try:
        f"{name}{json.dumps(value, ensure_ascii=False)}".encode()
    except UnicodeEncodeError:
        raise ValueError(HALF_A_CHARACTER) from None


def _hide(value: Any, hint: str, known: Collection[str], *, sensitive: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _hide(inner, f"{hint}_{slug(key)}", known, sensitive=sensitive or is_sensitive(key))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _hide(item, f"{hint}_{place}", known, sensitive=sensitive) for place, item in enumerate(value)
        ]
    if isinstance(value, str):
        return Hidden(value, hint) if value and (sensitive or _is_secret(value, known)) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # var.json must return a number, so a variable with such a secret becomes one text of JSON.
    return Hidden(json.dumps(value), hint, is_number=True) if sensitive and is_number else value


def _is_secret(text: str, known: Collection[str]) -> bool:
    if looks_secret(text) or any(secret in text for secret in known):
        return True
    inside = _inside(text)
    if inside is None:
        return any(is_sensitive(found[1]) for found in _ASSIGNED.finditer(text))
    try:
        return bool(hidden_in(_hide(inside, "", known, sensitive=False)))
    except RecursionError:  # too deep to be searched, so it may contain a secret
        return True


def _inside(text: str) -> Any:
    """Return the value of a text of JSON or Python, if it is more than a word.

    `variables set --json` of Airflow 3 writes JSON in JSON; `Variable.set("x", {...})` of 1.10 writes Python's repr.
    """
    if not text.lstrip().startswith(("{", "[", '"', "(")):
        return None
    found = _as_json(_read_literal(text))
    return found if isinstance(found, dict | list) or (isinstance(found, str) and found != text) else None


def _read_literal(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an escape like \d, which would show a part of the text
        return ast.literal_eval(text.strip())
    return None


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(inner) for inner in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _fits(value: Any, *, top: bool = True) -> bool:
    """Return whether TOML has this value, and dwhctl reads it as the same."""
    if isinstance(value, Mapping):
        read_as_secret = is_reference(dict(value))
        return not read_as_secret and all(_fits(inner, top=False) for inner in value.values())
    if isinstance(value, list):
        return all(_fits(inner, top=False) for inner in value)
    if isinstance(value, Hidden):
        return top or not value.is_number
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -_TOML_INT <= value < _TOML_INT
    return value is not None
