"""Messages of the protocol: PostgreSQL 3.0's frame, with layouts of Vertica's own where it differs.

The layouts are what vertica_python.vertica.messages reads and writes (version 1.4.0).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.servers.base import Gone, Link
from tests.servers.vertica.copy_grammar import Copy
from tests.servers.vertica.kinds import Kind
from tests.servers.vertica.problems import VerticaError

SSL_REQUEST = 80877103
CANCEL_REQUEST = 80877102
LOAD_BALANCE_REQUEST = 80936960
#: 3.15: what the server speaks at most.
PROTOCOL = 3 << 16 | 15
#: No message of a client is larger.
_MOST = 1 << 30
_PATIENCE = 10.0


@dataclass(frozen=True)
class Shown:
    """A column of a result."""

    name: str
    kind: Kind


def read_start(link: Link) -> tuple[int, bytes]:
    """The first message of a connection: its code and what follows."""
    (size,) = struct.unpack("!I", link.receive(4))
    if not 8 <= size <= 65_536:
        raise Gone("no start of a conversation")
    body = link.receive(size - 4)
    return struct.unpack("!I", body[:4])[0], body[4:]


def read(link: Link) -> tuple[bytes, bytes]:
    """The next message of the client: its type and body."""
    head = link.receive(5)
    (size,) = struct.unpack("!I", head[1:])
    if not 4 <= size <= _MOST:
        raise Gone("no message")
    return head[:1], link.receive(size - 4)


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message in its frame."""
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    """A string as messages hold it."""
    return value.encode() + b"\0"


def authentication(code: int, rest: bytes = b"") -> bytes:
    """AuthenticationOk (0), a demand for a password, ..."""
    return message(b"R", struct.pack("!I", code) + rest)


def parameter(name: str, value: str) -> bytes:
    """ParameterStatus."""
    return message(b"S", text(name) + text(value))


def key_data(process: int, key: int) -> bytes:
    """BackendKeyData: what a CancelRequest has to name."""
    return message(b"K", struct.pack("!II", process, key))


def ready(in_transaction: bool) -> bytes:
    """ReadyForQuery."""
    return message(b"Z", b"T" if in_transaction else b"I")


def complete(tag: str) -> bytes:
    """CommandComplete."""
    return message(b"C", text(tag))


def error(problem: VerticaError) -> bytes:
    """ErrorResponse."""
    fields = [
        (b"S", problem.severity),
        (b"C", problem.sqlstate),
        (b"M", problem.message),
        (b"V", str(problem.code)),
        (b"R", "test_server"),
    ]
    if problem.detail:
        fields.append((b"D", problem.detail))
    return message(b"E", b"".join(key + text(value) for key, value in fields) + b"\0")


def notice(code: int, said: str) -> bytes:
    """NoticeResponse."""
    fields = [(b"S", "NOTICE"), (b"C", "00000"), (b"M", said), (b"V", str(code))]
    return message(b"N", b"".join(key + text(value) for key, value in fields) + b"\0")


def row_description(columns: Sequence[Shown], binary: bool) -> bytes:
    """RowDescription, complex types (their parent column's number) included."""
    if not columns:
        return message(b"T", struct.pack("!H", 0))
    parts = [struct.pack("!HI", len(columns), 0)]
    for number, column in enumerate(columns, 1):
        kind = column.kind
        parts.append(text(column.name))
        parts.append(struct.pack("!QHH", 0, number, 0))
        parts.append(struct.pack("!BIhHHiH", 0, kind.oid, kind.size, 1, 0, kind.modifier, int(binary)))
    return message(b"T", b"".join(parts))


def parameter_description(kinds: Sequence[Kind]) -> bytes:
    """ParameterDescription of a prepared statement."""
    parts = [struct.pack("!H", len(kinds))]
    if kinds:
        parts.append(struct.pack("!I", 0))
    parts += [struct.pack("!BIiH", 0, kind.oid, kind.modifier, 0) for kind in kinds]
    return message(b"t", b"".join(parts))


def command_description(tag: str) -> bytes:
    """CommandDescription of a prepared statement; no rewriting into COPY is offered."""
    return message(b"m", text(tag) + struct.pack("!H", 0) + text(""))


def copy_in(columns: int) -> bytes:
    """CopyInResponse, all columns as text."""
    return message(b"G", struct.pack(f"!BH{columns}H", 0, columns, *[0] * columns))


def verify_files(copy: Copy) -> bytes:
    """VerifyFiles of COPY LOCAL: what the client is to read and to write."""
    body = struct.pack("!H", len(copy.files))
    names = (*copy.files, copy.rejected_file, copy.exceptions_file)
    return message(b"F", body + b"".join(text(name) for name in names))


def load_file(name: str) -> bytes:
    """LoadFile: the client sends this file."""
    return message(b"H", text(name))


def write_file(name: str, content: bytes) -> bytes:
    """WriteFile: the client adds this to a file; without a name: rejected row numbers."""
    return message(b"O", text(name) + struct.pack("!I", len(content)) + content)


def startup_parameters(body: bytes) -> dict[str, str]:
    """The pairs of a startup message."""
    found: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at] != 0:
        end = body.index(b"\0", at)
        name = body[at:end].decode()
        at = end + 1
        if name == "protocol_version":
            # The one value that is no string.
            (number,) = struct.unpack("!I", body[at : at + 4])
            found[name] = str(number)
            at += 5
            continue
        end = body.index(b"\0", at)
        found[name] = body[at:end].decode()
        at = end + 1
    return found
