"""The opener: threads of the parent that make the staging of groups beside the dispatch loop."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.runs.values import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dwhctl.runs.groups import Group
    from dwhctl.targets.contract import Target

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class GroupOpened:
    """A group's staging object was made, or could not be."""

    group: Group
    failure: Failure | None = None


class Opener:
    """Makes staging objects. `tell` takes a GroupOpened for each, in the opener's thread.

    It needs no slot of its own: the slice for which a group is begun holds one, and waits until the group is open.
    """

    def __init__(self, targets: Mapping[str, Target], tell: Callable[[GroupOpened], None]) -> None:
        self._targets = targets
        self._tell = tell
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="opener")
        self._making: list[Future[None]] = []

    def open(self, group: Group) -> None:
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

    def _opened(self, group: Group, made: Future[None]) -> None:
        if made.cancelled():
            return
        error = made.exception()
        failure = None if error is None else Failure.of(error)
        self._tell(GroupOpened(group, failure))
