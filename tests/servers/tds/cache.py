"""Answers kept in files: the second time a query is asked its answer streams from there, as fast as it can be read.

For benchmarks, whose data does not change: a kept answer is not asked of the engine again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO


class Recorder:
    """Writes an answer into a file that counts only once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(f".{os.getpid()}.{id(self)}")
        self._file: BinaryIO = self._part.open("wb")

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self._file.write(data)

    def close(self, *, whole: bool) -> None:
        """Keep the file, or throw it away."""
        self._file.close()
        if whole:
            self._part.replace(self._path)
        else:
            self._part.unlink()


def path_of(folder: Path, database: str, sql: str) -> Path:
    """Where the answer of a query lies."""
    digest = hashlib.sha256(f"{database.casefold()}\0{sql}".encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"{digest[:32]}.answer"
