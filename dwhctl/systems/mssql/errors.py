"""Translate the drivers' errors by SQL Server's numbers, and probe a server without a login.

The number of an error alone is not reliable. pymssql keeps the last number and severity of a failed login for the whole
process: a later failure that is no more severe has the old number, and not the server's message. The text is reliable:
the server's message precedes what DB-Library says ("DB-Lib error message 20018, severity 14: ..."), and with a message
the number is its own. Source: pymssql 2.4.6, `_mssql.pyx`: msg_handler, err_handler, clr_err.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    About,
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
)
from dwhctl.core.secrets import mask

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection


#: The meaning of a query's error, by its number. Any other is a QueryError below severity 17, else (resources, the
#: server, the disk) a SourceError: https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/
#: database-engine-error-severities. The numbers: database-engine-events-and-errors in the same place.
QUERY_ERRORS: dict[int, type[AttemptError]] = {
    # Locks and row versions of others; conflicts in memory-optimized tables; memory, optimizer, changed definitions;
    # the server, the session or the network goes away; Azure is throttled, moved, busy.
    **dict.fromkeys(
        (
            601, 1204, 1205, 1222, 3951, 3957, 3958, 3959, 3960, 3961, 3966, 41301, 41302, 41305, 41325, 41839, 701,
            802, 845, 2801, 8628, 8645, 8651, 8902, 64, 121, 233, 596, 3617, 6005, 9001, 10053, 10054, 10060, 17142,
            17197, 10928, 10929, 40143, 40197, 40501, 40540, 40544, 40549, 40550, 40551, 40552, 40553, 40613, 49918,
            49919, 49920,
        ),
        SourceError,
    ),
    # The database is recovered, restored, in single-user mode, in transition, or changes its role.
    **dict.fromkeys((921, 922, 924, 927, 952, 956, 976, 983), SourceBusyError),
    # The database is missing, forbidden, suspect, offline, a mirror, or readable for read-only logins alone.
    **dict.fromkeys((911, 916, 926, 942, 945, 946, 948, 954, 978, 4060, 4064, 40532), DatabaseMissingError),
}  # fmt: skip
#: Permission denied on an object, a column, a statement, the database; no such table or view.
_ABOUT = {**dict.fromkeys((229, 230, 262, 297, 300, 371, 378), About.PERMISSION), 208: About.TABLE}
#: Numbers of a refused login. Any other is a ConnectError: servers start, stop and fill up.
REFUSED_LOGINS = frozenset(
    {
        18450, 18452, 18456, 18458, 18459, 18460, 18462, 18463, 18464, 18465, 18466, 18467, 18468, 18470, 18471,
        18482, 18486, 18487, 18488, 17892, 40607, 40615, 40914,
    }
)  # fmt: skip

_SEVERE = 17
#: DB-Library's "check messages from the SQL Server", with the severity of the server's message.
_SEE_MESSAGE = 20018
_TIMED_OUT = 20003
_DB_LIB = re.compile(r"DB-Lib error message (\d+), severity (\d+):\n?([^\n]*)")
_NET_LIB = re.compile(r"(?:Net-Lib|Operating System) error during ([^\n]*?) \((-?\d+)\)")
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """The server's number, severity and message in an error of the driver, and DB-Library's numbers.

    `number` is None without a message of the server: none came, or the driver hides it. It is 0 when only the message
    is known.
    """

    number: int | None
    severity: int
    words: str
    db_lib: tuple[int, ...]
    net: str

    @property
    def hidden(self) -> bool:
        """Whether the server sent a message that the driver hides."""
        return self.number is None and _SEE_MESSAGE in self.db_lib


def read(error: BaseException) -> ServerMessage:
    """Return the message in an error of a driver."""
    if isinstance(message := getattr(error, "message", None), ServerMessage):
        return message
    arguments = error.args
    while len(arguments) == 1 and isinstance(arguments[0], tuple):
        arguments = arguments[0]
    number = next((value for value in arguments if isinstance(value, int)), None)
    texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in arguments)
    text = "\n".join(value for value in texts if isinstance(value, str)) or type(error).__name__
    found = _DB_LIB.findall(text)
    server = text.partition("DB-Lib error message ")[0].strip()
    db_lib = tuple(int(code) for code, _, _ in found)
    severities = [int(severity) for code, severity, _ in found if int(code) == _SEE_MESSAGE]
    net = _NET_LIB.search(text)
    return ServerMessage(
        number=number if server and number and number not in db_lib else None,
        severity=severities[-1] if severities else 16,
        words=one_line(server or "; ".join(dict.fromkeys(words for _, _, words in found)) or text),
        db_lib=db_lib,
        net=net[1] if net else "",
    )


def translate_error(error: BaseException) -> AttemptError:
    message = read(error)
    if message.number is None:
        return SourceError(f"SQL Server broke off: {message.words}{_numbers(message)}")
    kind = QUERY_ERRORS.get(message.number, QueryError if message.severity < _SEVERE else SourceError)
    number = f" {message.number}" if message.number else ""
    found = kind(f"SQL Server{number}: {message.words}")
    found.about = _ABOUT.get(message.number, About.SQL)
    # The driver's own error has the line of the statement that was sent.
    line = getattr(error.__context__, "line", None)
    found.line = line if isinstance(line, int) and line > 0 else None
    return found


def is_refused_login(message: ServerMessage) -> bool:
    """Return whether the server refused the login (a missing database looks the same)."""
    return message.number in REFUSED_LOGINS


def unreached(message: ServerMessage, seconds: float) -> str:
    if message.number is not None:
        return f"SQL Server {message.number}: {message.words}"
    timed_out = _TIMED_OUT in message.db_lib
    why = f"no answer within {seconds:g} s" if timed_out else message.net or message.words
    return f"{why}{_numbers(message)}"


def refused(connection: str, place: str, user: str, message: ServerMessage | None) -> LoginRefusedError:
    """Return the error of a refused login."""
    why = f" ({message.number}: {message.words})" if message is not None and message.number else ""
    text = f"connection {connection}: {place} refused the login of {user}{why}"
    return LoginRefusedError(one_line(text), connection=connection)


def _numbers(message: ServerMessage) -> str:
    return f" (DB-Library {', '.join(map(str, message.db_lib))})" if message.db_lib else ""


def one_line(text: str) -> str:
    """Return a message on one line of limited length, without secrets."""
    flat = " ".join(mask(text).split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


_PRELOGIN, _LAST_PACKET = 0x12, 0x01
#: The token of the option of TLS, and its value "not supported".
_ENCRYPTION, _NOT_SUPPORTED = 0x01, 0x02
#: The options and their values: version, encryption (if the server requires it), instance, thread, no MARS.
_OPTIONS = ((0x00, bytes(6)), (0x01, b"\x00"), (0x02, b"\x00"), (0x03, bytes(4)), (0x04, b"\x00"))
_END = b"\xff"
#: An option (token, offset and length of its value), the octets of the header, and the most octets of an answer.
_OPTION, _HEADER, _LONGEST_ANSWER = struct.Struct(">BHH"), 8, 4096


def probe(connection: MssqlConnection) -> None:
    """Wait for an answer of one of the connection's servers. Raise ConnectError."""
    seconds = connection.connect_timeout.total_seconds()
    reasons = []
    for host, port in connection.addresses:
        if "\\" in host:
            return  # a named instance: the driver looks up its port
        if (problem := network_problem(host, port, seconds)) is None:
            return
        reasons.append(f"{host}:{port}: {problem}")
    raise ConnectError(
        f"connection {connection.name} cannot be reached: {'; '.join(reasons)}", connection=connection.name
    )


def network_problem(host: str, port: int, seconds: float) -> str | None:
    """Return why a server does not answer; None when it does."""
    try:
        _prelogin(host, port, seconds, 1)
    except TimeoutError:
        return f"did not answer within {seconds:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def offers_tls(host: str, port: int, seconds: float) -> bool | None:
    """Return whether a server offers TLS; None when it does not say."""
    try:
        answer = _prelogin(host, port, seconds, _HEADER + _LONGEST_ANSWER)[_HEADER:]
    except (OSError, UnicodeError):
        return None
    for at in range(0, len(answer) - _OPTION.size, _OPTION.size):
        token, start, length = _OPTION.unpack_from(answer, at)
        if token == _ENCRYPTION and length and start < len(answer):
            return bool(answer[start] != _NOT_SUPPORTED)
        if token == _END[0]:
            return None
    return None


def _prelogin(host: str, port: int, seconds: float, most: int) -> bytes:
    heads, values = b"", b""
    start = _OPTION.size * len(_OPTIONS) + len(_END)
    for token, value in _OPTIONS:
        heads += _OPTION.pack(token, start + len(values), len(value))
        values += value
    body = heads + _END + values
    with socket.create_connection((host, port), timeout=seconds) as there:
        there.sendall(struct.pack(">BBHHBB", _PRELOGIN, _LAST_PACKET, _HEADER + len(body), 0, 1, 0) + body)
        if not (answer := there.recv(most)):
            raise ConnectionResetError("it closed the connection")
        return answer
