"""Publish groups: slices of one load and day that are staged side by side and published together.

A group takes slices until it is full or old. What is ready is published when no attempt of the group runs any more,
when much is ready, or when it has waited long enough. It does not wait for late attempts, which take far longer than
others do: their servers may hang, and must not delay the rows of those that answer.
The staging object is dropped whole when the attempts of all its slices have ended and are published.

A warehouse takes time to make a staging object. So that no worker waits for it at the end of a day, the group of the
slices that start next is begun before they start; its age counts from its first slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import date
from math import inf
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.target import StagedSlice, StagingGroup, Target

if TYPE_CHECKING:
    from dwhctl.engine.jobs import NameAndDay
    from dwhctl.project.loads import Load
    from dwhctl.runtime.slots import Slot

MAX_SLICES = 64
MAX_ROWS = 2_000_000
MAX_AGE_SECONDS = 5.0
MAX_READY_SECONDS = 5.0
#: A group without running attempts waits so long for queued slices: those of a dead server never start.
IDLE_SECONDS = 0.5
#: An attempt is late after so many seconds, or so many times what half of the last slices needed.
LATE_SECONDS = 1.0
_LATE_TIMES = 4
_LAST_SLICES = 32


@dataclass(slots=True)
class PublishGroup:
    """One group. `pending` are running attempts, each with its start; `publishing` counts what the publisher has.

    Nothing can be staged in it before it `is_open`. While it is `opening`, a session of its target makes it, under
    slots of its slices: those of a slice whose attempt has ended are `kept` until it is open. A `direct` group has one
    slice, which its worker writes into the table itself, and no staging object.
    """

    load: Load
    day: date
    staging: StagingGroup
    opened: float
    is_open: bool = False
    opening: bool = True
    kept: list[Slot] = field(default_factory=list)
    taken: int = 0
    pending: dict[str, float] = field(default_factory=dict)
    ready: list[StagedSlice] = field(default_factory=list)
    ready_since: float = 0.0
    idle_since: float = 0.0
    publishing: int = 0
    direct: bool = False

    @property
    def name_and_day(self) -> NameAndDay:
        """The load's name and the day that the group belongs to."""
        return self.load.name, self.day

    def takes(self, now: float) -> bool:
        """Return whether one more slice may be staged here."""
        if not self.taken:
            return True
        if self.taken >= MAX_SLICES or now - self.opened >= MAX_AGE_SECONDS:
            return False
        return sum(staged.rows for staged in self.ready) < MAX_ROWS

    def release(self) -> None:
        """Release the slots that were kept for its opening."""
        for slot in self.kept:
            slot.release()

    def due_at(self, late_after: float, *, closed: bool) -> float:
        """Return when to publish what is ready; a group that is `closed` takes no more slices."""
        if not self.ready:
            return inf
        if sum(staged.rows for staged in self.ready) >= MAX_ROWS:
            return self.ready_since
        idle_at = (self.ready_since if closed else self.idle_since) + IDLE_SECONDS
        if not self.pending:
            return self.ready_since if closed else idle_at
        # Late slices that are staged soon after each other are published together.
        all_late_at = max(self.pending.values()) + late_after
        return min(self.ready_since + MAX_READY_SECONDS, max(all_late_at, idle_at))


class Groups:
    """The groups of one run. `create` begins to make a group's staging object; `opened` is called at its end."""

    def __init__(self, run_id: str, create: Callable[[PublishGroup], None]) -> None:
        self._run_id = run_id
        self._create = create
        self._taking: dict[NameAndDay, PublishGroup] = {}
        self._alive: list[PublishGroup] = []
        self._opened = 0
        self._seconds: deque[float] = deque(maxlen=_LAST_SLICES)
        self._late_after = LATE_SECONDS
        self._not_ahead: set[NameAndDay] = set()
        #: The targets of all groups, and of those that have a staging object.
        self.targets: set[str] = set()
        self.staging_targets: set[str] = set()

    def take(self, load: Load, day: date, token: str, now: float, *, direct: bool = False) -> PublishGroup:
        """Find or begin the group in which the slice of `token` is staged; begin one that is `direct`."""
        group = self._taking.get((load.name, day))
        if group is None or direct or not group.takes(now):
            group = self._begin(load, day, now, direct=direct)
        if not group.taken:
            group.opened = now
        group.taken += 1
        group.pending[token] = now
        return group

    def wants_ahead(self, load: Load, day: date, now: float) -> bool:
        """Return whether the next slice of this load and day would have to wait for its group's staging."""
        return self.lacks(load, day, now) and (load.name, day) not in self._not_ahead

    def lacks(self, load: Load, day: date, now: float) -> bool:
        """Return whether the next slice of this load and day begins a group."""
        group = self._taking.get((load.name, day))
        return group is None or not group.takes(now)

    def begin_ahead(self, load: Load, day: date, now: float, slot: Slot) -> None:
        """Begin the group of the load and day that starts next, under a slot of its target."""
        self._begin(load, day, now).kept.append(slot)

    def _begin(self, load: Load, day: date, now: float, *, direct: bool = False) -> PublishGroup:
        self._opened += 1
        name = f"{load.name}.{day:%Y%m%d}.{self._opened}"
        staging = StagingGroup(self._run_id, name, load.table)
        group = PublishGroup(load, day, staging, now, is_open=direct, opening=not direct, direct=direct)
        self._alive.append(group)
        self.targets.add(load.target)
        self._taking[group.name_and_day] = group
        if not direct:
            self.staging_targets.add(load.target)
            self._create(group)
        return group

    def opened(self, group: PublishGroup, *, ok: bool) -> None:
        """Record that a group's staging object was made, or could not be."""
        group.opening, group.is_open = False, ok
        group.release()
        if not ok:
            # The next one is begun by a slice, whose failure counts.
            self._not_ahead.add(group.name_and_day)
            self._alive = [other for other in self._alive if other is not group]
            if self._taking.get(group.name_and_day) is group:
                del self._taking[group.name_and_day]

    def close(self, load: Load) -> None:
        """Take no more slices into the groups of a load: its table has changed since they were made."""
        self._taking = {key: group for key, group in self._taking.items() if group.load is not load}

    def due(
        self, now: float, queued: Callable[[NameAndDay], int]
    ) -> Iterator[tuple[PublishGroup, list[StagedSlice]]]:
        """Yield what should be published now; `queued` counts the slices of a load and day that wait for a worker."""
        for group in self._alive:
            if self._taking.get(group.name_and_day) is group and (
                not queued(group.name_and_day) or not group.takes(now)
            ):
                del self._taking[group.name_and_day]
            if now >= self._due_at(group):
                ready, group.ready = group.ready, []
                group.publishing += 1
                yield group, ready

    def _due_at(self, group: PublishGroup) -> float:
        return group.due_at(self._late_after, closed=self._taking.get(group.name_and_day) is not group)

    def done(self) -> Iterator[PublishGroup]:
        """Yield the groups whose staging can be dropped, and forget them."""
        finished = [
            group
            for group in self._alive
            if self._taking.get(group.name_and_day) is not group
            and not (group.opening or group.pending or group.ready or group.publishing)
        ]
        self._alive = [group for group in self._alive if group not in finished]
        yield from finished

    def report(self, group: PublishGroup, token: str, staged: StagedSlice | None, now: float) -> None:
        """Record that a slice's attempt has ended, with what it staged."""
        started = group.pending.pop(token, now)
        group.idle_since = now
        if staged is not None:
            self._seconds.append(now - started)
            self._late_after = max(LATE_SECONDS, _LATE_TIMES * median(self._seconds))
            if not group.ready:
                group.ready_since = now
            group.ready.append(staged)

    def next_due(self, now: float) -> float | None:
        """Return the seconds until something becomes due by time alone."""
        due_at = min(map(self._due_at, self._alive), default=inf)
        return None if due_at == inf else max(0.0, due_at - now)

    def release(self) -> None:
        """Release every slot, whatever ended the run."""
        for group in self._alive:
            group.release()

    @property
    def busy(self) -> bool:
        """Return whether any group is not finished."""
        return bool(self._alive)


_AT_ONCE = 4


class GroupOpened(Struct, frozen=True):
    """A group's staging object was made, or could not be."""

    group: PublishGroup
    failure: Failure | None = None


class StagingCreator:
    """Makes staging objects. `notify` takes a GroupOpened for each, in the creator's thread.

    It needs no slot of its own: the slice for which a group is begun holds one, and waits until the group is open.
    """

    def __init__(self, targets: Mapping[str, Target], notify: Callable[[GroupOpened], None]) -> None:
        self._targets = targets
        self._notify = notify
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="creator")
        self._making: list[Future[None]] = []

    def open(self, group: PublishGroup) -> None:
        """Begin to make the group's staging object."""
        made = self._threads.submit(self._targets[group.load.target].open_group, group.staging)
        self._making = [future for future in self._making if not future.done()] + [made]
        made.add_done_callback(lambda done: self._opened(group, done))

    def stop(self) -> None:
        """End within seconds: what is still being made fails, and is dropped with the run's staging."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in self._making):
            for target in self._targets.values():
                target.interrupt()
            wait(self._making, timeout=0.2)

    def _opened(self, group: PublishGroup, made: Future[None]) -> None:
        if not made.cancelled():
            error = made.exception()
            self._notify(GroupOpened(group, None if error is None else Failure.of(error)))
