"""What ClickHouse's errors mean, and its messages in one line, without secrets."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import urllib3
from clickhouse_connect.driver import exceptions as driver_errors

from dwhctl.core.errors import (
    About,
    AttemptError,
    LoginRefusedError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
)
from dwhctl.core.secrets import mask
from dwhctl.systems.base import source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.systems.clickhouse.system import ClickHouseConnection

# The import of its client makes urllib3 silent for the whole process; alerts and HTTP sources use urllib3 too.
logging.getLogger("urllib3").setLevel(logging.NOTSET)
# Source: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp

UNKNOWN_TABLE, UNKNOWN_DATABASE, UNKNOWN_SETTING = 60, 81, 115
MISSING = (UNKNOWN_TABLE, UNKNOWN_DATABASE)
#: What the driver asks at a login is unknown.
UNKNOWN_IDENTIFIER = 47
LOGIN = (192, 193, 194, 516)
_BUSY = (473,)
_PERMISSION, _MEMORY = 497, 241
_ABOUT = {_PERMISSION: About.PERMISSION, _MEMORY: About.MEMORY, **dict.fromkeys(MISSING, About.TABLE)}
#: Errors of a moment: time and load limits, the network, a part or table in use, replication, files.
_TEMPORARY = {
    3, 74, 75, 76, 159, 160, 173, 201, 202, 203, 209, 210, 225, 232, 236, 241, 242, 243, 244, 246, 252, 254, 265, 279,
    285, 286, 319, 335, 384, 388, 394, 415, 425, 439, 455, 999, 1000, 1001, 1002,
}  # fmt: skip
_CODE = re.compile(r"\bCode: (\d+)")


def code_of(error: BaseException) -> int | None:
    code = getattr(error, "code", None)
    if isinstance(code, int) and code:
        return code
    match = _CODE.search(str(error)) if isinstance(error, driver_errors.Error) else None
    return int(match[1]) if match else None


def is_code(error: BaseException, codes: Sequence[int]) -> bool:
    """Return whether ClickHouse raised the error with one of these codes."""
    return error.__cause__ is not None and code_of(error.__cause__) in codes


def translate_error(error: driver_errors.Error, name: str, timeout: float | None) -> AttemptError:
    code = code_of(error)
    if code is None:
        return lost(error, name, timeout)
    text = words(error)
    if code in LOGIN:
        return LoginRefusedError(f"connection {name}: {text}", connection=name)
    if code in _BUSY:
        return TargetBusyError(text)
    kind = TargetError if code in _TEMPORARY else TargetRefusedError
    found = kind(text)
    found.about = _ABOUT.get(code, About.SQL)
    return found


_MOST_CHARACTERS = 600
_NOISE = re.compile(r"\(for url .*?\)$|\(version [^()]*(?:\([^()]*\))?[^()]*\)|Stack trace:.*", re.DOTALL)


def words(error: BaseException) -> str:
    """Return ClickHouse's message in one line, with its code."""
    text = str(error)
    if (at := _CODE.search(text)) is not None:
        text = text[at.start() :]
    text = " ".join(_NOISE.sub("", text).split()).replace("DB::Exception: ", "")
    return mask(text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " ...")


def lost(error: BaseException, name: str, timeout: float | None) -> TargetError:
    """Return the error of a connection that broke, or of an answer that did not come."""
    text = network_words(error)
    if "timed out" in text and timeout is not None:
        return TargetError(f"no answer from {name} for {timeout:g} s; the connection is closed")
    return TargetError(f"the connection to {name} is lost: {text}")


def network_words(error: BaseException) -> str:
    first: BaseException = error
    while (inner := first.__cause__ or first.__context__) is not None and isinstance(
        inner, driver_errors.Error | urllib3.exceptions.HTTPError | OSError
    ):
        first = inner
    reason = getattr(first, "strerror", None) or str(first)
    return mask(" ".join(str(reason).split())) or type(first).__name__


_NO_TLS = re.compile(
    "WRONG_VERSION_NUMBER|wrong version number|record layer|UNEXPECTED_EOF|EOF occurred", re.IGNORECASE
)


def tls_remedy(reason: str, connection: ClickHouseConnection) -> str | None:
    key = f"connections.{connection.name}"
    if connection.is_secure and _NO_TLS.search(reason):
        return (
            f"the server does not speak TLS on this port, and {key} asks for it (secure = true), so nothing was sent:"
            f" turn TLS on at the server (its port is 8443 by default), or write secure = false in {key}; then password"
            " and rows travel in clear"
        )
    return source.remedy(reason, connection) if connection.is_secure else None
