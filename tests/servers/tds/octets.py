"""The octets of texts, and hashes of them: in Python, which DuckDB calls for a batch of rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from duckdb.func import ARROW

from .storage import utf16
from .types import WIDE

if TYPE_CHECKING:
    from .types import SqlType

#: T-SQL's names of the algorithms that this server knows: https://learn.microsoft.com/sql/t-sql/functions/
#: hashbytes-transact-sql
ALGORITHMS = {"MD5": "md5", "SHA": "sha1", "SHA1": "sha1", "SHA2_256": "sha256", "SHA2_512": "sha512"}
_OCTETS, _TEXT = pa.binary(), pa.string()
_CODECS = ("cp1252", "cp1251", "utf-8", "utf-16-le")


def prepare(root: duckdb.DuckDBPyConnection) -> None:
    """Create the functions."""
    for codec in _CODECS:
        encode, squeeze = partial(_encoded, codec), partial(_squeezed, codec)
        root.create_function(_encoder(codec), _each(encode), ["VARCHAR"], "BLOB", type=ARROW)
        root.create_function(_squeezer(codec), _each(squeeze, _TEXT), ["VARCHAR"], "VARCHAR", type=ARROW)
    for algorithm in set(ALGORITHMS.values()):
        root.create_function(
            f"octets_{algorithm}", _each(partial(_hashed, algorithm)), ["BLOB"], "BLOB", type=ARROW
        )


def octets_of(text: str, kind: SqlType) -> str:
    """SQL for a text's octets: UTF-16 of the wide types, else those of the collation's code page."""
    return f"{_encoder('utf-16-le' if kind.name in WIDE else kind.codec)}({text})"


def squeezed(text: str, kind: SqlType) -> str:
    """SQL for what a text becomes in the code page of a char, varchar or text."""
    return text if kind.codec == "utf-8" else f"{_squeezer(kind.codec)}({text})"


def hash_of(octets: str, algorithm: str) -> str:
    """SQL for the hash of octets."""
    return f"octets_{ALGORITHMS[algorithm]}({octets})"


def _encoder(codec: str) -> str:
    return f"octets_{codec.replace('-', '_')}"


def _squeezer(codec: str) -> str:
    return f"squeezed_{codec.replace('-', '_')}"


def _squeezed(codec: str, text: str) -> str:
    return text.encode(codec, "replace").decode(codec)


def _encoded(codec: str, text: str) -> bytes:
    # A sign that the code page does not have becomes a question mark.
    return utf16(text) if codec == "utf-16-le" else text.encode(codec, "replace")


def _hashed(algorithm: str, data: bytes) -> bytes:
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def _each(
    function: Callable[..., bytes | str], kind: pa.DataType = _OCTETS
) -> Callable[[pa.ChunkedArray], pa.Array]:
    def batch(values: pa.ChunkedArray) -> pa.Array:
        made = [None if value is None else function(value) for value in values.to_pylist()]
        return pa.array(made, kind)

    return batch
