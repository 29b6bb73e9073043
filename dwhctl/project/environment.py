"""Connections and variables from the environment: DWHCTL_CONN_<NAME> and DWHCTL_VAR_<NAME>."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from .connections import CONNECTION_TYPES
from .fields import Table
from .secrets import Secret
from .words import did_you_mean, nearest

CONNECTION_PREFIX = "DWHCTL_CONN_"
VARIABLE_PREFIX = "DWHCTL_VAR_"
URL_FORMS = (
    "vertica://user:password@host:5433/database?tlsmode=require, mssql://..., postgres://..., "
    "duckdb:path, sqlite:path"
)
_ENCODE = "percent-encode ':', '/', '?', '#' and '@' of a password"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SCHEMES = {**{name: name for name in CONNECTION_TYPES}, "postgresql": "postgres"}
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
    model = CONNECTION_TYPES[kind]
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
    if scheme in _SCHEMES:
        return _SCHEMES[scheme]
    # Only what resembles a kind is shown: the text may be a password put into the wrong variable.
    hint = did_you_mean(scheme, _SCHEMES)
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
