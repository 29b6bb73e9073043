"""The publisher: a thread of the parent that publishes beside the dispatch loop, one thing after another."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, InterruptedAttemptError, SessionsError, StateDirError
from dwhctl.core.faults import reach
from dwhctl.core.waiting import waited
from dwhctl.load.publish import Published, PublishRules, look, publish
from dwhctl.runtime.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.load.results import Doubt
    from dwhctl.load.staging import PublishGroup
    from dwhctl.project.loads import Load
    from dwhctl.runtime.slots import Slot, Slots
    from dwhctl.systems.base.target import StagedSlice, Target

_SLOT_POLL_SECONDS = 0.02
_FINISH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class GroupPublished:
    """A part of a group was published, or not: slice by slice."""

    group: PublishGroup
    outcomes: list[Published]
    seconds: float


@dataclass(frozen=True, slots=True)
class ColumnsAdded:
    """The target's table was asked to take new columns; `columns` is what it has now."""

    load: Load
    columns: tuple[Column, ...]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a commit in doubt, slice by slice: some may still be in doubt."""

    doubt: Doubt
    outcomes: list[Published]


@dataclass(frozen=True, slots=True)
class PublisherDied:
    """The thread ended: the sessions database is lost, or by a defect."""

    error: BaseException


PublisherEvent = GroupPublished | ColumnsAdded | Looked | PublisherDied


class Publisher:
    """Publishes groups, adds columns and drops staging, each under a slot of its target's connection.

    `sweepers` are the targets with little timeout: what they do not drop goes with the run.
    `tell` takes its events, in its thread. While it waits for a slot, `waits_for` names the connection: the
    dispatch loop leaves it that slot.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        slots: Slots,
        tell: Callable[[PublisherEvent], None],
        rules: PublishRules,
        sweepers: Mapping[str, Target] | None = None,
    ) -> None:
        self._targets = targets
        self._sweepers = sweepers or targets
        self._slots = slots
        self._tell = tell
        self._rules = rules
        self._work: queue.SimpleQueue[tuple[str, Callable[[], PublisherEvent | None]] | None] = (
            queue.SimpleQueue()
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="publisher")
        self.waits_for: str | None = None

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def publish(self, group: PublishGroup, slices: Sequence[StagedSlice]) -> None:
        """Publish what is ready of a group; its event is GroupPublished."""
        self._work.put((group.load.target, lambda: self._publish(group, slices)))

    def add_columns(self, load: Load, columns: Sequence[Column]) -> None:
        """Add new columns to the load's table; its event is ColumnsAdded."""
        self._work.put((load.target, lambda: self._add_columns(load, columns)))

    def look(self, doubt: Doubt) -> None:
        """Find out what became of a commit in doubt; its event is Looked."""
        self._work.put((doubt.load.target, lambda: self._look(doubt)))

    def drop(self, group: PublishGroup) -> None:
        """Drop a group's staging; there is no event."""
        self._work.put((group.load.target, lambda: self._drop(group)))

    def finish(self) -> None:
        """End, when everything is published: what may be left is to drop staging, and that is dropped with the run."""
        self._end(_FINISH_SECONDS)

    def stop(self) -> None:
        """Stop within seconds: what runs is rolled back unless it commits just now; nothing more is begun."""
        self._end(0.0)

    def _end(self, seconds: float) -> None:
        self._stopping.set()
        self._work.put(None)
        self._thread.join(seconds)
        while self._thread.is_alive():
            for target in (*self._targets.values(), *self._sweepers.values()):
                target.interrupt()
            self._thread.join(0.2)

    def _loop(self) -> None:
        try:
            while (item := self._work.get()) is not None:
                connection, action = item
                slot = self._slot(connection)
                try:
                    event = action()
                finally:
                    if slot is not None:
                        slot.release()
                if event is not None:
                    self._tell(event)
        except BaseException as error:
            self._tell(PublisherDied(error))

    def _slot(self, connection: str) -> Slot | None:
        """Wait for a slot; None when the publisher is to stop."""
        self.waits_for = connection
        try:
            with waited() as waiting:
                while not self._stopping.is_set():
                    if (slot := self._slots.try_take(connection)) is not None:
                        return slot
                    waiting.note(partial(self._slots.wanted, connection))
                    time.sleep(_SLOT_POLL_SECONDS)
            return None
        finally:
            self.waits_for = None

    def _publish(self, group: PublishGroup, slices: Sequence[StagedSlice]) -> GroupPublished:
        started = time.perf_counter()
        if self._stopping.is_set():
            failure = Failure.of(InterruptedAttemptError())
            return GroupPublished(group, [Published(one, failure) for one in slices], 0.0)
        target = self._targets[group.load.target]
        try:
            outcomes = publish(target, group.load, group.staging, slices, self._rules)
        except (SessionsError, StateDirError):
            raise
        except Exception as error:
            # A defect costs these slices; the others are none the worse for it.
            outcomes = [Published(one, Failure.of(error)) for one in slices]
        if self._stopping.is_set():
            outcomes = [_interrupted(one) for one in outcomes]
        return GroupPublished(group, outcomes, time.perf_counter() - started)

    def _look(self, doubt: Doubt) -> Looked:
        if self._stopping.is_set():
            return Looked(doubt, doubt.outcomes)
        return Looked(doubt, look(self._targets[doubt.load.target], doubt.load, doubt.outcomes))

    def _add_columns(self, load: Load, columns: Sequence[Column]) -> ColumnsAdded:
        if self._stopping.is_set():
            return ColumnsAdded(load, (), Failure.of(InterruptedAttemptError()))
        target = self._targets[load.target]
        try:
            target.add_columns(load.table, columns)
            return ColumnsAdded(load, tuple(target.columns(load.table)))
        except AttemptError as error:
            return ColumnsAdded(load, (), Failure.of(error))

    def _drop(self, group: PublishGroup) -> None:
        if not self._stopping.is_set():
            reach("publish.drop")
            # At its end the run drops all that is left.
            with suppress(AttemptError):
                self._sweepers[group.load.target].drop_group(group.staging)


def _interrupted(one: Published) -> Published:
    """What failed because it was stopped failed as interrupted, whatever the target said."""
    return (
        one
        if one.failure is None or one.in_doubt
        else Published(one.staged, Failure.of(InterruptedAttemptError()))
    )
