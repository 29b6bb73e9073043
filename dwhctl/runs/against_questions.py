"""What `verify --against` asks a warehouse: what the two tables are, and what they hold of one day."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dwhctl.columns import Kind
from dwhctl.engines.fingerprint import Measure
from dwhctl.errors import UsageError
from dwhctl.runs.asking import Question
from dwhctl.runs.prepare import check_columns
from dwhctl.runs.questions import GRACE_SECONDS, is_file, measure_of
from dwhctl.runs.verdicts import differences
from dwhctl.targets.contract import Other

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.fingerprint import Fingerprint
    from dwhctl.errors import AttemptError
    from dwhctl.project.model import Load, Project
    from dwhctl.project.slices import Slice
    from dwhctl.runs.plan import PlannedSlice
    from dwhctl.runs.verdicts import Finding
    from dwhctl.targets.contract import Inspection, Target

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
        self.strangers: dict[str, int] = {}
        self.slices = slices
        self._measures = measures
        self._named: dict[str, str] = {}

    def ask(self, alive: Callable[[], None]) -> None:
        with self._target.inspection(self._load.table, self._load.slice_by) as ours:
            theirs = ours.beside(self._table, self._load.slice_by)
            alive()
            slices = [one.slice for one in self.slices]
            self.ours = _fingerprints(ours, slices, self._measures.ours)
            alive()
            self.theirs = _fingerprints(theirs, slices, self._measures.theirs)
            alive()
            self.strangers = dict(theirs.strangers(slices))
            if self.strangers:
                alive()
                for name in ours.strangers(slices):
                    self.strangers.pop(name, None)
            self._name_keys(ours, theirs, alive)

    def _name_keys(self, ours: Inspection, theirs: Inspection, alive: Callable[[], None]) -> None:
        """Name some keys that one table alone has, or has with other values, of the first slices that differ."""
        wrong = [one.slice for one in self.slices if self.ours[one.shard.name] != self.theirs[one.shard.name]]
        for one in wrong[:_SLICES_NAMED]:
            mine, other = self.ours[one.shard], self.theirs[one.shard]
            same_keys = (mine.rows, mine.keys) == (other.rows, other.keys)
            measures = (self._measures.ours, self._measures.theirs)
            if not same_keys:
                measures = (replace(measures[0], values=()), replace(measures[1], values=()))
            here, there = Other(ours, measures[0]), Other(theirs, measures[1])
            only_ours = self._keys(one, here, there)
            alive()
            if same_keys:
                self._named[one.shard] = f"such as {only_ours}" if only_ours else ""
                continue
            sides = ((self._load.table, only_ours), (self._table, self._keys(one, there, here)))
            alive()
            self._named[one.shard] = "; ".join(f"only in {table}: {keys}" for table, keys in sides if keys)

    def _keys(self, one: Slice, side: Other, other: Other) -> str:
        # One more tells whether there are more.
        keys = side.inspection.keys_only_here(one, side.measure, other, _KEYS_NAMED + 1)
        if not keys:
            return ""
        names = ", ".join(column.name for column in self._measures.ours.key)
        listed = " and ".join("NULL" if key is None else key for key in keys[:_KEYS_NAMED])
        return f"{names} = {listed}{' and more' if len(keys) > _KEYS_NAMED else ''}"

    def findings(self, one: PlannedSlice) -> list[Finding]:
        """Tell how the slice differs, with the keys in the first finding's detail."""
        shard = one.shard.name
        found = differences(self._measures.ours, self.ours[shard], self.theirs[shard])
        if not found:
            return []
        detail = "; ".join(part for part in (found[0].detail, self._named.get(shard)) if part)
        return [replace(found[0], detail=detail or None), *found[1:]]


def _fingerprints(
    inspection: Inspection, slices: Sequence[Slice], measure: Measure
) -> dict[str, Fingerprint]:
    found = inspection.fingerprints(slices, measure)
    return {one.shard: found.get(one.shard, measure.empty) for one in slices}
