"""A load's table and one that another tool fills as the two sides of a comparison: `verify --against`.

The sources are not read. The other tool has no sessions here: its table is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial

from msgspec.structs import replace

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, UsageError
from dwhctl.project.days import Slice
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.runtime.fanout import Heartbeat
from dwhctl.runtime.messages import check_columns
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from dwhctl.systems.base.inspection import Contrast, Inspection, Other
from dwhctl.verify.checks import batches, measure_of
from dwhctl.verify.compare import Pair, Sides
from dwhctl.verify.findings import (
    KEYS_SHOWN,
    Check,
    Explanation,
    SliceComparison,
    SliceFinding,
    column_differs,
    fits,
    key_names,
    listed_keys,
)

#: Kinds whose values have the same canonical text where they are equal.
_ALIKE = (
    {Kind.INTEGER, Kind.DECIMAL},
    {Kind.INTEGER, Kind.BOOLEAN},
    {Kind.INTEGER, Kind.TEXT},
    {Kind.UUID, Kind.TEXT},
    {Kind.DATE, Kind.TEXT},
)
_OF_A_DAY = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
#: Of how many slices of a day keys are shown.
_SLICES_WITH_KEYS = 10
#: Slices that differ are compared row by row together while both tables have so many rows of them.
_ROWS_AT_ONCE = 5_000_000


def measures_of(
    load: Load, ours: Sequence[Column], table: str, theirs: Sequence[Column]
) -> tuple[Measure, Measure]:
    """Return what is measured of both tables.

    Raise UsageError for a column that the other lacks, or holds in a kind that cannot be compared.
    """
    measure = measure_of(load, ours)
    by_name = {column.name.lower(): column for column in theirs}
    _check_names(load, table, by_name)
    key, values = (
        tuple(by_name[column.name.lower()] for column in columns) for columns in (measure.key, measure.values)
    )
    for own, other in zip((*measure.key, *measure.values), (*key, *values), strict=True):
        if own.kind is not other.kind and {own.kind, other.kind} not in _ALIKE:
            raise UsageError(
                f"column {own.name} is {own.declared} in {load.table} and {other.declared} in {table}: equal values"
                " of these kinds have no text in common, so they cannot be compared"
            )
    as_text = [
        (own.name, other.name) for own, other in zip(measure.key, key, strict=True) if _as_text(own, other)
    ]
    return (
        replace(measure, as_text=frozenset(name for name, _ in as_text)),
        Measure(key, values, frozenset(name for _, name in as_text)),
    )


def _check_names(load: Load, table: str, by_name: dict[str, Column]) -> None:
    uses = {"etl_source": "the shard's name"}
    uses |= dict.fromkeys(load.verify_columns, "a column of verify_columns")
    uses |= dict.fromkeys(load.key, "a column of the key")
    uses |= {load.slice_by: "the column slice_by"} if load.slice_by else {}
    missing = [f"{name} ({use})" for name, use in uses.items() if name.lower() not in by_name]
    if missing:
        raise UsageError(
            f"--against: {table} has no column {', '.join(missing)}: the tables are compared by it; name a table, or"
            " a view that is one, with these columns"
        )
    kinds = {"etl_source": (Kind.TEXT,)} | ({load.slice_by: _OF_A_DAY} if load.slice_by else {})
    for name, wanted in kinds.items():
        if (found := by_name[name.lower()]).kind not in wanted:
            raise UsageError(
                f"--against: {table}.{name} is {found.declared}; it must be a {' or a '.join(wanted)}"
            )
    if (source := by_name["etl_source"]).padded:
        raise UsageError(
            f"--against: {table}.etl_source is {source.declared}, whose blanks make other names of the shards': name a"
            " view with RTRIM(etl_source) AS etl_source"
        )


def _as_text(own: Column, other: Column) -> bool:
    """Return whether smallest and largest are those of the texts: a number comes before another than its text does."""
    return own.kind is not other.kind and {own.kind, other.kind} != {Kind.INTEGER, Kind.DECIMAL}


class TwoTables(Sides):
    """The table of a load, and another table of the same warehouse, which the load does not fill."""

    def __init__(
        self, project: Project, jobs: int | None, load: Load, table: str, globs: Sequence[str]
    ) -> None:
        super().__init__(project, jobs)
        self.what = f" of {load.table} and {table}"
        self._load = load
        self._table = table
        self._globs = globs
        self._planned: Sequence[PlannedSlice] = ()
        self._measures: tuple[Measure, Measure]
        self._only_in_other: dict[date, list[SliceComparison]] = {}

    def names(self, load: Load) -> tuple[str, str]:
        return load.table, self._table

    def describe(
        self, slices: Sequence[PlannedSlice], *, are_some_complete: bool
    ) -> Mapping[str, AttemptError]:
        """Raise UsageError for the other table's columns, AttemptError when the tables cannot be described."""
        self._planned = slices
        if are_some_complete:
            (check,) = self._reader.read_tables(slices, self._read_columns, by_day=False)
            ours, theirs = check.result()
            self._measures = measures_of(self._load, ours, self._table, theirs)
        return {}

    def _read_columns(
        self, _: Sequence[PlannedSlice], inspection: Inspection, heartbeat: Heartbeat
    ) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
        ours = check_columns(self._load, tuple(inspection.columns()))
        heartbeat()
        return ours, tuple(inspection.beside(self._table, None).columns())

    def measure(self, slices: Sequence[PlannedSlice]) -> Mapping[Slice, Pair | AttemptError]:
        mine, other = (measure.empty for measure in self._measures)
        found: dict[Slice, Pair | AttemptError] = {}
        for check in self._reader.read_tables(slices, self._read_day):
            if check.failure is not None:
                found |= dict.fromkeys((planned.slice for planned in check.slices), check.failure)
            elif check.answer is not None:
                ours, theirs, unknown = check.answer
                for planned in check.slices:
                    shard = planned.shard.name
                    pair = ours.get(shard, mine), theirs.get(shard, other)
                    found[planned.slice] = Pair(planned, self._measures[0], *pair)
                day = check.slices[0].slice.day
                self._only_in_other[day] = list(self._only_there(day, unknown))
        return found

    def _read_day(
        self, group: Sequence[PlannedSlice], inspection: Inspection, heartbeat: Heartbeat
    ) -> tuple[Mapping[str, Fingerprint], Mapping[str, Fingerprint], dict[str, int]]:
        slices = [planned.slice for planned in group]
        beside = inspection.beside(self._table, self._load.slice_by)
        ours = inspection.fingerprints(slices, self._measures[0])
        heartbeat()
        theirs = beside.fingerprints(slices, self._measures[1])
        heartbeat()
        unknown = dict(beside.unknown_sources(slices))
        heartbeat()
        known = inspection.unknown_sources(slices) if unknown else {}
        return ours, theirs, {name: rows for name, rows in unknown.items() if name not in known}

    def _only_there(self, day: date, unknown: Mapping[str, int]) -> Iterator[SliceComparison]:
        shards = {planned.shard.name for planned in self._planned if planned.slice.day == day}
        for name, rows in sorted(unknown.items()):
            if name not in shards and fits(name, self._globs):
                detail = f"the load has no such shard on that day, and {self._load.table} no such rows"
                found = SliceFinding(Check.SHARD_ONLY_THERE, "0", str(rows), detail)
                yield SliceComparison(self._load.name, name, day, [found])

    def of_no_slice(self) -> list[SliceComparison]:
        return [result for day in sorted(self._only_in_other) for result in self._only_in_other[day]]

    # Which rows differ

    def explain(self, pairs: Sequence[Pair]) -> Mapping[Slice, Explanation]:
        rows = {pair.planned.slice: pair.ours.rows + pair.theirs.rows for pair in pairs}
        found: dict[Slice, Explanation] = {}
        slices = (pair.planned for pair in pairs)
        for check in self._reader.read_tables(slices, partial(self._contrast, rows, found)):
            if check.failure is not None:
                for planned in check.slices:
                    found.setdefault(planned.slice, Explanation.failed(check.failure))
        return found

    def _contrast(
        self,
        rows: Mapping[Slice, int],
        found: dict[Slice, Explanation],
        group: Sequence[PlannedSlice],
        inspection: Inspection,
        heartbeat: Heartbeat,
    ) -> None:
        """Find the columns and keys that differ. What was found holds, also when the rest fails."""
        here = Other(inspection, self._measures[0])
        there = Other(inspection.beside(self._table, self._load.slice_by), self._measures[1])
        differing: list[tuple[Slice, Contrast]] = []
        for batch in batches((planned.slice for planned in group), rows.__getitem__, _ROWS_AT_ONCE):
            contrasts = inspection.contrasts(batch, self._measures[0], there)
            for slice_ in batch:
                if (contrast := contrasts.get(slice_.shard)) is not None:
                    found[slice_] = self._explanation(contrast)
                    differing += [(slice_, contrast)] if contrast.only_here + contrast.only_there else []
            heartbeat()
        for slice_, contrast in differing[:_SLICES_WITH_KEYS]:
            sides = [
                (self._load.table, self._keys(slice_, here, there) if contrast.only_here else ""),
                (self._table, self._keys(slice_, there, here) if contrast.only_there else ""),
            ]
            heartbeat()
            keys = "; ".join(f"only in {table}: {listed}" for table, listed in sides if listed)
            found[slice_] = replace(found[slice_], detail=keys)

    def _keys(self, slice_: Slice, side: Other, other: Other) -> str:
        measure, beside = (replace(table.measure, values=()) for table in (side, other))
        keys = side.inspection.keys_only_here(
            slice_, measure, Other(other.inspection, beside), KEYS_SHOWN + 1
        )
        return listed_keys(self._measures[0], keys) if keys else ""

    def _explanation(self, contrast: Contrast) -> Explanation:
        columns = contrast.columns.items()
        reasons = [
            *self._duplicates(contrast),
            *(column_differs(self._measures[0], *column) for column in columns),
        ]
        return Explanation("", reasons, same_keys=not contrast.only_here and not contrast.only_there)

    def _duplicates(self, contrast: Contrast) -> Iterator[SliceFinding]:
        sides = ((self._load.table, contrast.duplicates_here), (self._table, contrast.duplicates_there))
        if not any(found for _, found in sides):
            return
        names = key_names(self._measures[0])
        examples = [f"in {table}, such as {names} = {found.example}" for table, found in sides if found]
        counts = [str(found.keys) if found else "0" for _, found in sides]
        yield SliceFinding(Check.DUPLICATE_KEYS, counts[0], counts[1], "; ".join(examples))
