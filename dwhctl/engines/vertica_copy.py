"""Record batches as the bytes of a `COPY ... FROM STDIN`: Vertica's delimited text, written column by column.

| value | written |
| --- | --- |
| NULL | nothing between two delimiters |
| text | `'...'`, a backslash before each backslash, quote, delimiter and newline |
| binary | `0x...` (hex digits), empty: `''` |
| uuid | as it is |
| integer, decimal | digits, never with an exponent |
| float | the shortest text that reads back the same; Infinity, -Infinity, NaN |
| date, time, timestamp | ISO, years of four digits; with a zone: in UTC, `+00` at the end |
| boolean | t, f |

The pair of `|` and `'` is the one that the driver's vendor tests against a server with every ASCII character.
Source: https://docs.vertica.com/24.2.x/en/data-load/data-formats/delimited-data/ and the driver's `format_quote`.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dwhctl.columns import Column

#: How the bytes are to be read; in the order of Vertica's own grammar. What follows in COPY is what to do with them.
#: Source: https://www.vertica.com/docs/9.2.x/HTML/Content/Authoring/SQLReferenceManual/Statements/COPY/COPY.htm
OPTIONS = r"DELIMITER '|' NULL '' ESCAPE AS E'\\' ENCLOSED BY '''' RECORD TERMINATOR E'\n'"

#: About how many bytes of a batch are written at a time.
_PIECE_BYTES = 2**20

# The backslash comes first: those that are put before the others are not doubled.
_ESCAPED = ("\\", "'", "|", "\n")


class CopyEncoder:
    """Writes the rows of batches that have these columns, and a token at the end of each row."""

    def __init__(self, columns: Sequence[Column], token: str) -> None:
        self._names = [column.name for column in columns]
        self._writers = [(_writer(column), column.kind is Kind.TEXT) for column in columns]
        self._end = f"'{_escaped_text(token)}'\n"

    def pieces(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Write a batch, about a megabyte at a time. Raise ValueError when its columns are others."""
        if batch.schema.names != self._names:
            raise ValueError(f"the batch has the columns {batch.schema.names}, not {self._names}")
        rows = max(1, batch.num_rows * _PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            yield self._rows(batch.slice(start, rows))

    def _rows(self, batch: pa.RecordBatch) -> bytes:
        """Put the cells of each row together; the rows then lie one after another in one buffer."""
        parts: list[pa.Array | str] = []
        literal = ""
        for array, (write, enclosed) in zip(batch.columns, self._writers, strict=True):
            cells = write(array)
            if enclosed and cells.null_count:
                cells = pc.binary_join_element_wise("'", cells, "'", "", null_handling="emit_null")
            quote = "'" if enclosed and not array.null_count else ""
            parts += [literal + quote, cells]
            literal = quote + "|"
        parts.append(literal + self._end)
        rows = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")
        return _data(rows).tobytes()


def _writer(column: Column) -> Callable[[pa.Array], pa.Array]:
    """Give what turns a column's values into their texts; NULL stays NULL."""
    special: dict[Kind, Callable[[pa.Array], pa.Array]] = {
        Kind.TEXT: _escaped,
        Kind.BINARY: _hex,
        Kind.BOOLEAN: lambda array: pc.if_else(array, "t", "f"),
        Kind.DECIMAL: _plain_decimals,
        Kind.FLOAT: _floats,
        Kind.TIMESTAMPTZ: _instants,
    }
    return special.get(column.kind, lambda array: array.cast(pa.string()))


def _escaped(array: pa.Array) -> pa.Array:
    for special in _ESCAPED:
        array = pc.replace_substring(array, special, "\\" + special)
    return array


def _escaped_text(text: str) -> str:
    for special in _ESCAPED:
        text = text.replace(special, "\\" + special)
    return text


def _hex(array: pa.Array) -> pa.Array:
    """Write `0x` and two digits for each octet; an empty value is an enclosed empty text."""
    offsets = _offsets(array)
    digits = binascii.hexlify(_data(array))
    doubled = ((offsets - offsets[0]) * 2).astype(np.int32)
    texts = _with_nulls_of(array, pa.py_buffer(doubled), pa.py_buffer(digits))
    return pc.if_else(pc.equal(texts, ""), "''", pc.binary_join_element_wise("0x", texts, ""))


def _plain_decimals(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    # Arrow writes 0.0000001 as 1E-7.
    if array.type.scale > 0 and pc.any(pc.match_substring(texts, "E")).as_py():
        return _with_point(array)
    return texts


def _with_point(array: pa.Array) -> pa.Array:
    """Write decimals from their digits as whole numbers: the point is put in where the scale says."""
    type_, scale = array.type, array.type.scale
    whole_type = (
        pa.decimal128(38, 0) if type_.byte_width == pa.decimal128(1).byte_width else pa.decimal256(76, 0)
    )
    whole = pa.Array.from_buffers(whole_type, len(array), array.buffers(), offset=array.offset)
    texts = whole.cast(pa.string())
    sign = pc.if_else(pc.starts_with(texts, "-"), "-", "")
    digits = pc.ascii_lpad(pc.replace_substring(texts, "-", ""), scale + 1, "0")
    before, after = pc.utf8_slice_codeunits(digits, 0, -scale), pc.utf8_slice_codeunits(digits, -scale)
    return pc.binary_join_element_wise(sign, before, ".", after, "")


def _floats(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if pc.all(pc.is_finite(array)).as_py() is False:
        texts = pc.if_else(pc.is_nan(array), "NaN", texts)
        texts = pc.replace_substring(texts, "inf", "Infinity")
    return texts


def _instants(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
    return pc.binary_join_element_wise(texts, "+00", "")


def _offsets(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    all_offsets = np.frombuffer(array.buffers()[1], np.int32)
    return all_offsets[array.offset : array.offset + len(array) + 1]


def _data(array: pa.Array) -> memoryview:
    """Give the bytes of a string or binary array's values, one after another."""
    offsets = _offsets(array)
    data = array.buffers()[2]
    return memoryview(data if data is not None else b"")[offsets[0] : offsets[-1]]


def _with_nulls_of(array: pa.Array, offsets: pa.Buffer, data: pa.Buffer) -> pa.Array:
    texts = pa.Array.from_buffers(pa.string(), len(array), [None, offsets, data])
    return pc.if_else(pc.is_valid(array), texts, pa.scalar(None, pa.string())) if array.null_count else texts
