"""The opener: threads of the parent that make the staging of groups beside the dispatch loop."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
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

    def open(self, group: Group) -> None:
        """Have the group's staging object made."""
        target = self._targets[group.load.target]
        made = self._threads.submit(target.open_group, group.staging)
        made.add_done_callback(lambda done: self._opened(group, done))

    def stop(self) -> None:
        """End when what is under way has ended: the targets are interrupted by whoever stops the run."""
        self._threads.shutdown(cancel_futures=True)

    def _opened(self, group: Group, made: Future[None]) -> None:
        if made.cancelled():
            return
        error = made.exception()
        failure = None if error is None else Failure.of(error)
        self._tell(GroupOpened(group, failure))
