"""The input of the configuration: TOML files, the environment and default values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from msgspec import Struct, field

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.core.words import did_you_mean, nearest
from dwhctl.project.connections import SYSTEMS, usable_systems
from dwhctl.project.fields import Table
from dwhctl.project.loads import Load, Report
from dwhctl.project.problems import Place, Problems, line_of, source_text, types_in

_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEYS = re.compile(
    r"^(Cannot declare|Cannot mutate immutable namespace|Cannot redefine namespace|Duplicate inline table key)\b.*",
    re.DOTALL,
)
_DEEPEST = 50
_TOO_DEEP = "lists or tables are nested too deeply; write them as tables of their own"
_REMEDIES = {
    "Cannot declare": "the file has the table twice; keep one",
    "Cannot mutate": "a table in { } is complete; write its keys inside",
    "Cannot redefine": "the file has the table twice; keep one",
    "Duplicate inline table key": "the table has the key twice; keep one",
    "Invalid value": 'write a text in quotes: "text"; true and false are lower case',
    "Invalid date or datetime": "write an existing date as 2020-02-08",
    "Cannot overwrite a value": "the table has the key twice; keep one",
    "Expected '=' after a key in a key/value pair": "write key = value",
    "Unclosed array": "a ] is missing",
    "Unclosed inline table": "a } is missing",
    'Expected "\'"': "a closing ' is missing, here or above",
    "Illegal character '\\n'": "a closing quote is missing",
    "Expected newline": 'write one key = value a line, and \\" for a quote within a text',
}


def read_toml(path: Path, problems: Problems) -> dict[str, Any] | None:
    """Return the file's tables, or None with the problem added."""
    place = line_of(path, problems.root, None)
    try:
        text = problems.texts[place.file] = source_text(path, problems.root)
        tables = tomllib.loads(text)
    except ConfigError as error:
        problems.lines.append(str(error))
    except tomllib.TOMLDecodeError as error:
        problems.add(place, _translated(str(error), text))
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
    """Return whether lists and tables are nested too deeply for a recursive reader. Dotted keys nest too."""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        trees = [tree for tree in level if isinstance(tree, dict | list)]
        level = [value for tree in trees for value in (tree.values() if isinstance(tree, dict) else tree)]
        if not level:
            return False
    return True


def _translated(message: str, text: str) -> str:
    # The line and its key are not shown: they may contain a password.
    found = _POSITION.search(message)
    what = _KEYS.sub(r"\1", _POSITION.sub("", message))
    line, column = (found[1], found[2]) if found and found[1] else (str(text.count("\n") + 1), None)
    at = f"line {line}, column {column}" if column else f"line {line} (the file's end)"
    remedies = (remedy for start, remedy in _REMEDIES.items() if what.startswith(start))
    remedy = next(remedies, "correct the TOML there")
    return f"{at}: {what}; {remedy}"


CONNECTION_PREFIX = "DWHCTL_CONN_"
VARIABLE_PREFIX = "DWHCTL_VAR_"
URL_FORMS = (
    "vertica://user:password@host:5433/database?tlsmode=require, mssql://..., postgres://..., https://..., "
    "duckdb:path, sqlite:path"
)
_ENCODE = "percent-encode ':', '/', '?', '#' and '@' of a password"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class FromEnvironment(Struct, frozen=True):
    """A value of the environment: its variable, the name that it is for, and its text."""

    variable: str
    name: str
    text: str


def named_values(prefix: str, environ: Mapping[str, str]) -> list[FromEnvironment]:
    """Return the values of the variables with the prefix; names in lower case."""
    return [
        FromEnvironment(variable, variable.removeprefix(prefix).lower(), text)
        for variable, text in sorted(environ.items())
        if variable.startswith(prefix) and variable != prefix
    ]


def table_of_url(url: str) -> dict[str, Any]:
    """Return the URL as a table of the file. Raise ValueError, which never shows the URL."""
    kind = _kind(url)
    rest = url.partition(":")[2]
    address, _, query = rest.partition("?")
    model = SYSTEMS[kind].connection
    table: dict[str, Any] = {"type": kind}
    if "base_url" in model.file_keys():
        table.update(_of_api(url.partition("?")[0]))
    elif "path" in model.file_keys():
        table["path"] = unquote(address.removeprefix("//"))
    else:
        table.update(_address(address))
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in model.file_keys():  # the key may be the end of a password
            hint = nearest(key, model.file_keys())
            raise ValueError(f"the URL has an unknown key after its '?'; {hint}; {_ENCODE}")
        table[key] = _typed(model, key, value)
    return table


def _kind(url: str) -> str:
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if scheme in SYSTEMS:
        return scheme
    schemes = {scheme: kind for kind, system in usable_systems() for scheme in (kind, *system.schemes)}
    if scheme in schemes:
        return schemes[scheme]
    # The text is not shown: it may be a password in the wrong variable.
    hint = did_you_mean(scheme, schemes)
    raise ValueError(f"is not a URL of a connection; {hint}{' ' if hint else ''}write {URL_FORMS}")


def _of_api(url: str) -> dict[str, Any]:
    scheme, _, address = url.partition(":")
    login, at, rest = address.removeprefix("//").rpartition("@")
    if "/" in login:
        raise ValueError(f"the URL has an '@' after its server; {_ENCODE}")
    table: dict[str, Any] = {"base_url": f"{scheme}://{rest}"}
    if at:
        user, _, password = login.partition(":")
        secret = Secret(unquote(password), kind="environment")
        table["auth"] = {"type": "http_basic", "username": unquote(user), "password": secret}
    return table


def _address(address: str) -> dict[str, Any]:
    if not address.startswith("//"):
        raise ValueError(f"is not a URL of a server; write {URL_FORMS}")
    netloc, _, database = address.removeprefix("//").partition("/")
    if "@" in database:
        raise ValueError(f"the URL has an '@' after its server; {_ENCODE}")
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
    hosts = [unquote(host) for host in text.split(",") if host]
    if len(hosts) > 1:
        return {"hosts": hosts}
    if not hosts:
        return {}
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", hosts[0])
    if not match:
        raise ValueError("write an IPv6 address in a URL in brackets: [::1]:5432")
    host, port = match[1].strip("[]"), match[2]
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"the port in the URL is not a number; {_ENCODE}")
    return {"host": host, **({"port": int(port)} if port else {})}


def _typed(model: type[Table], key: str, text: str) -> Any:
    """Return a value of the query in the type of its key; the model refuses a text that does not fit."""
    kinds = types_in(model.file_keys()[key].annotation)
    if Secret in kinds:
        return Secret(text, kind="environment")
    if bool in kinds:
        return _TRUTH.get(text.lower(), text)
    if int in kinds and text.isascii() and text.isdigit():
        return int(text)
    return text.split(",") if tuple in kinds else text


class Defaults(Struct, frozen=True):
    """The values of a table of defaults, and its place."""

    place: Place
    values: Mapping[str, Any] = field(default_factory=dict)

    def under(self, table: object, place: Place) -> tuple[object, Place]:
        """Return the table with defaults for its missing keys, and its place, which knows their origin."""
        if not isinstance(table, dict):
            return table, place
        inherited = frozenset(self.values) - frozenset(table)
        return {**self.values, **table}, replace(place, inherited=inherited, origin=self.place)


def read_defaults(
    model: type[Load | Report], main: Mapping[str, Any], place: Place, problems: Problems
) -> Defaults:
    """Return the defaults of loads or reports; add the problems of their keys and values."""
    home = "config/loads/NAME.toml" if model is Load else "[reports.NAME] in config/reports.toml"
    values = problems.table(main.get(place.key, {}), place)
    shared = {}
    for key, value in values.items():
        if key in model.shared_keys():
            shared[key] = value
        elif key in model.own_keys:
            problems.add(place.at(key), f"cannot have a default: move it to {home}")
        else:
            problems.add(place.at(key), f"unknown key; {nearest(key, model.shared_keys())}")
    problems.check_part(model, shared, place, {"name": ""}, partial=True)
    return Defaults(place, shared)
