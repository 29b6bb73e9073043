"""The service fields of a slice's rows, the hash of a row's key, and whether two rows have the same key.

The hash is that of pandas, computed without it. pandas takes a quarter of a second to import: longer than a hundred
small slices take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, ValueRefusedError
from dwhctl.load.cast import TargetCast, by_lower_name

if TYPE_CHECKING:
    from dwhctl.systems.base.target import Stage

Values = np.ndarray[Any, Any]

_MIN = np.iinfo(np.int64).min
#: More are not looked at: the keys have no order.
_MOST_RUNS = 1_000


class ServiceFields:
    """The service fields of one slice's rows: `etl_source`, `etl_id`, `hash_id`.

    `hash_id` is a stable signed 64-bit hash of etl_source and key. Key columns take a fixed form by the target's
    declared type first, so that neither driver nor batch nor other rows change it (`key_form`). Then
    `pandas.util.hash_pandas_object(frame[["etl_source", *key]], index=False)` as signed; -2^63, which Vertica reads as
    NULL, becomes -2^63 + 1. `tests/unit/hash_id.golden.json` holds every form.

    `runs` has the keys so far where the key is one number, and else None.
    """

    def __init__(
        self, shard: str, etl_id: int, key: Sequence[str], target: Sequence[Column], cast: TargetCast
    ) -> None:
        by_name = {column.name.lower(): column for column in target}
        self._shard = shard
        self._source = _hash_of_shard(shard)
        self._etl_id = etl_id
        self._key = [by_name[name.lower()] for name in key]
        self._cast = cast
        self.runs = KeyRuns() if len(self._key) == 1 else None
        for column in self._key:
            if column.kind in (Kind.FLOAT, Kind.BOOLEAN):
                raise QueryError(
                    f"key column {column.name} is {column.declared}: a {column.kind} cannot be a key"
                )

    def __call__(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Return the service fields of a batch. Raise ValueRefusedError for a NULL in the key."""
        rows = batch.num_rows
        ids = np.ascontiguousarray(self.hash_ids(batch))
        return {
            "etl_source": pa.repeat(pa.scalar(self._shard), rows),
            "etl_id": pa.repeat(pa.scalar(self._etl_id, pa.int64()), rows),
            # Not pa.array, which imports numpy.ma for this: as long as ten small slices take.
            "hash_id": pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(ids)]),
        }

    def hash_ids(self, batch: pa.RecordBatch) -> Values:
        """Hash etl_source and key of each row."""
        forms = []
        for column in self._key:
            array = self._cast.column(batch, column.name)
            if array.null_count:
                row = self._cast.describe(by_lower_name(batch), pc.index(pc.is_null(array), True).as_py())
                raise ValueRefusedError(f"key column {column.name}, {row}: NULL cannot be a key")
            try:
                forms.append(key_form(column.kind, array))
            except pa.ArrowInvalid as error:
                raise ValueRefusedError(f"key column {column.name}: {error}") from error
        if self.runs is not None and isinstance(forms[0], np.ndarray):
            self.runs.add(forms[0])
        else:
            self.runs = None
        hashes = hash_rows(self._source, forms).view(np.int64)
        return np.where(hashes == _MIN, _MIN + 1, hashes)


class KeyRuns:
    """The first and last of each run of numbers that ascend: rows often come in the order of their key.

    Or almost: PostgreSQL begins to read a large table where another reader is, and ends before it.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        self._are_many = False

    def add(self, values: Values) -> None:
        """Take the keys of a batch."""
        begins = np.flatnonzero(values[1:] <= values[:-1]) + 1
        self._are_many = self._are_many or len(self._runs) + len(begins) > _MOST_RUNS
        if self._are_many or not len(values):
            return
        firsts, lasts = values[[0, *begins]].tolist(), values[[*(begins - 1), -1]].tolist()
        if self._runs and self._runs[-1][1] < firsts[0]:
            firsts[0] = self._runs.pop()[0]
        self._runs += zip(firsts, lasts, strict=True)

    def are_apart(self) -> bool:
        """Return whether no number was there twice, as far as the runs show it: none of them overlaps another."""
        runs = sorted(self._runs)
        return not self._are_many and all(last < first for (_, last), (first, _) in pairwise(runs))


@cache
def _hash_of_shard(shard: str) -> int:
    return int(hash_texts(pa.array([shard], pa.string()))[0])


def hash_rows(source: int, columns: Sequence[Values | pa.Array]) -> Values:
    """Hash rows as `pandas.util.hash_pandas_object` does, by the hash of their first value and their other columns.

    Numbers are a numpy array of int64, texts an Arrow array. pandas combines the hashes of a frame's columns like those
    of a tuple's items.
    """
    combined: Any = np.uint64((0x345678 ^ source) * 1_000_003 % 2**64)
    factor = 1_000_003 + 82_520 + 2 * (len(columns) + 1)
    for number, values in enumerate(columns):
        hashes = _mixed(values.astype(np.uint64)) if isinstance(values, np.ndarray) else hash_texts(values)
        hashes ^= combined
        hashes *= np.uint64(factor)
        combined, factor = hashes, factor + 82_520 + 2 * (len(columns) - number)
    combined += np.uint64(97_531)
    hashed: Values = combined
    return hashed


def _mixed(hashes: Values) -> Values:
    """Mix the bits of each number in place, as pandas does: the end of splitmix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor)
    hashes ^= hashes >> np.uint64(31)
    return hashes


_NONE = np.zeros(1, np.int64)
_ONE, _SEVEN = np.uint64(1), np.uint64(7)
_HALF = np.uint64(32)
#: SipHash's four words as it begins, with the key that pandas uses: v0 and v2, v1 and v3.
_SIP_START = np.frombuffer(b"uespemosarenegylmodnarodsetybdet", "<u8") ^ np.frombuffer(
    b"01234567012345678912345689123456", "<u8"
)
_SIP_LEFT = np.array([[[13], [16]], [[17], [21]]], np.uint64)
_SIP_RIGHT = np.uint64(64) - _SIP_LEFT


def hash_texts(texts: pa.Array) -> Values:
    """Hash each text by SipHash-2-4 of its UTF-8, as pandas does: all texts at once, eight octets at a time."""
    count = len(texts)
    octets = texts.cast(pa.large_binary())
    _, offsets, data = octets.buffers()
    bounds = np.frombuffer(offsets, np.int64, count + 1, octets.offset * 8) if count else _NONE
    padded = np.zeros(bounds[-1] - bounds[0] + 8, np.uint8)
    padded[:-8] = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    # The eight octets from each position on.
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))
    # The longest first: the texts that have one more word are the first ones, those whose last it is the last of them.
    order = np.argsort(bounds[:-1] - bounds[1:], kind="stable")
    starts, lengths = (bounds[:-1] - bounds[0])[order], np.diff(bounds)[order]
    whole = lengths >> 3
    state = np.repeat(_SIP_START.reshape(2, 2, 1), count, axis=2)
    for number in range(whole[0] + 1 if count else 0):
        go_on, there = np.searchsorted(-whole, (-number, 1 - number))
        word = words[starts[:there] + 8 * number]
        of_last = lengths[go_on:there].astype(np.uint64)
        word[go_on:] &= (_ONE << ((of_last & _SEVEN) << np.uint64(3))) - _ONE
        word[go_on:] |= of_last << np.uint64(56)
        _sip_rounds(state[..., :there], 2, word)
    state[0, 1] ^= np.uint64(0xFF)
    _sip_rounds(state, 4, np.uint64(0))
    hashes = np.empty(count, np.uint64)
    hashes[order] = np.bitwise_xor.reduce(state, axis=(0, 1))
    return _mixed(hashes)


def _sip_rounds(state: Values, count: int, word: Any) -> None:
    """Mix a word of each text into its state: of a round's two halves each adds to two words, and turns three."""
    added, turned = state
    turned[1] ^= word
    for _ in range(count):
        for half, pair in enumerate((added, added[::-1])):
            pair += turned
            high = turned << _SIP_LEFT[half]
            turned >>= _SIP_RIGHT[half]
            turned |= high
            turned ^= pair
            high = pair[0] << _HALF
            pair[0] >>= _HALF
            pair[0] |= high
    added[0] ^= word


def key_form(kind: Kind, array: pa.Array) -> Values | pa.Array:
    """Return a key column in the form that is hashed. Raise pa.ArrowInvalid for a value that has none.

    An integer is an int64; text is as it is; a UUID is text in lower case; a decimal is text without trailing zeros:
    1.50 is 1.5, -0.0 is 0; date, time and timestamp are datetime64[us], with a zone in UTC, a time as of 1970-01-01;
    binary is hex text in lower case.
    """
    if kind is Kind.INTEGER:
        return _numbers(array.cast(pa.int64()))
    if kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return _numbers(array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None))).cast(pa.int64()))
    if kind is Kind.TIME:
        return _numbers(array.cast(pa.time64("us")).cast(pa.int64()))
    return _texts(kind, array)


def _numbers(array: pa.Array) -> Values:
    values: Values = array.to_numpy(zero_copy_only=False)
    return values


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


#: So many hash ids are held in memory, eight octets each.
MOST_IDS = 2**21
#: So many of them are read from the file at a time.
_IDS_AT_ONCE = 50_000


class SliceIds:
    """The hash ids of a slice's rows: equal keys have equal ids. Of more than `most` rows they are in a file.

    The file is in `folder`, without a name: the system removes it with the process.
    """

    def __init__(self, folder: Path, most: int = MOST_IDS) -> None:
        self._folder = folder
        self._most = most
        self._rows = 0
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._is_full = False

    def add(self, ids: Values) -> None:
        """Take the ids of a batch."""
        self._rows += len(ids)
        self._held += ids.data
        if self._rows > self._most and not self._is_full:
            try:
                self._write()
            except OSError:
                self._is_full = True
        if self._file is not None or self._is_full:
            self._held.clear()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `close`
        self._file.write(self._held)

    def close(self) -> None:
        """Remove the file. Idempotent."""
        if self._file is not None:
            self._file.close()

    def may_repeat(self) -> bool:
        """Return whether two rows may have the same key; where the disk is full, only the engine knows."""
        if self._is_full:
            return True
        # Each pass over the file takes the ids of one remainder, about as many as may be held.
        parts = 1 << (-(-self._rows // self._most) - 1).bit_length() if self._file is not None else 1
        return any(_repeats(self._chosen(part, parts)) for part in range(parts))

    def _chosen(self, part: int, parts: int) -> list[Values]:
        if self._file is None:
            return [np.frombuffer(self._held, np.int64)]
        self._file.seek(0)
        chosen = []
        while piece := self._file.read(8 * _IDS_AT_ONCE):
            ids = np.frombuffer(piece, np.int64)
            chosen.append(ids[ids & (parts - 1) == part])
        return chosen


def _repeats(batches: Sequence[Values]) -> bool:
    ids = np.concatenate([np.empty(0, np.int64), *batches])
    ids.sort()
    return bool((ids[1:] == ids[:-1]).any())


def doubled_key(stage: Stage, key: Sequence[str]) -> str | None:
    """Return a key that two of the staged rows have, for a message."""
    found = stage.duplicate_key(key)
    if found is None:
        return None
    return "the key " + ", ".join(f"{name}={value}" for name, value in zip(key, found, strict=True))
