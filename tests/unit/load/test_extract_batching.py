"""Batches are put together up to a number of rows or bytes, in order, and none is lost."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.load.extract import gathered


def _batches(sizes: list[int]) -> list[pa.RecordBatch]:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        pa.RecordBatch.from_pydict({"id": pa.array(range(start, start + size), pa.int64())})
        for start, size in zip(starts, sizes, strict=True)
    ]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 100))
def test_every_row_comes_once_and_in_order(sizes: list[int], rows: int) -> None:
    found = list(gathered(_batches(sizes), rows=rows))
    assert [value for batch in found for value in batch.column("id").to_pylist()] == list(range(sum(sizes)))
    assert all(batch.num_rows for batch in found)
    assert all(rows <= batch.num_rows < rows + 30 for batch in found[:-1])


def test_wide_rows_make_short_batches() -> None:
    wide = [pa.RecordBatch.from_pydict({"text": ["x" * 1000] * 100}) for _ in range(10)]
    assert [batch.num_rows for batch in gathered(wide, rows=10_000, size=250_000)] == [300, 300, 300, 100]
