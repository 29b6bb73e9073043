"""The two models: columns, flags of encryption, and what a wrong key does."""

import os
from typing import Any
from urllib.parse import unquote, urlparse


class AirflowException(Exception):  # noqa: N818
    """Airflow's own."""


class InvalidToken(Exception):  # noqa: N818
    """cryptography's, for another key."""


def encrypt(text: str, key: str) -> str:
    """Stand in for Fernet: unreadable, and bound to a key."""
    return f"{key}:{text.encode().hex()}"


def decrypt(text: str) -> str:
    key = os.environ["AIRFLOW__CORE__FERNET_KEY"]
    if not key:
        raise AirflowException("Can't decrypt, FERNET_KEY configuration is missing")
    used, _, rest = text.partition(":")
    if used != key:
        raise InvalidToken
    return bytes.fromhex(rest).decode()


class Connection:
    """models/connection.py: conn_id is neither unique nor required, a password raises where it cannot be decrypted."""

    id = "connection.id"

    def __init__(self, conn_id: str | None = None, uri: str = "") -> None:
        parts = urlparse(uri)
        self.conn_id, self.conn_type = conn_id, parts.scheme
        self.host, self.port, self.schema = parts.hostname, parts.port, parts.path[1:]
        self.login, self._password = parts.username, unquote(parts.password or "")
        self._extra: str | None = None
        self.is_encrypted = self.is_extra_encrypted = False

    @classmethod
    def loaded(cls, number: int, **columns: Any) -> "Connection":
        row = cls()
        row.id = number  # type: ignore[assignment]
        row.__dict__.update(
            dict.fromkeys(("conn_type", "host", "port", "schema", "login", "_password", "_extra"))
        )
        row.__dict__.update(columns)
        return row

    @property
    def password(self) -> str | None:
        return decrypt(self._password) if self._password and self.is_encrypted else self._password

    @property
    def extra(self) -> str | None:
        return decrypt(self._extra) if self._extra and self.is_extra_encrypted else self._extra


class Variable:
    """models/variable.py: get_val() logs an error and returns None where it cannot decrypt."""

    id = "variable.id"

    def __init__(self, key: str, val: str | None, *, is_encrypted: bool) -> None:
        self.key, self._val, self.is_encrypted = key, val, is_encrypted

    @classmethod
    def loaded(cls, number: int, **columns: Any) -> "Variable":
        row = cls(columns["key"], columns["_val"], is_encrypted=columns["is_encrypted"])
        row.id = number  # type: ignore[assignment]
        return row

    def get_val(self) -> str | None:
        if self._val is None or not self.is_encrypted:
            return self._val
        try:
            return decrypt(self._val)
        except Exception:
            return None
