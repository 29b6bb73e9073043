"""Stage one slice in Vertica: one session, one COPY that reads the batches as it sends them."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, StagingError, ValueRefusedError
from dwhctl.core.sql import literal, quote_name
from dwhctl.systems.base.server import ServerStage
from dwhctl.systems.base.staging import TOKEN, BatchStream, gone
from dwhctl.systems.vertica.catalog import MISSING, MISSING_COLUMN, TableName, is_sqlstate, rejection

if TYPE_CHECKING:
    from dwhctl.systems.vertica.client import VerticaClient


#: The format of the bytes, in the order of Vertica's grammar.
#: Source: https://www.vertica.com/docs/9.2.x/HTML/Content/Authoring/SQLReferenceManual/Statements/COPY/COPY.htm
OPTIONS = r"DELIMITER '|' NULL '' ESCAPE AS E'\\' ENCLOSED BY '''' RECORD TERMINATOR E'\n'"

#: About how many bytes of a batch are written at a time.
_PIECE_BYTES = 2**20

# The backslash is first: those that escape the others are not escaped again.
_ESCAPED = ("\\", "'", "|", "\n")


class CopyEncoder:
    """Writes the rows of batches of these columns, with a token at the end of each row."""

    def __init__(self, columns: Sequence[Column], token: str) -> None:
        self._names = [column.name for column in columns]
        self._writers = [(_writer(column), column.kind is Kind.TEXT) for column in columns]
        self._end = f"'{_escaped(pa.array([token]))[0]}'\n"

    def pieces(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield a batch's bytes, about a megabyte at a time. Raise ValueError when its columns differ."""
        if batch.schema.names != self._names:
            raise ValueError(f"the batch has the columns {batch.schema.names}, not {self._names}")
        rows = max(1, batch.num_rows * _PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            yield self._rows(batch.slice(start, rows))

    def _rows(self, batch: pa.RecordBatch) -> bytes:
        """Join the cells of each row; Arrow then has all rows in one buffer."""
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
    # To look through all octets at once is much faster than to look through each text.
    octets = _data(array).tobytes()
    for special in _ESCAPED:
        if special.encode() in octets:
            array = pc.replace_substring(array, special, "\\" + special)
    return array


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
    """Write decimals as whole numbers, and insert the point by the scale."""
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
    offsets = _offsets(array)
    data = array.buffers()[2]
    return memoryview(data if data is not None else b"")[offsets[0] : offsets[-1]]


def _with_nulls_of(array: pa.Array, offsets: pa.Buffer, data: pa.Buffer) -> pa.Array:
    texts = pa.Array.from_buffers(pa.string(), len(array), [None, offsets, data])
    return pc.if_else(pc.is_valid(array), texts, pa.scalar(None, pa.string())) if array.null_count else texts


class VerticaStage(ServerStage["VerticaClient"]):
    """The rows of one slice in the group's staging table, by two statements.

    How many rows the COPY took is not asked here: a rejected row fails it (ABORT ON ERROR), and the publication
    compares the rows under each token with those that were extracted.
    """

    def __init__(
        self, client: VerticaClient, table: TableName, token: str, columns: Sequence[Column]
    ) -> None:
        super().__init__(client, token, columns)
        self._table = table

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        encoder = CopyEncoder(self._columns, self._token)
        stream = BatchStream(batches, encoder, self._client.has_refused)
        self._client.open()
        self._sent(stream, lambda: self._client.copy(self._copy_statement(), stream))
        if stream.stopped:
            raise StagingError(f"{self._table}: the server ended the COPY without an error")
        self._written = True
        return stream.bytes

    def _copy_statement(self) -> str:
        columns = [
            quote_name(column.name) + (" FORMAT 'hex'" if column.kind is Kind.BINARY else "")
            for column in self._columns
        ]
        return (
            f"COPY {self._table.sql} ({', '.join([*columns, TOKEN])}) FROM STDIN {OPTIONS}"
            f" ENFORCELENGTH ABORT ON ERROR STREAM NAME {literal(f'dwhctl-{self._token}')} NO COMMIT"
        )

    def _translate_error(self, error: AttemptError) -> AttemptError:
        if is_sqlstate(error, MISSING):
            return gone(self._table)
        if is_sqlstate(error, (MISSING_COLUMN,)):
            return StagingError(
                f"the staging table {self._table} is older than a column of its target: {error}"
            )
        if (rejected := rejection(error)) is not None:
            row, reason = rejected
            return ValueRefusedError(f"row {row} of the slice: Vertica refused it: {reason}")
        return error

    def _staged(self) -> str:
        return f"{self._table.sql} WHERE {TOKEN} = {literal(self._token)}"

    def _before_keys(self) -> None:
        self._client.keep = False  # a setting outlives the COMMIT
        self._client.query("SET TIME ZONE TO 'UTC'")

    def _commit(self) -> None:
        super()._commit()
        self._client.finish()
