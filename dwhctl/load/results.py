"""Close sessions in batches, and add up what the run reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.secrets import mask
from dwhctl.runtime.events import (
    Event,
    FailedSlice,
    Listener,
    RunResult,
    SliceClosed,
    SlicesPublished,
    SliceStaged,
    SliceStarted,
    WorkerSaid,
)
from dwhctl.runtime.messages import retry_seconds
from dwhctl.sessions.values import Closing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dwhctl.load.attempts import SliceAttempt
    from dwhctl.load.publish import Published
    from dwhctl.load.publisher import GroupPublished
    from dwhctl.load.queue import SliceJob
    from dwhctl.project.loads import Load
    from dwhctl.runtime.messages import Failure, StageResult
    from dwhctl.sessions.store import SessionStore


class Closer:
    """Collects closings; `flush` writes them in one transaction, then tells of them."""

    def __init__(self, store: SessionStore, report: RunResult, listen: Listener, retries: int | None) -> None:
        self._store = store
        self._report = report
        self._listen = listen
        self._retries = retries
        self._closings: list[tuple[Closing, SliceClosed]] = []

    def retries(self, load: Load) -> int:
        """Give how often a slice of the load is tried again."""
        return load.retries if self._retries is None else self._retries

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        self._listen(event)

    def started(self, flight: SliceAttempt) -> None:
        """Tell of an attempt that begins."""
        self._listen(SliceStarted(*_names(flight.job), flight.etl_id, flight.slots_waited))

    def landed(self, flight: SliceAttempt, result: StageResult) -> None:
        """Take note of what a worker says of an attempt that it is done with."""
        flight.rows, flight.bytes, flight.filled = result.rows, result.bytes, result.filled
        flight.steps, flight.failed_in = dict(result.seconds), result.failed_in
        self._add_seconds(result.seconds)
        for said in result.said:
            self._listen(WorkerSaid(*_names(flight.job), flight.etl_id, said))
        if result.failure is None:
            self._listen(SliceStaged(*_names(flight.job), result.rows))

    def published(self, event: GroupPublished) -> None:
        """Take note of a publication, and tell of it."""
        self._add_seconds({"publish": event.seconds})
        done = [one.staged.rows for one in event.outcomes if one.failure is None]
        load, failed = event.group.load, len(event.outcomes) - len(done)
        self._listen(
            SlicesPublished(
                load.name, load.target, event.group.day, len(done), sum(done), failed, event.seconds
            )
        )

    def _add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add to the report where the time went."""
        for step, value in seconds.items():
            self._report.step_seconds[step] = self._report.step_seconds.get(step, 0.0) + value

    def close(
        self,
        flight: SliceAttempt,
        state: State,
        failure: Failure | None = None,
        retry_in: timedelta | None = None,
    ) -> None:
        """Close the session of an attempt; with the state `running` leave it open, its commit in doubt."""
        loaded = flight.rows if failure is None else None
        closing = Closing(
            flight.etl_id,
            state,
            None if state is State.RUNNING else datetime.now(UTC),
            loaded_rows=loaded,
            extracted_rows=flight.rows,
            bytes=flight.bytes,
            error_class=failure.error_class if failure else None,
            # Masked here: a worker does not know the secrets that the parent rendered into the SQL.
            comment=mask(failure.message) if failure else None,
            busy_seconds=flight.busy_seconds,
        )
        if state is State.LOADED:
            for column in flight.filled:
                shards = self._report.filled.setdefault((flight.job.planned.load.name, column), set())
                shards.add(flight.job.planned.shard.name)
        retry_at = None if retry_in is None else datetime.now(UTC) + retry_in
        seconds = time.monotonic() - flight.started
        event = SliceClosed(
            *_names(flight.job), state, flight.rows, seconds, failure, retry_at, flight.etl_id, flight.steps,
            flight.failed_in if failure else None,
        )  # fmt: skip
        self._add(closing, event)

    def close_unstarted(self, job: SliceJob, etl_id: int, failure: Failure) -> None:
        """Close the session of a slice that was never given to a worker."""
        closing = Closing(
            etl_id,
            State.FAILED,
            datetime.now(UTC),
            error_class=failure.error_class,
            comment=mask(failure.message),
        )
        self._add(closing, SliceClosed(*_names(job), State.FAILED, 0, 0.0, failure, etl_id=etl_id))

    def flush(self) -> None:
        """Write what was closed, then tell of it."""
        if not self._closings:
            return
        closings, self._closings = self._closings, []
        self._store.close([closing for closing, _ in closings])
        for _, event in closings:
            self._count(event)
            self._listen(event)

    def _add(self, closing: Closing, event: SliceClosed) -> None:
        self._closings.append((closing, event))

    def _count(self, event: SliceClosed) -> None:
        report = self._report
        if event.state is State.LOADED:
            report.loaded += 1
            report.rows += event.rows
        elif event.state is State.SKIPPED:
            report.skipped += 1
        elif event.state is State.UP_FOR_RETRY:
            report.retried += 1
        elif event.failure is not None:
            in_doubt = event.state is State.RUNNING
            report.in_doubt += in_doubt
            report.failed += not in_doubt
            failed = FailedSlice(
                event.load, event.shard, event.connection, event.day, event.failure, event.etl_id, in_doubt
            )
            report.failures.append(failed)


def _names(job: SliceJob) -> tuple[str, str, str, date, int]:
    """Give what every event of an attempt begins with."""
    planned = job.planned
    return planned.load.name, planned.shard.name, job.connection, planned.slice.day, job.attempt


@dataclass(slots=True, eq=False)
class Doubt:
    """The attempts of one commit, each with its outcome. `look_at` is a monotonic time; None during a look."""

    load: Load
    slices: list[tuple[SliceAttempt, Published]]
    looks: int = 0
    look_at: float | None = None

    @property
    def outcomes(self) -> list[Published]:
        """Return what is known of the slices."""
        return [outcome for _, outcome in self.slices]


class Doubts:
    """The commits in doubt of one run.

    `look` has the publisher look one up; `decided` takes each attempt of which it is known then what became of it.
    """

    def __init__(
        self,
        closer: Closer,
        look: Callable[[Doubt], None],
        decided: Callable[[SliceAttempt, Published], None],
    ) -> None:
        self._closer = closer
        self._look = look
        self._decided = decided
        self._open: list[Doubt] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(self, doubt: Doubt) -> None:
        """Take what a look left in doubt: to be looked up again later, or by the next run."""
        refused = any(one.failure is not None and one.failure.permanent for one in doubt.outcomes)
        if refused or doubt.looks >= self._closer.retries(doubt.load):
            self._leave(doubt)
        else:
            doubt.look_at = time.monotonic() + retry_seconds(doubt.load.retry_delay, doubt.looks + 1)
            self._open.append(doubt)

    def look_up(self, now: float) -> None:
        """Have those looked up whose time has come."""
        for doubt in self._open:
            if doubt.look_at is not None and doubt.look_at <= now:
                doubt.look_at = None
                doubt.looks += 1
                self._look(doubt)

    def next_look(self) -> float | None:
        """Return the time of the next look."""
        return min((one.look_at for one in self._open if one.look_at is not None), default=None)

    def looked(self, doubt: Doubt, outcomes: Sequence[Published]) -> None:
        """Record what a look found."""
        self._open.remove(doubt)
        doubt.slices = [(flight, found) for (flight, _), found in zip(doubt.slices, outcomes, strict=True)]
        if any(one.in_doubt for one in outcomes):
            self.take(doubt)
            return
        for flight, outcome in doubt.slices:
            self._decided(flight, outcome)

    def stop(self) -> None:
        """Leave all of them to the next run."""
        for doubt in self._open:
            self._leave(doubt)
        self._open.clear()

    def _leave(self, doubt: Doubt) -> None:
        for flight, outcome in doubt.slices:
            self._closer.close(flight, State.RUNNING, outcome.failure)
