"""Whether loads and reports keep their `deadline` and their `max_age`, by the sessions table alone.

For a load with days every slice of the last days must be complete (see coverage.py): a gap stays missed until it is
filled, or so old that only `report gaps` shows it. What is loaded or refreshed whole is complete up to the day before
its last success started. The age is since the last success of the task's newest day, or of the day before it: a
backfill of last year does not make today's load fresh.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from dwhctl.monitor.coverage import (
    Coverage,
    Gap,
    Row,
    bearable_days,
    cover,
    days_until,
    fill_command,
    first_day,
    grouped,
)
from dwhctl.project.checks import task_name
from dwhctl.project.days import first_showing, make_slice, start_of_day
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Project
from dwhctl.sessions.history import last_successes
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import CLOCKS_APART

_DAY = timedelta(days=1)


def deadline_on(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """Return the instant, in UTC, of the deadline on this day."""
    return first_showing(datetime.combine(day, clock), zone)


def due_at(day: date, end: datetime, clock: time, zone: ZoneInfo) -> datetime:
    """Return the instant, in UTC, at which the slice of `day`, which ends at `end`, must be complete."""
    return _first_deadline(day + _DAY, end, clock, zone)


def next_deadline(now: datetime, clock: time, zone: ZoneInfo) -> datetime:
    """Return the first deadline after now, in UTC."""
    return _first_deadline(now.astimezone(zone).date() - _DAY, now, clock, zone)


def _first_deadline(on: date, after: datetime, clock: time, zone: ZoneInfo) -> datetime:
    while (at := deadline_on(on, clock, zone)) <= after:
        on += _DAY
    return at


#: The slices of so many days are checked, fewer in a project with very many slices.
DAYS = 14


class SlaState(enum.StrEnum):
    """Whether a load or report keeps its deadline and its age."""

    MET = "met"
    MISSED = "missed"
    OPEN = "open"  # nothing of it is expected yet


class Late(Struct, frozen=True):
    """The slices of a task that missed their deadline, from `oldest` to `newest`; `since` is the first deadline."""

    oldest: date
    newest: date
    slices: int
    since: datetime


class Task(Struct, frozen=True):
    """One shard of a load, or a report (with an empty `shard`).

    `is_old`: its last success is older than `max_age`, or it has none; `old_since` is when that began, if it is known.
    """

    shard: str
    last_success: datetime | None
    is_due: bool
    late: Late | None
    is_old: bool
    old_since: datetime | None

    @property
    def is_missed(self) -> bool:
        return self.late is not None or self.is_old


class Sla(Struct, frozen=True):
    """The deadline and the max_age of a load or report, and its tasks. `command` loads what is missing."""

    kind: Literal["load", "report"]
    name: str
    deadline: time | None
    max_age: timedelta | None
    tasks: tuple[Task, ...]
    next_deadline: datetime | None
    command: str | None

    @property
    def missed(self) -> list[Task]:
        return [task for task in self.tasks if task.is_missed]

    @property
    def state(self) -> SlaState:
        if self.missed:
            return SlaState.MISSED
        return SlaState.MET if any(task.is_due for task in self.tasks) else SlaState.OPEN

    @property
    def last_success(self) -> datetime | None:
        """Return the start of the last success of the task that is furthest behind; None when one never had any."""
        times = [task.last_success for task in self.tasks if task.last_success is not None]
        return min(times) if times and len(times) == len(self.tasks) else None

    @property
    def oldest(self) -> date | None:
        return min((task.late.oldest for task in self.tasks if task.late), default=None)

    @property
    def since(self) -> datetime | None:
        """Return since when something is missed; None when nothing is, or the start is not known."""
        late = [task.late.since for task in self.tasks if task.late]
        return min((*late, *(task.old_since for task in self.tasks if task.old_since)), default=None)


def promised(project: Project) -> list[Load | Report]:
    """Return the loads and reports that have a deadline or a max_age."""
    works: list[Load | Report] = [*project.loads.values(), *project.reports.values()]
    return [work for work in works if work.deadline is not None or work.max_age is not None]


def read_slas(
    project: Project, store: SessionStore | None, now: datetime, known: Coverage | None = None
) -> list[Sla]:
    """Check all of them, in the order of the configuration. Without a store nothing was ever loaded.

    `known`: a coverage of all loads up to today that the caller has read already; its days are checked.
    """
    works = promised(project)
    check = _Check(project, store, now, works, known)
    return [check.load(work) if isinstance(work, Load) else check.report(work) for work in works]


#: The newest day of a task that has a success, and the day before it, with the start of the last one.
_Good = tuple[tuple["date", "datetime"], ...]


class _Check:
    def __init__(
        self,
        project: Project,
        store: SessionStore | None,
        now: datetime,
        works: Sequence[Load | Report],
        known: Coverage | None,
    ) -> None:
        self._project = project
        self._store = store
        self._now = now
        self._zone = project.zone
        self._yesterday = now.astimezone(self._zone).date() - _DAY
        loads = [(work, list(project.shards_of(work))) for work in works if isinstance(work, Load)]
        with_slices = [
            task for task in loads if task[0].deadline is not None and task[0].slice_by is not None
        ]
        days = bearable_days(with_slices, DAYS) if known is None else max(len(known.days) - 1, 1)
        self._days = days_until(self._yesterday, days)
        self._known = grouped(known.rows, lambda row: row.load.name) if known else {}
        tasks = [task_name(load.name, shard.name) for load, shards in loads for shard in shards]
        tasks += [work.name for work in works if not isinstance(work, Load)]
        self._good: Mapping[str, _Good] = (
            last_successes(store, tasks, now + CLOCKS_APART) if store and tasks else {}
        )

    def report(self, report: Report) -> Sla:
        good = self._good.get(report.name, ())
        last = max((started for _, started in good), default=None)
        covered = max((min(day, self._day_before(started)) for day, started in good), default=None)
        late, is_due = self._whole_late(report.deadline, covered, None) if report.deadline else (None, True)
        old_since, is_old = self._old(report.max_age, last, None)
        task = Task("", last, is_due, late, is_old, old_since)
        day = late.newest if late else self._yesterday
        command = self._command("refresh-reports", report.name, "--date", str(day))
        return self._sla("report", report, [task], command)

    def _day_before(self, started: datetime) -> date:
        return started.astimezone(self._zone).date() - _DAY

    def _whole_late(self, clock: time, covered: date | None, begins: date | None) -> tuple[Late | None, bool]:
        """Return what is late of a task that has all days up to `covered`, and whether any day was due."""
        due = self._yesterday
        while self._due_at(due, clock) > self._now:
            due -= _DAY
        if begins is not None and due < begins:
            return None, False
        if covered is not None and covered >= due:
            return None, True
        oldest = due if covered is None else covered + _DAY
        oldest = max(oldest, begins) if begins is not None else oldest
        return Late(oldest, due, 1, self._due_at(oldest, clock)), True

    def _due_at(self, day: date, clock: time) -> datetime:
        return due_at(day, start_of_day(day + _DAY, self._zone), clock, self._zone)

    def load(self, load: Load) -> Sla:
        begins_with = load.start_date or (first_day(self._store, load) if self._store is not None else None)
        begins = self._begins(begins_with)
        today = self._yesterday + _DAY
        shards = [shard for shard in self._project.shards_of(load) if begins(shard) <= today]
        if load.slice_by is None:
            shards = [shard for shard in shards if not shard.has_ended(today)]
        late: dict[str, Late | None] = {}
        if load.deadline is not None and load.slice_by is not None:
            late = self._slices_late(load, shards, load.deadline, begins)
        is_known = begins_with is not None
        tasks = [
            self._task(load, shard, late, begins, is_known=is_known)
            for shard in shards
            # A closed shard counts only while one of its days is late.
            if not shard.has_ended(today) or late.get(shard.name)
        ]
        return self._sla("load", load, tasks, self._load_command(load, tasks))

    def _begins(self, known: date | None) -> Callable[[Shard], date]:
        """Return the first expected day of each shard. A load that never ran and has no start_date is due at once."""
        first = known or self._yesterday - _DAY
        return lambda shard: max(first, shard.from_date or first)

    def _task(
        self,
        load: Load,
        shard: Shard,
        slices_late: Mapping[str, Late | None],
        begins: Callable[[Shard], date],
        *,
        is_known: bool,
    ) -> Task:
        good = self._good.get(task_name(load.name, shard.name), ())
        last = max((started for _, started in good), default=None)
        expected = None
        if last is None and (is_known or shard.from_date is not None):
            expected = start_of_day(begins(shard), shard.zoneinfo)
        max_age = None if shard.has_ended(self._yesterday + _DAY) else load.max_age
        old_since, is_old = self._old(max_age, last, expected)
        late = slices_late.get(shard.name)
        is_due = shard.name in slices_late or max_age is not None
        if load.deadline is not None and load.slice_by is None:
            covered = self._day_before(last) if last else None
            late, due = self._whole_late(load.deadline, covered, begins(shard))
            is_due = is_due or due
        return Task(shard.name, last, is_due, late, is_old, old_since)

    def _slices_late(
        self, load: Load, shards: list[Shard], clock: time, begins: Callable[[Shard], date]
    ) -> dict[str, Late | None]:
        """Return the shards that have a slice whose deadline is over, each with its late slices."""
        found: dict[str, Late | None] = {}
        dues: dict[str, list[datetime]] = {}
        for row in self._rows(load, shards, begins):
            if row.shard.zone not in dues:
                dues[row.shard.zone] = self._dues(load, row.shard, clock)
            due_cells = [
                (day, due, cell)
                for day, due, cell in zip(self._days, dues[row.shard.zone], row.cells, strict=False)
                if cell.is_expected and due <= self._now
            ]
            lacking = [(day, due) for day, due, cell in due_cells if not cell.complete]
            if lacking:
                first_due = min(due for _, due in lacking)
                found[row.shard.name] = Late(lacking[0][0], lacking[-1][0], len(lacking), first_due)
            elif due_cells:
                found[row.shard.name] = None
        return found

    def _rows(self, load: Load, shards: list[Shard], begins: Callable[[Shard], date]) -> Sequence[Row]:
        """Return the shards' slices; of a coverage that is known already, today's are the last."""
        names = {shard.name for shard in shards}
        known = [row for row in self._known.get(load.name, ()) if row.shard.name in names]
        # Of a load that never ran the caller does not know the first day.
        if any(cell.is_expected for row in known for cell in row.cells):
            return known
        first = min(map(begins, shards), default=self._yesterday)
        expected = load.model_copy(update={"start_date": first})
        return cover(self._project, self._store, [(expected, shards)], self._days, self._now).rows

    def _dues(self, load: Load, shard: Shard, clock: time) -> list[datetime]:
        ends = (make_slice(self._project, load, shard, day).end_at for day in self._days)
        return [
            due_at(day, end, clock, self._zone)
            for day, end in zip(self._days, ends, strict=True)
            if end is not None
        ]

    def _old(
        self, max_age: timedelta | None, last: datetime | None, expected: datetime | None
    ) -> tuple[datetime | None, bool]:
        """Return since when a task is too old, and whether it is. Without a success it ages from its first day."""
        if max_age is None:
            return None, False
        newest = last or expected
        if newest is None:
            return None, True
        return (newest + max_age, True) if self._now - newest > max_age else (None, False)

    def _sla(
        self, kind: Literal["load", "report"], work: Load | Report, tasks: Sequence[Task], command: str
    ) -> Sla:
        coming = next_deadline(self._now, work.deadline, self._zone) if work.deadline is not None else None
        is_missed = any(task.is_missed for task in tasks)
        return Sla(
            kind, work.name, work.deadline, work.max_age, tuple(tasks), coming, command if is_missed else None
        )

    def _load_command(self, load: Load, tasks: Sequence[Task]) -> str:
        late = [task.late for task in tasks if task.late]
        if not late or load.slice_by is None:
            return self._command("load", load.name, "--date", "today")
        oldest, newest = min(days.oldest for days in late), max(days.newest for days in late)
        if any(task.is_old for task in tasks):
            # A shard that is too old may lack none of the late days: today's slice, never complete, renews its age.
            newest = self._yesterday + _DAY
        return fill_command(Gap(load.name, (), oldest, newest), self._project.root, named=False)

    def _command(self, *words: str) -> str:
        return shlex.join(["dwhctl", *words, "--project", str(self._project.root)])
