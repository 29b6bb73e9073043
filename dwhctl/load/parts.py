"""The orders of one attempt: one, or those of the parts that a slice is cut into; and the workers that carry them out.

    [connect, cut] ──▶ part 1 ... part N, several at once ──▶ [look for a key of two parts] ──▶ one StageResult

All parts are staged under the attempt's token, and are published together or not at all. A part that fails fails the
attempt: the workers of the others are ended, and the next attempt reads all parts again under another token.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dwhctl.core.errors import ConnectError, SourceError, TimedOutError
from dwhctl.project.days import format_duration
from dwhctl.runtime.messages import Failure, StageOrder, StageResult, Step
from dwhctl.runtime.slots import WORKERS

#: How long a source may take for its first answer while others wait for the worker: twice as long after each time that
#: it was put off, and no less than so many times what the slowest of the others needed. On a busy machine all take
#: long: so many orders of others end meanwhile.
_ANSWER_SECONDS = 1.0
_ANSWER_TIMES = 4
_ANSWER_ORDERS = 8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from dwhctl.engine.jobs import JobQueue
    from dwhctl.load.attempts import SliceAttempt, SliceJob, SliceParts
    from dwhctl.load.workers import Worker
    from dwhctl.runtime.slots import Slot, Slots


class Parts:
    """What is left to order of one attempt, and what has come back.

    `cut` is the order to carry out before those of the parts; where it returns ranges they are the parts. `keys` is the
    one to carry out after them, which only more than one part needs.
    """

    def __init__(
        self,
        orders: Sequence[StageOrder],
        cut: StageOrder | None = None,
        keys: StageOrder | None = None,
    ) -> None:
        self._cut = cut
        self._orders = orders
        self._keys = keys
        self._waiting = deque(orders if cut is None else [cut])
        self._results: list[StageResult] = []

    def __bool__(self) -> bool:
        """Return whether an order waits for a worker."""
        return bool(self._waiting)

    def next(self) -> StageOrder:
        """Take the next order."""
        return self._waiting.popleft()

    def take(self, result: StageResult, *, is_last: bool) -> None:
        """Take a result; `is_last`: no worker has another order of the attempt. Then more orders may wait."""
        self._results.append(result)
        if result.failure is not None:
            self._waiting.clear()
        elif self._cut is not None:
            made = [
                replace(self._cut, step=Step.STAGE, part=number, key_range=key_range)
                for number, key_range in enumerate(result.ranges, 1)
            ]
            self._waiting.extend(made or self._orders)
            self._cut = None
        elif self._keys is not None and is_last and not self._waiting:
            if sum(result.rows > 0 for result in self._results) > 1:
                self._waiting.append(self._keys)
            self._keys = None

    def result(self) -> StageResult:
        """Return the result of the attempt."""
        if len(self._results) == 1:
            return self._results[0]
        seconds: Counter[str] = Counter()
        for result in self._results:
            seconds.update(result.seconds)
        staged = [result for result in self._results if result.columns] or self._results
        first, last = staged[0], self._results[-1]
        failure = next((result.failure for result in self._results if result.failure), None)
        if failure is None and any(
            (one.columns, one.filled) != (first.columns, first.filled) for one in staged
        ):
            failure = Failure.of(SourceError("the columns of the source changed while its parts were read"))
        return replace(
            first,
            rows=sum(result.rows for result in self._results),
            bytes=sum(result.bytes for result in self._results),
            failure=failure,
            seconds=dict(seconds),
            failed_in=last.failed_in,
            logged=tuple(message for result in self._results for message in result.logged),
        )


class PartWorkers:
    """Has workers carry out the orders of attempts, and ends those of an attempt together.

    `notify` is called when a worker has carried out an order, in a thread. All else happens in the loop's thread.
    """

    def __init__(
        self,
        parts: SliceParts,
        slots: Slots,
        notify: Callable[[SliceAttempt, Worker, Future[object]], None],
    ) -> None:
        self._pool = parts.pool
        self._breaker = parts.breaker
        self._publisher = parts.publisher
        self._slots = slots
        self._stage = parts.stage
        self._notify = notify
        self._slowest = 0.0
        self._ended = 0

    def start(self, attempt: SliceAttempt) -> None:
        """Give the first order to the attempt's worker."""
        runner = attempt.runner
        self._pool.use_kept(runner.worker)
        runner.worker = self._pool.replace_dead(runner.worker)
        runner.given, runner.ended_before = time.monotonic(), self._ended
        self._give(attempt, runner.worker, attempt.slots)

    def start_waiting(self, attempts: Iterable[SliceAttempt]) -> None:
        """Give waiting parts of running attempts to more workers, as long as there are some."""
        for attempt in attempts:
            runner = attempt.runner
            while runner.at_work and runner.parts and (taken := self._take(attempt)) is not None:
                attempt.slots += taken[1]
                self._give(attempt, *taken)

    def collect(self, attempt: SliceAttempt, worker: Worker, future: Future[object]) -> StageResult | None:
        """Take what a worker returned. Return the result of the attempt; None when it has not ended."""
        runner = attempt.runner
        if worker not in runner.at_work or runner.parts is None:
            return None  # it was killed: another part of the slice failed
        slots = runner.at_work.pop(worker)
        runner.answered = True
        self._ended += 1
        error = future.exception()
        result = future.result() if error is None else None
        died = not isinstance(result, StageResult)
        if not isinstance(result, StageResult):
            result = StageResult(attempt.token, failure=attempt.job.killed_its_worker(error))
        runner.parts.take(result, is_last=not runner.at_work)
        # One worker goes on with the slice, whoever waits.
        if runner.parts and not (runner.at_work and self._is_wanted(attempt)):
            self._give(attempt, worker, slots)
            return None
        if died:
            self._pool.dismiss(worker)
        elif result.held is None:
            self._pool.take_back(worker, attempt, result.kept)
        if result.failure is not None:
            self._kill(attempt)
        if not runner.at_work:
            return runner.parts.result()
        for slot in slots:
            slot.release()
        return None

    def answered(self, attempts: Iterable[SliceAttempt], worker: Worker) -> list[str]:
        """Record that the source of a worker's order has answered. Return messages about the circuit breaker."""
        for attempt in attempts:
            if worker in (runner := attempt.runner).at_work:
                if not runner.answered and runner.given is not None:
                    self._slowest = max(self._slowest, time.monotonic() - runner.given)
                runner.answered = True
                return self._breaker.connected(attempt.job.connection)
        return []

    def put_off_at(self, attempt: SliceAttempt, jobs: JobQueue[SliceJob]) -> float:
        """Return when an attempt has waited too long for its source, if others of the `jobs` need its worker."""
        runner, source = attempt.runner, attempt.job.connection
        # Only a process of this machine says when its source has answered; an API may take long for its first page.
        if runner.answered or runner.given is None or not runner.worker.keeps or attempt.job.config.endpoint:
            return inf
        is_early = self._ended < runner.ended_before + _ANSWER_ORDERS
        if is_early or self._pool.has_idle:
            return inf
        if not any(self._breaker.works(job.connection) for job in jobs.next_of_routes()):
            return inf
        timeout = max(_ANSWER_SECONDS, _ANSWER_TIMES * self._slowest)
        return runner.given + timeout * 2.0 ** self._breaker.times_put_off(source)

    def expire(self, attempt: SliceAttempt, now: float) -> Failure:
        """Kill every worker of an attempt that is past its timeout, or put off. Return the reason.

        A driver's own timeout does not fire on a dead line.
        """
        job, runner = attempt.job, attempt.runner
        if not runner.at_work:
            runner.at_work[runner.worker] = attempt.slots  # it waits for its first order
        self._kill(attempt)
        if now >= attempt.expires_at:
            timeout = format_duration(job.config.timeout)
            return Failure.of(
                TimedOutError(f"not done after the load's timeout of {timeout}; its worker was killed")
            )
        runner.put_off = True
        self._breaker.put_off(job, now)
        text = f"connection {job.connection} has not answered after {now - (runner.given or now):.1f} s"
        return Failure.of(
            ConnectError(f"{text}; slices of other connections come first", connection=job.connection)
        )

    def _take(self, attempt: SliceAttempt) -> tuple[Worker, tuple[Slot, ...]] | None:
        """Take one more worker, with slots, for an attempt whose parts wait for one. None: there is none now."""
        source, target = attempt.job.connections
        if (
            self._breaker.reason(source)
            or self._breaker.reason(target)
            or self._publisher.waits_for == target
        ):
            return None
        # The slots first: a worker process for which there are none would be forked again and again.
        if not (self._pool.has_idle or self._pool.may_grow):
            return None
        if (slots := self._slots.try_take_all(source, target)) is None:
            return None
        if (worker := self._pool.take()) is not None and not self._pool.close_kept(worker):
            return worker, slots
        for slot in slots:
            slot.release()
        return None

    def _is_wanted(self, attempt: SliceAttempt) -> bool:
        """Return whether the publisher or another run waits for what a worker of the attempt has."""
        source, target = attempt.job.connections
        names = (source, target, WORKERS)
        return self._publisher.waits_for == target or any(map(self._slots.is_wanted, names))

    def _kill(self, attempt: SliceAttempt) -> None:
        at_work, attempt.runner.at_work = attempt.runner.at_work, {}
        for worker, slots in at_work.items():
            attempt.release_after(self._pool.dismiss(worker), slots)

    def _give(self, attempt: SliceAttempt, worker: Worker, slots: tuple[Slot, ...]) -> None:
        runner = attempt.runner
        assert runner.parts is not None
        runner.at_work[worker] = slots
        order = runner.parts.next()
        # The worker of such an order does not say it.
        runner.answered |= bool(order.login_known)
        future = worker.submit(self._stage, order)
        future.add_done_callback(lambda done: self._notify(attempt, worker, done))
