"""Airflow's connections to Telegram and to mail servers as alerts.

Telegram's hook keeps the token as password and the chat as host:
https://airflow.apache.org/docs/apache-airflow-providers-telegram/stable/connections/telegram.html; mail:
https://airflow.apache.org/docs/apache-airflow-providers-smtp/stable/connections/smtp.html.
"""

from __future__ import annotations

import re
from typing import Any

from .export import AirflowConnection
from .pieces import Hidden, Piece

_BOT = re.compile(r"/bot(\d+:[\w-]+)")
_TOKEN = re.compile(r"\d{6,}:[\w-]{30,}")
#: Types under which people keep a bot's token: none at all, and those that say nothing about the system.
_ANY_TYPE = {"", "http", "https", "generic"}
_YES = {"true", "1", "yes"}
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
    if str(given.extra.get("disable_ssl", "")).lower() not in _YES:
        return "starttls" if given.port == str(_STARTTLS_PORT) else "tls"
    return "none" if str(given.extra.get("disable_tls", "")).lower() in _YES else "starttls"
