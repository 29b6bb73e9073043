"""Replace a slice in the target's table by its worker: a slice that is the only one of its load in the run.

    worker:  BEGIN, DELETE, COPY ──▶ StageResult       ┌──▶ COMMIT or ROLLBACK ──▶ Failure or None
    parent:                          guard, fence ──▶ EndOrder

The rows are written once, not to staging and then to the table. What publishes is the parent all the same: the worker
commits only on its order, which it gives after the same checks as in `publish`. A worker that dies, or whose parent
dies, takes its transaction with it; a run that reaps this one ends the transaction's session first.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from dwhctl.core.errors import StagingError, TargetError, TargetRefusedError
from dwhctl.core.faults import reach
from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.staging import Publication

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from dwhctl.load.workers import Worker
    from dwhctl.project.days import Slice
    from dwhctl.runtime.messages import StageResult
    from dwhctl.systems.base.target import DirectStage, StagingGroup

#: How much longer than the server's time for a COMMIT the worker's answer is waited for.
_LAST_WORD_SECONDS = 5.0


class EndOrder(Struct, frozen=True):
    """The order to a worker to end the transaction of a token."""

    token: str
    commit: bool


_open: dict[str, DirectStage] = {}


def keep_open(token: str, stage: DirectStage) -> None:
    """Keep a transaction open in this worker until `end_in_worker`."""
    _open[token] = stage


def end_in_worker(order: EndOrder) -> Failure | None:
    """Commit the transaction, or roll it back. Return why the commit failed; it may have happened."""
    stage = _open.pop(order.token, None)
    if stage is None:
        return Failure.of(StagingError("the worker that wrote the slice was replaced"))
    try:
        if order.commit:
            reach("direct.commit")
            stage.commit()
            reach("direct.committed")
        else:
            stage.discard()
    except Exception as error:
        return Failure.of(error)
    return None


class DirectPublication(Publication):
    """The open transaction of a worker, as the parent sees it. Leaving the block without a commit rolls it back.

    `is_ended`: the worker has no transaction open any more, or the order to roll it back.
    """

    def __init__(self, worker: Worker, result: StageResult, timeout: timedelta) -> None:
        self._worker = worker
        self._result = result
        self._timeout = timeout
        self._ordered = False
        self.is_ended = False

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        return {slice_.shard: self._result.held or 0 for slice_ in slices}

    def held_values(
        self,
        shards: Sequence[str],  # noqa: ARG002
        columns: Sequence[str],  # noqa: ARG002
    ) -> Mapping[str, frozenset[str]]:
        """Find none: a slice whose columns may be filled with NULL is not written directly."""
        return {}

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002
        return dict.fromkeys(tokens, self._result.written)

    def delete(self, slices: Sequence[Slice]) -> None:
        """Do nothing: the worker deleted the old rows before it wrote."""

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:  # noqa: ARG002
        """Return the number of the rows that the worker wrote."""
        return self._result.written

    def commit(self) -> None:
        self._ordered = True
        try:
            future = self._worker.submit(end_in_worker, EndOrder(self._result.token, commit=True))
            failure = future.result(self._timeout.total_seconds() + _LAST_WORD_SECONDS)
        except (BrokenExecutor, CancelledError, FutureTimeoutError) as error:
            raise TargetError("the worker that wrote the slice died, or does not answer") from error
        if isinstance(failure, Failure):
            raise (TargetRefusedError if failure.permanent else TargetError)(failure.message)
        self.is_ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._ordered:
            with suppress(Exception):
                rolled_back = self._worker.submit(end_in_worker, EndOrder(self._result.token, commit=False))
                rolled_back.result(_LAST_WORD_SECONDS)
                self.is_ended = True
