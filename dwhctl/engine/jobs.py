"""Jobs, the queue in which they wait, attempts at them, and the sessions of the attempts."""

from __future__ import annotations

import heapq
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dwhctl.core.secrets import mask
from dwhctl.core.waiting import retry_seconds
from dwhctl.runtime.events import ClosedFacts, FailedSlice, Listener, ReportClosed, RunResult, SliceClosed
from dwhctl.runtime.messages import Failure
from dwhctl.sessions.values import Closing, NewSession, State

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dwhctl.project.loads import Load, Report
    from dwhctl.runtime.slots import Slot
    from dwhctl.sessions.store import SessionStore


#: The name of a load or report, and a day.
NameAndDay = tuple[str, date]


@dataclass(eq=False)
class Job(ABC):
    """A slice or a report on its way through its attempts. `failures` are those that count against its retries.

    `shard` is empty for a report. `connections` are those that it needs a slot of, its source first. `announced`: it is
    known that it waits until it is ready.
    """

    config: Load | Report
    shard: str
    day: date
    connections: tuple[str, ...]
    attempt: int = 0
    failures: int = 0
    announced: bool = False

    @abstractmethod
    def closed(self, facts: ClosedFacts, attempt: Attempt[Any, Any] | None) -> SliceClosed | ReportClosed:
        """Return the event of a closed session. There is no attempt when the job was not started."""

    @property
    def connection(self) -> str:
        """The source's connection."""
        return self.connections[0]

    @property
    def name_and_day(self) -> NameAndDay:
        """The name of the load or report, and the day."""
        return self.config.name, self.day

    @property
    def names(self) -> tuple[str, str, str, date, int]:
        """The first fields of its events."""
        return self.config.name, self.shard, self.connection, self.day, self.attempt

    @property
    def retry_delay(self) -> timedelta:
        """The configured delay of a retry."""
        return self.config.retry_delay

    def seconds_to_retry(self) -> float:
        """Return the seconds before the next attempt."""
        return retry_seconds(self.retry_delay, self.failures)


JobT = TypeVar("JobT", bound=Job)
RunnerT = TypeVar("RunnerT")


@dataclass(slots=True, eq=False)
class Attempt(Generic[JobT, RunnerT]):
    """One attempt at a job. `runner` is what works on it. Times are of the monotonic clock.

    `busy_seconds` is how long a worker was busy with it; `steps` are the seconds of its steps.
    """

    job: JobT
    runner: RunnerT
    slots: tuple[Slot, ...]
    started: float
    expires_at: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    etl_id: int = 0
    rows: int = 0
    bytes: int | None = None
    opened: float = 0.0
    busy_seconds: float | None = None
    steps: dict[str, float] = field(default_factory=dict)

    def release(self) -> None:
        """Release its slots. Idempotent."""
        for slot in self.slots:
            slot.release()

    def release_after(self, ended: Future[object] | None, slots: Collection[Slot]) -> None:
        """Keep these of its slots until `ended` is done: until then a worker uses the connections. None: it is."""
        if ended is None:
            return
        self.slots = tuple(slot for slot in self.slots if slot not in slots)

        def release(_: Future[object]) -> None:
            for slot in slots:
                slot.release()

        ended.add_done_callback(release)


_Route = tuple[str, ...]


class JobQueue(Generic[JobT]):
    """Jobs by their route, from one connection to another, in their order; routes take turns."""

    def __init__(self, jobs: Iterable[JobT]) -> None:
        self._queues: dict[_Route, deque[JobT]] = {}
        self._turns: deque[_Route] = deque()
        self._queued: Counter[NameAndDay] = Counter()
        self._waiting: list[tuple[float, int, JobT]] = []
        self._waiting_on: Counter[_Route] = Counter()
        self._serial = 0
        for job in jobs:
            self.put(job)

    def put(self, job: JobT, *, first: bool = False) -> None:
        """Queue a job behind (or before) the others of its route."""
        if job.connections not in self._queues:
            self._queues[job.connections] = deque()
            self._turns.append(job.connections)
        queue = self._queues[job.connections]
        queue.appendleft(job) if first else queue.append(job)
        self._queued[job.name_and_day] += 1

    def pop(self, may_start: Callable[[JobT], bool]) -> JobT | None:
        """Take the next job, of the first route in turn whose next job may start."""
        for _ in range(len(self._turns)):
            route = self._turns[0]
            self._turns.rotate(-1)
            queue = self._queues[route]
            if queue and may_start(queue[0]):
                return self._taken(queue.popleft())
        return None

    def next_of_routes(self) -> list[JobT]:
        """Return the next job of each route, in the order of their turns."""
        return [queue[0] for route in self._turns if (queue := self._queues[route])]

    def wait(self, job: JobT, until: float) -> None:
        """Hold a job back until a time."""
        self._serial += 1
        heapq.heappush(self._waiting, (until, self._serial, job))
        self._waiting_on[job.connections] += 1

    def wake(self, now: float, *, first: bool = True) -> None:
        """Queue the jobs whose time has come, before those that were never tried, or with `first` off behind them."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        for job in reversed(due) if first else due:
            self._waiting_on[job.connections] -= 1
            self.put(job, first=first)

    def drain(self, connection: str) -> list[JobT]:
        """Take out every job that needs a connection."""
        queues = [queue for route, queue in self._queues.items() if connection in route]
        found = [self._taken(queue.popleft()) for queue in queues for _ in range(len(queue))]
        found += [job for _, _, job in self._waiting if connection in job.connections]
        self._waiting = [entry for entry in self._waiting if connection not in entry[2].connections]
        heapq.heapify(self._waiting)
        self._waiting_on = Counter(job.connections for _, _, job in self._waiting)
        return found

    def first(self, connection: str) -> JobT:
        """Return a job that needs a connection which some job needs."""
        queues = (queue for route, queue in self._queues.items() if queue and connection in route)
        if (queue := next(queues, None)) is not None:
            return queue[0]
        return next(job for _, _, job in self._waiting if connection in job.connections)

    def queued(self, name_and_day: NameAndDay) -> int:
        """Count the jobs of a load and day that only wait for a worker."""
        return self._queued[name_and_day]

    def next_waking(self) -> float | None:
        """Return the time at which the next job that is kept back is queued."""
        return self._waiting[0][0] if self._waiting else None

    def connections(self) -> list[str]:
        """List the connections that some job needs, queued or kept back."""
        routes = [route for route, queue in self._queues.items() if queue or self._waiting_on[route]]
        return list(dict.fromkeys(name for route in routes for name in route))

    def all_need(self, place: int, name: str) -> bool:
        """Return whether jobs wait for a worker, and each of them needs the connection in this place of its route."""
        routes = [route for route, queue in self._queues.items() if queue]
        return bool(routes) and all(route[place] == name for route in routes)

    @property
    def waiting_for_worker(self) -> int:
        """Return how many jobs only wait for a worker."""
        return sum(map(len, self._queues.values()))

    @property
    def has_queued(self) -> bool:
        """Return whether any job only waits for a worker."""
        return any(self._queues.values())

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + len(self._waiting)

    def __iter__(self) -> Iterator[JobT]:
        for queue in self._queues.values():
            yield from queue
        yield from (job for _, _, job in self._waiting)

    def _taken(self, job: JobT) -> JobT:
        self._queued[job.name_and_day] -= 1
        return job


class Attempts:
    """Opens and closes the sessions of attempts in batches, counts them in the result, and publishes their events."""

    def __init__(self, store: SessionStore, result: RunResult, listen: Listener, retries: int | None) -> None:
        self.store = store
        self.listen = listen
        self._result = result
        self._retries = retries
        self._closed: list[tuple[Closing, SliceClosed | ReportClosed]] = []

    def retries(self, config: Load | Report) -> int:
        """Return how often a job of the load or report is tried again."""
        return config.retries if self._retries is None else self._retries

    def open(self, attempts: Sequence[Attempt[JobT, RunnerT]], workers: Iterable[int | None] = ()) -> None:
        """Open the sessions of attempts that begin now; `workers` are the numbers of their workers."""
        with self.opening(attempts, workers):
            pass

    @contextmanager
    def opening(
        self, attempts: Sequence[Attempt[JobT, RunnerT]], workers: Iterable[int | None] = ()
    ) -> Iterator[None]:
        """Do what `open` does, for attempts that begin in the block: the sessions are written at its end.

        Nothing that begins in it may be published before.
        """
        jobs, tokens = [attempt.job for attempt in attempts], [attempt.token for attempt in attempts]
        with self._opening(jobs, tokens, tuple(workers) or (None,) * len(jobs)) as ids:
            now = time.monotonic()
            for attempt, etl_id in zip(attempts, ids, strict=True):
                attempt.etl_id, attempt.opened = etl_id, now
            yield

    @contextmanager
    def _opening(
        self,
        jobs: Sequence[Job],
        tokens: Iterable[str],
        workers: Iterable[int | None],
        started: datetime | None = None,
    ) -> Iterator[Sequence[int]]:
        started = started or datetime.now(UTC)
        for job in jobs:
            job.attempt += 1
        new = [
            NewSession(
                self._result.run_id, job.config.name, job.shard or None, job.day, job.attempt,
                token, started, worker,
            )
            for job, token, worker in zip(jobs, tokens, workers, strict=True)
        ]  # fmt: skip
        closed = self._take_closed() if self.store.joins_writes else []
        with self.store.opening(new, [closing for closing, _ in closed]) as ids:
            yield ids
        self._announce(event for _, event in closed)

    def close(
        self,
        attempt: Attempt[Any, Any],
        state: State,
        failure: Failure | None = None,
        retry_in: float | None = None,
    ) -> None:
        """Close the session of an attempt; with the state `running` leave it open, its commit in doubt."""
        seconds = time.monotonic() - attempt.started
        self._close(attempt.job, attempt.etl_id, state, seconds, failure, attempt, retry_in)

    def fail_unstarted(
        self,
        jobs: Sequence[Job],
        failure: Failure,
        since: datetime | None = None,
        retry_in: float | None = None,
    ) -> None:
        """Open and close a session for each job that is not started; `since` is when it began to wait.

        With `retry_in` it is tried again after so many seconds.
        """
        state = State.FAILED if retry_in is None else State.UP_FOR_RETRY
        tokens = [uuid.uuid4().hex for _ in jobs]
        with self._opening(jobs, tokens, [None] * len(jobs), since) as ids:
            pass
        seconds = (datetime.now(UTC) - since).total_seconds() if since is not None else 0.0
        for job, etl_id in zip(jobs, ids, strict=True):
            self._close(job, etl_id, state, seconds, failure, retry_in=retry_in)

    def _close(
        self,
        job: Job,
        etl_id: int,
        state: State,
        seconds: float,
        failure: Failure | None,
        attempt: Attempt[Any, Any] | None = None,
        retry_in: float | None = None,
    ) -> None:
        now = datetime.now(UTC)
        closing = Closing(
            etl_id,
            state,
            None if state is State.RUNNING else now,
            loaded_rows=attempt.rows if attempt and failure is None else None,
            extracted_rows=attempt.rows if attempt and attempt.bytes is not None else None,
            bytes=attempt.bytes if attempt else None,
            error_class=failure.error_class if failure else None,
            # Masked here: a worker does not know the secrets that the parent rendered into the SQL.
            comment=mask(failure.message) if failure else None,
            busy_seconds=attempt.busy_seconds if attempt else None,
        )
        retry_at = None if retry_in is None else now + timedelta(seconds=retry_in)
        rows = attempt.rows if attempt else 0
        facts = (*job.names, state, rows, seconds, failure, retry_at, etl_id)
        self._closed.append((closing, job.closed(facts, attempt)))

    def flush(self) -> None:
        """Write what was closed in one transaction, then publish the events."""
        if closed := self._take_closed():
            self.store.close([closing for closing, _ in closed])
            self._announce(event for _, event in closed)

    def _take_closed(self) -> list[tuple[Closing, SliceClosed | ReportClosed]]:
        closed, self._closed = self._closed, []
        return closed

    def _announce(self, events: Iterable[SliceClosed | ReportClosed]) -> None:
        for event in events:
            self._count(event)
            self.listen(event)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add to the result where the time went."""
        total = self._result.step_seconds
        for step, value in seconds.items():
            total[step] = total.get(step, 0.0) + value

    def _count(self, event: SliceClosed | ReportClosed) -> None:
        result = self._result
        if event.retry_at is not None:
            result.retried += 1
            return
        if isinstance(event, ReportClosed):
            result.closed.append(event)
        if event.state is State.LOADED:
            result.loaded += 1
            result.rows += event.rows
        elif event.state is State.SKIPPED:
            result.skipped += 1
        elif event.failure is not None:
            in_doubt = event.state is State.RUNNING
            result.in_doubt += in_doubt
            result.failed += not in_doubt
            failed = FailedSlice(
                event.load, event.shard, event.connection, event.day, event.failure, event.etl_id, in_doubt
            )
            result.failures.append(failed)
