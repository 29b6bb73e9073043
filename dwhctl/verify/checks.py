"""What a comparison reads: a check for each shard, and a check for each part of a warehouse's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Generic, TypeVar

from dwhctl.core.columns import Column
from dwhctl.core.errors import AttemptError, ConfigError, QueryError, SourceError, TargetRefusedError
from dwhctl.core.sql import find_binds
from dwhctl.monitor.coverage import grouped
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.days import Slice
from dwhctl.project.loads import Load, Shard
from dwhctl.project.model import Project
from dwhctl.project.query import Query
from dwhctl.project.templates import render_extract
from dwhctl.runtime.fanout import AnyCheck, FanOut, Heartbeat, RemoteCheck
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.slots import slots_of
from dwhctl.systems.base.fingerprint import Measure
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.source import Source
from dwhctl.systems.base.system import SourceOptions, system_of
from dwhctl.systems.base.target import Target

Item = TypeVar("Item")
Answer = TypeVar("Answer", covariant=True)
Found = TypeVar("Found")
Content = TypeVar("Content")

ReadSource = Callable[[Source, Query, PlannedSlice], Found]
ReadTable = Callable[[Sequence[PlannedSlice], Inspection, Heartbeat], Answer]

_NAME = r'(?:[^\W\d][\w@#$]*|"(?:[^"]|"")+"|\[(?:[^\]]|\]\])+\])'
_COLUMN = rf"{_NAME}(?:\.{_NAME})*"
_FROM = re.compile(rf"(?:\bWHERE\s+|\bAND\s+|\bON\s+|\(\s*)(?P<column>{_COLUMN})\s*>=\s*\Z", re.IGNORECASE)
_BELOW = re.compile(rf"\s+AND\s+(?P<column>{_COLUMN})\s*<\s*", re.IGNORECASE)
_GRACE_SECONDS = 30.0


def without_slice(query: Query) -> Query | None:
    """Return the extract of the rows without a day; None unless it has `column >= :start AND column < :end`."""
    binds = find_binds(query.sql)
    if [bind.name for bind in binds] != ["start", "end"]:
        return None
    start, end = binds
    first = _FROM.search(query.sql[: start.start])
    second = _BELOW.fullmatch(query.sql[start.end : end.start])
    if first is None or second is None or first["column"].lower() != second["column"].lower():
        return None
    sql = f"{query.sql[: first.start('column')]}{first['column']} IS NULL{query.sql[end.end :]}"
    return Query(sql, {}, query.slice_by)


def measure_of(load: Load, columns: Sequence[Column]) -> Measure:
    """Return what is measured. Raise TargetRefusedError for a missing column, QueryError for a float."""
    by_name = {column.name.lower(): column for column in columns}
    for word, names in (("key", load.key), ("verify_columns", load.verify_columns)):
        if missing := [name for name in names if name.lower() not in by_name]:
            raise TargetRefusedError(
                f"{load.table} has no column {', '.join(missing)}, which is in the load's {word}"
            )
    key, values = (
        tuple(by_name[name.lower()] for name in names) for names in (load.key, load.verify_columns)
    )
    return Measure(key, values)


def batches(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Yield the items in batches whose sizes add up to at most `most`; a larger item has a batch of its own."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and total + size(item) > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


class SourceCheck(RemoteCheck[None], Generic[Found]):
    """Read something of each of a shard's slices, one after another, over one connection.

    `read` gets the source, the rendered extract and the slice. A slice has its result in `answers`, or `failures`.
    """

    def __init__(
        self, project: Project, shard: Shard, slices: Sequence[PlannedSlice], read: ReadSource[Found]
    ) -> None:
        self._timeout = max(planned.load.timeout.total_seconds() for planned in slices)
        super().__init__(shard.connection, self._read_all, seconds=self._timeout + _GRACE_SECONDS)
        self.answers: dict[Slice, Found] = {}
        self.failures: dict[Slice, AttemptError] = {}
        self._project = project
        self._shard = shard
        self._slices = slices
        self._read = read
        self._source: Source | None = None
        self._interrupted = False

    def _read_all(self, heartbeat: Heartbeat) -> None:
        connection = self._project.connections[self._shard.connection]
        system = system_of(connection)
        if SYSTEMS[connection.type].has_probe:
            system.probe(connection)
        by_zone = sorted(self._slices, key=lambda planned: planned.slice.zone)
        for zone, slices in groupby(by_zone, key=lambda planned: planned.slice.zone):
            left = list(slices)
            while left:
                options = SourceOptions(zone, self._timeout, state_dir=self._project.state_dir)
                with system.open_source(connection, self._shard.database, options) as self._source:
                    heartbeat()
                    self._read_over(self._source, left, heartbeat)

    def _read_over(self, source: Source, left: list[PlannedSlice], heartbeat: Heartbeat) -> None:
        while left:
            if self._interrupted:
                raise SourceError("interrupted")
            planned = left[0]
            try:
                self.answers[planned.slice] = self._read(source, self._render(planned), planned)
            except AttemptError as error:
                tried = planned.slice in self.failures
                self.failures[planned.slice] = error
                if not error.permanent and not tried:
                    return
            else:
                self.failures.pop(planned.slice, None)
            left.pop(0)
            heartbeat()

    def _render(self, planned: PlannedSlice) -> Query:
        try:
            return render_extract(self._project, planned.load, self._shard, planned.slice)
        except ConfigError as error:
            # Of this day only: the first day of each shard was rendered before anything was read.
            raise QueryError(str(error)) from error

    def interrupt(self) -> None:
        self._interrupted = True
        if (source := self._source) is not None:
            source.interrupt()

    def fail(self, error: AttemptError) -> None:
        missing = (planned.slice for planned in self._slices if planned.slice not in self.answers)
        self.failures.update(dict.fromkeys(missing, error))


class TableCheck(RemoteCheck[Answer]):
    """Read something of the slices of one load in its table."""

    def __init__(
        self, project: Project, target: Target, slices: Sequence[PlannedSlice], read: ReadTable[Answer]
    ) -> None:
        def work(heartbeat: Heartbeat) -> Answer:
            with target.inspection(self.load.table, self.load.slice_by) as inspection:
                heartbeat()
                return read(slices, inspection, heartbeat)

        self.load = slices[0].load
        is_alone = SYSTEMS[project.connections[self.load.target].type].one_writer
        seconds = self.load.timeout.total_seconds() + _GRACE_SECONDS
        super().__init__(self.load.target, work, seconds=seconds, alone=is_alone)
        self.slices = slices
        self._target = target

    def interrupt(self) -> None:
        self._target.interrupt()

    def abandon(self) -> None:
        """Leave the target alone: other checks use it, and it is interrupted when all have ended."""


class SliceReader:
    """Reads slices from sources and tables, within the limits of the project's connections."""

    def __init__(self, project: Project, jobs: int | None) -> None:
        self._project = project
        self._targets = targets_of(project, "dwhctl:verify")
        self._fan_out = FanOut(slots_of(project), jobs or project.max_workers)

    def close(self) -> None:
        for target in self._targets.values():
            target.interrupt()
        self._fan_out.join_abandoned()

    def read_tables(
        self,
        slices: Iterable[PlannedSlice],
        read: ReadTable[Answer],
        *,
        by_day: bool = True,
        beside: Sequence[AnyCheck] = (),
    ) -> list[TableCheck[Answer]]:
        """Run a check for each load and day of the slices, or for each load; others run at the same time."""
        groups = grouped(slices, lambda planned: (planned.load.name, by_day and planned.slice.day))
        checks = [
            TableCheck(self._project, self._targets[group[0].load.target], group, read)
            for group in groups.values()
        ]
        self._fan_out.run([*checks, *beside])
        return checks

    def read_both(
        self,
        slices: Sequence[PlannedSlice],
        read_source: ReadSource[Found],
        read_table: ReadTable[Iterable[tuple[Slice, Content]]],
    ) -> tuple[dict[Slice, tuple[Found, Content]], dict[Slice, AttemptError]]:
        """Read each slice from its source and its table, at the same time; return what was read, and failures."""
        theirs: dict[Slice, Content] = {}

        def read(group: Sequence[PlannedSlice], inspection: Inspection, heartbeat: Heartbeat) -> None:
            for slice_, content in read_table(group, inspection, heartbeat):
                theirs[slice_] = content
                heartbeat()

        by_shard = grouped(slices, lambda planned: planned.shard)
        sources = [SourceCheck(self._project, *item, read_source) for item in by_shard.items()]
        tables = self.read_tables(slices, read, beside=sources)
        ours = {slice_: found for check in sources for slice_, found in check.answers.items()}
        failures = {slice_: error for check in sources for slice_, error in check.failures.items()}
        failures |= {
            planned.slice: check.failure for check in tables if check.failure for planned in check.slices
        }
        return {slice_: (ours[slice_], theirs[slice_]) for slice_ in ours.keys() & theirs.keys()}, failures
