"""Translate PostgreSQL's errors by their SQLSTATE: refused, or worth another attempt."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg2

from dwhctl.core.errors import (
    About,
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    TlsError,
)
from dwhctl.core.secrets import mask
from dwhctl.systems.base import source
from dwhctl.systems.postgres.client import READ_ONLY_REMEDY, read_only_remedy, reason

if TYPE_CHECKING:
    from dwhctl.systems.postgres.system import PostgresConnection

#: SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
MISSING = ("3F000", "42P01")
MISSING_COLUMN = "42703"
EXISTS_ALREADY = ("42P06", "42P07", "42710", "23505")
LOCK_TIMEOUT, _CANCELED, _CHECK = "55P03", "57014", "23514"
_DISK_FULL = {"53100": "make room on the server's disk"}
_TOO_WIDE = {"54011": "a table that is loaded may have 1,599: its staging table has one more"}
#: A source's transactions are read-only, wherever they are.
_READ_ONLY = "25006"
_TARGET_REMEDIES = _DISK_FULL | _TOO_WIDE | {_READ_ONLY: READ_ONLY_REMEDY}
_SOURCE_REMEDIES = _DISK_FULL | {
    "22021": (
        "a database of encoding SQL_ASCII holds octets of any encoding: convert them in the extract, as in"
        " convert_from(convert(convert_to(name, 'SQL_ASCII'), 'WIN1251', 'UTF8'), 'SQL_ASCII') AS name"
    ),
    "22P05": "the text has no place in UTF-8: change it in the extract",
}
_TIMED_OUT = "the user or the database has a statement_timeout: raise it, or read the slice in parts (split)"
#: Serialization, resources, operator intervention, the system: a later attempt may succeed.
_TEMPORARY_CLASSES = ("08", "40", "53", "55", "57", "58", "XX")
_ABOUT = {**dict.fromkeys(MISSING, About.TABLE), "42501": About.PERMISSION, "53200": About.MEMORY}

#: The client library gives no code of a refused connection; these are the server's words.
_LOGIN = re.compile(
    r"authentication failed|no pg_hba\.conf entry|role \".*\" does not exist|not permitted to log in"
)
_NO_DATABASE = re.compile(r"database \".*\" does not exist|permission denied for database")
_BUSY = re.compile(
    "not currently accepting connections|too many clients|too many connections|remaining connection slots"
)


class ServerError(psycopg2.DatabaseError):
    """The server's error in place of an answer that psycopg2 did not read: `body` is that of the message.

    Source: https://www.postgresql.org/docs/current/protocol-error-fields.html
    """

    def __init__(self, body: bytes) -> None:
        fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
        super().__init__(fields.get(b"M", ""))
        self._fields = fields

    @property
    def pgcode(self) -> str | None:  # type: ignore[override]  # read-only in psycopg2
        return self._fields.get(b"C")

    @property
    def is_fatal(self) -> bool:
        """Whether the server closes the connection."""
        return self._fields.get(b"V", self._fields.get(b"S")) in ("FATAL", "PANIC")

    @property
    def diag(self) -> Any:  # type: ignore[override]
        """What psycopg2's `diag` has, as far as dwhctl uses it."""
        get = self._fields.get
        return SimpleNamespace(
            message_primary=get(b"M"),
            statement_position=get(b"P"),
            context=get(b"W"),
            constraint_name=get(b"n"),
        )


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's code of an error, or of its cause; "" for none."""
    found = getattr(error, "pgcode", None) or getattr(error.__cause__, "pgcode", None)
    return str(found or "")


def translate_error(
    error: Exception, name: str, sql: str | None, *, is_lost: bool, target: bool, limited: bool = True
) -> AttemptError:
    """Return the error that one of psycopg2's means; `sql` is the statement as it was sent.

    `limited` is whether dwhctl has set a statement_timeout.
    """
    code = getattr(error, "pgcode", None) or ""
    text = mask(f"{reason(error)}{f' ({code})' if code else ''}")
    if is_lost:
        lost = f"the connection to {name} is lost: {text}"
        return TargetError(lost) if target else SourceError(lost)
    remedy = (_TARGET_REMEDIES if target else _SOURCE_REMEDIES).get(code)
    if code == _CANCELED and not limited and "statement timeout" in text:
        remedy = _TIMED_OUT
    if target and lacks_partition(error):
        remedy = "create the partition of these rows, or one that is DEFAULT"
    if remedy:
        text += f"; {remedy}"
    if code == LOCK_TIMEOUT and target:
        return TargetBusyError(text)
    # A standby becomes the primary, and an address moves from one to the other.
    if code.startswith(_TEMPORARY_CLASSES) or not code or (target and code == _READ_ONLY):
        return TargetError(text) if target else SourceError(text)
    refused = TargetRefusedError(text) if target else QueryError(text)
    refused.about = _ABOUT.get(code, About.SQL)
    position = getattr(getattr(error, "diag", None), "statement_position", None)
    if sql is not None and position:
        refused.line = sql.count("\n", 0, int(position) - 1) + 1
    return refused


def lacks_partition(error: BaseException | None) -> bool:
    """Return whether a partitioned table has no partition for a row: the code is that of a CHECK, which has a name."""
    diag = getattr(error, "diag", None)
    return getattr(error, "pgcode", None) == _CHECK and not getattr(diag, "constraint_name", None)


def copy_place(error: BaseException) -> tuple[int | None, str | None]:
    """Return row (from 1) and column at which a COPY failed, as far as the server says."""
    context = getattr(getattr(error.__cause__, "diag", None), "context", None) or ""
    match = re.search(r"^COPY .*?, line (\d+)(?:, column ([^:\n]+))?", context, re.MULTILINE)
    return (int(match[1]), match[2]) if match else (None, None)


def connect_error(error: Exception, connection: PostgresConnection, *, target: bool) -> AttemptError:
    """Return why a connection failed, with a remedy."""
    message, password = reason(error), connection.password
    if password is not None and (secret := password.reveal()):
        message = message.replace(secret, "********")
    servers = ", ".join(f"{host}:{port}" for host, port in connection.addresses)
    text = mask(f"connection {connection.name}, {servers}: {message}")
    if _LOGIN.search(message):
        return LoginRefusedError(text, connection=connection.name)
    if _NO_DATABASE.search(message):
        return TargetRefusedError(text) if target else DatabaseMissingError(text)
    if _BUSY.search(message):
        return TargetBusyError(text) if target else SourceBusyError(text)
    about_tls = source.remedy(message, connection)
    remedy = about_tls or read_only_remedy(message)
    kind = TlsError if about_tls else ConnectError
    return kind(f"{text}; {remedy}" if remedy else text, connection=connection.name)
