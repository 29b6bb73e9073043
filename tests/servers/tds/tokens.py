"""The tokens of an answer, all but rows. [MS-TDS] 2.2.7"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .errors import TdsError
from .scope import Output
from .types import COLLATIONS, LATIN, SqlType

DONE, DONE_PROC, DONE_IN_PROC = 0xFD, 0xFE, 0xFF
MORE, FAILED, COUNTED, ATTENTION_SEEN, IN_BATCH = 0x01, 0x02, 0x10, 0x20, 0x80
SERVER = "tds"
FIXED_TYPES = {
    "tinyint": 0x30,
    "bit": 0x32,
    "smallint": 0x34,
    "int": 0x38,
    "smalldatetime": 0x3A,
    "real": 0x3B,
    "money": 0x3C,
    "datetime": 0x3D,
    "float": 0x3E,
    "smallmoney": 0x7A,
    "bigint": 0x7F,
}
_NULLABLE = {
    "tinyint": b"\x26\x01",
    "smallint": b"\x26\x02",
    "int": b"\x26\x04",
    "bigint": b"\x26\x08",
    "bit": b"\x68\x01",
    "real": b"\x6d\x04",
    "float": b"\x6d\x08",
    "smallmoney": b"\x6e\x04",
    "money": b"\x6e\x08",
    "smalldatetime": b"\x6f\x04",
    "datetime": b"\x6f\x08",
}
LONG_TYPES = {
    "char": 0xAF,
    "varchar": 0xA7,
    "nchar": 0xEF,
    "nvarchar": 0xE7,
    "binary": 0xAD,
    "varbinary": 0xA5,
}
SCALED_TYPES = {"time": 0x29, "datetime2": 0x2A, "datetimeoffset": 0x2B}
OLD_TYPES = {"text": 0x23, "image": 0x22, "ntext": 0x63}
_ROWVERSION_USER_TYPE = 80


def _short(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return bytes([len(data) // 2]) + data


def _long(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return struct.pack("<H", len(data) // 2) + data


def is_fixed(column: Output) -> bool:
    """Whether the column is sent in its type's form without NULL."""
    return not column.nullable and column.type.name in FIXED_TYPES


def type_info(column: Output) -> bytes:
    """TYPE_INFO."""
    kind = column.type
    name = kind.name
    if is_fixed(column):
        return bytes([FIXED_TYPES[name]])
    if name in _NULLABLE:
        return _NULLABLE[name]
    if name in ("decimal", "numeric"):
        return bytes([0x6A if name == "decimal" else 0x6C, kind.octets, kind.precision, kind.scale])
    if name == "uniqueidentifier":
        return b"\x24\x10"
    if name == "date":
        return b"\x28"
    if name in SCALED_TYPES:
        return bytes([SCALED_TYPES[name], kind.scale])
    if name in OLD_TYPES:
        collation = b"" if name == "image" else _collation(kind)
        longest = 0x7FFFFFFF if name != "ntext" else 0x7FFFFFFE
        return bytes([OLD_TYPES[name]]) + struct.pack("<I", longest) + collation + b"\x01" + _long("t")
    if name == "xml":
        return b"\xf1\x00"
    if name == "sql_variant":
        return b"\x62" + struct.pack("<I", 8009)
    if name in ("hierarchyid", "geometry", "geography"):
        return _clr(name)
    if name == "timestamp":
        return b"\xad" + struct.pack("<H", 8)
    length = 0xFFFF if kind.length == -1 else kind.octets
    low = "nvarchar" if name == "sysname" else name
    return bytes([LONG_TYPES[low]]) + struct.pack("<H", length) + (_collation(kind) if kind.is_text else b"")


def _collation(kind: SqlType) -> bytes:
    return COLLATIONS[kind.collation or LATIN][1]


def _clr(name: str) -> bytes:
    longest = 892 if name == "hierarchyid" else 0xFFFF
    assembly = f"Microsoft.SqlServer.Types.Sql{name.title()}, Microsoft.SqlServer.Types"
    return (
        b"\xf0"
        + struct.pack("<H", longest)
        + _short("master")
        + _short("sys")
        + _short(name)
        + _long(assembly)
    )


def column_metadata(columns: Sequence[Output]) -> bytes:
    """COLMETADATA."""
    parts = [b"\x81" + struct.pack("<H", len(columns))]
    for each in columns:
        user_type = _ROWVERSION_USER_TYPE if each.type.name == "timestamp" else 0
        flags = int(each.nullable) | (0x10 if each.identity else 0x08)
        parts.append(struct.pack("<IH", user_type, flags) + type_info(each) + _short(each.name or ""))
    return b"".join(parts)


def done(status: int = 0, rows: int = 0, command: int = 0, token: int = DONE) -> bytes:
    """DONE, DONEPROC, DONEINPROC."""
    return struct.pack("<BHHQ", token, status, command, rows)


def return_status(value: int) -> bytes:
    """RETURNSTATUS."""
    return struct.pack("<Bi", 0x79, value)


def return_value(ordinal: int, name: str, column: Output, value: bytes) -> bytes:
    """RETURNVALUE: an output parameter."""
    head = struct.pack("<BH", 0xAC, ordinal) + _short(name) + struct.pack("<BIH", 1, 0, 1)
    return head + type_info(column) + value


def message(error: TdsError, line: int = 1) -> bytes:
    """ERROR, or INFO for a severity up to 10."""
    token = 0xAA if error.severity > 10 else 0xAB
    body = struct.pack("<IBB", error.number, error.state, error.severity)
    body += _long(error.message[:8000]) + _short(SERVER) + _short("") + struct.pack("<I", line)
    return struct.pack("<BH", token, len(body)) + body


def _change(kind: int, new: bytes, old: bytes) -> bytes:
    body = bytes([kind]) + new + old
    return struct.pack("<BH", 0xE3, len(body)) + body


def database_change(new: str, old: str) -> bytes:
    """ENVCHANGE and INFO after USE."""
    info = TdsError(5701, f"Changed database context to '{new}'.", 0, 1)
    return _change(1, _short(new), _short(old)) + message(info)


def transaction_change(kind: int, descriptor: int) -> bytes:
    """ENVCHANGE 8 begin, 9 commit, 10 rollback: SQL Server tells of every one."""
    number = bytes([8]) + struct.pack("<Q", descriptor)
    return _change(kind, number, b"\0") if kind == 8 else _change(kind, b"\0", number)


def reset_done() -> bytes:
    """ENVCHANGE 18: the session is as it was after the login."""
    return _change(18, b"\0", b"\0")


def welcome(database: str, packet_size: int, *, extended: bool) -> bytes:
    """What answers a login that succeeded."""
    language = TdsError(5703, "Changed language setting to us_english.", 0, 1)
    collation = COLLATIONS[LATIN][1]
    program = "Microsoft SQL Server".encode("utf-16-le")
    acknowledged = (
        b"\x01"
        + bytes.fromhex("74000004")
        + bytes([len(program) // 2])
        + program
        + bytes([16, 0, 0x10, 0x45])
    )
    return b"".join(
        (
            database_change(database, "master"),
            _change(7, bytes([5]) + collation, b"\0"),
            _change(2, _short("us_english"), b"\0"),
            message(language),
            struct.pack("<BH", 0xAD, len(acknowledged)) + acknowledged,
            _change(4, _short(str(packet_size)), _short("4096")),
            b"\xae\xff" if extended else b"",
            done(),
        )
    )
