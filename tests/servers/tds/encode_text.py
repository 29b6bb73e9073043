"""Text and bytes on the wire: short with two bytes of length, long in chunks (PLP), and the old text and image."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .parse_expr import ExpressionParser
from .storage import utf16
from .types import COLLATIONS, LATIN, WIDE, SqlType

Block = npt.NDArray[np.uint8]
Piece = Block | list[bytes]
_NULL_PLP = b"\xff" * 8
_END = b"\0\0\0\0"
_POINTER = b"\x10" + b"dummy textptr\0\0\0" + b"dummyTS\0"
#: Where the stand-ins of lone surrogates begin in UTF-8: F4 80 and up; see `lone_surrogate`.
_HIGHEST = 0xF4


#: The best fit of Windows's code pages: a control character for a byte that stands for nothing.
_BEST_FIT = "windows_best_fit"


def _best_fit(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return bytes(ord(sign) if 0x80 <= ord(sign) <= 0x9F else 0x3F for sign in signs), error.end


codecs.register_error(_BEST_FIT, _best_fit)


def texts(array: pa.Array, kind: SqlType) -> list[Piece]:
    """A column of text."""
    wide = kind.name in WIDE or kind.name == "xml"
    starts, data = _utf16(array) if wide else _coded(array, kind.codec)
    return _framed(array, starts, data, kind)


def long_bytes(array: pa.Array, kind: SqlType) -> list[Piece]:
    """A column of bytes."""
    return _framed(array, _offsets(array), _data(array), kind)


def _framed(array: pa.Array, starts: npt.NDArray[np.int64], data: bytes, kind: SqlType) -> list[Piece]:
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if kind.name in ("text", "ntext", "image"):
        return [[_old(cell) for cell in cells(starts, data, valid)]]
    if kind.length == -1 or kind.name in ("xml", "hierarchyid", "geometry", "geography"):
        return [[_plp(cell) for cell in cells(starts, data, valid)]]
    lengths = np.diff(starts)
    if array.null_count:
        lengths = np.where(valid, lengths, 0xFFFF)
    prefix = lengths.astype("<u2").view(np.uint8).reshape(-1, 2)
    ends = starts.tolist()
    return [prefix, [data[one:other] for one, other in pairwise(ends)]]


def cells(starts: npt.NDArray[np.int64], data: bytes, valid: npt.NDArray[np.bool_]) -> list[bytes | None]:
    """Each value's bytes, None for NULL."""
    ends = starts.tolist()
    there = valid.tolist()
    return [data[ends[at] : ends[at + 1]] if there[at] else None for at in range(len(there))]


def _plp(cell: bytes | None) -> bytes:
    if cell is None:
        return _NULL_PLP
    head = struct.pack("<Q", len(cell))
    return head + struct.pack("<I", len(cell)) + cell + _END if cell else head + _END


def _old(cell: bytes | None) -> bytes:
    return b"\0" if cell is None else _POINTER + struct.pack("<I", len(cell)) + cell


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    if len(array) == 0:
        return np.zeros(1, np.int64)
    offsets: npt.NDArray[np.int32] = np.frombuffer(
        array.buffers()[1], "<i4", len(array) + 1, array.offset * 4
    )
    moved: npt.NDArray[np.int64] = offsets.astype(np.int64) - int(offsets[0])
    return moved


def _data(array: pa.Array) -> bytes:
    buffer = array.buffers()[2]
    if buffer is None or len(array) == 0:
        return b""
    offsets = np.frombuffer(array.buffers()[1], "<i4", len(array) + 1, array.offset * 4)
    data: bytes = buffer[int(offsets[0]) : int(offsets[-1])].to_pybytes()
    return data


def _utf16(array: pa.Array) -> tuple[npt.NDArray[np.int64], bytes]:
    """Offsets and bytes in UTF-16LE."""
    data, offsets = _data(array), _offsets(array)
    if data.isascii():
        return offsets * 2, data.decode("ascii").encode("utf-16-le")
    raw = np.frombuffer(data, np.uint8)
    # The two-byte units that begin at each byte of UTF-8: none in the middle of a sign, two for the rare planes.
    units = (raw & 0xC0 != 0x80).astype(np.int64) + (raw >= 0xF0)
    if _HIGHEST in data:
        converted = [utf16(text) for text in _strings(data, offsets)]
        lengths = [len(each) for each in converted]
        return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), b"".join(converted)
    before = np.concatenate(([0], np.cumsum(units)))
    return before[offsets] * 2, data.decode("utf-8").encode("utf-16-le")


def _strings(data: bytes, offsets: npt.NDArray[np.int64]) -> list[str]:
    ends = offsets.tolist()
    return [data[one:other].decode("utf-8") for one, other in pairwise(ends)]


def _coded(array: pa.Array, codec: str) -> tuple[npt.NDArray[np.int64], bytes]:
    """Offsets and bytes in a code page.

    What it does not have is a question mark, as in the original, or where the code page has a hole the byte itself.
    """
    data, offsets = _data(array), _offsets(array)
    if codec == "utf-8" or data.isascii():
        return offsets, data
    converted = [text.encode(codec, _BEST_FIT) for text in _strings(data, offsets)]
    lengths = [len(each) for each in converted]
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), b"".join(converted)


def variants(array: pa.Array) -> list[bytes]:
    """A column of sql_variant: texts, whole numbers and floats keep their kind, the rest travels as text."""
    return [_variant(each) for each in array.to_pylist()]


def _variant(value: dict[str, str] | None) -> bytes:
    if value is None:
        return _END
    kind = ExpressionParser(value["b"]).type_name()
    text = value["v"]
    if kind.name in ("bit", "tinyint", "smallint", "int", "bigint"):
        number, width = {"bit": (0x32, 1), "tinyint": (0x30, 1), "smallint": (0x34, 2), "int": (0x38, 4)}.get(
            kind.name, (0x7F, 8)
        )
        body = bytes([number, 0]) + int(text).to_bytes(
            width, "little", signed=kind.name not in ("bit", "tinyint")
        )
    elif kind.name == "float":
        body = bytes([0x3E, 0]) + struct.pack("<d", float(text))
    elif kind.name in ("char", "varchar"):
        body = (
            bytes([0xA7, 7])
            + COLLATIONS[LATIN][1]
            + struct.pack("<H", 8000)
            + text.encode(kind.codec, "replace")
        )
    else:
        body = bytes([0xE7, 7]) + COLLATIONS[LATIN][1] + struct.pack("<H", 8000) + utf16(text)
    return struct.pack("<I", len(body)) + body


__all__ = ["Sequence", "cells", "long_bytes", "texts", "variants"]
