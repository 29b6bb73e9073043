"""What `verify --against` asks a warehouse: what the two tables are, and what they hold of one day."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, UsageError
from dwhctl.runtime.fanout import Question
from dwhctl.runtime.prepare import check_columns
from dwhctl.systems.base.fingerprint import Measure
from dwhctl.systems.base.inspection import Other
from dwhctl.verify.findings import Check, SliceFinding, column_differs, differences, missing
from dwhctl.verify.questions import GRACE_SECONDS, is_file, measure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.systems.base.fingerprint import Fingerprint
    from dwhctl.systems.base.inspection import Contrast, Inspection
    from dwhctl.systems.base.target import Target

#: Kinds whose values have the same canonical text where they are equal.
_ALIKE = (
    {Kind.INTEGER, Kind.DECIMAL},
    {Kind.INTEGER, Kind.BOOLEAN},
    {Kind.INTEGER, Kind.TEXT},
    {Kind.UUID, Kind.TEXT},
    {Kind.DATE, Kind.TEXT},
)
_OF_A_DAY = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
#: How many keys are named of a side, and of how many slices of a day.
_KEYS_NAMED, _SLICES_NAMED = 3, 10
#: Slices that differ are looked into together while both tables have so many rows of them.
_ROWS_AT_ONCE = 5_000_000


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of the load's table, and of the other."""

    ours: Measure
    theirs: Measure


class _WarehouseQuestion(Question):
    def __init__(self, project: Project, load: Load, target: Target, table: str) -> None:
        self.connection = load.target
        self.alone = is_file(project, load)
        self.seconds = load.timeout.total_seconds() + GRACE_SECONDS
        self.failure: AttemptError | None = None
        self._load = load
        self._target = target
        self._table = table

    def interrupt(self) -> None:
        self._target.interrupt()

    def give_up(self) -> None:
        """Others ask the same target: it is interrupted when all have their answers."""

    def fail(self, error: AttemptError) -> None:
        self.failure = error


class TablesQuestion(_WarehouseQuestion):
    """What the two tables are."""

    _ours: tuple[Column, ...] = ()
    _theirs: tuple[Column, ...] = ()

    def ask(self, alive: Callable[[], None]) -> None:
        with self._target.inspection(self._load.table, self._load.slice_by) as inspection:
            alive()
            self._ours = check_columns(self._load, tuple(inspection.columns()))
            alive()
            self._theirs = tuple(inspection.beside(self._table, None).columns())

    def measures(self) -> Measures:
        """Give what is measured. Raise why the tables could not be described, or UsageError for the other's columns."""
        if self.failure is not None:
            raise self.failure
        return measures_of(self._load, self._ours, self._table, self._theirs)


def measures_of(load: Load, ours: Sequence[Column], table: str, theirs: Sequence[Column]) -> Measures:
    """Find what is measured of both tables.

    Raise UsageError for a column that the other lacks, or holds in a kind that cannot be compared.
    """
    measure = measure_of(load, ours)
    by_name = {column.name.lower(): column for column in theirs}
    _check_names(load, table, by_name)
    key, values = (
        tuple(by_name[one.name.lower()] for one in columns) for columns in (measure.key, measure.values)
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
    return Measures(
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


def _as_text(own: Column, other: Column) -> bool:
    """Tell whether smallest and largest are those of the texts: a number comes before another than its text does."""
    return own.kind is not other.kind and {own.kind, other.kind} != {Kind.INTEGER, Kind.DECIMAL}


class SlicesQuestion(_WarehouseQuestion):
    """What the two tables hold of one day."""

    def __init__(
        self,
        project: Project,
        load: Load,
        target: Target,
        table: str,
        slices: Sequence[PlannedSlice],
        measures: Measures,
    ) -> None:
        super().__init__(project, load, target, table)
        self.ours: dict[str, Fingerprint] = {}
        self.theirs: dict[str, Fingerprint] = {}
        #: By etl_source: the rows of the other table that belong to none of the slices' shards, and to none of ours.
        self.unknown_sources: dict[str, int] = {}
        self.slices = slices
        self._measures = measures
        self._named: dict[str, str] = {}
        self._contrasts: dict[str, Contrast] = {}
        self._is_measured = False
        #: Why the differing slices were not looked into.
        self._unseen: AttemptError | None = None

    def ask(self, alive: Callable[[], None]) -> None:
        with self._target.inspection(self._load.table, self._load.slice_by) as ours:
            theirs = ours.beside(self._table, self._load.slice_by)
            alive()
            slices = [one.slice for one in self.slices]
            self.ours = _fingerprints(ours, slices, self._measures.ours)
            alive()
            self.theirs = _fingerprints(theirs, slices, self._measures.theirs)
            alive()
            self.unknown_sources = dict(theirs.unknown_sources(slices))
            if self.unknown_sources:
                alive()
                for name in ours.unknown_sources(slices):
                    self.unknown_sources.pop(name, None)
            self._is_measured = True
            alive()
            try:
                self._look_into(ours, theirs, alive)
            except AttemptError as error:
                self._unseen = error

    def fail(self, error: AttemptError) -> None:
        # What was measured holds, though it was not looked into.
        if self._is_measured:
            self._unseen = error
        else:
            self.failure = error

    def _look_into(self, ours: Inspection, theirs: Inspection, alive: Callable[[], None]) -> None:
        """Find which columns and keys differ in the slices that differ, and that both tables have."""
        here, there = Other(ours, self._measures.ours), Other(theirs, self._measures.theirs)
        for batch in self._batches():
            self._contrasts.update(ours.contrasts(batch, here.measure, there))
            alive()
        named = [
            one.slice
            for one in self.slices
            if (found := self._contrasts.get(one.shard.name)) and found.only_here + found.only_there
        ]
        for one in named[:_SLICES_NAMED]:
            found = self._contrasts[one.shard]
            keys = [
                (self._load.table, self._keys(one, here, there) if found.only_here else ""),
                (self._table, self._keys(one, there, here) if found.only_there else ""),
            ]
            alive()
            self._named[one.shard] = "; ".join(f"only in {table}: {each}" for table, each in keys if each)

    def _batches(self) -> Iterator[list[Slice]]:
        """Give the slices to look into, so many at once as have a bounded number of rows."""
        batch: list[Slice] = []
        rows = 0
        for one in self.slices:
            mine, other = self.ours[one.shard.name], self.theirs[one.shard.name]
            if mine == other or not mine.rows or not other.rows:
                continue
            if batch and rows + mine.rows + other.rows > _ROWS_AT_ONCE:
                yield batch
                batch, rows = [], 0
            batch.append(one.slice)
            rows += mine.rows + other.rows
        if batch:
            yield batch

    def _keys(self, one: Slice, side: Other, other: Other) -> str:
        # One more tells whether there are more.
        measures = [replace(each.measure, values=()) for each in (side, other)]
        beside = Other(other.inspection, measures[1])
        keys = side.inspection.keys_only_here(one, measures[0], beside, _KEYS_NAMED + 1)
        if not keys:
            return ""
        names = ", ".join(column.name for column in self._measures.ours.key)
        listed = " and ".join("NULL" if key is None else key for key in keys[:_KEYS_NAMED])
        return f"{names} = {listed}{' and more' if len(keys) > _KEYS_NAMED else ''}"

    def findings(self, one: PlannedSlice) -> list[SliceFinding]:
        """Tell how the slice differs: by what is missing, by doubled keys, and by column."""
        shard = one.shard.name
        ours, theirs = self.ours[shard], self.theirs[shard]
        found = differences(self._measures.ours, ours, theirs)
        if not found:
            return []
        if not ours.rows or not theirs.rows:
            table = self._table if ours.rows else self._load.table
            return [missing(table, ours.rows or theirs.rows, here=not ours.rows)]
        contrast = self._contrasts.get(shard)
        if contrast is None:
            why = f"which rows differ was not found: {self._unseen}" if self._unseen else None
            detail = "; ".join(part for part in (found[0].detail, why) if part)
            return [replace(found[0], detail=detail or None), *found[1:]]
        return self._explained(found, contrast, self._named.get(shard))

    def _explained(
        self, found: list[SliceFinding], contrast: Contrast, keys: str | None
    ) -> list[SliceFinding]:
        """Put what the checksums are explained by in their place."""
        reasons = list(_doubled(contrast, self._measures.ours, self._load.table, self._table))
        reasons += [
            column_differs(self._measures.ours, name, each) for name, each in contrast.columns.items()
        ]
        explained = {Check.VALUE_CHECKSUM} if reasons else set()
        if reasons and not contrast.only_here and not contrast.only_there:
            explained.add(Check.KEY_CHECKSUM)
        found = [one for one in found if one.check not in explained]
        if keys and found:
            found[0] = replace(found[0], detail="; ".join(part for part in (found[0].detail, keys) if part))
        return [*found, *reasons]


def _doubled(contrast: Contrast, measure: Measure, table: str, other: str) -> Iterator[SliceFinding]:
    """Tell of the keys that are more than once in either table."""
    sides = ((table, contrast.doubled_here), (other, contrast.doubled_there))
    if not any(odd for _, odd in sides):
        return
    names = ", ".join(column.name for column in measure.key)
    examples = [f"in {name}, such as {names} = {odd.example}" for name, odd in sides if odd]
    counts = [str(odd.keys) if odd else "0" for _, odd in sides]
    yield SliceFinding(Check.DOUBLED_KEYS, counts[0], counts[1], "; ".join(examples))


def _fingerprints(
    inspection: Inspection, slices: Sequence[Slice], measure: Measure
) -> dict[str, Fingerprint]:
    found = inspection.fingerprints(slices, measure)
    return {one.shard: found.get(one.shard, measure.empty) for one in slices}
