"""Batches of a bounded size: many rows of a narrow table, few of a wide one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What a source is asked for at a time: even rows of a megabyte fit in memory then.
READ_ROWS = 2_048
#: What is stamped and staged at a time: as many rows as make the work per batch cheap, but no more bytes than this.
BATCH_ROWS = 50_000
BATCH_BYTES = 8 * 2**20


def gathered(
    batches: Iterable[pa.RecordBatch], rows: int = BATCH_ROWS, size: int = BATCH_BYTES
) -> Iterator[pa.RecordBatch]:
    """Put small batches together until they have `rows` rows or `size` bytes. Empty ones are left out."""
    waiting: list[pa.RecordBatch] = []
    waiting_rows = waiting_bytes = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        waiting_rows += batch.num_rows
        waiting_bytes += batch.nbytes
        if waiting_rows >= rows or waiting_bytes >= size:
            yield _one(waiting)
            waiting, waiting_rows, waiting_bytes = [], 0, 0
    if waiting:
        yield _one(waiting)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
