"""Attempts on a Dask cluster: the parent keeps locks, slots, sessions and publishing, the cluster's workers stage.

`DaskCluster` has the connection to the scheduler, in a thread with an event loop of its own. `DaskWorker` is a place
for one attempt at a time, wherever the scheduler puts it. `ClusterPool` has at most as many as the cluster has workers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dwhctl.core.errors import ConfigError, WorkerDiedError, WorkersError
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Wait
from dwhctl.load.cluster_client import LOST, ClusterClient, close_loop, end_tasks, unusable
from dwhctl.load.cluster_worker import Refusal, SealedOrder, seal
from dwhctl.load.workers import Worker, WorkerLostError, WorkerPool
from dwhctl.project.days import format_duration
from dwhctl.runtime.messages import Failure, StageOrder, StageResult

if TYPE_CHECKING:
    from dwhctl.project.model import ExecutorTable
    from dwhctl.runtime.slots import Slots

_Task = TypeVar("_Task")
_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0
#: An attempt whose worker died before it began is placed again, so often.
_MOST_PLACES = 5
#: What a signal leaves for the end of the attempts, and for that of the connection.
_STOP_SECONDS = 7.0
_CLOSE_SECONDS = 10.0
_CONNECTION_LOST = "the connection to the Dask scheduler was lost"


@dataclass(slots=True, eq=False)
class _Attempt:
    """One attempt on the cluster. The loop over slices waits for its `result`."""

    key: str
    token: str
    sealed: SealedOrder
    result: Future[object] = field(default_factory=Future)
    started: bool = False
    ending: bool = False
    taken_back: bool = False
    task: Any = None

    def fail(self, message: str) -> None:
        """End it with a failure that does not count as a death of its worker."""
        self.finish(StageResult(self.token, failure=Failure.of(WorkerDiedError(message))))

    def finish(self, result: StageResult) -> None:
        """Set its result, unless it has one."""
        if not self.result.done():
            self.result.set_result(result)


class DaskCluster:
    """The connection of one run to a cluster of `size` workers; `wake` is called when there are more or fewer.

    It waits for the scheduler, and for a worker, up to the time of the configuration, also in the middle of the run.
    Afterwards `check` raises WorkersError.
    """

    def __init__(self, executor: ExecutorTable, run_id: str, wake: Callable[[], None]) -> None:
        self.size = 0
        self._executor = executor
        self._run_id = run_id
        self._wake = wake
        self._error: WorkersError | None = None
        self._client = ClusterClient(executor, f"dwhctl-{run_id}")
        self._attempts: set[_Attempt] = set()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="dask", daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return str(self._executor.scheduler)

    def check(self) -> None:
        """Raise WorkersError when the cluster cannot be used."""
        if self._error is not None:
            raise self._error

    def submit(self, order: StageOrder) -> _Attempt:
        """Give an order to the cluster."""
        claim = f"dwhctl-{uuid.uuid4().hex}"
        key = f"dwhctl-{order.group.name}-{order.shard.name}-{order.etl_id}-{self._run_id}"
        key += f"-{order.step.name}-{order.part}".lower() * (order.parts > 1)
        try:
            attempt = _Attempt(key, order.token, seal(order, claim))
        except ConfigError as error:
            attempt = _Attempt(key, order.token, SealedOrder("", claim, b""))
            attempt.finish(StageResult(order.token, failure=Failure.of(error)))
            return attempt
        self._call(self._follow(attempt))
        return attempt

    def end(self, attempt: _Attempt) -> Future[object]:
        """End an attempt. The returned future is done when nothing works on it any more."""
        attempt.ending = True
        return self._call(self._end(attempt))

    def close(self) -> None:
        """Close the connection. Idempotent."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(_CLOSE_SECONDS)

    def _call(self, work: Coroutine[Any, Any, object]) -> Future[object]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            done: Future[object] = Future()
            done.set_result(None)
            return done

    # In the cluster's thread

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        finally:
            close_loop(self._loop)

    async def _run(self) -> None:
        serving = asyncio.create_task(self._serve())
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait({serving, closing}, return_when=asyncio.FIRST_COMPLETED)
        error = serving.result() if serving.done() else None
        await end_tasks({serving, closing})
        self.size = 0
        await self._client.close()
        if error is not None:
            self._error = error
            self._lose(str(error))
            self._wake()

    async def _serve(self) -> WorkersError:
        """Keep the connection, and make a new one when it is lost. Return why that is not possible."""
        try:
            while True:
                await self._client.connect()
                await self._observe()
                self._lose(_CONNECTION_LOST)
                await self._client.close()
        except WorkersError as error:
            return error
        except Exception as error:
            return WorkersError(unusable(self._executor, error))

    async def _observe(self) -> None:
        """Follow the number of workers until the connection is lost. Raise WorkersError after a time without any."""
        answered = had_worker = time.monotonic()
        most = self._executor.wait.total_seconds()
        while self._client.is_connected:
            try:
                size = await self._client.size()
            except TimeoutError:
                # A scheduler that is busy is not gone: its workers go on.
                if time.monotonic() - answered > most:
                    break
                continue
            except OSError:
                break
            answered = time.monotonic()
            if size:
                had_worker = answered
            elif answered - had_worker > most:
                raise WorkersError(
                    f"the Dask scheduler {self} has had no worker for {format_duration(self._executor.wait)};"
                    " start workers, or run with --executor local"
                )
            self._resize(size)
            await asyncio.sleep(_PAUSE_SECONDS)
        self._resize(0)

    def _resize(self, size: int) -> None:
        changed, self.size = size != self.size, size
        if changed:
            self._wake()

    def _lose(self, why: str) -> None:
        """End the attempts whose results can no longer come. Those that have no place yet wait for the connection."""
        for attempt in list(self._attempts):
            if attempt.task is not None:
                attempt.fail(why)

    async def _follow(self, attempt: _Attempt) -> None:
        """Have an attempt worked on, and set its result."""
        self._attempts.add(attempt)
        starting = asyncio.ensure_future(self._note_start(attempt))
        try:
            await self._place(attempt)
        except Exception as error:
            attempt.fail(mask(f"Dask could not run the attempt: {type(error).__name__}: {error}"))
        finally:
            starting.cancel()
            self._attempts.discard(attempt)
        if not attempt.ending:
            await self._client.forget(attempt.sealed)

    async def _place(self, attempt: _Attempt) -> None:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        for number in range(_MOST_PLACES):
            while not self._client.is_connected:
                if self._error is not None or attempt.ending:
                    attempt.fail(str(self._error or _CONNECTION_LOST))
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
            attempt.task = self._client.place(attempt.sealed, f"{attempt.key}-{number}")
            try:
                result = await attempt.task
            except KilledWorker as error:
                if await self._client.has_started(attempt.sealed):
                    lost = WorkerLostError(f"{error.last_worker.address} is gone from the Dask cluster")
                    attempt.result.set_exception(lost)
                    return
                continue
            except FutureCancelledError:
                if attempt.taken_back and not attempt.ending:
                    attempt.taken_back = False
                    continue
                if not attempt.ending:
                    self._resize(0)  # the connection is lost; else the next look sets it
                break
            finally:
                attempt.task.release()
            if isinstance(result, Refusal):
                attempt.fail(result.why)
            else:
                attempt.finish(result)
            return
        attempt.fail(_CONNECTION_LOST)

    async def _note_start(self, attempt: _Attempt) -> None:
        pause = 0.1
        while not attempt.started:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS)
            with suppress(*LOST):
                attempt.started = await self._client.has_started(attempt.sealed)
                if not attempt.started and attempt.task is not None and not attempt.taken_back:
                    # No worker has begun with it: it is placed elsewhere, and costs no attempt.
                    attempt.taken_back = await self._client.take_back(attempt.task)

    async def _end(self, attempt: _Attempt) -> None:
        if attempt.result.done() or attempt.task is None:
            return
        try:
            await self._client.end(attempt.task, attempt.sealed)
        except Exception as error:
            _log.warning(
                "%s: its Dask worker could not be ended (%s); it publishes nothing, but may still read its source",
                attempt.key,
                mask(f"{type(error).__name__}: {error}"),
            )


class DaskWorker:
    """A place on the cluster for one attempt at a time."""

    keeps = False

    def __init__(self, cluster: DaskCluster) -> None:
        self._cluster = cluster
        self._attempt: _Attempt | None = None

    def submit(self, function: Callable[[_Task], object], task: _Task) -> Future[object]:  # noqa: ARG002
        """Give an order to the cluster, whose workers stage it with `run_order`."""
        assert isinstance(task, StageOrder)
        self._attempt = self._cluster.submit(task)
        return self._attempt.result

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task: the cluster decides where."""
        return True

    @property
    def has_begun(self) -> bool:
        """Whether a worker of the cluster has begun with the attempt."""
        return self._attempt is None or self._attempt.started or self._attempt.result.done()

    def kill(self) -> Future[object] | None:
        """End the attempt, if there is one. The future is done when nothing works on it any more."""
        attempt, self._attempt = self._attempt, None
        return None if attempt is None or attempt.result.done() else self._cluster.end(attempt)


class ClusterPool(WorkerPool):
    """Up to `jobs` places on a cluster, and no more than it has workers; each counts as a worker of the project."""

    def __init__(self, jobs: int, cluster: DaskCluster, slots: Slots) -> None:
        super().__init__(jobs, lambda: DaskWorker(cluster), slots)
        self._cluster = cluster
        self._wait = Wait()
        self._ending: list[Future[object]] = []

    def take(self) -> Worker | None:
        """Return an idle place, or a new one. Raise WorkersError when the cluster cannot be used."""
        self._cluster.check()
        if not self._cluster.size:
            self._wait.note(lambda: f"a worker of the Dask cluster {self._cluster}")
            return None
        self._wait.end()
        return super().take() if self._busy < self._cluster.size else None

    @property
    def _busy(self) -> int:
        return len(self._held) - len(self._idle)

    def limit(self, workers: int) -> None:
        """Set no limit: a place costs nothing."""

    def has_begun(self, worker: Worker) -> bool:
        """Return whether a worker of the cluster has begun with the attempt of a place."""
        return not isinstance(worker, DaskWorker) or worker.has_begun

    @property
    def may_grow(self) -> bool:
        """Whether the run could use one more worker of those that the cluster has."""
        return super().may_grow and self._busy < self._cluster.size

    def dismiss(self, worker: Worker) -> Future[object] | None:
        """End the attempt of a place. The returned future is done when nothing works on it any more."""
        ended = super().dismiss(worker)
        if ended is not None:
            self._ending = [future for future in self._ending if not future.done()] + [ended]
        return ended

    def dismiss_all(self) -> None:
        """End every attempt and the connection: the next run must find the connections of this one free."""
        super().dismiss_all()
        wait(self._ending, _STOP_SECONDS)
        self._cluster.close()
