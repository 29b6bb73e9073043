"""What a worker does, whole: extract one slice, check it, stamp it, stage it. Read this first.

    source.batches ──▶ inside the slice? ──▶ stamp (etl_source, etl_id, hash_id) ──▶ conform ──▶ stage.write

The stage pulls, and a batch is extracted while the target takes in the one before.

It touches neither the target table nor the sessions table, and it never raises.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Kind
from dwhctl.core.errors import DoubledKeyError, OutsideSliceError, SchemaDriftError
from dwhctl.core.faults import reach
from dwhctl.load.cast import Conform, compare, value_text
from dwhctl.load.hash_id import Stamp
from dwhctl.runtime.messages import Failure, StageOrder, StageResult
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from datetime import datetime

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.source import Source
    from dwhctl.systems.base.target import Stage


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


_T = TypeVar("_T")


class _End:
    """What comes after the last item."""


_END: Final = _End()


def one_ahead(items: Iterator[_T]) -> Generator[_T]:
    """Give the items, the next one always being made in a thread of its own.

    Close it: then nothing of `items` runs any more. What `items` raises comes out where its item would have.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        following = thread.submit(next, items, _END)
        while not isinstance(item := following.result(), _End):
            following = thread.submit(next, items, _END)
            yield item


def stage_slice(order: StageOrder) -> StageResult:
    """Stage one slice under its token. Every error comes back as the result's failure."""
    clock = Clock()
    try:
        with clock.step("connect"):
            reach("stage.connect")
            source = system_of(order.source).open_source(
                order.source,
                order.shard.database,
                order.slice.zone,
                login_known=order.login_known,
                state_dir=order.table.state_dir,
            )
        with source:
            return _Staging(order, clock).run(source)
    except Exception as error:
        failure = Failure.of(error)
        return StageResult(order.token, failure=failure, seconds=clock.seconds, failed_in=clock.failed_in)


class _Staging:
    """One execution of an order."""

    def __init__(self, order: StageOrder, clock: Clock) -> None:
        self._order = order
        self._clock = clock
        self._rows = 0
        self._columns: dict[str, str] = {}
        self._filled: dict[str, str] = {}
        self._only_ids: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None

    def run(self, source: Source) -> StageResult:
        order = self._order
        with self._clock.step("describe"):
            reach("stage.describe")
            columns = source.columns(order.query)
            filled = compare(
                columns, order.table.columns, fill_missing=order.fill_missing, delivered=order.delivered
            )
            self._columns, self._filled = _declared(columns), _declared(filled)
            inside = SliceCheck(order.slice, order.slice_by, order.key, columns)
        conform = Conform(order.table.columns, order.key)
        stamp = Stamp(order.shard.name, order.etl_id, order.key, order.table.columns, conform)
        batches = self._stamped(source, inside, stamp, conform)
        first = next(batches, None)
        if first is None:
            return self._result()
        table = order.table
        target = system_of(table.connection).open_target(
            table.connection, table.state_dir, table.timeout, f"dwhctl:{order.group.run_id}"
        )
        reach("stage.open")
        with target.stage(order.group, order.token, table.columns) as stage:
            with closing(one_ahead(batches)) as following, self._clock.step("stage"):
                reach("stage.write")
                size = stage.write(self._told(chain([first], following)))
            with self._clock.step("check"):
                self._check_keys(stage)
            reach("stage.finished")
        return self._result(size)

    def _result(self, size: int = 0) -> StageResult:
        return StageResult(
            self._order.token, self._rows, size, self._columns, self._filled, seconds=self._clock.seconds
        )

    def _stamped(
        self, source: Source, inside: SliceCheck, stamp: Stamp, conform: Conform
    ) -> Iterator[pa.RecordBatch]:
        """Give the batches as they are staged."""
        for batch in self._extracted(source):
            with self._clock.step("stamp"):
                inside(batch)
                service = stamp(batch)
                conformed = conform(batch, service)
            # The ids of a slice of one batch are at hand; those of a longer one are looked at where they are staged.
            self._only_ids = service["hash_id"].to_numpy() if self._rows == 0 else None
            self._rows += batch.num_rows
            yield conformed
        # The source may go: what follows is between the worker and the staging.
        source.close()

    def _extracted(self, source: Source) -> Iterator[pa.RecordBatch]:
        batches = gathered(source.batches(self._order.query, READ_ROWS))
        while True:
            with self._clock.step("extract"):
                reach("stage.extract")
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _told(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        while True:
            with self._clock.step("wait"):
                batch = next(batches, None)
            if batch is None:
                break
            yield batch
        reach("stage.finish")

    def _check_keys(self, stage: Stage) -> None:
        ids = self._only_ids
        if self._rows == 0 or (ids is not None and len(np.unique(ids)) == len(ids)):
            return
        doubled = stage.duplicate_key(self._order.key)
        if doubled is not None:
            key = ", ".join(f"{name}={value}" for name, value in zip(self._order.key, doubled, strict=True))
            raise DoubledKeyError(f"the key {key} stands twice in the slice")


def _declared(columns: Sequence[Column]) -> dict[str, str]:
    return {column.name.lower(): column.declared for column in columns}


class SliceCheck:
    """Refuses a row that lies outside the slice, NULL included."""

    def __init__(
        self, slice_: Slice, slice_by: str | None, key: Sequence[str], columns: Sequence[Column]
    ) -> None:
        by_name = {column.name.lower(): column for column in columns}
        absent = [name for name in (*key, slice_by or key[0]) if name.lower() not in by_name]
        if absent:
            raise SchemaDriftError(f"the extract has no column {', '.join(dict.fromkeys(absent))}")
        self._slice = slice_
        self._key = key
        self._column = by_name[slice_by.lower()] if slice_by else None
        if self._column is not None:
            self._bounds = self._bounds_for(self._column)
            self._shown = ", ".join(str(bound.as_py()) for bound in self._bounds)

    def _bounds_for(self, column: Column) -> tuple[pa.Scalar, pa.Scalar]:
        if column.kind is Kind.TIMESTAMPTZ:
            start, end = self._slice.start_at, self._slice.end_at
        elif column.kind in (Kind.DATE, Kind.TIMESTAMP):
            start, end = self._slice.start, self._slice.end
        else:
            raise SchemaDriftError(f"slice_by column {column.name} is {column.declared}, not a date or time")
        if column.kind is Kind.DATE:
            return _first_date(start), _first_date(end)
        try:
            return pa.scalar(start).cast(column.type), pa.scalar(end).cast(column.type)
        except pa.ArrowInvalid as error:
            raise SchemaDriftError(f"slice_by column {column.name} is {column.declared}: {error}") from error

    def __call__(self, batch: pa.RecordBatch) -> None:
        """Raise OutsideSliceError that names the first row outside."""
        if self._column is None:
            return
        array = batch.column(self._column.name)
        start, end = self._bounds
        inside = pc.and_(pc.greater_equal(array, start), pc.less(array, end)).fill_null(False)
        if not pc.all(inside).as_py():
            row = pc.index(inside, False).as_py()
            key = ", ".join(f"{name}={value_text(_by_name(batch, name), row)}" for name in self._key)
            raise OutsideSliceError(
                f"row {key} has {self._column.name} {value_text(array, row)}, outside [{self._shown})"
            )


def _first_date(bound: datetime | None) -> pa.Scalar:
    """Give the first date whose midnight is not before the bound: dates are not cast, for some do not fit."""
    if bound is None:
        return pa.scalar(None, pa.date32())
    return pa.scalar((bound + timedelta(days=1) - timedelta(microseconds=1)).date())


def _by_name(batch: pa.RecordBatch, name: str) -> pa.Array:
    index = [field.lower() for field in batch.schema.names].index(name.lower())
    return batch.column(index)


class Clock:
    """Adds up where the time of an attempt goes, over its threads. A step within a step counts for itself alone.

    `failed_in` is the first step that an error came out of: the innermost one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed_in: str | None = None
        self._of_thread = threading.local()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block under `name`."""
        outer = getattr(self._of_thread, "inner", 0.0)
        self._of_thread.inner = 0.0
        started = time.perf_counter()
        try:
            yield
        except Exception:
            self.failed_in = self.failed_in or name
            raise
        finally:
            taken = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + taken - self._of_thread.inner
            self._of_thread.inner = outer + taken
