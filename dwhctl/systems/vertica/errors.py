"""Translate Vertica's errors by their SQLSTATE: refused, or worth another attempt."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from vertica_python import errors as driver_errors

from dwhctl.core.errors import (
    About,
    AttemptError,
    ConnectError,
    LoginRefusedError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    TlsError,
)
from dwhctl.core.secrets import mask

#: SQLSTATEs by their names in the driver's errors.py.
MISSING = ("3F000", "42V01")  # a schema or a table
MISSING_COLUMN = "42703"
EXISTS_ALREADY, COLUMN_EXISTS = "42710", "42701"
COPY_REJECTED = "22V04"
LOCK_TIMEOUT = "55V03"

#: Classes of SQLSTATEs that every later attempt meets too: not supported, wrong values, broken constraints, wrong
#: names, no permission, syntax. Source: https://docs.vertica.com/24.2.x/en/error-codes/
_PERMANENT_CLASSES = (
    "0A",
    "0L",
    "0P",
    "21",
    "22",
    "23",
    "26",
    "28",
    "2B",
    "2F",
    "34",
    "3D",
    "3F",
    "42",
    "44",
)
_ABOUT = {**dict.fromkeys(MISSING, About.TABLE), "42501": About.PERMISSION}
_LOGIN_CLASS, _MISSING_DATABASE = "28", "3D000"


def is_sqlstate(error: BaseException, sqlstates: Collection[str]) -> bool:
    """Return whether Vertica raised the error with one of these SQLSTATEs."""
    cause = error.__cause__
    return isinstance(cause, driver_errors.QueryError) and cause.sqlstate in sqlstates


def translate_error(error: Any) -> AttemptError:
    """Return the error that Vertica's answer to a statement means."""
    sqlstate = error.sqlstate or ""
    text = words(error)
    if sqlstate == LOCK_TIMEOUT:
        return TargetBusyError(text)
    if sqlstate.startswith(_PERMANENT_CLASSES):
        refused = TargetRefusedError(text)
        refused.about = _ABOUT.get(sqlstate, About.SQL)
        return refused
    return TargetError(text)


def words(error: Any) -> str:
    """Return Vertica's message in one line with its SQLSTATE and number, without the statement."""
    message = " ".join((error.message or type(error).__name__).split())
    marks = [f"SQLSTATE {error.sqlstate}"] if error.sqlstate else []
    marks += [f"error {error.error_code}"] if error.error_code else []
    return mask(f"{message} ({', '.join(marks)})" if marks else message)


def rejection(error: BaseException) -> tuple[int | None, str] | None:
    """Return the number (from 1) of a row that COPY rejected, and the reason without the value."""
    cause = error.__cause__
    if not isinstance(cause, driver_errors.QueryError) or cause.sqlstate != COPY_REJECTED:
        return None
    message = " ".join((cause.message or "").split())
    match = re.search(r"record (\d+) has been rejected \((.*)\)", message)
    reason = re.sub(r"'[^']*'|\[[^\]]*\]", "...", match[2] if match else message)
    return (int(match[1]) if match else None), mask(reason)


def connect_error(
    error: Exception, refusal: Any, address: str, name: str, tls_remedy: str | None = None
) -> AttemptError:
    """Return why a connection failed: by the server's answer `refusal`, if any, or by TLS, with a remedy."""
    if refusal is None:
        text = _network_words(error)
        if tls_remedy is not None:
            return TlsError(f"connection {name}, {address}: {text}; {tls_remedy}", connection=name)
        # The driver reports an expired password without an answer of the server.
        expired = isinstance(error, driver_errors.ConnectionError) and "has expired" in str(error)
        kind = LoginRefusedError if expired else ConnectError
        return kind(f"connection {name}, {address}: {text}", connection=name)
    text = f"connection {name}, {address}: {words(refusal)}"
    if (refusal.sqlstate or "").startswith(_LOGIN_CLASS):
        return LoginRefusedError(text, connection=name)
    if refusal.sqlstate == _MISSING_DATABASE:
        return TargetRefusedError(text)
    return ConnectError(text, connection=name)


def lost(error: BaseException, name: str, timeout: float) -> TargetError:
    """Return the error of a lost connection."""
    first = error
    # In COPY the driver raises what it did after the loss; the loss is in its context.
    while isinstance(first.__context__, driver_errors.ConnectionError | OSError):
        first = first.__context__
    if "timed out" in str(first):
        return TargetError(f"no answer from {name} for {timeout:g} s; the connection is closed")
    return TargetError(f"the connection to {name} is lost: {_network_words(first)}")


def _network_words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return mask(" ".join(text.split())) or type(error).__name__
