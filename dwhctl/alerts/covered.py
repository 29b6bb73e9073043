"""What a channel covers beyond the run that is told of: the sessions say what of it is done, and what still fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from dwhctl.alerts.digest import StillFailing
from dwhctl.project.loads import is_expected
from dwhctl.sessions.cells import as_day, as_text
from dwhctl.sessions.failures import unsuccessful_slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, datetime

    from dwhctl.alerts.outcome import Outcome
    from dwhctl.project.model import Alert, Project
    from dwhctl.sessions.failures import UnsuccessfulSlice
    from dwhctl.sessions.store import Execute

#: What failed longer ago, and was not tried again, is not mentioned beside a recovery.
_LOOK_BACK = timedelta(days=30)
#: Work, shard (a report has none) and day; no day for a load without `slice_by`, whose success replaces all its rows.
_Task = tuple[str, str, "date | None"]


def covers(alert: Alert, kind: Literal["load", "report"], work: str) -> bool:
    """Tell whether the channel is for the load or report: without `loads` and `reports` it is for all."""
    if not alert.loads and not alert.reports:
        return True
    return work in (alert.loads if kind == "load" else alert.reports)


@dataclass(frozen=True, slots=True)
class Covered:
    """What the channels of a project cover. Without a sessions database `execute` is None, and only the run counts."""

    project: Project
    execute: Execute | None

    def count_all_done(self, alert: Alert, part: Outcome) -> int | None:
        """Count the tasks that the channel covers on the dates of the run; None when the last attempt at one failed.

        A run of loads is asked about loads, one of reports about reports. `part` is what concerns the channel.
        """
        expected = set(self._expected(alert, part))
        done = {self._task(item.work, item.shard, item.day) for item in part.items if item.ending == "done"}
        # A shadow run alone loads nothing that a channel covers.
        if not expected & done:
            return None
        missing = expected - done
        if missing and self.execute is None:
            return None
        days = _days(part)
        for work in {work for work, _, _ in missing}:
            missing -= set(self._done(work, days[0], days[-1]))
        return None if missing else len(expected)

    def _expected(self, alert: Alert, part: Outcome) -> Iterator[_Task]:
        kinds, days = {item.kind for item in part.items}, _days(part)
        if "report" in kinds:
            names = (name for name in self.project.reports if covers(alert, "report", name))
            yield from ((name, "", day) for name in names for day in days)
        if "load" in kinds:
            for load in self.project.loads.values():
                if load.shadow_of is None and covers(alert, "load", load.name):
                    for shard in self.project.shards_of(load):
                        for day in days:
                            if is_expected(load, shard, day):
                                yield self._task(load.name, shard.name, day)

    def _task(self, work: str, shard: str, day: date | None) -> _Task:
        return work, shard, None if shard and self._is_whole(work) else day

    def _is_whole(self, work: str) -> bool:
        load = self.project.loads.get(work)
        return load is None or load.slice_by is None

    def _done(self, work: str, first: date, last: date) -> Iterator[_Task]:
        """Give the tasks of a load or report whose last closed session succeeded."""
        assert self.execute is not None
        values = {"load": work, "first": first, "last": last}
        for shard, day, is_good in self.execute("closed_slices", values):
            if is_good:
                yield self._task(work, as_text(shard), as_day(day))

    def still_failing(self, alert: Alert, now: datetime) -> tuple[StillFailing, ...]:
        """Return what the channel covers and whose last session failed, as `report failures` would."""
        if self.execute is None:
            return ()
        shards = {
            (load.name, shard.name): shard
            for load in self.project.loads.values()
            if covers(alert, "load", load.name)
            for shard in self.project.shards_of(load)
        }
        found: dict[tuple[str, bool], list[UnsuccessfulSlice]] = {}
        for one in unsuccessful_slices(self.execute("unsuccessful_slices", {"since": now - _LOOK_BACK})):
            if one.shard is None:
                counts = one.load in self.project.reports and covers(alert, "report", one.load)
            else:
                shard = shards.get((one.load, one.shard))
                counts = shard is not None and is_expected(self.project.loads[one.load], shard, one.day)
            if counts and not (one.replaced and (one.shard is None or self._is_whole(one.load))):
                found.setdefault((one.load, one.shard is None), []).append(one)
        return tuple(
            StillFailing(work, 0 if is_report else len(slices), tuple(sorted({one.day for one in slices})))
            for (work, is_report), slices in sorted(found.items())
        )


def _days(part: Outcome) -> list[date]:
    return sorted({item.day for item in part.items if item.day is not None})
