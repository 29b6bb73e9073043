"""Find out in the worker whether two rows of a slice may have the same key: by the hash ids, in bounded memory."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_Values = np.ndarray[Any, Any]

#: So many hash ids are held in memory, eight octets each; and so many are read from the file at a time.
MOST_IDS, _READ_IDS = 2**21, 2**16


class SliceIds:
    """The hash ids of a slice's rows: equal keys have equal ids. Of more than `most` rows they are in a file.

    The file is in `folder`, without a name: the system removes it with the process.
    """

    def __init__(self, folder: Path, most: int = MOST_IDS) -> None:
        self._folder = folder
        self._most = most
        self._rows = 0
        self._held: list[_Values] = []
        self._file: BinaryIO | None = None
        self._is_full = False

    def add(self, ids: _Values) -> None:
        """Take the ids of a batch."""
        self._rows += len(ids)
        self._held.append(ids)
        if self._rows > self._most and not self._is_full:
            try:
                self._write()
            except OSError:
                self._is_full = True
        if self._file is not None or self._is_full:
            self._held.clear()

    def _write(self) -> None:
        if self._file is None:
            self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115 - `close`
        for ids in self._held:
            self._file.write(ids.data)

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

    def _chosen(self, part: int, parts: int) -> list[_Values]:
        if self._file is None:
            return self._held
        self._file.seek(0)
        chosen = []
        while piece := self._file.read(8 * _READ_IDS):
            ids = np.frombuffer(piece, np.int64)
            chosen.append(ids[ids & (parts - 1) == part])
        return chosen


def _repeats(batches: Sequence[_Values]) -> bool:
    ids = np.concatenate([np.empty(0, np.int64), *batches])
    ids.sort()
    return bool((ids[1:] == ids[:-1]).any())
