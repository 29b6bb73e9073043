"""Sources and warehouse as the two sides of a comparison: `verify`, and `adopt`.

Both are measured at the same time. Of the warehouse it is also found out what it should not hold, whatever the source
says: duplicate keys, keys that are in other slices too, rows of no session, and rows that belong to no slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

from msgspec import Struct

from dwhctl.core.errors import AttemptError
from dwhctl.project.days import FIRST_DAY, LAST_DAY, Slice
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.project.query import Query
from dwhctl.runtime.fanout import Heartbeat
from dwhctl.runtime.messages import check_columns
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.sessions.history import adopted_shards, is_successful, running_tasks, successful_ids
from dwhctl.sessions.store import SessionStore
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from dwhctl.systems.base.inspection import Duplicates, Inspection
from dwhctl.systems.base.source import Source
from dwhctl.verify.checks import measure_of, without_slice
from dwhctl.verify.compare import Pair, Sides
from dwhctl.verify.findings import (
    Check,
    Explanation,
    SliceComparison,
    SliceFinding,
    duplicate_finding,
    fits,
    unknown_rows,
    what_to_do,
)
from dwhctl.verify.row_differences import Case, chosen_cases, find_rows

_IDS_SHOWN = 3


class _Content(Struct, frozen=True):
    """What the warehouse holds of a slice; `etl_ids` has the number of rows of each."""

    fingerprint: Fingerprint
    etl_ids: Mapping[int, int]
    duplicates: Duplicates | None
    elsewhere: Duplicates | None


class SourceAndWarehouse(Sides):
    """The sources, and the tables that their loads fill. Without a store any etl_id may be in a slice."""

    def __init__(
        self,
        project: Project,
        jobs: int | None,
        store: SessionStore | None,
        globs: Sequence[str],
        listen: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(project, jobs)
        self._store = store
        self._globs = globs
        self._listen = listen
        if store is not None:
            self._successful = cache(partial(successful_ids, store))
            self._adopted = cache(partial(adopted_shards, store))
        self._measures: dict[str, Measure] = {}
        self._unknown: list[SliceComparison] = []
        #: By load and shard: how many rows have no day, or why that is unknown; None where the extract hides them.
        self._nulls: dict[tuple[str, str], int | AttemptError | None] = {}

    def names(self, load: Load) -> tuple[str, str]:
        return "the source", load.table

    # What the tables are

    def describe(self, slices: Sequence[PlannedSlice], **_: bool) -> Mapping[str, AttemptError]:
        checks = self._reader.read_tables(slices, _describe_table, by_day=False)
        for check in checks:
            if check.answer is not None:
                load = check.load
                self._measures[load.name], sources = check.answer
                for name, rows in unknown_rows(self._project, load, sources):
                    if fits(name, self._globs):
                        found = SliceFinding(Check.UNKNOWN_SOURCE, None, str(rows), what_to_do(load, name))
                        self._unknown.append(SliceComparison(load.name, name, None, [found]))
        return {check.load.name: check.failure for check in checks if check.failure is not None}

    # What they hold

    def measure(self, slices: Sequence[PlannedSlice]) -> Mapping[Slice, Pair | AttemptError]:
        busy = self._busy()
        contents, failures = self._reader.read_both(slices, self._read_source, self._read_table)
        busy |= self._busy()
        found: dict[Slice, Pair | AttemptError] = {}
        for planned in slices:
            if planned.slice in contents:
                ours, content = contents[planned.slice]
                measure = self._measures[planned.load.name]
                others = list(self._others(content, planned, measure, busy))
                found[planned.slice] = Pair(planned, measure, ours, content.fingerprint, others)
            else:
                found[planned.slice] = failures[planned.slice]
        return found

    def _read_source(self, source: Source, query: Query, planned: PlannedSlice) -> Fingerprint:
        load, name = planned.load, (planned.load.name, planned.shard.name)
        fingerprint = source.fingerprint(query, self._measures[load.name])
        if load.slice_by and name not in self._nulls:
            without_day = without_slice(query)
            try:
                nulls = None if without_day is None else source.count_nulls(without_day, load.slice_by)
                self._nulls[name] = nulls
            except AttemptError as error:
                self._nulls[name] = error
        return fingerprint

    def _read_table(
        self, group: Sequence[PlannedSlice], inspection: Inspection, heartbeat: Heartbeat
    ) -> Iterator[tuple[Slice, _Content]]:
        slices, measure = [planned.slice for planned in group], self._measures[group[0].load.name]
        fingerprints = inspection.fingerprints(slices, measure)
        heartbeat()
        sessions = inspection.sessions(slices)
        heartbeat()
        duplicates = inspection.duplicate_keys(slices, measure)
        heartbeat()
        elsewhere = inspection.keys_elsewhere(slices, measure)
        for slice_ in slices:
            shard = slice_.shard
            etl_ids = {etl_id: rows for (of, etl_id), rows in sessions.items() if of == shard}
            fingerprint = fingerprints.get(shard, measure.empty)
            yield slice_, _Content(fingerprint, etl_ids, duplicates.get(shard), elsewhere.get(shard))

    def _busy(self) -> set[tuple[str, str]]:
        return set() if self._store is None else running_tasks(self._store)

    # What is wrong beside differences

    def _others(
        self, content: _Content, planned: PlannedSlice, measure: Measure, busy: set[tuple[str, str]]
    ) -> Iterator[SliceFinding]:
        if content.duplicates is not None:
            yield duplicate_finding(Check.DUPLICATE_KEYS, measure, content.duplicates)
        # While another day of the shard is loaded, that day may be about to lose a row that is in this day by now.
        if content.elsewhere is not None and (planned.load.name, planned.shard.name) not in busy:
            yield duplicate_finding(Check.KEYS_IN_OTHER_SLICES, measure, content.elsewhere)
        unknown = sorted(etl_id for etl_id in content.etl_ids if not self._is_known(planned, etl_id))
        if unknown:
            ids = ", ".join(map(str, unknown[:_IDS_SHOWN]))
            more = f" and {len(unknown) - _IDS_SHOWN} more" if len(unknown) > _IDS_SHOWN else ""
            rows = sum(content.etl_ids[etl_id] for etl_id in unknown)
            yield SliceFinding(Check.ROWS_OF_NO_SESSION, None, str(rows), f"etl_id {ids}{more}")

    def _is_known(self, planned: PlannedSlice, etl_id: int) -> bool:
        """Return whether an etl_id may be in a slice: that of a successful session of its load and shard.

        In a slice that was adopted, and not loaded since, any etl_id may be: another tool wrote the rows.
        """
        load, shard, day = planned.load.name, planned.shard.name, planned.slice.day
        if self._store is None or (shard, etl_id) in self._successful(load, day, day):
            return True
        days = (day, day) if planned.load.slice_by else (FIRST_DAY, LAST_DAY)
        # Else of another day, or newer than what was read of this day.
        return shard in self._adopted(load, *days) or is_successful(self._store, load, shard, etl_id)

    def of_no_slice(self) -> list[SliceComparison]:
        return [*self._without_day(), *self._unknown]

    def _without_day(self) -> Iterator[SliceComparison]:
        for (load, shard), rows in sorted(self._nulls.items(), key=lambda item: item[0]):
            column = self._project.loads[load].slice_by
            if isinstance(rows, AttemptError):
                found = SliceFinding(Check.NOT_COMPARED, detail=f"rows whose {column} is NULL: {rows}")
            elif rows:
                detail = f"{column} is NULL: no slice will ever take these rows"
                found = SliceFinding(Check.ROWS_IN_NO_SLICE, str(rows), None, detail)
            else:
                continue
            yield SliceComparison(load, shard, None, [found])

    def unseen(self) -> tuple[str, ...]:
        unseen = {load for (load, _), rows in self._nulls.items() if rows is None}
        # What an API answers for a day is all that can be asked of it.
        return tuple(sorted(load for load in unseen if self._project.loads[load].endpoint is None))

    # Which rows differ

    def explain(self, pairs: Sequence[Pair]) -> Mapping[Slice, Explanation]:
        cases = [Case(pair.planned, pair.measure, max(pair.ours.rows, pair.theirs.rows)) for pair in pairs]
        chosen = chosen_cases(cases)
        self._listen(f"looking for the rows that differ in {len(chosen):,} of {len(cases):,} slices")
        find_rows(self._reader, chosen)
        return {case.planned.slice: case.explanation() for case in cases}


def _describe_table(
    group: Sequence[PlannedSlice], inspection: Inspection, heartbeat: Heartbeat
) -> tuple[Measure, Mapping[str, int]]:
    load = group[0].load
    measure = measure_of(load, check_columns(load, tuple(inspection.columns())))
    heartbeat()
    return measure, inspection.rows_by_source()
