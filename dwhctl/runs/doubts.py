"""Commits in doubt: COMMIT failed, and the warehouse could not be asked yet whether it happened.

Their slices are neither loaded nor failed, and are not tried again: the server may still be at the commit. They are
looked up as often as their load retries. What is in doubt then keeps its session `running`: the next run, on whatever
machine, ends what is left on the server and looks (`reap.py`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.runs.retries import retry_seconds
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dwhctl.project.model import Load
    from dwhctl.runs.closing import Closer
    from dwhctl.runs.publish import Published
    from dwhctl.runs.starting import Flight


@dataclass(slots=True, eq=False)
class Doubt:
    """The attempts of one commit, each with its outcome. `look_at` is a monotonic time; None during a look."""

    load: Load
    slices: list[tuple[Flight, Published]]
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
        decided: Callable[[Flight, Published], None],
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
