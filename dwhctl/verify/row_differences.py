"""Find which rows differ between a source and the warehouse: two engines that cannot be queried together.

checksums of buckets of keys, by column ▶ the rows' numbers in a few buckets that differ ▶ the values of a few rows

A bucket is the keys whose number has one remainder. What travels is bounded: the checksums of at most `_MOST_BUCKETS`
buckets, the numbers of about `_ROWS_READ` rows of a side, and the shortened values of one row a column. A number of
rows is given only where all buckets that differ were read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any

from msgspec.structs import replace

from dwhctl.core.errors import AttemptError
from dwhctl.project.days import Slice
from dwhctl.project.query import Query
from dwhctl.runtime.fanout import Heartbeat
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.systems.base.fingerprint import Measure, Write
from dwhctl.systems.base.inspection import CUT_CHARACTERS, Differing, Example, Inspection, Pieces, read_pieces
from dwhctl.systems.base.source import Source
from dwhctl.verify.checks import SliceReader, batches
from dwhctl.verify.findings import KEYS_SHOWN, Explanation, column_differs, listed_keys

_Rows = Sequence[Sequence[Any]]

#: In so many slices of a load the rows are searched.
MOST_SLICES = 30
_BUCKET_ROWS, _MOST_BUCKETS = 64, 4_096
#: In so many columns of a slice an example is shown: each takes two columns of a query.
_MOST_EXAMPLES = 500
_ROWS_READ, _ROWS_AT_ONCE = 5_000, 20_000


@dataclass(slots=True, eq=False)
class Case:
    """A slice whose two sides differ, and what the search has found in it."""

    planned: PlannedSlice
    measure: Measure
    rows: int
    was_searched: bool = False
    failure: AttemptError | None = None
    #: Whether all buckets that differ were read.
    is_whole: bool = False
    differing: dict[str, Differing] = field(default_factory=dict)
    only_source: list[int] = field(default_factory=list)
    only_warehouse: list[int] = field(default_factory=list)
    #: By column the number of the key of a row that differs.
    examples: dict[str, int] = field(default_factory=dict)
    shown: tuple[dict[int, Pieces], dict[int, Pieces]] = field(default_factory=lambda: ({}, {}))
    _buckets: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return max(1, min(self.rows // _BUCKET_ROWS, _MOST_BUCKETS))

    @property
    def columns(self) -> list[str]:
        return [column.name for column in self.measure.values]

    # Each step writes a query for both sides, or None when there is nothing to read, and takes the rows.

    def bucket_query(self) -> Write | None:
        """Read the checksums of the buckets."""
        return lambda dialect, *parts: dialect.buckets(*parts, self.count)

    def take_buckets(self, source: _Rows, warehouse: _Rows) -> None:
        """Choose the buckets to read, and find the columns that differ where the keys do not."""
        sides = [{int(row[0]): tuple(map(int, row[1:])) for row in rows} for rows in (source, warehouse)]
        nothing = (0,) * (2 + len(self.columns))
        pairs = {
            number: (sides[0].get(number, nothing), sides[1].get(number, nothing))
            for number in {*sides[0], *sides[1]}
        }
        # A bucket has as many rows as its larger side.
        wrong = sorted(
            (max(ours[0], theirs[0]), number) for number, (ours, theirs) in pairs.items() if ours != theirs
        )
        left = _ROWS_READ
        for size, number in wrong:
            left -= size
            if left < 0:
                break
            self._buckets.append(number)
        self.is_whole = len(self._buckets) == len(wrong)
        if all(ours[:2] == theirs[:2] for ours, theirs in pairs.values()):
            for place, name in enumerate(self.columns, start=2):
                if any(ours[place] != theirs[place] for ours, theirs in pairs.values()):
                    self.differing[name] = Differing(None)

    def row_query(self) -> Write | None:
        """Read the numbers of the rows in the chosen buckets."""
        if not self._buckets:
            return None
        return lambda dialect, *parts: dialect.bucket_rows(*parts, self.count, self._buckets)

    def take_rows(self, source: _Rows, warehouse: _Rows) -> None:
        """Find the keys and columns that differ. A key that a side has twice has no values to compare."""
        ours, theirs = _by_key(source), _by_key(warehouse)
        self.only_source = sorted(ours.keys() - theirs.keys())
        self.only_warehouse = sorted(theirs.keys() - ours.keys())
        both = [(key, ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
        for place, name in enumerate(self.columns):
            keys = [key for key, mine, other in both if mine and other and mine[place] != other[place]]
            if keys:
                if len(self.examples) < _MOST_EXAMPLES:
                    self.examples[name] = min(keys)
                self.differing[name] = Differing(len(keys) if self.is_whole else None)

    @property
    def examples_measure(self) -> Measure:
        """The measure of the columns with examples: of all of them a query may have too many."""
        return replace(
            self.measure, values=tuple(one for one in self.measure.values if one.name in self.examples)
        )

    def value_query(self) -> Write | None:
        """Read the values of the examples."""
        only = [*self.only_source[: KEYS_SHOWN + 1], *self.only_warehouse[: KEYS_SHOWN + 1]]
        keys = sorted({*self.examples.values(), *only})
        if not keys:
            return None
        where = f"kn IN ({', '.join(map(str, keys))})"
        return lambda dialect, *parts: dialect.pieces(*parts, where, CUT_CHARACTERS)

    def take_values(self, source: _Rows, warehouse: _Rows) -> None:
        for shown, rows in zip(self.shown, (source, warehouse), strict=True):
            shown.update({int(row[0]): read_pieces(row[1:], len(self.measure.key)) for row in rows})
        ours, theirs = self.shown
        names = [column.name for column in self.examples_measure.values]
        for place, name in enumerate(names):
            key = self.examples[name]
            if key in ours and key in theirs:
                example = Example(ours[key].key, ours[key].values[place], theirs[key].values[place])
                self.differing[name] = replace(self.differing[name], example=example)

    def explanation(self) -> Explanation:
        if not self.was_searched:
            return Explanation(f"which rows differ was looked for in {MOST_SLICES} slices of the load only")
        if self.failure is not None:
            return Explanation.failed(self.failure)
        names = ("the source", self.planned.load.table)
        sides = zip(names, (self.only_source, self.only_warehouse), self.shown, strict=True)
        keys = "; ".join(
            f"only in {name}: {self._listed(only, shown)}" for name, only, shown in sides if only and shown
        )
        columns = [name for name in self.columns if name in self.differing]
        return Explanation(
            keys, [column_differs(self.measure, name, self.differing[name]) for name in columns]
        )

    def _listed(self, only: Sequence[int], shown: Mapping[int, Pieces]) -> str:
        pieces = [shown[key].key for key in only[: KEYS_SHOWN + 1] if key in shown]
        texts = [", ".join("NULL" if text is None else text for text in key) for key in pieces]
        return listed_keys(self.measure, texts)


#: What each step measures, its query, and what it does with the rows.
_STEPS = (
    ("measure", Case.bucket_query, Case.take_buckets),
    ("measure", Case.row_query, Case.take_rows),
    ("examples_measure", Case.value_query, Case.take_values),
)


def find_rows(reader: SliceReader, cases: Sequence[Case]) -> None:
    """Search both sides in three steps; afterwards each case has its result or its failure."""
    for batch in case_batches(cases):
        for case in batch:
            case.was_searched = True
        for measure, query, take in _STEPS:
            _step(reader, batch, attrgetter(measure), query, take)


def _step(
    reader: SliceReader,
    cases: Iterable[Case],
    measure: Callable[[Case], Measure],
    query: Callable[[Case], Write | None],
    take: Callable[[Case, _Rows, _Rows], None],
) -> None:
    queried = {
        case.planned.slice: (case, write)
        for case in cases
        if case.failure is None and (write := query(case)) is not None
    }

    def read_source(source: Source, extract: Query, planned: PlannedSlice) -> _Rows:
        case, write = queried[planned.slice]
        return source.measured(extract, measure(case), write)

    def read_table(
        group: Sequence[PlannedSlice], inspection: Inspection, _: Heartbeat
    ) -> Iterator[tuple[Slice, _Rows]]:
        for slice_ in (planned.slice for planned in group):
            case, write = queried[slice_]
            yield slice_, inspection.measured(slice_, measure(case), write)

    slices = [case.planned for case, _ in queried.values()]
    rows, failures = reader.read_both(slices, read_source, read_table)
    for slice_, (case, _) in queried.items():
        if slice_ in rows:
            take(case, *rows[slice_])
        else:
            case.failure = failures[slice_]


def chosen_cases(cases: Iterable[Case]) -> list[Case]:
    """Choose the slices to search: of each load at most `MOST_SLICES`, one of each shard, then a second of each."""
    ranked: dict[str, list[tuple[int, Case]]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for case in cases:
        name = (case.planned.load.name, case.planned.shard.name)
        seen[name] += 1
        ranked.setdefault(name[0], []).append((seen[name], case))
    return [
        case for of_load in ranked.values() for _, case in sorted(of_load, key=itemgetter(0))[:MOST_SLICES]
    ]


def case_batches(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Yield the cases in batches whose answers together have a bounded size."""
    return batches(cases, lambda case: case.count + min(case.rows, _ROWS_READ), _ROWS_AT_ONCE)


def _by_key(rows: _Rows) -> dict[int, tuple[int, ...] | None]:
    """Return the numbers of each key's values; None for a key that is there twice."""
    found: dict[int, tuple[int, ...] | None] = {}
    for key, *numbers in rows:
        found[int(key)] = None if int(key) in found else tuple(map(int, numbers))
    return found
