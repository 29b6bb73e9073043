"""What `verify` asks sources and warehouses: a question for each shard, and one for each load and day."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import AttemptError, ConfigError, QueryError, SourceError, TargetRefusedError
from dwhctl.core.sql import find_binds
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.templates import Query, render_extract
from dwhctl.runtime.fanout import Question
from dwhctl.runtime.prepare import check_columns
from dwhctl.systems.base.fingerprint import Measure
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.core.sql import BindPosition
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.systems.base.fingerprint import Fingerprint, Write
    from dwhctl.systems.base.inspection import Duplicates, Inspection
    from dwhctl.systems.base.source import Source
    from dwhctl.systems.base.target import Target


_NAME = r'(?:[^\W\d][\w@#$]*|"(?:[^"]|"")+"|\[(?:[^\]]|\]\])+\])'
_COLUMN = rf"{_NAME}(?:\.{_NAME})*"
_FROM = re.compile(rf"(?:\bWHERE\s+|\bAND\s+|\bON\s+|\(\s*)(?P<column>{_COLUMN})\s*>=\s*\Z", re.IGNORECASE)
_BELOW = re.compile(rf"\s+AND\s+(?P<column>{_COLUMN})\s*<\s*", re.IGNORECASE)


def without_slice(query: Query) -> Query | None:
    """Give the extract of the rows without a day; None when it does not have the form that can be changed so."""
    binds = find_binds(query.sql)
    if [bind.name for bind in binds] != ["start", "end"]:
        return None
    found = _condition(query.sql, *binds)
    if found is None:
        return None
    begin, column = found
    sql = f"{query.sql[:begin]}{column} IS NULL{query.sql[binds[1].end :]}"
    return Query(sql, {}, query.slice_by)


def _condition(sql: str, start: BindPosition, end: BindPosition) -> tuple[int, str] | None:
    first = _FROM.search(sql[: start.start])
    second = _BELOW.fullmatch(sql[start.end : end.start])
    if first is None or second is None or first["column"].lower() != second["column"].lower():
        return None
    return first.start("column"), first["column"]


GRACE_SECONDS = 30.0
#: The rows that a slice's query gave.
Answers = dict["Slice", "Sequence[Sequence[Any]]"]


class TableQuestion(Question):
    """What the load's table is: which of its columns are measured, and whose rows it holds."""

    def __init__(self, project: Project, load: Load, target: Target) -> None:
        self.connection = load.target
        self.alone = is_file(project, load)
        self.seconds = load.timeout.total_seconds() + GRACE_SECONDS
        self.load = load
        self.measure: Measure | None = None
        #: How many rows each etl_source has.
        self.sources: Mapping[str, int] = {}
        self.failure: AttemptError | None = None
        self._target = target

    def ask(self, alive: Callable[[], None]) -> None:
        with self._target.inspection(self.load.table, self.load.slice_by) as inspection:
            alive()
            self.measure = measure_of(self.load, check_columns(self.load, tuple(inspection.columns())))
            alive()
            self.sources = inspection.rows_by_source()

    def interrupt(self) -> None:
        self._target.interrupt()

    def give_up(self) -> None:
        """Others ask the same target: it is interrupted when all have their answers."""

    def fail(self, error: AttemptError) -> None:
        self.failure = error


def measure_of(load: Load, columns: Sequence[Column]) -> Measure:
    """Find what is measured. Raise TargetRefusedError for a column that is not there, QueryError for a float."""
    by_name = {column.name.lower(): column for column in columns}
    missing = [name for name in load.verify_columns if name.lower() not in by_name]
    if missing:
        raise TargetRefusedError(
            f"{load.table} has no column {', '.join(missing)}, which verify_columns names"
        )
    key, values = (
        tuple(by_name[name.lower()] for name in names) for names in (load.key, load.verify_columns)
    )
    return Measure(key, values)


class SourceQuestion(Question):
    """The fingerprints of a shard's slices, one after another over one connection."""

    def __init__(
        self,
        project: Project,
        shard: Shard,
        slices: Sequence[PlannedSlice],
        measures: Mapping[str, Measure],
        *,
        nulls: bool,
    ) -> None:
        self.connection = shard.connection
        self._timeout = max(one.load.timeout.total_seconds() for one in slices)
        self.seconds = self._timeout + GRACE_SECONDS
        self.fingerprints: dict[Slice, Fingerprint] = {}
        self.failures: dict[Slice, AttemptError] = {}
        #: By load: how many rows have no day, or why they could not be counted; None where the extract hides them.
        self.nulls: dict[str, int | AttemptError | None] = {}
        self.shard = shard
        self._project = project
        self._slices = slices
        self._measures = measures
        self._wants_nulls = nulls
        self._source: Source | None = None
        self._interrupted = False

    def ask(self, alive: Callable[[], None]) -> None:
        connection = self._project.connections[self.shard.connection]
        if SYSTEMS[connection.type].has_probe:
            system_of(connection).probe(connection)
        by_zone = sorted(self._slices, key=lambda one: one.slice.zone)
        for zone, slices in groupby(by_zone, key=lambda one: one.slice.zone):
            left = list(slices)
            while left:
                source = system_of(connection).open_source(
                    connection,
                    self.shard.database,
                    zone,
                    self._timeout,
                    state_dir=self._project.state_dir,
                )
                with source:
                    alive()
                    self._source = source
                    self._measure_all(source, left, alive)

    def _measure_all(self, source: Source, left: list[PlannedSlice], alive: Callable[[], None]) -> None:
        """Measure the slices that are left, or as many as the connection lives for."""
        while left:
            if self._interrupted:
                raise SourceError("interrupted")
            one = left[0]
            try:
                self._measure(source, one)
            except AttemptError as error:
                tried = one.slice in self.failures
                self.failures[one.slice] = error
                if not error.permanent and not tried:
                    return  # over a new connection, once
            else:
                self.failures.pop(one.slice, None)
            left.pop(0)
            alive()

    def _measure(self, source: Source, one: PlannedSlice) -> None:
        try:
            query = render_extract(self._project, one.load, self.shard, one.slice)
        except ConfigError as error:
            # Of one day alone: the first of each shard was rendered before anything was asked.
            raise QueryError(str(error)) from error
        self._ask_of(source, query, one)

    def _ask_of(self, source: Source, query: Query, one: PlannedSlice) -> None:
        self.fingerprints[one.slice] = source.fingerprint(query, self._measures[one.load.name])
        if self._wants_nulls and one.load.slice_by and one.load.name not in self.nulls:
            self.nulls[one.load.name] = _count_nulls(source, query, one.load.slice_by)

    def interrupt(self) -> None:
        self._interrupted = True
        if (source := self._source) is not None:
            source.interrupt()

    def fail(self, error: AttemptError) -> None:
        for one in self._slices:
            if one.slice not in self.fingerprints:
                self.failures[one.slice] = error


def _count_nulls(source: Source, query: Query, column: str) -> int | AttemptError | None:
    without_day = without_slice(query)
    try:
        return None if without_day is None else source.count_nulls(without_day, column)
    except AttemptError as error:
        return error


class SourceLook(SourceQuestion):
    """What else is asked of a shard's slices: for each slice, what writes the query."""

    def __init__(
        self,
        project: Project,
        shard: Shard,
        asked: Sequence[tuple[PlannedSlice, Write]],
        measures: Mapping[str, Measure],
    ) -> None:
        super().__init__(project, shard, [one for one, _ in asked], measures, nulls=False)
        self.answers: Answers = {}
        self._asked = {one.slice: write for one, write in asked}

    def _ask_of(self, source: Source, query: Query, one: PlannedSlice) -> None:
        write = self._asked[one.slice]
        self.answers[one.slice] = source.measured(query, self._measures[one.load.name], write)

    def fail(self, error: AttemptError) -> None:
        for one in self._slices:
            if one.slice not in self.answers:
                self.failures[one.slice] = error


class TargetQuestion(Question):
    """What the warehouse holds of one load and day."""

    def __init__(
        self,
        project: Project,
        load: Load,
        target: Target,
        slices: Sequence[PlannedSlice],
        measure: Measure,
    ) -> None:
        self.connection = load.target
        self.alone = is_file(project, load)
        self.seconds = load.timeout.total_seconds() + GRACE_SECONDS
        self.fingerprints: dict[str, Fingerprint] = {}
        self.doubled: dict[str, Duplicates] = {}
        self.elsewhere: dict[str, Duplicates] = {}
        self.sessions: dict[tuple[str, int], int] = {}
        self.failure: AttemptError | None = None
        self.load = load
        self.slices = slices
        self.measure = measure
        self._target = target

    def ask(self, alive: Callable[[], None]) -> None:
        with self._target.inspection(self.load.table, self.load.slice_by) as inspection:
            alive()
            self._look(inspection, alive)

    def _look(self, inspection: Inspection, alive: Callable[[], None]) -> None:
        slices = [one.slice for one in self.slices]
        fingerprints = dict(inspection.fingerprints(slices, self.measure))
        alive()
        self.sessions = dict(inspection.sessions(slices))
        alive()
        self.doubled = dict(inspection.duplicate_keys(slices, self.measure))
        alive()
        self.elsewhere = dict(inspection.keys_elsewhere(slices, self.measure))
        self.fingerprints = {one.shard: fingerprints.get(one.shard, self.measure.empty) for one in slices}

    def interrupt(self) -> None:
        self._target.interrupt()

    def give_up(self) -> None:
        """Others ask the same target: it is interrupted when all have their answers."""

    def fail(self, error: AttemptError) -> None:
        self.failure = error


class TargetLook(TargetQuestion):
    """What else is asked of the warehouse about slices of one load and day: for each, what writes the query."""

    def __init__(
        self,
        project: Project,
        load: Load,
        target: Target,
        asked: Sequence[tuple[PlannedSlice, Write]],
        measure: Measure,
    ) -> None:
        super().__init__(project, load, target, [one for one, _ in asked], measure)
        self.answers: Answers = {}
        self._asked = asked

    def _look(self, inspection: Inspection, alive: Callable[[], None]) -> None:
        for one, write in self._asked:
            self.answers[one.slice] = inspection.measured(one.slice, self.measure, write)
            alive()


def is_file(project: Project, load: Load) -> bool:
    """Tell whether the target is a file, which takes one question at a time."""
    return SYSTEMS[project.connections[load.target].type].one_writer
