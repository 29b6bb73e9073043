"""Airflow's connections as tables of [connections] and [alerts].

The keys of `extra` are those of Airflow's hooks: https://airflow.apache.org/docs/ under apache-airflow-providers-
vertica, -microsoft-mssql, -postgres, -sqlite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dwhctl.airflow.export import AirflowConnection
from dwhctl.airflow.pieces import Hidden, Piece
from dwhctl.core.words import nothing_shown, quoted, shown_key, shown_text
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.fields import map_leaves
from dwhctl.project.problems import Place, Problems

_YES = {"yes", "true", "mandatory", "strict", "1"}
_TIMEOUTS = ("login_timeout", "connect_timeout", "connection_timeout", "LoginTimeout")
#: Why a key of `extra` has no counterpart.
_REASONS = {
    "sslcert": "there is no such key; libpq takes it from the environment variable PGSSLCERT",
    "sslkey": "there is no such key; libpq takes it from the environment variable PGSSLKEY",
    "timeout": "an attempt's time is the load's own key: timeout",
    "connection_load_balance": "not needed: hosts are used in turn",
    "autocommit": "not needed: dwhctl decides about transactions",
    "session_label": "not needed: dwhctl labels its sessions itself",
    "conversion": "not needed: dwhctl reads every type by its declaration",
    "tds_version": "not needed: dwhctl speaks TDS 7.4",
    "charset": "not needed: dwhctl speaks UTF-8",
    "log_level": "not needed: a driver's log would contain the SQL",
    "log_path": "not needed: a driver's log would contain the SQL",
    "unicode_error": "not possible: a text that is not UTF-8 is refused with its column",
    "trustservercertificate": "the driver never checks the server's certificate",
}
_NO_KEY = "dwhctl has no such key; dwhctl docs reference lists its keys"


class _Conversion:
    """The conversion of a connection to a database: the table so far, and the keys of `extra` that are left."""

    def __init__(self, given: AirflowConnection, kind: str, piece: Piece) -> None:
        self.given = given
        self.piece = piece
        self.table: dict[str, Any] = {"type": kind}
        self.extra = {key: value for key, value in given.extra.items() if value not in (None, "")}

    def take(self, *names: str) -> Any:
        """Remove these keys of `extra`, in any case. Return the first value, or None."""
        wanted = {name.lower() for name in names}
        found = [self.extra.pop(key) for key in list(self.extra) if key.lower() in wanted]
        return found[0] if found else None

    def take_word(self, *names: str) -> str | None:
        """Remove these keys of `extra`. Return the first value in lower case, or None."""
        value = self.take(*names)
        return None if value is None else str(value).strip().lower()


def convert(given: AirflowConnection, name: str, root: Path) -> Piece | None:
    """Return the connection as a table of [connections], or None if it is not to a database."""
    driver = str(given.extra.get("driver", given.extra.get("Driver", "")))
    is_mssql = given.type == "odbc" and re.search("SQL Server|FreeTDS", driver)
    kind = "mssql" if is_mssql else given.type
    if kind not in _STEPS:
        return None
    piece = Piece("connection", given.name, name, comment=given.description)
    conversion = _Conversion(given, kind, piece)
    try:
        if given.problem:
            raise ValueError(given.problem)
        for step in _STEPS[kind]:
            step(conversion)
    except ValueError as error:
        piece.notes = [str(error)]
        return piece
    for key in conversion.extra:
        piece.note(f"extra.{shown_key(key)} is left out: {_REASONS.get(key.lower(), _NO_KEY)}")
    piece.value = conversion.table
    _validate(piece, root)
    return piece


@nothing_shown()
def _validate(piece: Piece, root: Path) -> None:
    """Leave out a piece that the configuration would refuse, with its problems as notes."""
    problems = Problems(root)
    table = map_leaves(lambda leaf: {"env": "SECRET"} if isinstance(leaf, Hidden) else leaf, piece.value)
    place = Place("", f"connections.{piece.name}")
    problems.validated(CONNECTION_TYPES[table["type"]], table, place, name=piece.name)
    if problems.lines:
        piece.value = None
        piece.notes = [
            line.removeprefix(f": connections.{piece.name}.").removeprefix(": ") for line in problems.lines
        ]


def _path(conversion: _Conversion) -> None:
    path = conversion.given.host or conversion.given.schema
    if not path:
        raise ValueError("host: is missing; give the file's path as host")
    if not path.startswith("/"):
        what = f"path: {quoted(path)} is relative, here to the project"
        conversion.piece.note(f"{what}; move the file or write its absolute path")
    conversion.table["path"] = path


def _server(conversion: _Conversion) -> None:
    given, piece, table = conversion.given, conversion.piece, conversion.table
    if not given.host:
        raise ValueError("host: is missing; give it in the file (Airflow's hook may go to localhost)")
    if not given.login:
        raise ValueError("login: is missing; give the user in the file")
    if given.port and not (given.port.isascii() and given.port.isdigit()):
        raise ValueError("port: is not a number; correct it in the file")
    table["host"] = given.host
    if given.port:
        table["port"] = int(given.port)
    table["user"] = given.login
    if given.password:
        table["password"] = Hidden(given.password, f"{piece.name}_password")
    else:
        piece.note("it has no password in the file; add password, unless the server needs none")
    if (timeout := conversion.take(*_TIMEOUTS)) is not None:
        try:
            seconds = float(str(timeout))
        except ValueError:
            seconds = 0.0
        if 0 < seconds < 86_400:
            table["connect_timeout"] = f"{max(1, round(seconds))}s"
        else:
            piece.note("the connect timeout is left out: it is not a number of seconds; the default is 10s")


def _postgres(conversion: _Conversion) -> None:
    given = conversion.given
    if not given.schema:
        what = "database: Airflow has none, so libpq used the user's name"
        conversion.piece.note(f"{what}: {quoted(given.login)}")
    conversion.table["database"] = given.schema or given.login
    mode = conversion.take_word("sslmode")
    if mode == "allow":
        what = "extra.sslmode is left out: 'allow' sends the password in clear first"
        conversion.piece.note(f"{what}; the default requires TLS")
    elif mode is not None:
        conversion.table["sslmode"] = mode
    _take_ca_file(conversion, "sslrootcert")


def _mssql(conversion: _Conversion) -> None:
    table = conversion.table
    server, comma, port = conversion.given.host.removeprefix("tcp:").partition(",")
    if "\\" in server:
        raise ValueError("host: has the name of an instance; give the server alone and the instance's port")
    table["host"] = server
    if comma and port.strip().isdigit():
        table["port"] = int(port)
    if conversion.given.schema:
        table["database"] = conversion.given.schema
    conversion.take("driver")
    encryption = conversion.take_word("encryption", "encrypt")
    if encryption is not None:
        known = encryption in {"require", "request", "off"}
        table["encryption"] = encryption if known else "require" if encryption in _YES else "request"
    if conversion.take_word("read_only", "ApplicationIntent") in _YES | {"readonly"}:
        table["read_only"] = True


def _vertica(conversion: _Conversion) -> None:
    given, table = conversion.given, conversion.table
    if not given.schema:
        raise ValueError("schema: is missing: Vertica's database; give it in the file")
    table["database"] = given.schema
    others = [_address(server) for server in _backup_servers(conversion.take("backup_server_node"))]
    if others:
        rest = {key: value for key, value in table.items() if key not in {"type", "host", "port"}}
        table.clear()
        table |= {"type": "vertica", "hosts": [_address([given.host, given.port]), *others], **rest}
        conversion.piece.note("hosts are used in turn; Airflow used the backup servers only on failure")
    tlsmode, ssl = conversion.take_word("tlsmode"), conversion.take_word("ssl")
    if tlsmode is not None:
        table["tlsmode"] = tlsmode
    elif ssl is not None:
        table["tlsmode"] = "require" if ssl in _YES else "disable"
    _take_ca_file(conversion, "tls_cafile")


def _take_ca_file(conversion: _Conversion, key: str) -> None:
    path = conversion.take(key)
    if path is not None and Path(str(path)).is_file():
        conversion.table[key] = str(path)
    elif path is not None and str(path) != "system":  # libpq's word for what is the default here
        what = f"extra.{key} is left out: there is no file {shown_text(str(path))} here"
        conversion.piece.note(f"{what}; copy it and add {key}")


def _backup_servers(value: Any) -> list[Any]:
    """Return the servers: of a name, a list, or a list of names with their ports; or of one of them as JSON text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("extra.backup_server_node: is not a list; correct it in the file") from None
    return value if isinstance(value, list) else [] if value is None else [value]


def _address(server: Any) -> str:
    host, port = server if isinstance(server, list) and len(server) == 2 else (server, "")
    if not isinstance(host, str):
        raise ValueError('extra.backup_server_node: expected servers as "dwh_2" or ["dwh_2", 5433]')
    return f"{f'[{host}]' if ':' in host else host}:{port}" if port else host


#: The steps of a conversion by the type of the connection.
_STEPS: dict[str, tuple[Callable[[_Conversion], None], ...]] = {
    "mssql": (_server, _mssql),
    "vertica": (_server, _vertica),
    "postgres": (_server, _postgres),
    "sqlite": (_path,),
    "duckdb": (_path,),
}


_BOT = re.compile(r"/bot(\d+:[\w-]+)")
_TOKEN = re.compile(r"\d{6,}:[\w-]{30,}")
#: Types of connections that contain a bot's token: none at all, and those that say nothing about the system.
_ANY_TYPE = {"", "http", "https", "generic"}
_MAIL_YES = {"true", "1", "yes"}
_STARTTLS_PORT, _TLS_PORT = "587", "465"
_TO_COMPLETE = "complete the block in config/dwhctl.toml with"


def convert_alert(given: AirflowConnection, name: str) -> Piece | None:
    """Return the connection as a channel of [alerts], or None if it is not one."""
    piece = Piece("alert", given.name, name, comment=given.description)
    if _is_telegram(given):
        _telegram(given, piece)
    elif given.type in {"smtp", "email"}:
        _mail(given, piece)
    else:
        return None
    return piece


def _is_telegram(given: AirflowConnection) -> bool:
    # Hooks that people wrote for Airflow 1.10 read extra.bot_token.
    token = given.extra.get("bot_token")
    if token and (given.type in _ANY_TYPE or _TOKEN.fullmatch(str(token))):
        return True
    return given.type == "telegram" or (given.type in {"http", "https"} and "api.telegram.org" in given.host)


def _telegram(given: AirflowConnection, piece: Piece) -> None:
    in_address = _BOT.search(f"{given.host}/{given.schema}")
    in_extra = given.extra.get("token") or (in_address[1] if in_address else "")
    token = given.extra.get("bot_token") or given.password or in_extra
    chat = given.extra.get("chat_id") or (given.host if given.type == "telegram" else "")
    if not token:
        piece.note("it has no token; give the bot's token as password in the file")
        return
    when = ["one_failed", "sla_miss"]
    secret = Hidden(str(token), f"{piece.name}_token")
    piece.value = {"type": "telegram", "when": when, "token": secret, "chat_id": str(chat)}
    piece.guessed = ("when",)
    if not chat:
        piece.incomplete = True
        piece.note(
            f"has no chat, its DAGs have it: {_TO_COMPLETE} chat_id (an id, or a"
            ' variable: "{{ var.value.NAME }}")'
        )
    piece.note(f"when = {when} is a guess; see: dwhctl docs alerts")


def _mail(given: AirflowConnection, piece: Piece) -> None:
    piece.incomplete = True
    if not given.host:
        piece.note("host: is missing; give the mail server in the file")
        return
    security = _security(given)
    default_port = _STARTTLS_PORT if security == "starttls" else _TLS_PORT
    sender = str(given.extra.get("from_email") or "")
    piece.value = {
        "type": "email",
        "when": ["all_success"],
        "host": given.host,
        "port": int(given.port if given.port.isdigit() else default_port),
        "security": security,
        **({"user": given.login} if given.login else {}),
        **({"password": Hidden(given.password, f"{piece.name}_password")} if given.password else {}),
        "from": sender,
        "to": [],
    }
    missing = "to" if sender else "from and to"
    piece.note(f"has no recipients, its DAGs have them: {_TO_COMPLETE} {missing}")


def _security(given: AirflowConnection) -> str:
    """Return the security that SmtpHook has: TLS from the start unless disable_ssl, STARTTLS unless disable_tls."""
    if str(given.extra.get("disable_ssl", "")).lower() not in _MAIL_YES:
        return "starttls" if given.port == _STARTTLS_PORT else "tls"
    return "none" if str(given.extra.get("disable_tls", "")).lower() in _MAIL_YES else "starttls"
