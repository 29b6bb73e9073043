"""Publish groups: slices of one load and day that are staged side by side and published together.

A group takes slices until it is full or old. What is ready is published when nothing of the group is under way any
more, when much is ready, or when it has waited long enough: one hanging slice must not hold up its neighbours.
The staging object is dropped whole when all its slices have reported and been published.

Making a staging object takes a warehouse its time. So that no worker waits for it at the end of a day, the group of
what starts next is begun ahead; it ages only from its first slice on.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.target import StagedSlice, StagingGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date

    from dwhctl.project.loads import Load
    from dwhctl.runtime.slots import Slot
    from dwhctl.systems.base.target import Target


Work = tuple[str, "date"]

MAX_SLICES = 64
MAX_ROWS = 2_000_000
MAX_AGE_SECONDS = 5.0
PATIENCE_SECONDS = 5.0
#: A group that nothing is under way for waits so long for slices that are queued: those of a dead server never start.
IDLE_SECONDS = 0.5


@dataclass(slots=True)
class PublishGroup:
    """One group. `pending` are tokens under way, `ready` is staged, `publishing` counts what the publisher has.

    Nothing can be staged in it before it `is_open`. While it is `opening` a session of its target works for it, under
    slots of its slices: those of a slice that gave up meanwhile are `kept` until then.
    """

    load: Load
    day: date
    staging: StagingGroup
    opened: float
    is_open: bool = False
    opening: bool = True
    kept: list[Slot] = field(default_factory=list)
    taken: int = 0
    pending: set[str] = field(default_factory=set)
    ready: list[StagedSlice] = field(default_factory=list)
    ready_since: float = 0.0
    idle_since: float = 0.0
    publishing: int = 0

    @property
    def work(self) -> Work:
        """The load and day that the group belongs to."""
        return self.load.name, self.day

    def takes(self, now: float) -> bool:
        """Tell whether one more slice may be staged here."""
        if not self.taken:
            return True
        rows = sum(one.rows for one in self.ready)
        return self.taken < MAX_SLICES and rows < MAX_ROWS and now - self.opened < MAX_AGE_SECONDS

    def let_go(self) -> None:
        """Give back the slots that were kept for its opening."""
        for slot in self.kept:
            slot.release()

    def is_due(self, now: float) -> bool:
        """Tell whether what is ready should be published now."""
        if not self.ready:
            return False
        much = sum(one.rows for one in self.ready) >= MAX_ROWS
        return not self.pending or much or now - self.ready_since >= PATIENCE_SECONDS


class Groups:
    """The groups of one run. `ask_to_open` has a group's staging object made; `opened` tells that it is."""

    def __init__(self, run_id: str, ask_to_open: Callable[[PublishGroup], None]) -> None:
        self._run_id = run_id
        self._ask_to_open = ask_to_open
        self._taking: dict[Work, PublishGroup] = {}
        self._alive: list[PublishGroup] = []
        self._opened = 0
        self._not_ahead: set[Work] = set()
        self.targets: set[str] = set()

    def take(self, load: Load, day: date, token: str, now: float) -> PublishGroup:
        """Find or begin the group in which the slice of `token` is staged."""
        group = self._taking.get((load.name, day))
        if group is None or not group.takes(now):
            group = self._begin(load, day, now)
        if not group.taken:
            group.opened = now
        group.taken += 1
        group.pending.add(token)
        return group

    def wants_ahead(self, load: Load, day: date, now: float) -> bool:
        """Tell whether the next slice of this load and day would have to wait for its group's staging."""
        group = self._taking.get((load.name, day))
        return (group is None or not group.takes(now)) and (load.name, day) not in self._not_ahead

    def begin_ahead(self, load: Load, day: date, now: float, slot: Slot) -> None:
        """Begin the group of the load and day that starts next, under a slot of its target."""
        self._begin(load, day, now).kept.append(slot)

    def _begin(self, load: Load, day: date, now: float) -> PublishGroup:
        self._opened += 1
        name = f"{load.name}.{day:%Y%m%d}.{self._opened}"
        group = PublishGroup(load, day, StagingGroup(self._run_id, name, load.table), now)
        self._alive.append(group)
        self.targets.add(load.target)
        self._taking[group.work] = group
        self._ask_to_open(group)
        return group

    def opened(self, group: PublishGroup, *, well: bool) -> None:
        """Take note that a group's staging object was made, or could not be."""
        group.opening, group.is_open = False, well
        group.let_go()
        if not well:
            # The next one is begun by a slice, whose failure counts and is told.
            self._not_ahead.add(group.work)
            self._alive = [one for one in self._alive if one is not group]
            if self._taking.get(group.work) is group:
                del self._taking[group.work]

    def close(self, load: Load) -> None:
        """Take no more slices into the groups of a load: its table has changed since they were made."""
        self._taking = {work: group for work, group in self._taking.items() if group.load is not load}

    def due(
        self, now: float, queued: Callable[[Work], int]
    ) -> Iterator[tuple[PublishGroup, list[StagedSlice]]]:
        """Hand over what should be published now; `queued` counts the slices of a work that wait for a worker."""
        for group in self._alive:
            if self._taking.get(group.work) is group and (not queued(group.work) or not group.takes(now)):
                del self._taking[group.work]
            closed = self._taking.get(group.work) is not group
            idle = not group.pending and now - group.idle_since >= IDLE_SECONDS
            if group.is_due(now) and (closed or idle or group.pending or len(group.ready) >= MAX_SLICES):
                ready, group.ready = group.ready, []
                group.publishing += 1
                yield group, ready

    def done(self) -> Iterator[PublishGroup]:
        """Hand over the groups whose staging can be dropped, and forget them."""
        finished = [
            group
            for group in self._alive
            if self._taking.get(group.work) is not group
            and not (group.opening or group.pending or group.ready or group.publishing)
        ]
        self._alive = [group for group in self._alive if group not in finished]
        yield from finished

    def report(self, group: PublishGroup, token: str, staged: StagedSlice | None, now: float) -> None:
        """Take note that a slice's attempt has ended, with what it staged."""
        group.pending.discard(token)
        group.idle_since = now
        if staged is not None:
            if not group.ready:
                group.ready_since = now
            group.ready.append(staged)

    def next_due(self, now: float) -> float | None:
        """Give the seconds until something becomes due by time alone."""
        waits = [
            (group.ready_since + PATIENCE_SECONDS if group.pending else group.idle_since + IDLE_SECONDS) - now
            for group in self._alive
            if group.ready
        ]
        return max(0.0, min(waits)) if waits else None

    def let_go(self) -> None:
        """Give back every slot, whatever ended the run."""
        for group in self._alive:
            group.let_go()

    @property
    def busy(self) -> bool:
        """Tell whether any group still has something to come."""
        return bool(self._alive)


_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class GroupOpened:
    """A group's staging object was made, or could not be."""

    group: PublishGroup
    failure: Failure | None = None


class StagingCreator:
    """Makes staging objects. `tell` takes a GroupOpened for each, in the creator's thread.

    It needs no slot of its own: the slice for which a group is begun holds one, and waits until the group is open.
    """

    def __init__(self, targets: Mapping[str, Target], tell: Callable[[GroupOpened], None]) -> None:
        self._targets = targets
        self._tell = tell
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="creator")
        self._making: list[Future[None]] = []

    def open(self, group: PublishGroup) -> None:
        """Have the group's staging object made."""
        target = self._targets[group.load.target]
        made = self._threads.submit(target.open_group, group.staging)
        self._making = [one for one in self._making if not one.done()] + [made]
        made.add_done_callback(lambda done: self._opened(group, done))

    def stop(self) -> None:
        """End within seconds: what is still being made fails, and goes with the run's staging."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not all(one.done() for one in self._making):
            for target in self._targets.values():
                target.interrupt()
            wait(self._making, timeout=0.2)

    def _opened(self, group: PublishGroup, made: Future[None]) -> None:
        if made.cancelled():
            return
        error = made.exception()
        failure = None if error is None else Failure.of(error)
        self._tell(GroupOpened(group, failure))
