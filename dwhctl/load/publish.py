"""Publish staged slices. Only this module makes that no row is lost and no row is published twice.

`publish` replaces the slices of a group by one operation of the target; a slice that the target or a guard refuses
costs itself only. `Publisher` is the thread of the parent that does it, beside the loop.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core import errors
from dwhctl.core.faults import reach
from dwhctl.core.waiting import waited
from dwhctl.project.names import as_asked, in_project
from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.staging import HeldValues, ReplaceGuard, UncertainCommitError, replace_in_transaction

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.load.attempts import Doubt
    from dwhctl.load.staging import PublishGroup
    from dwhctl.project.loads import Load
    from dwhctl.runtime.prepare import DeliveredColumns
    from dwhctl.runtime.slots import Slot, Slots
    from dwhctl.systems.base.target import StagedSlice, StagingGroup, Target

_SLOT_POLL_SECONDS = 0.02
_FINISH_SECONDS = 2.0


class Published(Struct, frozen=True):
    """The outcome of one staged slice: published, or the failure.

    `commit_error` is why COMMIT failed, while it is not known whether it happened: then the slice is neither loaded nor
    failed, and may be tried again only after `look_up`.
    """

    staged: StagedSlice
    failure: Failure | None = None
    commit_error: Failure | None = None

    @property
    def in_doubt(self) -> bool:
        """Return whether the slice's commit may have happened, or may still happen."""
        return self.commit_error is not None


class PublishRules(Struct, frozen=True):
    """How to publish. `fence` is called right before each commit and raises when this run may not publish any more.

    `delivered` says which columns a slice must not fill with NULL; without it none is refused for that. `place` is
    the project's, for the command in a message.
    """

    allow_shrink: bool
    fence: Callable[[], None]
    delivered: DeliveredColumns | None = None
    place: Path | None = None


def publish(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: PublishRules
) -> list[Published]:
    """Publish the slices together; when the target refuses them together, one by one."""
    try:
        return _publish_together(target, load, group, slices, rules)
    except errors.AttemptError as error:
        if len(slices) == 1 or not error.permanent:
            return [Published(staged, Failure.of(error)) for staged in slices]
    return [done for staged in slices for done in publish(target, load, group, [staged], rules)]


def look_up(target: Target, load: Load, doubted: Sequence[Published]) -> list[Published]:
    """End the commit in doubt of these slices, published together, and find out whether it happened."""
    try:
        happened = _happened(target, load.table, [outcome.staged for outcome in doubted])
    except errors.AttemptError as error:
        return [replace(outcome, failure=_in_doubt(outcome.commit_error, error)) for outcome in doubted]
    return [Published(outcome.staged, None if happened else outcome.commit_error) for outcome in doubted]


def _in_doubt(commit_error: Failure | None, error: errors.AttemptError) -> Failure:
    lost = commit_error.message if commit_error else ""
    failure = Failure.of(
        errors.CommitInDoubtError(
            f"COMMIT failed ({lost}), and the warehouse cannot be asked whether it happened: {error}; the next run"
            " finds out before it loads anything"
        )
    )
    # Whether this run looks it up again: a server that refuses a login refuses the next one.
    return dataclasses.replace(failure, permanent=error.permanent)


def _publish_together(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: PublishRules
) -> list[Published]:
    guard = _Guard(load, rules)
    found: dict[str, Published] = {}
    direct = slices[0].direct
    try:
        if direct is not None:
            replace_in_transaction(direct, group, slices, guard)
        else:
            target.replace_slices(load.table, load.slice_by, load.timeout, group, slices, guard)
    except UncertainCommitError as doubt:
        commit_error = Failure.of(doubt.error)
        if direct is not None:
            target.distrust(group, slices[0].token)
        # On a new connection, once the old one is gone.
        outcomes = look_up(
            target, load, [Published(staged, commit_error=commit_error) for staged in doubt.slices]
        )
        if any(outcome.in_doubt for outcome in outcomes):
            found = {outcome.staged.token: outcome for outcome in outcomes}
        elif any(outcome.failure for outcome in outcomes):
            raise doubt.error from doubt
    return [found.get(staged.token, Published(staged, guard.refused.get(staged.token))) for staged in slices]


class _Guard(ReplaceGuard):
    """The rules of one publication. `refused` has the failures of the slices that it refuses, by token."""

    def __init__(self, load: Load, rules: PublishRules) -> None:
        self._load = load
        self._rules = rules
        self.refused: dict[str, Failure] = {}

    def allowed(
        self, slices: Sequence[StagedSlice], held: Mapping[str, int], held_values: HeldValues
    ) -> Sequence[StagedSlice]:
        self.refused = _shrunk(self._load, slices, held, self._rules)
        if self._rules.delivered is not None:
            self.refused |= self._rules.delivered.dropped(held_values, self._load, slices)
        return [staged for staged in slices if staged.token not in self.refused]

    def permit(self, slices: Sequence[StagedSlice]) -> None:
        if self._rules.delivered is not None:
            self._rules.delivered.remember(self._load, slices)
        self._rules.fence()


def _shrunk(
    load: Load, slices: Sequence[StagedSlice], held: Mapping[str, int], rules: PublishRules
) -> dict[str, Failure]:
    """Return the failure of each slice, by token, of which too many rows vanished from the source."""
    found: dict[str, Failure] = {}
    if rules.allow_shrink:
        return found
    for staged in slices:
        before = held.get(staged.slice.shard, 0)
        if before >= load.shrink_floor and (reason := _too_few(load, staged.rows, before)):
            asked = f"{as_asked(load.name)} --date {staged.slice.day} --shard {staged.slice.shard}"
            command = in_project(f"dwhctl load {asked} --allow-shrink", rules.place)
            error = errors.ShrunkSourceError(
                f"the source has {staged.rows} rows, the warehouse {before}: {reason}. If that is right: {command}"
            )
            found[staged.token] = Failure.of(error)
    return found


def _too_few(load: Load, rows: int, before: int) -> str | None:
    """Return why a slice with `before` rows in the target may not get these, or None."""
    share, floor = (
        f"max_shrink = {load.max_shrink:g}",
        f"a slice of shrink_floor = {load.shrink_floor} rows or more",
    )
    if not rows:
        return f"{floor} may not become empty ({share})"
    # As written in the configuration: (1 - 0.18) * 150 is more than 123 in binary fractions.
    if rows < (1 - Fraction(str(load.max_shrink))) * before:
        return f"more than {share} of them are gone, too many for {floor}"
    return None


def _happened(target: Target, table: str, slices: Sequence[StagedSlice]) -> bool:
    """Return whether the transaction happened: all of its rows are in the target, or none. After this it cannot happen.

    Raise AttemptError.
    """
    filled = {staged.etl_id: staged.rows for staged in slices if staged.rows}
    if not filled:
        # Emptied slices leave no rows to count. To empty them again is right in both cases.
        target.settle()
        return False
    return target.published_rows(table, list(filled)) == filled


class GroupPublished(Struct, frozen=True):
    """A part of a group was published, or not: the outcome of each slice."""

    group: PublishGroup
    outcomes: list[Published]
    seconds: float


class ColumnsAdded(Struct, frozen=True):
    """New columns were added to the target's table, or could not be; `columns` are those that it has now."""

    load: Load
    columns: tuple[Column, ...]
    failure: Failure | None = None


class LookedUp(Struct, frozen=True):
    """The outcome of a commit in doubt, slice by slice: some may still be in doubt."""

    doubt: Doubt
    outcomes: list[Published]


class PublisherDied(Struct, frozen=True):
    """The thread ended: the sessions database was lost, or dwhctl has a defect."""

    error: BaseException


PublisherEvent = GroupPublished | ColumnsAdded | LookedUp | PublisherDied
_Action = Callable[[], PublisherEvent | None]
_DIRECT: tuple[str, _Action] = ("", lambda: None)


class Publisher:
    """Publishes groups, adds columns and drops staging, each under a slot of its target's connection.

    `sweepers` are the same targets with a short timeout, to drop staging; what they do not drop, the run drops at its
    end. `notify` takes its events, in its thread. While it waits for a slot, `waits_for` is the connection: the loop
    leaves that slot to it.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        slots: Slots,
        notify: Callable[[PublisherEvent], None],
        rules: PublishRules,
        sweepers: Mapping[str, Target] | None = None,
    ) -> None:
        self._targets = targets
        self._sweepers = sweepers or targets
        self._slots = slots
        self._notify = notify
        self._rules = rules
        self._work: queue.SimpleQueue[tuple[str, _Action] | None] = queue.SimpleQueue()
        #: Slices that workers wrote directly have their slots: they are published while others wait for one.
        self._direct: queue.SimpleQueue[_Action] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="publisher")
        self.waits_for: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, group: PublishGroup, slices: Sequence[StagedSlice]) -> None:
        """Publish what is ready of a group; its event is GroupPublished."""
        if group.direct:
            self._direct.put(lambda: self._publish(group, slices))
            self._work.put(_DIRECT)
        else:
            self._work.put((group.load.target, lambda: self._publish(group, slices)))

    def add_columns(self, load: Load, columns: Sequence[Column]) -> None:
        """Add new columns to the load's table; its event is ColumnsAdded."""
        self._work.put((load.target, lambda: self._add_columns(load, columns)))

    def look_up(self, doubt: Doubt) -> None:
        """Find out what became of a commit in doubt; its event is LookedUp."""
        self._work.put((doubt.load.target, lambda: self._look_up(doubt)))

    def drop(self, group: PublishGroup) -> None:
        """Drop a group's staging, if it has one; there is no event."""
        if not group.direct:
            self._work.put((group.load.target, lambda: self._drop(group)))

    def finish(self) -> None:
        """End the thread when everything is published. The run drops at its end what staging is left."""
        self._end(_FINISH_SECONDS)

    def stop(self) -> None:
        """Stop within seconds: a running transaction is rolled back unless it is at its commit; no other is begun."""
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
                self._publish_direct()
                connection, action = item
                if item is _DIRECT:
                    continue
                slot = self._slot(connection)
                try:
                    event = action()
                finally:
                    if slot is not None:
                        slot.release()
                if event is not None:
                    self._notify(event)
        except BaseException as error:
            self._notify(PublisherDied(error))

    def _slot(self, connection: str) -> Slot | None:
        """Wait for a slot; None when the publisher is to stop."""
        self.waits_for = connection
        try:
            with waited() as waiting:
                while not self._stopping.is_set():
                    self._publish_direct()
                    if (slot := self._slots.try_take(connection)) is not None:
                        return slot
                    waiting.note(partial(self._slots.wanted, connection))
                    time.sleep(_SLOT_POLL_SECONDS)
            return None
        finally:
            self.waits_for = None

    def _publish_direct(self) -> None:
        with suppress(queue.Empty):
            while (event := self._direct.get_nowait()()) is not None:
                self._notify(event)

    def _publish(self, group: PublishGroup, slices: Sequence[StagedSlice]) -> GroupPublished:
        started = time.perf_counter()
        if self._stopping.is_set():
            failure = Failure.of(errors.InterruptedAttemptError())
            return GroupPublished(group, [Published(staged, failure) for staged in slices], 0.0)
        target = self._targets[group.load.target]
        try:
            outcomes = publish(target, group.load, group.staging, slices, self._rules)
        except (errors.SessionsError, errors.StateDirError):
            raise
        except Exception as error:
            # A defect costs these slices only.
            outcomes = [Published(staged, Failure.of(error)) for staged in slices]
        if self._stopping.is_set():
            outcomes = [_interrupted(outcome) for outcome in outcomes]
        return GroupPublished(group, outcomes, time.perf_counter() - started)

    def _look_up(self, doubt: Doubt) -> LookedUp:
        if self._stopping.is_set():
            return LookedUp(doubt, doubt.outcomes)
        return LookedUp(doubt, look_up(self._targets[doubt.load.target], doubt.load, doubt.outcomes))

    def _add_columns(self, load: Load, columns: Sequence[Column]) -> ColumnsAdded:
        if self._stopping.is_set():
            return ColumnsAdded(load, (), Failure.of(errors.InterruptedAttemptError()))
        target = self._targets[load.target]
        try:
            target.add_columns(load.table, columns)
            return ColumnsAdded(load, tuple(target.columns(load.table)))
        except errors.AttemptError as error:
            return ColumnsAdded(load, (), Failure.of(error))

    def _drop(self, group: PublishGroup) -> None:
        if not self._stopping.is_set():
            reach("publish.drop")
            # At its end the run drops all that is left.
            with suppress(errors.AttemptError):
                self._sweepers[group.load.target].drop_group(group.staging)


def _interrupted(outcome: Published) -> Published:
    """Return a failure of a stopped publisher as interrupted, whatever its message."""
    if outcome.failure is None or outcome.in_doubt:
        return outcome
    return Published(outcome.staged, Failure.of(errors.InterruptedAttemptError()))
