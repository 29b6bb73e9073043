"""Reading the project's files as text and TOML."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from dwhctl.core.files import read_text
from dwhctl.core.secrets import Secret
from dwhctl.core.words import did_you_mean, nearest, shown_path
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.fields import Table
from dwhctl.project.loads import Load, Report
from dwhctl.project.problems import Place, Problems

_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEYS = re.compile(
    r"^(Cannot declare|Cannot mutate immutable namespace|Cannot redefine namespace|Duplicate inline table key)\b.*",
    re.DOTALL,
)
_DEEPEST = 50
_TOO_DEEP = "lists or tables stand too deep in each other; write them as tables of their own"
_REMEDIES = {
    "Cannot declare": "the table stands twice in the file; keep one",
    "Cannot mutate": "a table in { } is whole; write its keys within it",
    "Cannot redefine": "the table stands twice in the file; keep one",
    "Duplicate inline table key": "the key stands twice in its table; keep one",
    "Invalid value": 'a text stands in quotes: "text"; true and false are lower case',
    "Invalid date or datetime": "write an existing date as 2020-02-08",
    "Cannot overwrite a value": "the key stands twice in its table; keep one",
    "Expected '=' after a key in a key/value pair": "write key = value",
    "Unclosed array": "a ] is missing",
    "Unclosed inline table": "a } is missing",
    'Expected "\'"': "a closing ' is missing in it or above",
    "Illegal character '\\n'": "a closing quote is missing",
    "Expected newline": 'one key = value a line; quotes within a text are written \\"',
}


def read_toml(path: Path, problems: Problems) -> dict[str, Any] | None:
    """The file's tables, or None with the problem noted."""
    place = Place(shown_path(path, problems.root))
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError:
        problems.add(place, "the file is missing; create it, or make a new project with: dwhctl init")
    except OSError as error:
        problems.add(
            place, f"the file cannot be read ({error.strerror}); give the user that runs dwhctl access"
        )
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.add(place, f"line {line}: not UTF-8; save the file in the encoding UTF-8")
    else:
        problems.texts[place.file] = text
        return _parsed(text, place, problems)
    return None


def _parsed(text: str, place: Place, problems: Problems) -> dict[str, Any] | None:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.add(place, _words(str(error), text))
    except RecursionError:
        problems.add(place, _TOO_DEEP)
    except ValueError:  # Python reads no number of more than 4,300 digits
        problems.add(place, "a number has too many digits; correct it")
    else:
        if not _is_too_deep(tables):
            return tables
        problems.add(place, _TOO_DEEP)
    return None


def _is_too_deep(tables: dict[str, Any]) -> bool:
    """Tell whether lists and tables are nested deeper than what reads them can go. (Dotted keys nest too.)"""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        inner = [
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        ]
        level = [value for values in inner for value in values]
        if not level:
            return False
    return True


def _words(message: str, text: str) -> str:
    # Neither the line nor a key of it is shown: they may hold a password.
    found = _POSITION.search(message)
    what = _KEYS.sub(r"\1", _POSITION.sub("", message))
    line, column = (found[1], found[2]) if found and found[1] else (str(text.count("\n") + 1), None)
    at = f"line {line}, column {column}" if column else f"line {line} (the file's end)"
    remedy = next(
        (words for start, words in _REMEDIES.items() if what.startswith(start)), "correct the TOML there"
    )
    return f"{at}: {what}; {remedy}"


CONNECTION_PREFIX = "DWHCTL_CONN_"
VARIABLE_PREFIX = "DWHCTL_VAR_"
URL_FORMS = (
    "vertica://user:password@host:5433/database?tlsmode=require, mssql://..., postgres://..., "
    "duckdb:path, sqlite:path"
)
_ENCODE = "percent-encode ':', '/', '?', '#' and '@' of a password"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A named value of the environment and the variable that it stands in."""

    variable: str
    name: str
    text: str


def named_values(prefix: str, environ: Mapping[str, str]) -> list[FromEnvironment]:
    """The values whose variables begin with the prefix; names in lower case."""
    return [
        FromEnvironment(variable, variable.removeprefix(prefix).lower(), text)
        for variable, text in sorted(environ.items())
        if variable.startswith(prefix) and variable != prefix
    ]


def table_of_url(url: str) -> dict[str, Any]:
    """The URL as the table that would stand in the file; ValueError, which never shows the URL."""
    kind = _kind(url)
    rest = url.partition(":")[2]
    address, _, query = rest.partition("?")
    model = SYSTEMS[kind].connection
    table: dict[str, Any] = {"type": kind}
    if "path" in model.file_keys():
        table["path"] = unquote(address.removeprefix("//"))
    else:
        table.update(_address(address))
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in model.file_keys():  # it may be the end of a password
            hint = nearest(key, model.file_keys())
            raise ValueError(f"the URL has an unknown key behind its '?'; {hint}; {_ENCODE}")
        table[key] = _typed(model, key, value)
    return table


def _kind(url: str) -> str:
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if scheme in SYSTEMS:
        return scheme
    schemes = {scheme: kind for kind, system in SYSTEMS.items() for scheme in (kind, *system.schemes)}
    if scheme in schemes:
        return schemes[scheme]
    # Only what resembles a kind is shown: the text may be a password put into the wrong variable.
    hint = did_you_mean(scheme, schemes)
    raise ValueError(f"is no URL of a connection; {hint}{' ' if hint else ''}write {URL_FORMS}")


def _address(address: str) -> dict[str, Any]:
    if not address.startswith("//"):
        raise ValueError(f"is no URL of a server; write {URL_FORMS}")
    netloc, _, database = address.removeprefix("//").partition("/")
    if "@" in database:
        raise ValueError(f"the URL has an '@' behind its server; {_ENCODE}")
    login, _, hosts = netloc.rpartition("@")
    user, colon, password = login.partition(":")
    table: dict[str, Any] = _hosts(hosts)
    if user:
        table["user"] = unquote(user)
    if colon:
        table["password"] = Secret(unquote(password), kind="environment")
    if database:
        table["database"] = unquote(database)
    return table


def _hosts(text: str) -> dict[str, Any]:
    hosts = [unquote(each) for each in text.split(",") if each]
    if len(hosts) > 1:
        return {"hosts": hosts}
    if not hosts:
        return {}
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", hosts[0])
    if not match:
        raise ValueError("an IPv6 address in a URL stands in brackets: [::1]:5432")
    host, port = match[1].strip("[]"), match[2]
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"the port in the URL is no number; {_ENCODE}")
    return {"host": host, **({"port": int(port)} if port else {})}


def _typed(model: type[Table], key: str, text: str) -> Any:
    """A value of the query as its key wants it; a text that does not fit is the model's to refuse."""
    field = model.file_keys().get(key)
    kinds = _kinds(field.annotation) if field else set()
    if Secret in kinds:
        return Secret(text, kind="environment")
    if bool in kinds:
        return _TRUTH.get(text.lower(), text)
    if int in kinds and text.isascii() and text.isdigit():
        return int(text)
    return text.split(",") if tuple in kinds else text


def _kinds(annotation: object) -> set[object]:
    found = {annotation, typing.get_origin(annotation)}
    return found.union(*(_kinds(each) for each in typing.get_args(annotation)))


@dataclass(frozen=True, slots=True)
class Defaults:
    """The values of one table of defaults, and its place."""

    place: Place
    values: Mapping[str, Any] = field(default_factory=dict)

    def under(self, table: object, place: Place) -> tuple[object, Place]:
        """Return the table with the defaults for the keys that it lacks, and the place that knows their origin."""
        if not isinstance(table, dict):
            return table, place
        inherited = frozenset(self.values) - frozenset(table)
        return {**self.values, **table}, replace(place, inherited=inherited, origin=self.place)


def read_defaults(
    model: type[Load | Report], main: Mapping[str, Any], place: Place, problems: Problems
) -> Defaults:
    """Return the defaults of a kind of work; note unknown keys, keys that each one has for itself, and wrong values."""
    home = "config/loads/NAME.toml" if model is Load else "[reports.NAME] in config/reports.toml"
    values = problems.table(main.get(place.key, {}), place)
    shared = {}
    for key, value in values.items():
        if key in model.shared_keys():
            shared[key] = value
        elif key in model.own_keys:
            problems.add(place.at(key), f"cannot be shared: move it to {home}")
        else:
            problems.add(place.at(key), f"unknown key; {nearest(key, model.shared_keys())}")
    problems.check_part(model, shared, place, name="")
    return Defaults(place, shared)
