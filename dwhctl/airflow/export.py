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

from dwhctl.core.errors import UsageError
from dwhctl.core.files import read_text
from dwhctl.core.words import quoted, shown_text

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


_EXAMPLES = {
    "airflow_db": "mysql://root@mysql/airflow",
    "aws_default": "aws://",
    "azure_container_instances_default": "azure_container_instances://?tenantId=%3CTENANT%3E"
    "&subscriptionId=%3CSUBSCRIPTION+ID%3E",
    "azure_cosmos_default": "azure_cosmos://?database_name=%3CDATABASE_NAME%3E"
    "&collection_name=%3CCOLLECTION_NAME%3E",
    "azure_data_lake_default": "azure_data_lake://?tenant=%3CTENANT%3E&account_name=%3CACCOUNTNAME%3E",
    "beeline_default": "beeline://localhost:10000/default?use_beeline=True&auth=",
    "bigquery_default": "google_cloud_platform:///default",
    "cassandra_default": "cassandra://cassandra:9042",
    "databricks_default": "databricks://localhost",
    "dingding_default": "http://",
    "druid_broker_default": "druid://druid-broker:8082?endpoint=druid%2Fv2%2Fsql",
    "druid_ingest_default": "druid://druid-overlord:8081?endpoint=druid%2Findexer%2Fv1%2Ftask",
    "emr_default": "emr://?Name=default_job_flow_name",
    "fs_default": "fs://?path=%2F",
    "google_cloud_default": "google_cloud_platform:///default",
    "hive_cli_default": "hive_cli:///default",
    "hiveserver2_default": "hiveserver2://localhost:10000/default",
    "http_default": "http://https%3A%2F%2Fwww.httpbin.org%2F",
    "local_mysql": "mysql://airflow:airflow@localhost/airflow",
    "metastore_default": "hive_metastore://localhost:9083?authMechanism=PLAIN",
    "mongo_default": "mongo://mongo:27017",
    "mssql_default": "mssql://localhost:1433",
    "mysql_default": "mysql://root@mysql/airflow",
    "opsgenie_default": "http://",
    "pig_cli_default": "pig_cli:///default",
    "postgres_default": "postgres://postgres:airflow@postgres/airflow",
    "presto_default": "presto://localhost:3400/hive",
    "qubole_default": "qubole://localhost",
    "redis_default": "redis://redis:6379?db=0",
    "segment_default": "segment://?write_key=my-segment-write-key",
    "sftp_default": "sftp://airflow@localhost:22?key_file=~%2F.ssh%2Fid_rsa&no_host_key_check=True",
    "spark_default": "spark://yarn?queue=root.default",
    "sqlite_default": "sqlite://%2Ftmp%2Fsqlite_default.db",
    "sqoop_default": "sqoop://rmdbs",
    "ssh_default": "ssh://localhost",
    "vertica_default": "vertica://localhost:5433",
    "wasb_default": "wasb://?sas_token=None",
    "webhdfs_default": "hdfs://localhost:50070",
}


def is_example(given: AirflowConnection) -> bool:
    """Whether the connection is one of the examples, unchanged."""
    if given.name not in _EXAMPLES or given.trouble:
        return False
    example = as_connection(given.name, _EXAMPLES[given.name])
    if _without_extra(given) != _without_extra(example):
        return False
    extra = {key: str(value) for key, value in given.extra.items()}
    return example.extra.items() <= extra.items() if example.extra else not extra


def _without_extra(given: AirflowConnection) -> tuple[str, ...]:
    return (given.type, given.host, given.port, given.schema, given.login, given.password)
