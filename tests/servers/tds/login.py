"""PRELOGIN and LOGIN7, what the client says first. [MS-TDS] 2.2.6.4 and 2.2.6.5"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ENCRYPT_OFF, ENCRYPT_ON, ENCRYPT_NOT_SUPPORTED, ENCRYPT_REQUIRED = 0, 1, 2, 3
_READ_ONLY_INTENT = 0x20
_EXTENSION = 0x10


@dataclass(frozen=True)
class Login:
    """What a client logs in with."""

    user: str
    password: str
    database: str
    #: What the client asks for; empty: that of the login.
    language: str
    application: str
    host: str
    packet_size: int
    version: int
    read_only: bool
    extended: bool


def wanted_encryption(body: bytes) -> int:
    """The ENCRYPTION option of a PRELOGIN."""
    at = 0
    while at + 5 <= len(body) and body[at] != 0xFF:
        token, start, length = struct.unpack_from(">BHH", body, at)
        if token == 1 and length:
            return int(body[start])
        at += 5
    return ENCRYPT_NOT_SUPPORTED


def prelogin_answer(encryption: int) -> bytes:
    """The server's PRELOGIN: version 16.0.4165, encryption, instance, thread, no MARS."""
    values = [
        (0, struct.pack(">BBHH", 16, 0, 4165, 0)),
        (1, bytes([encryption])),
        (2, b"\0"),
        (3, b""),
        (4, b"\0"),
    ]
    start = 5 * len(values) + 1
    head = b""
    for token, value in values:
        head += struct.pack(">BHH", token, start, len(value))
        start += len(value)
    return head + b"\xff" + b"".join(value for _, value in values)


def read_login(body: bytes) -> Login:
    """A LOGIN7 record."""
    version, size = struct.unpack_from("<II", body, 4)
    type_flags, more_flags = body[26], body[27]

    def text(slot: int) -> bytes:
        start, length = struct.unpack_from("<HH", body, 36 + 4 * slot)
        return body[start : start + 2 * length]

    return Login(
        host=text(0).decode("utf-16-le"),
        user=text(1).decode("utf-16-le"),
        password=_clear(text(2)).decode("utf-16-le", "replace"),
        application=text(3).decode("utf-16-le"),
        language=text(7).decode("utf-16-le"),
        database=text(8).decode("utf-16-le"),
        packet_size=size,
        version=version,
        read_only=bool(type_flags & _READ_ONLY_INTENT),
        extended=bool(more_flags & _EXTENSION),
    )


def _clear(hidden: bytes) -> bytes:
    """The password: each byte was turned around by halves and mixed with A5."""
    mixed = bytes(each ^ 0xA5 for each in hidden)
    return bytes((each >> 4) | ((each & 15) << 4) for each in mixed)
