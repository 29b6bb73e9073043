"""Puts a source and a target in the place of DuckDB's that take no time: the source gives a few rows, none are kept.

Only the benchmarks put this folder on the interpreter's path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dwhctl.systems.duckdb.system import SYSTEM

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import timedelta

    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.query import Query
    from dwhctl.systems.base.target import StagingGroup

_ROWS = 10


class NoopSource:
    """Ten orders, made anew for each query."""

    bounds_bytes = False

    def __init__(self) -> None:
        import pyarrow as pa

        self._id = pa.array(range(_ROWS), pa.int64())

    def __enter__(self) -> NoopSource:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def finish(self) -> None:
        """There is nothing to close."""

    def columns(self, _query: Query) -> Sequence[Column]:
        """The columns of an order."""
        return _columns()

    def batches(self, query: Query, _rows: int) -> Iterator[pa.RecordBatch]:
        """One batch within the slice."""
        import pyarrow as pa

        yield pa.RecordBatch.from_arrays(
            [
                self._id,
                pa.nulls(_ROWS, pa.string()),
                pa.nulls(_ROWS, pa.decimal128(18, 2)),
                pa.repeat(pa.scalar(query.binds["start"], pa.timestamp("us")), _ROWS),
            ],
            names=["id", "customer", "amount", "start_time"],
        )


def _columns() -> list[Column]:
    import pyarrow as pa

    from dwhctl.core.columns import Column, Kind

    return [
        Column("id", Kind.INTEGER, pa.int64(), "BIGINT"),
        Column("customer", Kind.TEXT, pa.string(), "VARCHAR"),
        Column("amount", Kind.DECIMAL, pa.decimal128(18, 2), "DECIMAL(18,2)"),
        Column("start_time", Kind.TIMESTAMP, pa.timestamp("us"), "TIMESTAMP"),
    ]


class NoopTarget:
    """A warehouse, its staging and its publications in one: it counts what every slice has, and keeps nothing."""

    writes_directly = False

    def columns(self, _table: str) -> Sequence[Column]:
        """The columns of an order, and the service fields."""
        import pyarrow as pa

        from dwhctl.core.columns import Column, Kind

        service = [
            Column("etl_source", Kind.TEXT, pa.string(), "VARCHAR"),
            Column("etl_id", Kind.INTEGER, pa.int64(), "BIGINT"),
            Column("hash_id", Kind.INTEGER, pa.int64(), "BIGINT"),
        ]
        return [*_columns(), *service]

    def described(self, tables: Sequence[str]) -> dict[str, Sequence[Column]]:
        """The columns of each table."""
        return {table: self.columns(table) for table in tables}

    def session(self) -> AbstractContextManager[NoopTarget]:
        """Itself: there is no connection."""
        return nullcontext(self)

    def publication(
        self, _table: str, _slice_by: str | None, _timeout: timedelta
    ) -> AbstractContextManager[NoopTarget]:
        """Itself: there is no transaction."""
        return nullcontext(self)

    def replace_slices(
        self,
        table: str,
        slice_by: str | None,
        timeout: timedelta,
        group: StagingGroup,
        slices: Sequence[Any],
        guard: Any,
    ) -> None:
        """Go through all steps of a publication: what was staged is what was read."""
        self._rows = {staged.token: staged.rows for staged in slices}
        from dwhctl.systems.base.staging import replace_in_transaction

        transaction: Any = self.publication(table, slice_by, timeout)
        replace_in_transaction(transaction, group, slices, guard)

    def stage(self, *_what: object) -> AbstractContextManager[NoopTarget]:
        """Itself: nothing is staged."""
        return nullcontext(self)

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Read the batches."""
        return sum(batch.nbytes for batch in batches)

    def held_rows(self, _slices: Sequence[Slice]) -> Mapping[str, int]:
        """None."""
        return {}

    def held_values(self, _shards: Sequence[str], _columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """None."""
        return {}

    def staged_rows(self, _group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        """What the source gave."""
        return {token: self._rows[token] for token in tokens}

    def insert(self, _group: StagingGroup, tokens: Sequence[str]) -> int:
        """What the source gave."""
        return sum(self._rows[token] for token in tokens)

    def highest_etl_id(self, _table: str) -> int:
        """The table is empty."""
        return 0

    def _nothing(self, *_what: object) -> None:
        """Do nothing."""

    run_statements = add_columns = open_group = drop_group = drop_run = commit = settle = interrupt = _nothing
    duplicate_key = layout_problem = _nothing


type(SYSTEM).open_source = lambda *_place, **_how: NoopSource()  # type: ignore[assignment,method-assign]
type(SYSTEM).open_target = lambda *_place, **_how: NoopTarget()  # type: ignore[assignment,method-assign]
