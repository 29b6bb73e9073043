"""Knock at a SQL Server: is it there at all, and does it offer TLS? It is asked for its greeting (PRELOGIN).

Nobody logs in.

Unlike the driver it can wait in a thread of the parent, so that a server which hangs keeps no worker waiting.
Source: https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-tds (2.2.6.5 PRELOGIN)
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from dwhctl.errors import ConnectError

if TYPE_CHECKING:
    from dwhctl.project.model import MssqlConnection

_PRELOGIN, _LAST_PACKET = 0x12, 0x01
#: The token of the option that says whether a side has TLS, and the value for "not supported".
_ENCRYPTION, _NOT_SUPPORTED = 0x01, 0x02
#: Each option with its value: version, encryption (on if the server wants), instance, thread, no MARS.
_OPTIONS = ((0x00, bytes(6)), (0x01, b"\x00"), (0x02, b"\x00"), (0x03, bytes(4)), (0x04, b"\x00"))
_END = b"\xff"
#: An option of the greeting: token, where its value starts, length. Of an answer, the header and the most that is read.
_OPTION, _HEADER, _LONGEST = struct.Struct(">BHH"), 8, 4096


def knock(connection: MssqlConnection) -> None:
    """Wait for a sign of life of one of the connection's servers. Raise ConnectError."""
    reasons = []
    for host, port in connection.addresses:
        if "\\" in host:
            return None  # a named instance: the driver asks for its port
        try:
            return _knock(host, port, connection.connect_timeout.total_seconds())
        except TimeoutError:
            seconds = connection.connect_timeout.total_seconds()
            reasons.append(f"{host}:{port} did not answer within {seconds:g} s")
        except (OSError, UnicodeError) as error:
            reasons.append(f"{host}:{port}: {getattr(error, 'strerror', None) or error}")
    raise ConnectError(
        f"connection {connection.name} cannot be reached: {'; '.join(reasons)}", connection=connection.name
    )


def _knock(host: str, port: int, seconds: float) -> None:
    with socket.create_connection((host, port), timeout=seconds) as there:
        there.sendall(_greeting())
        if not there.recv(1):
            raise ConnectionResetError("it closed the connection")


def offers_tls(host: str, port: int, seconds: float) -> bool | None:
    """Tell whether a server offers TLS; None when it cannot be told."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as there:
            there.sendall(_greeting())
            answer = there.recv(_HEADER + _LONGEST)[_HEADER:]
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
