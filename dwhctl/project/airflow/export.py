"""Reading what Airflow exports: connections or variables, told apart by what stands in them.

The forms are those of `airflow connections export` and `airflow variables export` (JSON; a connection's `extra` is a
JSON text or an object, a variable may stand with its description), and of the files that Airflow's local secrets
backend reads, where a connection may be a URI: lines KEY=VALUE too. Source:
https://airflow.apache.org/docs/apache-airflow/stable/security/secrets/secrets-backend/local-filesystem-secrets-backend.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from dwhctl.errors import UsageError
from dwhctl.files import read_text

from ..words import quoted, shown_text

_URI = re.compile(
    r"([A-Za-z][A-Za-z0-9+._-]*|)://(.*)", re.DOTALL
)  # without a scheme: a connection without a type
_ENV_LINE = re.compile(r"(?:export\s+)?([\w.-]+)=(.*)")
_CONNECTION, _VARIABLE = "AIRFLOW_CONN_", "AIRFLOW_VAR_"
_HOW = (
    "write one with: airflow connections export FILE --file-format json, or airflow variables export FILE"
    " (Airflow 1.10: dwhctl docs airflow-1-10)"
)
_NEITHER = "is neither an object with conn_type nor a URI"
#: Airflow's names of one type: https://github.com/apache/airflow, models/connection.py, `_normalize_conn_type`.
_TYPES = {"postgresql": "postgres", "none": ""}


@dataclass(frozen=True, slots=True)
class AirflowConnection:
    """A connection as Airflow has it."""

    name: str
    type: str
    host: str = ""
    port: str = ""
    schema: str = ""
    login: str = ""
    password: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    description: str = ""
    trouble: str = ""

    def is_text(self) -> bool:
        """Whether every value can be written as UTF-8."""
        values = [self.name, self.host, self.port, self.schema, self.login, self.password, self.description]
        try:
            json.dumps([*values, self.type, dict(self.extra)], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return False
        return True


@dataclass(slots=True)
class Export:
    """What stood in the files."""

    connections: dict[str, AirflowConnection] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)


def read_exports(paths: list[Path]) -> Export:
    """Everything that these files hold. Raise UsageError, which never shows a file's content."""
    found = Export()
    for path in paths:
        one = _read(path)
        twice = [*(one.connections.keys() & found.connections), *(one.variables.keys() & found.variables)]
        if twice:
            name = quoted(sorted(twice)[0])
            raise UsageError(
                f"{shown_text(str(path))}: {name} stands in a file before it already; give one of them"
            )
        found.connections |= one.connections
        found.variables |= one.variables
    return found


def _read(path: Path) -> Export:
    try:
        text = read_text(path, "utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{shown_text(str(path))}: cannot be read ({error.strerror}); name a file that Airflow exported"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown_text(str(path))}: is not UTF-8 text; {_HOW}") from None
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = _env_lines(text)
        if lines is None:
            raise UsageError(f"{shown_text(str(path))}: {_not_json(path, text, error)}") from None
        return _of_env(lines)
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"{shown_text(str(path))}: holds no connections or variables by name; {_HOW}")
    return _sorted_out(entries)


def _not_json(path: Path, text: str, error: Exception) -> str:
    if path.suffix in {".yaml", ".yml"} or re.match(r"\s*(#.*\n\s*)*[\w.-]+:\s", text):
        return "is YAML, which dwhctl does not read; export it as JSON: --file-format json"
    line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
    return f"is no JSON ({line}); {_HOW}"


def _env_lines(text: str) -> dict[str, str] | None:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [_ENV_LINE.fullmatch(line) for line in lines]
    return {each[1]: each[2].strip() for each in matches if each} if lines and all(matches) else None


def _of_env(lines: Mapping[str, str]) -> Export:
    named = {
        prefix: {
            key.removeprefix(prefix).lower(): value for key, value in lines.items() if key.startswith(prefix)
        }
        for prefix in (_CONNECTION, _VARIABLE)
    }
    rest = {key: value for key, value in lines.items() if not key.startswith((_CONNECTION, _VARIABLE))}
    found = _sorted_out({key: _decoded(value) for key, value in rest.items()}) if rest else Export()
    found.connections |= {
        name: as_connection(name, _decoded(value)) for name, value in named[_CONNECTION].items()
    }
    found.variables |= {name: _decoded(value) for name, value in named[_VARIABLE].items()}
    return found


def _decoded(text: str) -> Any:
    """A value of a line: JSON where it is an object or a list."""
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _sorted_out(entries: Mapping[str, Any]) -> Export:
    """Connections if any is an object with conn_type, or if all are URIs of something that is no web page."""
    values = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in entries.values()]
    described = any(isinstance(each, dict) and "conn_type" in each for each in values)
    uris = [_URI.match(each) if isinstance(each, str) else None for each in values]
    pages = all(uri is None or uri[1].lower() in {"http", "https"} for uri in uris)
    if described or (all(uris) and not pages):
        return Export(
            connections={name: as_connection(name, each) for name, each in zip(entries, values, strict=True)}
        )
    return Export(variables=dict(entries))


def as_connection(name: str, value: object) -> AirflowConnection:
    if isinstance(value, str) and (uri := _URI.match(value)):
        return _of_uri(name, uri[1], uri[2])
    if isinstance(value, dict) and isinstance(value.get("uri"), str) and (uri := _URI.match(value["uri"])):
        return _of_uri(name, uri[1], uri[2])
    if not isinstance(value, dict) or not isinstance(value.get("conn_type"), str | None):
        return AirflowConnection(name, "", trouble=_NEITHER)
    return _of_object(name, value)


def _of_object(name: str, value: Mapping[str, Any]) -> AirflowConnection:
    extra, trouble = _extra(value.get("extra", value.get("extra_dejson")))
    texts = {
        key: _text(value.get(key)) for key in ("host", "port", "schema", "login", "password", "description")
    }
    texts["port"] = texts["port"].strip()
    if "conn_type" not in value:
        trouble = trouble or _NEITHER
    return AirflowConnection(
        name, _type(_text(value.get("conn_type"))), extra=extra, trouble=trouble, **texts
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
            return {}, "its extra is no JSON: correct it in the file"
    if value is None or value == "":
        return {}, ""
    if not isinstance(value, dict):
        return {}, "its extra is no JSON object: correct it in the file"
    # The forms of Airflow 1.10 and 2 wrote extra__vertica__tlsmode.
    return {re.sub(r"^extra__[a-z0-9_]+?__", "", key): each for key, each in value.items()}, ""


def _of_uri(name: str, scheme: str, rest: str) -> AirflowConnection:
    """Read Airflow's URI: https://airflow.apache.org/docs/apache-airflow/stable/howto/connection.html#uri-format."""
    address, _, query = rest.partition("?")
    login, _, server = address.rpartition("@")
    hosts, _, schema = server.partition("/")
    user, _, password = login.partition(":")
    match = re.fullmatch(r"(.*?)(?::(\d+))?", hosts, re.DOTALL)
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    whole = pairs.pop("__extra__", None)
    extra, trouble = _extra(pairs if whole is None else whole)
    return AirflowConnection(
        name,
        _type(scheme),
        host=unquote(match[1] if match else hosts).strip("[]"),
        port=(match[2] or "") if match else "",
        schema=unquote(schema),
        login=unquote(user),
        password=unquote(password),
        extra=extra,
        trouble=trouble,
    )
