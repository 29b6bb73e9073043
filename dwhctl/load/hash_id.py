"""The service fields of every row: `etl_source`, `etl_id`, `hash_id`.

`hash_id` is a stable signed 64-bit hash of etl_source and key. Key columns take a fixed form by the target's
declared type first, so that neither driver nor batch nor neighbours change it:

| kind | form |
| --- | --- |
| integer | int64 |
| text | as it is |
| uuid | text in lower case |
| decimal | text without trailing zeros: 1.50 is 1.5, -0.0 is 0 |
| date, time, timestamp | datetime64[us]; with a zone in UTC; a time as of 1970-01-01 |
| binary | hex text in lower case |

Then `pandas.util.hash_pandas_object(frame[["etl_source", *key]], index=False)` as signed; -2^63, which Vertica
reads as NULL, becomes -2^63 + 1. `tests/unit/hash_id.golden.json` holds every form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.load.cast import Conform

Values = np.ndarray[Any, Any]

_MIN = np.iinfo(np.int64).min


class Stamp:
    """Makes the service fields of one slice's batches."""

    def __init__(
        self, shard: str, etl_id: int, key: Sequence[str], target: Sequence[Column], conform: Conform
    ) -> None:
        by_name = {column.name.lower(): column for column in target}
        self._shard = shard
        self._etl_id = etl_id
        self._key = [by_name[name.lower()] for name in key]
        self._conform = conform
        for column in self._key:
            if column.kind in (Kind.FLOAT, Kind.BOOLEAN):
                raise QueryError(
                    f"key column {column.name} is {column.declared}: a {column.kind} cannot be a key"
                )

    def __call__(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Give the service fields of a batch. Raise ValueRefusedError for a NULL in the key."""
        rows = batch.num_rows
        return {
            "etl_source": pa.repeat(pa.scalar(self._shard), rows),
            "etl_id": pa.repeat(pa.scalar(self._etl_id, pa.int64()), rows),
            "hash_id": pa.array(self.hash_ids(batch)),
        }

    def hash_ids(self, batch: pa.RecordBatch) -> Values:
        """Hash etl_source and key of each row."""
        codes: Values = np.zeros(batch.num_rows, np.int8)
        frame: dict[str, Any] = {"etl_source": pd.Categorical.from_codes(codes, pd.Index([self._shard]))}
        for column in self._key:
            array = self._conform.column(batch, column.name)
            if array.null_count:
                row = self._conform.row(batch, pc.index(pc.is_null(array), True).as_py())
                raise ValueRefusedError(f"key column {column.name}, {row}: NULL cannot be a key")
            try:
                frame[column.name] = key_form(column.kind, array)
            except pa.ArrowInvalid as error:
                raise ValueRefusedError(f"key column {column.name}: {error}") from error
        hashes = pd.util.hash_pandas_object(pd.DataFrame(frame), index=False).to_numpy().view(np.int64)
        return np.where(hashes == _MIN, _MIN + 1, hashes)


def key_form(kind: Kind, array: pa.Array) -> Values:
    """Give a key column in the form that is hashed. Raise pa.ArrowInvalid for a value that has none."""
    values: Values
    if kind is Kind.INTEGER:
        values = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
    elif kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        values = _instants(array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None))))
    elif kind is Kind.TIME:
        values = _instants(array.cast(pa.time64("us")))
    else:
        values = _texts(kind, array).to_numpy(zero_copy_only=False)
    return values


def _instants(array: pa.Array) -> Values:
    microseconds: Values = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return microseconds.view("datetime64[us]")


def _texts(kind: Kind, array: pa.Array) -> pa.Array:
    if kind is Kind.UUID:
        return pc.utf8_lower(array)
    if kind is Kind.DECIMAL:
        # Not Arrow's own cast: it writes small values with an exponent.
        return pa.array([_plain(value) for value in array.to_pylist()], pa.string())
    if kind is Kind.BINARY:
        return pa.array([value.hex() for value in array.to_pylist()], pa.string())
    return array


def _plain(value: object) -> str:
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
