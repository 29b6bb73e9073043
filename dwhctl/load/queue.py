"""The slices that wait: for a worker, for their retry, for a parked connection."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.errors import QuarantinedError, WorkerDiedError
from dwhctl.runtime.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from dwhctl.load.staging import Work
    from dwhctl.runtime.plan import PlannedSlice


_MAX_DEATHS = 2


@dataclass(slots=True, eq=False)
class SliceJob:
    """One slice on its way through its attempts. `failures` are those that count against the load's retries."""

    planned: PlannedSlice
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    additions: int = 0
    slots_wanted: float | None = None

    @property
    def connection(self) -> str:
        """The source's connection."""
        return self.planned.shard.connection

    @property
    def connections(self) -> tuple[str, str]:
        """The source's connection and the target's."""
        return self.planned.shard.connection, self.planned.load.target

    @property
    def retry_delay(self) -> timedelta:
        """The load's."""
        return self.planned.load.retry_delay

    @property
    def work(self) -> Work:
        """The load and day."""
        return self.planned.load.name, self.planned.slice.day

    def waits_for_slots(self, now: float) -> None:
        """Take note that slots are wanted for it, from the first time on."""
        if self.slots_wanted is None:
            self.slots_wanted = now

    def has_slots(self, now: float) -> float:
        """Take note that it has slots, and give how long they were waited for."""
        wanted, self.slots_wanted = self.slots_wanted, None
        return 0.0 if wanted is None else now - wanted

    def killed_its_worker(self, error: BaseException | None) -> Failure:
        """Take note of a worker that died over the job, and say what that means for it."""
        self.deaths += 1
        if self.deaths >= _MAX_DEATHS:
            return Failure.of(QuarantinedError())
        killed = error is None or isinstance(error, BrokenExecutor)
        why = "killed, out of memory, or crashed" if killed else f"{type(error).__name__}: {error}"
        return Failure.of(WorkerDiedError(f"the worker process died: {why}"))


_Route = tuple[str, str]


class JobQueue:
    """Jobs by their route, from one connection to another, in their order; routes take turns."""

    def __init__(self, jobs: Iterable[SliceJob]) -> None:
        self._queues: dict[_Route, deque[SliceJob]] = {}
        self._turns: deque[_Route] = deque()
        self._queued: Counter[Work] = Counter()
        self._waiting: list[tuple[float, int, SliceJob]] = []
        self._waiting_on: Counter[_Route] = Counter()
        self._serial = 0
        for job in jobs:
            self.put(job)

    def put(self, job: SliceJob, *, first: bool = False) -> None:
        """Queue a job behind (or before) the others of its route."""
        if job.connections not in self._queues:
            self._queues[job.connections] = deque()
            self._turns.append(job.connections)
        queue = self._queues[job.connections]
        queue.appendleft(job) if first else queue.append(job)
        self._queued[job.work] += 1

    def pop(self, may_start: Callable[[SliceJob], bool]) -> SliceJob | None:
        """Take the next job, of the first route in turn whose next job may start."""
        for _ in range(len(self._turns)):
            route = self._turns[0]
            self._turns.rotate(-1)
            queue = self._queues[route]
            if queue and may_start(queue[0]):
                return self._taken(queue.popleft())
        return None

    def next_ones(self) -> list[SliceJob]:
        """Give the next job of each route, in the order of their turns."""
        return [queue[0] for route in self._turns if (queue := self._queues[route])]

    def wait(self, job: SliceJob, until: float) -> None:
        """Keep a job back until its retry."""
        self._serial += 1
        heapq.heappush(self._waiting, (until, self._serial, job))
        self._waiting_on[job.connections] += 1

    def wake(self, now: float) -> None:
        """Queue the jobs whose retry has come, before those that were never tried."""
        while self._waiting and self._waiting[0][0] <= now:
            job = heapq.heappop(self._waiting)[2]
            self._waiting_on[job.connections] -= 1
            self.put(job, first=True)

    def drain(self, connection: str) -> list[SliceJob]:
        """Take out every job that needs a connection."""
        queues = [queue for route, queue in self._queues.items() if connection in route]
        found = [self._taken(queue.popleft()) for queue in queues for _ in range(len(queue))]
        found += [job for _, _, job in self._waiting if connection in job.connections]
        self._waiting = [entry for entry in self._waiting if connection not in entry[2].connections]
        heapq.heapify(self._waiting)
        self._waiting_on = Counter(entry[2].connections for entry in self._waiting)
        return found

    def first(self, connection: str) -> SliceJob:
        """Give a job that needs a connection that some job needs."""
        queues = (queue for route, queue in self._queues.items() if queue and connection in route)
        if (queue := next(queues, None)) is not None:
            return queue[0]
        return next(job for _, _, job in self._waiting if connection in job.connections)

    def queued(self, work: Work) -> int:
        """Count the jobs of a load and day that only wait for a worker."""
        return self._queued[work]

    def next_retry(self) -> float | None:
        """Give the time of the next retry."""
        return self._waiting[0][0] if self._waiting else None

    def connections(self) -> list[str]:
        """Name the connections that some job needs, queued or waiting for its retry."""
        routes = [route for route, queue in self._queues.items() if queue or self._waiting_on[route]]
        return list(dict.fromkeys(name for route in routes for name in route))

    @property
    def has_queued(self) -> bool:
        """Tell whether any job only waits for a worker."""
        return any(self._queues.values())

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + len(self._waiting)

    def _taken(self, job: SliceJob) -> SliceJob:
        self._queued[job.work] -= 1
        return job
