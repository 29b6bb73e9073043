"""Reading the files that Airflow exports: connections or variables, recognised by their content.

The forms are those of `airflow connections export` and `airflow variables export` (JSON; a connection's `extra` is a
JSON text or an object, a variable may have a description), and of the files that Airflow's local secrets backend
reads, where a connection may be a URI and an entry a line KEY=VALUE. Source:
https://airflow.apache.org/docs/apache-airflow/stable/security/secrets/secrets-backend/local-filesystem-secrets-backend.html
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from dwhctl.core.errors import UsageError
from dwhctl.core.files import read_text
from dwhctl.core.words import quoted, shown_text

# Without a scheme it is a connection without a type.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*|)://(.*)", re.DOTALL)
_ENV_LINE = re.compile(r"(?:export\s+)?([\w.-]+)=(.*)")
_CONNECTION, _VARIABLE = "AIRFLOW_CONN_", "AIRFLOW_VAR_"
_HOW = (
    "write one with: airflow connections export FILE --file-format json, or airflow variables export FILE"
    " (Airflow 1.10: dwhctl docs airflow-1-10)"
)
_NEITHER = "is neither an object with conn_type nor a URI"
#: Airflow's synonyms of types: https://github.com/apache/airflow, models/connection.py, `_normalize_conn_type`.
_TYPES = {"postgresql": "postgres", "none": ""}


@dataclass(frozen=True, slots=True)
class AirflowConnection:
    """A connection of Airflow."""

    name: str
    type: str
    host: str = ""
    port: str = ""
    schema: str = ""
    login: str = ""
    password: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    description: str = ""
    problem: str = ""

    def is_text(self) -> bool:
        """Return whether every value can be written as UTF-8."""
        values = [getattr(self, key) for key in self.__slots__]
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return False
        return True


@dataclass(slots=True)
class Export:
    """The content of the files."""

    connections: dict[str, AirflowConnection] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)


def read_exports(paths: list[Path]) -> Export:
    """Return the content of all files. Raise UsageError, which never shows it."""
    found = Export()
    for path in paths:
        try:
            export = _read(path)
            twice = [
                *(export.connections.keys() & found.connections),
                *(export.variables.keys() & found.variables),
            ]
            if twice:
                raise ValueError(f"{quoted(min(twice))} is in an earlier file already; give only one of them")
        except ValueError as error:
            raise UsageError(f"{shown_text(str(path))}: {error}") from None
        found.connections |= export.connections
        found.variables |= export.variables
    return found


def _read(path: Path) -> Export:
    try:
        text = read_text(path, "utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); choose a file that Airflow exported") from None
    except UnicodeDecodeError:
        raise ValueError(f"is not UTF-8 text; {_HOW}") from None
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = _env_lines(text)
        if lines is None:
            raise ValueError(_not_json(path, text, error)) from None
        return _from_env(lines)
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"contains no connections or variables with names; {_HOW}")
    return _from_entries(entries)


def _not_json(path: Path, text: str, error: Exception) -> str:
    if path.suffix in {".yaml", ".yml"} or re.match(r"\s*(#.*\n\s*)*[\w.-]+:\s", text):
        return "is YAML, which dwhctl does not read; export it as JSON: --file-format json"
    line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
    return f"is not JSON ({line}); {_HOW}"


def _env_lines(text: str) -> dict[str, str] | None:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [_ENV_LINE.fullmatch(line) for line in lines]
    return {match[1]: match[2].strip() for match in matches if match} if lines and all(matches) else None


def _from_env(lines: Mapping[str, str]) -> Export:
    found = Export()
    rest = {}
    for key, text in lines.items():
        value = _decoded(text)
        if key.startswith(_CONNECTION):
            name = key.removeprefix(_CONNECTION).lower()
            found.connections[name] = as_connection(name, value)
        elif key.startswith(_VARIABLE):
            found.variables[key.removeprefix(_VARIABLE).lower()] = value
        else:
            rest[key] = value
    others = _from_entries(rest) if rest else Export()
    return Export(others.connections | found.connections, others.variables | found.variables)


def _decoded(text: str) -> Any:
    """Return the value of a line: an object or list of JSON, or the text."""
    with suppress(ValueError, RecursionError):
        return json.loads(text) if text.startswith(("{", "[")) else text
    return text


def _from_entries(entries: Mapping[str, Any]) -> Export:
    """Return connections if any has conn_type, or if all are URIs that are not all web pages; else variables."""
    values = [
        entry[0] if isinstance(entry, list) and len(entry) == 1 else entry for entry in entries.values()
    ]
    described = any(isinstance(value, dict) and "conn_type" in value for value in values)
    uris = [_URI.match(value) if isinstance(value, str) else None for value in values]
    pages = all(uri is None or uri[1].lower() in {"http", "https"} for uri in uris)
    if described or (all(uris) and not pages):
        named = zip(entries, values, strict=True)
        return Export(connections={name: as_connection(name, value) for name, value in named})
    return Export(variables=dict(entries))


def as_connection(name: str, value: object) -> AirflowConnection:
    """Return the connection of an entry: an object, or a URI alone or in an object."""
    text = value.get("uri") if isinstance(value, dict) else value
    if isinstance(text, str) and (uri := _URI.match(text)):
        return _from_uri(name, uri[1], uri[2])
    if not isinstance(value, dict) or not isinstance(value.get("conn_type"), str | None):
        return AirflowConnection(name, "", problem=_NEITHER)
    extra, problem = _extra(value.get("extra", value.get("extra_dejson")))
    if "conn_type" not in value:
        problem = problem or _NEITHER
    keys = ("host", "port", "schema", "login", "password", "description")
    texts = {key: _text(value.get(key)) for key in keys}
    texts["port"] = texts["port"].strip()
    return AirflowConnection(
        name, _type(_text(value.get("conn_type"))), extra=extra, problem=problem, **texts
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _type(text: str) -> str:
    lower = text.strip().lower().replace("-", "_")
    return _TYPES.get(lower, lower)


def _extra(value: object) -> tuple[dict[str, Any], str]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}, "its extra is not JSON: correct it in the file"
    if value is None or value == "":
        return {}, ""
    if not isinstance(value, dict):
        return {}, "its extra is not a JSON object: correct it in the file"
    # The forms of Airflow 1.10 and 2 wrote extra__vertica__tlsmode.
    return {re.sub(r"^extra__[a-z0-9_]+?__", "", key): inner for key, inner in value.items()}, ""


def _from_uri(name: str, scheme: str, rest: str) -> AirflowConnection:
    """Return the connection of a URI: https://airflow.apache.org/docs/apache-airflow/stable/howto/connection.html#uri-format."""
    address, _, query = rest.partition("?")
    login, _, server = address.rpartition("@")
    hosts, _, schema = server.partition("/")
    user, _, password = login.partition(":")
    host, port = re.fullmatch(r"(.*?)(?::(\d+))?", hosts, re.DOTALL).groups("")  # type: ignore[union-attr]
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    whole = pairs.pop("__extra__", None)
    extra, problem = _extra(pairs if whole is None else whole)
    return AirflowConnection(
        name,
        _type(scheme),
        host=unquote(host).strip("[]"),
        port=port,
        schema=unquote(schema),
        login=unquote(user),
        password=unquote(password),
        extra=extra,
        problem=problem,
    )


def is_example(given: AirflowConnection) -> bool:
    """Return whether the connection is one of Airflow's examples, unchanged."""
    uri = _examples().get(given.name)
    if uri is None or given.problem:
        return False
    example = as_connection(given.name, uri)
    if replace(given, extra={}, description="") != replace(example, extra={}):
        return False
    extra = {key: str(value) for key, value in given.extra.items()}
    return example.extra.items() <= extra.items() if example.extra else not extra


@cache
def _examples() -> dict[str, str]:
    return tomllib.loads(Path(__file__).with_name("examples.toml").read_text(encoding="utf-8"))
