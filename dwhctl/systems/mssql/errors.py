"""What pymssql's errors mean: whether to try again, whom to name, and SQL Server's own words.

A number alone is not to be trusted. pymssql keeps the last number and severity of a failed login for the whole
process and never resets them: a later failure that is no more severe comes with the old number and without the
server's message. What can be relied on is the text: a message of the server stands in front of what DB-Library
says ("DB-Lib error message 20018, severity 14: ..."), and where it stands its number is its own.
Source: pymssql 2.4.6, `_mssql.pyx`: msg_handler, err_handler, clr_err.
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


#: What an error of a query means, by its number. Any other is a QueryError below severity 17, above it (resources,
#: the server, the disk) a SourceError: https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/
#: database-engine-error-severities. The numbers: database-engine-events-and-errors in the same place.
QUERY_ERRORS: dict[int, type[AttemptError]] = {
    # Locks and row versions that others hold or changed.
    **dict.fromkeys((601, 1204, 1205, 1222, 3951, 3957, 3958, 3959, 3960, 3961, 3966), SourceError),
    # Tables in memory: conflicts of transactions.
    **dict.fromkeys((41301, 41302, 41305, 41325, 41839), SourceError),
    # Memory, optimizer, definitions that changed under the query.
    **dict.fromkeys((701, 802, 845, 2801, 8628, 8645, 8651, 8902), SourceError),
    # The server, the session or the network goes away.
    **dict.fromkeys((64, 121, 233, 596, 3617, 6005, 9001, 10053, 10054, 10060, 17142, 17197), SourceError),
    # Azure: throttled, moved, busy.
    **dict.fromkeys(
        (10928, 10929, 40143, 40197, 40501, 40540, 40544, 40549, 40550, 40551, 40552, 40553, 40613),
        SourceError,
    ),
    **dict.fromkeys((49918, 49919, 49920), SourceError),
    # The database is on its way: recovered, restored, single-user, in transition, changing its role.
    **dict.fromkeys((921, 922, 924, 927, 952, 956, 976, 983), SourceBusyError),
    # The database cannot be used: missing, forbidden, suspect, offline, a mirror, readable for read-only logins alone.
    **dict.fromkeys((911, 916, 926, 942, 945, 946, 948, 954, 978, 4060, 4064, 40532), DatabaseMissingError),
}
#: Permission denied on an object, a column, a statement, the database; no such table or view.
_ABOUT = {**dict.fromkeys((229, 230, 262, 297, 300, 371, 378), About.PERMISSION), 208: About.TABLE}
#: What a failed login means. Any other message is a ConnectError: servers start, stop and fill up.
REFUSED_LOGINS = frozenset(
    {
        18450, 18452, 18456, 18458, 18459, 18460, 18462, 18463, 18464, 18465, 18466, 18467, 18468, 18470, 18471,
        18482, 18486, 18487, 18488, 17892, 40607, 40615, 40914,
    }
)  # fmt: skip

_SEVERE = 17
#: DB-Library's "check messages from the SQL Server": its severity is that of the server's message.
_SEE_MESSAGE = 20018
_TIMED_OUT = 20003
_DB_LIB = re.compile(r"DB-Lib error message (\d+), severity (\d+):\n?([^\n]*)")
_NET_LIB = re.compile(r"(?:Net-Lib|Operating System) error during ([^\n]*?) \((-?\d+)\)")
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """What an error of the driver says: the server's number, severity and words, and DB-Library's numbers.

    `number` is None when the server's message is missing: nothing came, or the driver kept it to itself.
    """

    number: int | None
    severity: int
    words: str
    db_lib: tuple[int, ...]
    net: str

    @property
    def hidden(self) -> bool:
        """Whether the server said something that the driver does not tell."""
        return self.number is None and _SEE_MESSAGE in self.db_lib


def read(error: BaseException) -> ServerMessage:
    """Read an error of pymssql."""
    number, text = _number_and_text(error)
    found = _DB_LIB.findall(text)
    server = text.partition("DB-Lib error message ")[0].strip()
    db_lib = tuple(int(each) for each, _, _ in found)
    severities = [int(severity) for each, severity, _ in found if int(each) == _SEE_MESSAGE]
    net = _NET_LIB.search(text)
    if number in db_lib or not number:
        number = None
    return ServerMessage(
        number=number if server else None,
        severity=severities[-1] if severities else 16,
        words=one_line(server or "; ".join(dict.fromkeys(words for _, _, words in found)) or text),
        db_lib=db_lib,
        net=net[1] if net else "",
    )


def _number_and_text(error: BaseException) -> tuple[int | None, str]:
    arguments = error.args
    while len(arguments) == 1 and isinstance(arguments[0], tuple):
        arguments = arguments[0]
    number = next((each for each in arguments if isinstance(each, int)), None)
    texts = [each for each in arguments if isinstance(each, str | bytes)]
    text = "\n".join(each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in texts)
    return number, text or type(error).__name__


def query_error(error: BaseException) -> AttemptError:
    """Say what an error of a query or of its answer means."""
    said = read(error)
    if said.number is None:
        return SourceError(f"SQL Server broke off: {said.words}{_numbers(said)}")
    kind = QUERY_ERRORS.get(said.number, QueryError if said.severity < _SEVERE else SourceError)
    found = kind(f"SQL Server {said.number}: {said.words}")
    found.about = _ABOUT.get(said.number, About.SQL)
    # The driver's own error has the line, in the statement that was sent.
    line = getattr(error.__context__, "line", None)
    found.line = line if isinstance(line, int) and line > 0 else None
    return found


def is_refused_login(said: ServerMessage) -> bool:
    """Tell whether the server turned the login away (an unknown database looks the same)."""
    return said.number in REFUSED_LOGINS


def unreached(said: ServerMessage, seconds: float) -> str:
    """Give the reason why a server could not be talked to."""
    if said.number is not None:
        return f"SQL Server {said.number}: {said.words}"
    if _TIMED_OUT in said.db_lib:
        return f"no answer within {seconds:g} s{_numbers(said)}"
    if said.net:
        return f"{said.net}{_numbers(said)}"
    return f"{said.words}{_numbers(said)}"


def refused(connection: str, place: str, user: str, said: ServerMessage | None) -> LoginRefusedError:
    """Say that a login was refused."""
    why = f" ({said.number}: {said.words})" if said is not None and said.number else ""
    message = f"connection {connection}: {place} refused the login of {user}{why}"
    return LoginRefusedError(mask(one_line(message)), connection=connection)


def _numbers(said: ServerMessage) -> str:
    return f" (DB-Library {', '.join(map(str, said.db_lib))})" if said.db_lib else ""


def one_line(text: str) -> str:
    """Put a message on one line of a bounded length, without secrets."""
    flat = " ".join(mask(text).split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


_PRELOGIN, _LAST_PACKET = 0x12, 0x01
#: The token of the option that says whether a side has TLS, and the value for "not supported".
_ENCRYPTION, _NOT_SUPPORTED = 0x01, 0x02
#: Each option with its value: version, encryption (on if the server wants), instance, thread, no MARS.
_OPTIONS = ((0x00, bytes(6)), (0x01, b"\x00"), (0x02, b"\x00"), (0x03, bytes(4)), (0x04, b"\x00"))
_END = b"\xff"
#: An option of the greeting: token, where its value starts, length. Of an answer, the header and the most that is read.
_OPTION, _HEADER, _LONGEST_GREETING = struct.Struct(">BHH"), 8, 4096


def probe(connection: MssqlConnection) -> None:
    """Wait for a sign of life of one of the connection's servers. Raise ConnectError."""
    reasons = []
    for host, port in connection.addresses:
        if "\\" in host:
            return None  # a named instance: the driver asks for its port
        try:
            return _probe(host, port, connection.connect_timeout.total_seconds())
        except TimeoutError:
            seconds = connection.connect_timeout.total_seconds()
            reasons.append(f"{host}:{port} did not answer within {seconds:g} s")
        except (OSError, UnicodeError) as error:
            reasons.append(f"{host}:{port}: {getattr(error, 'strerror', None) or error}")
    raise ConnectError(
        f"connection {connection.name} cannot be reached: {'; '.join(reasons)}", connection=connection.name
    )


def _probe(host: str, port: int, seconds: float) -> None:
    with socket.create_connection((host, port), timeout=seconds) as there:
        there.sendall(_greeting())
        if not there.recv(1):
            raise ConnectionResetError("it closed the connection")


def offers_tls(host: str, port: int, seconds: float) -> bool | None:
    """Tell whether a server offers TLS; None when it cannot be told."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as there:
            there.sendall(_greeting())
            answer = there.recv(_HEADER + _LONGEST_GREETING)[_HEADER:]
    except (OSError, UnicodeError):
        return None
    for at in range(0, len(answer) - _OPTION.size, _OPTION.size):
        token, start, length = _OPTION.unpack_from(answer, at)
        if token == _ENCRYPTION and length and start < len(answer):
            return bool(answer[start] != _NOT_SUPPORTED)
        if token == _END[0]:
            return None
    return None


def _greeting() -> bytes:
    heads, values = b"", b""
    start = _OPTION.size * len(_OPTIONS) + len(_END)
    for token, value in _OPTIONS:
        heads += _OPTION.pack(token, start + len(values), len(value))
        values += value
    body = heads + _END + values
    return struct.pack(">BBHHBB", _PRELOGIN, _LAST_PACKET, 8 + len(body), 0, 1, 0) + body
