"""Rows as the wire wants them, column by column: numpy for what has one length, slices of one buffer for the rest.

[MS-TDS] 2.2.5.4 (types) and 2.2.7.17 (ROW).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .encode_text import cells, long_bytes, texts, variants
from .scope import Output
from .storage import DAY_TICKS, DAYS_1900, EPOCH_US
from .tokens import is_fixed
from .types import SqlType

Block = npt.NDArray[np.uint8]
#: A column is some of these side by side: bytes of one length for every row, or a cell for each row.
Piece = Block | list[bytes]
_ROW = 0xD1
_DAYS_1970 = 719_162


def wire_sql(sql: str, columns: Sequence[Output]) -> str:
    """The query with its columns in the forms that `encode` reads."""
    listed = []
    for at, each in enumerate(columns):
        x = f"c{at}"
        if each.type.name == "uniqueidentifier":
            x = f"unhex(replace(CAST({x} AS VARCHAR), '-', ''))"
        elif each.type.name == "bit":
            x = f"CAST({x} AS UTINYINT)"
        listed.append(f"{x} AS c{at}")
    return f"SELECT {', '.join(listed)} FROM ({sql})"


def encode(batch: pa.RecordBatch, columns: Sequence[Output]) -> bytes:
    """The ROW tokens of a batch."""
    rows = batch.num_rows
    pieces: list[Piece] = [np.full((rows, 1), _ROW, np.uint8)]
    for array, column in zip(batch.columns, columns, strict=True):
        pieces.extend(_column(array, column))
    merged = _merged(pieces)
    if len(merged) == 1 and isinstance(merged[0], np.ndarray):
        return merged[0].tobytes()
    lists = [_cells(piece) for piece in merged]
    return b"".join(chain.from_iterable(zip(*lists, strict=True)))


def _merged(pieces: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    run: list[Block] = []
    for piece in pieces:
        if isinstance(piece, np.ndarray):
            run.append(piece)
            continue
        if run:
            found.append(np.hstack(run))
            run = []
        found.append(piece)
    if run:
        found.append(np.hstack(run))
    return found


def _cells(piece: Piece) -> list[bytes]:
    if isinstance(piece, list):
        return piece
    whole = np.ascontiguousarray(piece)
    width = whole.shape[1]
    data = whole.tobytes()
    return [data[at : at + width] for at in range(0, len(data), width)]


def _column(array: pa.Array, column: Output) -> list[Piece]:
    kind = column.type
    if kind.is_text or kind.name == "xml":
        return texts(array, kind)
    if kind.name in ("image", "hierarchyid", "geometry", "geography", "binary", "varbinary", "timestamp"):
        return long_bytes(array, kind)
    if kind.name == "sql_variant":
        return [variants(array)]
    block = _values(array, kind)
    if is_fixed(column):
        return [block]
    width = block.shape[1]
    if array.null_count == 0:
        return [np.full((len(array), 1), width, np.uint8), block]
    valid = _valid(array)
    lengths = np.where(valid, width, 0).astype(np.uint8).reshape(-1, 1)
    return [
        lengths,
        [cell if there else b"" for cell, there in zip(_cells(block), valid.tolist(), strict=True)],
    ]


def _valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _raw(array: pa.Array, dtype: str) -> npt.NDArray[np.generic]:
    """The values' own memory; what stands in place of NULL is anything."""
    item = np.dtype(dtype)
    buffer = array.buffers()[1]
    return np.frombuffer(buffer, item, len(array), array.offset * item.itemsize)


def _bytes(values: npt.NDArray[np.generic], width: int | None = None) -> Block:
    """Numbers as little-endian bytes, the first `width` of each."""
    whole = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    return whole if width is None else whole[:, :width]


def _values(array: pa.Array, kind: SqlType) -> Block:
    match kind.name:
        case "bit" | "tinyint":
            return _bytes(_raw(array, "u1"))
        case "smallint":
            return _bytes(_raw(array, "<i2"))
        case "int":
            return _bytes(_raw(array, "<i4"))
        case "bigint":
            return _bytes(_raw(array, "<i8"))
        case "real":
            return _bytes(_raw(array, "<f4"))
        case "float":
            return _bytes(_raw(array, "<f8"))
        case "decimal" | "numeric":
            return _decimal(array, kind)
        case "money" | "smallmoney":
            return _money(array, kind)
        case "uniqueidentifier":
            return _guid(array)
        case _:
            return _moment(array, kind)


def _decimal(array: pa.Array, kind: SqlType) -> Block:
    """A sign and the digits without it; Arrow has two's complement of 128 bits."""
    words = np.frombuffer(array.buffers()[1], "<u8", 2 * len(array), array.offset * 16)
    low, high = words[0::2].copy(), words[1::2].copy()
    negative = (high >> np.uint64(63)).astype(bool)
    low[negative] = ~low[negative] + np.uint64(1)
    high[negative] = ~high[negative] + (low[negative] == 0).astype(np.uint64)
    whole = np.empty((len(array), 17), np.uint8)
    whole[:, 0] = ~negative
    whole[:, 1:9] = _bytes(low)
    whole[:, 9:17] = _bytes(high)
    return whole[:, : kind.octets]


def _money(array: pa.Array, kind: SqlType) -> Block:
    words = np.frombuffer(array.buffers()[1], "<i8", 2 * len(array), array.offset * 16)[0::2]
    if kind.name == "smallmoney":
        return _bytes(words.astype("<i4"))
    # The upper half goes first.
    whole = _bytes(words)
    return np.hstack([whole[:, 4:], whole[:, :4]])


def _guid(array: pa.Array) -> Block:
    if array.null_count:
        array = array.fill_null(bytes(16))
    offsets = np.frombuffer(array.buffers()[1], "<i4", len(array) + 1, array.offset * 4)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return data.reshape(-1, 16)[:, [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]]


def _moment(array: pa.Array, kind: SqlType) -> Block:
    match kind.name:
        case "date":
            return _bytes(_raw(array, "<i4").astype("<i8") + _DAYS_1970, 3)
        case "datetime":
            ticks = _raw(array, "<i8").astype("<i8") + EPOCH_US
            days, rest = np.divmod(ticks, DAY_TICKS // 10)
            thirds = (rest * 3 + 5_000) // 10_000
            return np.hstack([_bytes((days - DAYS_1900).astype("<i4")), _bytes(thirds.astype("<u4"))])
        case "smalldatetime":
            minutes = (_raw(array, "<i8").astype("<i8") + EPOCH_US) // 60_000_000 - DAYS_1900 * 1440
            return np.hstack(
                [_bytes((minutes // 1440).astype("<u2")), _bytes((minutes % 1440).astype("<u2"))]
            )
        case "time":
            ticks = _raw(array, "<i8").astype("<i8") * (1 if kind.has_ticks else 10)
            return _clock(ticks, kind)
        case "datetime2":
            raw = _raw(array, "<i8").astype("<i8")
            ticks = raw if kind.has_ticks else (raw + EPOCH_US) * 10
            days, rest = np.divmod(ticks, DAY_TICKS)
            return np.hstack([_clock(rest, kind), _bytes(days.astype("<i8"), 3)])
        case _:
            days, rest = np.divmod(_raw(array.field("t"), "<i8"), DAY_TICKS)
            return np.hstack(
                [_clock(rest, kind), _bytes(days.astype("<i8"), 3), _bytes(_raw(array.field("o"), "<i2"))]
            )


def _clock(ticks: npt.NDArray[np.int64], kind: SqlType) -> Block:
    return _bytes((ticks // 10 ** (7 - kind.scale)).astype("<i8"), kind.time_octets)


__all__ = ["cells", "encode", "wire_sql"]
