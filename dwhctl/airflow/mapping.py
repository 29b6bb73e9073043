"""Airflow's connections to databases as tables of dwhctl.

The keys of `extra` are those of Airflow's hooks: https://airflow.apache.org/docs/ under apache-airflow-providers-
vertica, -microsoft-mssql, -postgres, -sqlite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dwhctl.airflow.export import AirflowConnection
from dwhctl.airflow.pieces import Hidden, Piece, hidden_in, with_references
from dwhctl.core.words import nothing_shown, quoted, shown_key, shown_text
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.problems import Place, Problems

_YES = {"yes", "true", "mandatory", "strict", "1"}
_TIMEOUTS = ("login_timeout", "connect_timeout", "connection_timeout", "LoginTimeout")
#: Why a key of `extra` has no counterpart.
_REASONS = {
    "sslcert": "there is no such key; libpq takes it from the environment variable PGSSLCERT",
    "sslkey": "there is no such key; libpq takes it from the environment variable PGSSLKEY",
    "timeout": "an attempt's time is the load's own key: timeout",
    "connection_load_balance": "not needed: hosts share the work in turn",
    "autocommit": "not needed: dwhctl decides about transactions",
    "session_label": "not needed: dwhctl labels its sessions itself",
    "conversion": "not needed: dwhctl reads every type by its declaration",
    "tds_version": "not needed: dwhctl speaks TDS 7.4",
    "charset": "not needed: dwhctl speaks UTF-8",
    "log_level": "not needed: a driver's log would hold the SQL",
    "log_path": "not needed: a driver's log would hold the SQL",
    "unicode_error": "not possible: a text that is no UTF-8 is refused by name",
}


class _Extra:
    """The keys of `extra`; what nobody takes is told."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = {key: each for key, each in keys.items() if each not in (None, "")}

    def take(self, *names: str) -> Any:
        """The value of the first of these keys that is there, whatever its case."""
        found = None
        for key in list(self._keys):
            if key.lower() in {name.lower() for name in names}:
                value = self._keys.pop(key)
                found = value if found is None else found
        return found

    def left(self) -> list[str]:
        """The keys that nobody took."""
        return list(self._keys)


def convert(given: AirflowConnection, name: str, root: Path) -> Piece | None:
    """The connection as a table of [connections], or None for a kind that is none of a database."""
    kind = _kind_of(given)
    if kind is None:
        return None
    piece = Piece("connection", given.name, name, comment=given.description)
    extra = _Extra(given.extra)
    try:
        if given.trouble:
            raise ValueError(given.trouble)
        piece.value = {"type": kind, **_KINDS[kind](given, extra, piece)}
    except ValueError as error:
        piece.notes = [str(error)]
        return piece
    for key in extra.left():
        reason = _REASONS.get(key.lower(), "dwhctl has no such key; dwhctl docs reference lists its keys")
        piece.note(f"extra.{shown_key(key)} is left out: {reason}")
    _validate(piece, root)
    return piece


def _kind_of(given: AirflowConnection) -> str | None:
    if given.type in CONNECTION_TYPES:
        return given.type
    driver = str(given.extra.get("driver", given.extra.get("Driver", "")))
    return "mssql" if given.type == "odbc" and re.search("SQL Server|FreeTDS", driver) else None


@nothing_shown()
def _validate(piece: Piece, root: Path) -> None:
    """Leave out what the configuration would refuse, with its words."""
    problems = Problems(root)
    stand_ins = {each: {"env": "SECRET"} for each in hidden_in(piece.value)}
    table = with_references(piece.value, stand_ins)
    place = Place("", f"connections.{piece.name}")
    problems.validated(CONNECTION_TYPES[table["type"]], table, place, name=piece.name)
    if problems.lines:
        piece.value = None
        piece.notes = [
            line.removeprefix(f": connections.{piece.name}.").removeprefix(": ") for line in problems.lines
        ]


def _file(given: AirflowConnection, _extra: _Extra, piece: Piece) -> dict[str, Any]:
    path = given.host or given.schema
    if not path:
        raise ValueError("host: names no file; give the file's path as host")
    if not path.startswith("/"):
        piece.note(
            f"path: {quoted(path)} is relative, and relative to the project here; move the file or name its whole path"
        )
    return {"path": path}


def _network(given: AirflowConnection, extra: _Extra, piece: Piece) -> dict[str, Any]:
    if not given.host:
        raise ValueError("host: is missing; give it in the file (Airflow's hook may go to localhost)")
    if not given.login:
        raise ValueError("login: is missing; give the user in the file")
    if given.port and not (given.port.isascii() and given.port.isdigit()):
        raise ValueError("port: is no number; correct it in the file")
    table: dict[str, Any] = {"host": given.host}
    if given.port:
        table["port"] = int(given.port)
    table["user"] = given.login
    if given.password:
        table["password"] = Hidden(given.password, f"{piece.name}_password")
    else:
        piece.note("it has no password in the file; add password, or nothing if the server asks for none")
    timeout = extra.take(*_TIMEOUTS)
    if timeout is not None:
        _add_timeout(table, timeout, piece)
    return table


def _add_timeout(table: dict[str, Any], timeout: object, piece: Piece) -> None:
    try:
        seconds = float(str(timeout))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        piece.note("the connect timeout is left out: it is no number of seconds; the default is 10s")
        return
    table["connect_timeout"] = f"{max(1, round(seconds))}s"


def _postgres(given: AirflowConnection, extra: _Extra, piece: Piece) -> dict[str, Any]:
    table = _network(given, extra, piece)
    if not given.schema:
        piece.note(f"database: Airflow names none, so libpq took the user's name: {quoted(given.login)}")
    table["database"] = given.schema or given.login
    mode = extra.take("sslmode")
    if mode is not None and str(mode).strip().lower() == "allow":
        piece.note(
            "extra.sslmode is left out: 'allow' sends the password in clear first; the default asks for TLS"
        )
    elif mode is not None:
        table["sslmode"] = str(mode).strip().lower()
    _add_authorities(table, extra, piece, "sslrootcert")
    return table


def _mssql(given: AirflowConnection, extra: _Extra, piece: Piece) -> dict[str, Any]:
    table = _network(given, extra, piece)
    server, comma, port = given.host.removeprefix("tcp:").partition(",")
    if "\\" in server:
        raise ValueError("host: names an instance; give the server alone and the instance's port")
    table["host"] = server
    if comma and port.strip().isdigit():
        table["port"] = int(port)
    if given.schema:
        table["database"] = given.schema
    extra.take("driver")
    encryption = extra.take("encryption", "encrypt")
    if encryption is not None:
        word = str(encryption).lower()
        table["encryption"] = (
            word if word in {"require", "request", "off"} else "require" if word in _YES else "request"
        )
    intent = extra.take("read_only", "ApplicationIntent")
    if intent is not None and str(intent).lower() in _YES | {"readonly"}:
        table["read_only"] = True
    if extra.take("TrustServerCertificate") is not None:
        piece.note("extra.TrustServerCertificate is left out: the driver never asks who the server is")
    return table


def _vertica(given: AirflowConnection, extra: _Extra, piece: Piece) -> dict[str, Any]:
    table = _network(given, extra, piece)
    if not given.schema:
        raise ValueError("schema: is missing: Vertica's database; give it in the file")
    table["database"] = given.schema
    others = [_server(each) for each in _listed(extra.take("backup_server_node"))]
    if others:
        table = {"hosts": [_server([given.host, given.port]), *others], **table}
        del table["host"]
        table.pop("port", None)
        piece.note("hosts share the work in turn; with Airflow the backup servers only stood in")
    tlsmode, ssl = extra.take("tlsmode"), extra.take("ssl")
    if tlsmode is not None:
        table["tlsmode"] = str(tlsmode).lower()
    elif ssl is not None:
        table["tlsmode"] = "require" if str(ssl).lower() in _YES else "disable"
    _add_authorities(table, extra, piece, "tls_cafile")
    return table


def _add_authorities(table: dict[str, Any], extra: _Extra, piece: Piece, key: str) -> None:
    path = extra.take(key)
    if path is not None and Path(str(path)).is_file():
        table[key] = str(path)
    elif path is not None and str(path) != "system":  # libpq's word for what is the default here
        piece.note(
            f"extra.{key} is left out: there is no file {shown_text(str(path))} here; copy it and add {key}"
        )


def _listed(value: Any) -> list[Any]:
    """The servers of backup_server_node: a name, a list, or a list of names with their ports; perhaps as JSON text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("extra.backup_server_node: is no list; correct it in the file") from None
    if value is None or value == []:
        return []
    return value if isinstance(value, list) else [value]


def _server(value: Any) -> str:
    host, port = value if isinstance(value, list) and len(value) == 2 else (value, "")
    if not isinstance(host, str):
        raise ValueError('extra.backup_server_node: expected servers as "dwh_2" or ["dwh_2", 5433]')
    return f"{f'[{host}]' if ':' in host else host}:{port}" if port else host


_Kind = Callable[[AirflowConnection, _Extra, Piece], dict[str, Any]]
_KINDS: dict[str, _Kind] = {
    "mssql": _mssql,
    "vertica": _vertica,
    "postgres": _postgres,
    "sqlite": _file,
    "duckdb": _file,
}


_BOT = re.compile(r"/bot(\d+:[\w-]+)")
_TOKEN = re.compile(r"\d{6,}:[\w-]{30,}")
#: Types under which people keep a bot's token: none at all, and those that say nothing about the system.
_ANY_TYPE = {"", "http", "https", "generic"}
_MAIL_YES = {"true", "1", "yes"}
_STARTTLS_PORT, _TLS_PORT = 587, 465


def convert_alert(given: AirflowConnection, name: str) -> Piece | None:
    """The connection as a channel of [alerts], or None for a kind that is none."""
    if _is_telegram(given):
        return _telegram(given, name)
    return _mail(given, name) if given.type in {"smtp", "email"} else None


def _is_telegram(given: AirflowConnection) -> bool:
    """Whether it is a Telegram connection; hooks that people wrote for Airflow 1.10 read `extra.bot_token`."""
    token = given.extra.get("bot_token")
    if token and (given.type in _ANY_TYPE or _TOKEN.fullmatch(str(token))):
        return True
    return given.type == "telegram" or (given.type in {"http", "https"} and "api.telegram.org" in given.host)


def _telegram(given: AirflowConnection, name: str) -> Piece:
    piece = Piece("alert", given.name, name, comment=given.description)
    in_address = _BOT.search(f"{given.host}/{given.schema}")
    in_extra = given.extra.get("token") or (in_address[1] if in_address else "")
    token = given.extra.get("bot_token") or given.password or in_extra
    chat = given.extra.get("chat_id") or (given.host if given.type == "telegram" else "")
    if not token:
        piece.note("it has no token; give the bot's token as password in the file")
        return piece
    when = ["one_failed", "sla_miss"]
    piece.value = {"type": "telegram", "when": when, "token": Hidden(str(token), f"{name}_token")}
    piece.guessed = ("when",)
    piece.value["chat_id"] = str(chat)
    if not chat:
        piece.incomplete = True
        piece.note(
            "has no chat, its DAGs have it: complete the block in config/dwhctl.toml with chat_id (an id, or a"
            ' variable: "{{ var.value.NAME }}")'
        )
    piece.note(f"when = {when} is a guess; see: dwhctl docs alerts")
    return piece


def _mail(given: AirflowConnection, name: str) -> Piece:
    piece = Piece("alert", given.name, name, comment=given.description, incomplete=True)
    if not given.host:
        piece.note("host: is missing; give the mail server in the file")
        return piece
    security = _security(given)
    port = (
        int(given.port) if given.port.isdigit() else _STARTTLS_PORT if security == "starttls" else _TLS_PORT
    )
    value: dict[str, Any] = {"type": "email", "when": ["all_success"], "host": given.host, "port": port}
    value["security"] = security
    if given.login:
        value["user"] = given.login
    if given.password:
        value["password"] = Hidden(given.password, f"{name}_password")
    value["from"] = str(given.extra.get("from_email") or "")
    value["to"] = []
    piece.value = value
    missing = "to" if value["from"] else "from and to"
    piece.note(f"names no recipients, its DAGs did: complete the block in config/dwhctl.toml with {missing}")
    return piece


def _security(given: AirflowConnection) -> str:
    """SmtpHook speaks TLS from the start unless disable_ssl, then STARTTLS unless disable_tls."""
    if str(given.extra.get("disable_ssl", "")).lower() not in _MAIL_YES:
        return "starttls" if given.port == str(_STARTTLS_PORT) else "tls"
    return "none" if str(given.extra.get("disable_tls", "")).lower() in _MAIL_YES else "starttls"
