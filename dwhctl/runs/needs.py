"""What a report needs: the share of a date's slices that are complete, and whether it is enough."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from dwhctl.runs.plan import LoadRequest, candidates
from dwhctl.sessions.values import is_complete

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, timedelta

    from dwhctl.project.model import Need, Project, Report
    from dwhctl.sessions.store import SessionStore

_SHOWN_SHARDS = 5


@dataclass(frozen=True, slots=True)
class Readiness:
    """How far a needed load is with a date: of `expected` slices those of the shards `missing` are not complete."""

    load: str
    at_least: float
    expected: int
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> int:
        """How many slices are complete."""
        return self.expected - len(self.missing)

    @property
    def is_met(self) -> bool:
        """Whether that is enough. A date before every shard's first one has nothing to wait for."""
        # As written in the configuration: 0.98 * 150 is more than 147 in binary fractions.
        return self.complete >= Fraction(str(self.at_least)) * self.expected

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.load}: no slice is expected on this day"
        done = f"{self.load}: {self.complete} of {self.expected} slices are complete"
        shown = ", ".join(self.missing[:_SHOWN_SHARDS])
        more = f" and {len(self.missing) - _SHOWN_SHARDS} more" if len(self.missing) > _SHOWN_SHARDS else ""
        return f"{done}, missing {shown}{more}" if self.missing else done


def readiness(
    project: Project, store: SessionStore | None, report: Report, day: date
) -> tuple[Readiness, ...]:
    """Look how far the loads are that a report needs; without a sessions table nothing is complete."""
    return tuple(_readiness(project, store, need, day) for need in report.needs)


def _readiness(project: Project, store: SessionStore | None, need: Need, day: date) -> Readiness:
    plan = candidates(project, LoadRequest(days=(day,), loads=(need.load,)))
    found = store.last_sessions(need.load, day, day) if store is not None else []
    last = {one.shard: one for one in found}
    missing = (
        one.shard.name for one in plan.slices if not is_complete(last.get(one.shard.name), one.slice.end_at)
    )
    return Readiness(need.load, need.at_least, len(plan.slices), tuple(missing))


def not_met(found: Sequence[Readiness], day: date) -> str:
    """Say which needs are not met, and what to do about it."""
    lacking = [one for one in found if not one.is_met]
    words = "; ".join(
        f"{one}{f' (at_least = {one.at_least:g})' if one.at_least < 1 else ''}" for one in lacking
    )
    loads = " ".join(one.load for one in lacking)
    return (
        f"{words}. A slice is complete when it was loaded after its end: dwhctl load {loads} --date {day}"
        " --only-missing; or wait longer (--wait, or wait in the configuration)"
    )


def lacking(found: Sequence[Readiness]) -> str:
    """Return the needs that are not met, in words."""
    return "; ".join(str(one) for one in found if not one.is_met)


def longest_wait(project: Project, report: Report, asked: timedelta | None) -> float:
    """Return for how many seconds a report waits for its needs: `asked` (--wait) wins, then its own key."""
    return next(
        each for each in (asked, report.wait, project.refreshing.wait) if each is not None
    ).total_seconds()
