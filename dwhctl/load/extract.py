"""What a worker does: extract one slice, check it, add the service fields, cast it, stage it.

    source.batches ──▶ inside the slice? ──▶ etl_source, etl_id, hash_id ──▶ cast ──▶ stage.write

The stage pulls, and a batch is extracted while the target takes the one before.

It touches neither the target table nor the sessions table, and it never raises.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa
from msgspec.structs import replace

from dwhctl.core.columns import Column
from dwhctl.core.errors import DoubledKeyError
from dwhctl.core.faults import reach
from dwhctl.core.waiting import ahead
from dwhctl.load.cast import SliceCheck, TargetCast, compare, for_source
from dwhctl.load.direct import keep_open
from dwhctl.load.hash_ids import ServiceFields, SliceIds, doubled_key
from dwhctl.runtime.messages import NOTES, Failure, StageOrder, StageResult, Step
from dwhctl.systems.base.system import KEPT, SourceOptions, TargetOptions, system_of
from dwhctl.systems.base.target import DirectStage

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Source
    from dwhctl.systems.base.target import Stage, Target


#: Rows that are read at a time from a source that does not bound their bytes: rows of a megabyte fit in memory then.
READ_ROWS = 2_048
#: What is cast and staged at a time: as many rows as make the work per batch cheap, but no more bytes than this.
BATCH_ROWS = 50_000
BATCH_BYTES = 8 * 2**20
#: Batches of a source that bounds their bytes stay as they are: the most rows of one, and what only the last lacks.
BOUNDED_ROWS = 100_000
_BOUNDED_FULL = READ_ROWS, 2**20


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
            yield _joined(waiting)
            waiting, waiting_rows, waiting_bytes = [], 0, 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def stage_slice(order: StageOrder) -> StageResult:
    """Stage one slice under its token. Every error comes back as the result's failure."""
    clock = Clock()
    try:
        result = _carried_out(order, clock)
        KEPT.close(order.keep)
        source, target = KEPT.kept
        return replace(result, kept=(source, target or (result.held is not None and order.keep[1])))
    except Exception as error:
        KEPT.close()
        failure = Failure.of(error)
        if order.step is Step.KEYS and isinstance(error, DoubledKeyError):
            failure = dataclasses.replace(failure, permanent=False)
        return StageResult(order.token, failure=failure, seconds=clock.seconds, failed_in=clock.failed_in)


def _carried_out(order: StageOrder, clock: Clock) -> StageResult:
    if order.step is Step.KEYS:
        from dwhctl.load.part_steps import check_keys

        with clock.step("check"):
            check_keys(order)
        return StageResult(order.token, seconds=clock.seconds)
    zone, state_dir = order.slice.zone, order.table.state_dir
    with clock.step("connect"):
        reach("stage.connect")
        options = SourceOptions(zone, login_known=order.login_known, state_dir=state_dir, keep=order.keep[0])
        source = system_of(order.source).open_source(order.source, order.shard.database, options)
    with source, closing(SliceIds(state_dir)) as ids:
        if order.step is Step.CUT:
            from dwhctl.load.part_steps import cut

            with clock.step("describe"):
                return StageResult(order.token, ranges=cut(order, source), seconds=clock.seconds)
        return _Staging(order, clock, ids).run(source)


class _Staging:
    """One execution of an order."""

    def __init__(self, order: StageOrder, clock: Clock, ids: SliceIds) -> None:
        self._order = order
        self._query = order.query
        self._clock = clock
        self._rows = 0
        self._waited = 0.0
        self._columns: dict[str, str] = {}
        self._filled: dict[str, str] = {}
        self._is_last = False
        self._ids = ids
        self._may_repeat = True
        self._has_answered = False

    def run(self, source: Source) -> StageResult:
        order = self._order
        with self._clock.step("describe"):
            reach("stage.describe")
            if order.key_range is not None:
                self._query = source.within(order.query, order.key_range)
            columns = source.columns(self._query)
            if not system_of(order.source).takes_endpoint:
                self._note_answer()
            filled = compare(
                columns, order.table.columns, fill_missing=order.fill_missing, delivered=order.delivered
            )
            self._columns, self._filled = _declared(columns), _declared(filled)
            checks = self._checks(columns)
        held = for_source(columns, order.table.columns)
        to_target = TargetCast(held, order.key)
        fields = ServiceFields(order.shard.name, order.etl_id, order.key, held, to_target)
        batches = self._cast(source, checks, fields, to_target)
        first = next(batches, None)
        self._note_answer()
        if first is None:
            return self._result()
        table = order.table
        target = system_of(table.connection).open_target(
            table.connection,
            TargetOptions(table.state_dir, table.timeout, f"dwhctl:{order.group.run_id}", keep=order.keep[1]),
        )
        reach("stage.open")
        with self._stage(target, held) as stage:
            # Nothing follows a batch that is not full: no thread needs to wait for it.
            following = batches if self._is_last else ahead(batches)
            with closing(following), self._clock.step("stage"):
                reach("stage.write")
                try:
                    size = stage.write(self._timed(chain([first], following)))
                finally:
                    self._clock.add("wait", self._waited)
            with self._clock.step("check"):
                self._check_keys(stage)
            reach("stage.finished")
        if not isinstance(stage, DirectStage):
            return self._result(size)
        keep_open(order.token, stage)
        return replace(self._result(size), held=stage.held, written=stage.written)

    def _note_answer(self) -> None:
        """Let the run know, once, that the source has answered, where it does not know that the login is accepted."""
        if not self._has_answered and not self._order.login_known:
            NOTES.answered()
        self._has_answered = True

    def _checks(self, columns: Sequence[Column]) -> list[Callable[[pa.RecordBatch], None]]:
        order = self._order
        inside = SliceCheck(order.slice, order.slice_by, order.key, columns)
        if not order.part:
            return [inside]
        from dwhctl.load.part_steps import RangeCheck, of_part

        if order.key_range is None:
            return [of_part(inside)]
        return [inside, RangeCheck(order.key_range, order.key, columns)]

    def _stage(self, target: Target, columns: Sequence[Column]) -> Stage:
        order = self._order
        if not order.direct:
            return target.stage(order.group, order.token, columns)
        return target.write_slice(order.group, order.token, columns, order.slice, order.slice_by)

    def _result(self, size: int = 0) -> StageResult:
        return StageResult(
            self._order.token, self._rows, size, self._columns, self._filled, seconds=self._clock.seconds
        )

    def _cast(
        self,
        source: Source,
        checks: Sequence[Callable[[pa.RecordBatch], None]],
        fields: ServiceFields,
        to_target: TargetCast,
    ) -> Generator[pa.RecordBatch]:
        """Yield the batches as they are staged."""
        full_rows, full_bytes = _BOUNDED_FULL if source.bounds_bytes else (BATCH_ROWS, BATCH_BYTES)
        for batch in self._extracted(source):
            with self._clock.step("stamp"):
                for check in checks:
                    check(batch)
                service = fields(batch)
                finished = to_target(batch, service)
            self._ids.add(service["hash_id"].to_numpy())
            self._is_last = batch.num_rows < full_rows and batch.nbytes < full_bytes
            self._rows += batch.num_rows
            yield finished
        # The source is not needed any more.
        source.finish()
        # While the target still takes the last batches.
        with self._clock.step("check"):
            differ = fields.runs is not None and fields.runs.are_apart()
            self._may_repeat = not differ and self._ids.may_repeat()

    def _extracted(self, source: Source) -> Iterator[pa.RecordBatch]:
        if source.bounds_bytes:
            batches = source.batches(self._query, BOUNDED_ROWS)
        else:
            batches = gathered(source.batches(self._query, READ_ROWS))
        while True:
            with self._clock.step("extract"):
                reach("stage.extract")
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _timed(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # The stage may read them in a thread of its own.
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                break
            yield batch
        reach("stage.finish")

    def _check_keys(self, stage: Stage) -> None:
        """Raise DoubledKeyError for a key that two rows of the slice have."""
        if self._may_repeat and (key := doubled_key(stage, self._order.key)) is not None:
            raise DoubledKeyError(f"{key} occurs twice in the slice")


def _declared(columns: Sequence[Column]) -> dict[str, str]:
    return {column.name.lower(): column.declared for column in columns}


class Clock:
    """Adds up where the time of an attempt goes, over its threads. An inner step does not count for its outer one.

    `failed_in` is the first step that raised: the innermost one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed_in: str | None = None
        self._of_thread = threading.local()

    def add(self, name: str, seconds: float) -> None:
        """Add the seconds of a step within the current one."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._of_thread.inner = getattr(self._of_thread, "inner", 0.0) + seconds

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
