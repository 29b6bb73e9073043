"""Puts a source in the place of every shard's that gives a few rows and costs nothing.

Only the benchmarks put this folder on the interpreter's path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dwhctl.systems.duckdb.system import SYSTEM

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.templates import Query


class NoopSource:
    """Ten orders, made anew for each query."""

    def __init__(self) -> None:
        import pyarrow as pa

        self._id = pa.array(range(10), pa.int64())

    def __enter__(self) -> NoopSource:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def close(self) -> None:
        """There is nothing to close."""

    def columns(self, _query: Query) -> Sequence[Column]:
        """The columns of an order."""
        import pyarrow as pa

        from dwhctl.core.columns import Column, Kind

        return [
            Column("id", Kind.INTEGER, pa.int64(), "BIGINT"),
            Column("customer", Kind.TEXT, pa.string(), "VARCHAR"),
            Column("amount", Kind.DECIMAL, pa.decimal128(18, 2), "DECIMAL(18,2)"),
            Column("start_time", Kind.TIMESTAMP, pa.timestamp("us"), "TIMESTAMP"),
        ]

    def batches(self, query: Query, _rows: int) -> Iterator[pa.RecordBatch]:
        """One batch within the slice."""
        import pyarrow as pa

        count = len(self._id)
        yield pa.RecordBatch.from_arrays(
            [
                self._id,
                pa.nulls(count, pa.string()),
                pa.nulls(count, pa.decimal128(18, 2)),
                pa.repeat(pa.scalar(query.binds["start"], pa.timestamp("us")), count),
            ],
            names=["id", "customer", "amount", "start_time"],
        )


type(SYSTEM).open_source = lambda *_place, **_how: NoopSource()  # type: ignore[assignment,method-assign]
