"""Find which rows differ between a source and the warehouse: two engines that cannot be asked in one query.

checksums of buckets of keys, by column ▶ the rows' numbers in a few buckets that differ ▶ the values of a few rows

A bucket is the keys whose number has one remainder. What travels is bounded: the checksums of at most `_MOST_BUCKETS`
buckets, the numbers of about `_ROWS_READ` rows of a side, and the shortened values of one row a column. A number of
rows is given only where all buckets that differ were read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dwhctl.systems.base.inspection import CUT_CHARACTERS, Differing, Example, read_pieces
from dwhctl.verify.findings import Check, SliceFinding, column_differs
from dwhctl.verify.questions import SourceLook, TargetLook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from dwhctl.core.errors import AttemptError
    from dwhctl.project.loads import Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.fanout import Asker
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.systems.base.fingerprint import Measure, Write
    from dwhctl.systems.base.inspection import Pieces
    from dwhctl.systems.base.target import Target

    _Rows = Sequence[Sequence[Any]]
    _Asked = list[tuple[PlannedSlice, Write]]

#: So many slices of a load are looked into.
MOST_SLICES = 30
_BUCKET_ROWS, _MOST_BUCKETS = 64, 4_096
_ROWS_READ, _ROWS_AT_ONCE = 5_000, 20_000
_KEYS_NAMED = 3


@dataclass(slots=True)
class Case:
    """A slice whose two sides differ, and what became of the look into it."""

    planned: PlannedSlice
    rows: int
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
        """Return how many buckets the keys have."""
        return max(1, min(self.rows // _BUCKET_ROWS, _MOST_BUCKETS))

    # Buckets

    def ask_buckets(self) -> Write:
        """Return what asks for the checksums of the buckets."""
        return lambda dialect, *parts: dialect.buckets(*parts, self.count)

    def take_buckets(self, source: _Rows, warehouse: _Rows, names: Sequence[str]) -> None:
        """Choose the buckets to read, and find the columns that differ where the keys do not."""
        sides = [{int(row[0]): tuple(map(int, row[1:])) for row in rows} for rows in (source, warehouse)]
        nothing = (0,) * (2 + len(names))
        pairs = {each: tuple(side.get(each, nothing) for side in sides) for each in {*sides[0], *sides[1]}}
        wrong = {each: pair for each, pair in pairs.items() if pair[0] != pair[1]}
        left = _ROWS_READ
        for each, (ours, theirs) in sorted(wrong.items(), key=lambda item: (_size(*item[1]), item[0])):
            left -= _size(ours, theirs)
            if left < 0:
                break
            self._buckets.append(each)
        self.is_whole = len(self._buckets) == len(wrong)
        if all(ours[:2] == theirs[:2] for ours, theirs in wrong.values()):
            for number, name in enumerate(names, start=2):
                if any(ours[number] != theirs[number] for ours, theirs in wrong.values()):
                    self.differing[name] = Differing(None)

    # Rows

    def ask_rows(self) -> Write | None:
        """Return what asks for the numbers of the rows in the buckets; None when there is nothing to read."""
        if not self._buckets:
            return None
        return lambda dialect, *parts: dialect.bucket_rows(*parts, self.count, self._buckets)

    def take_rows(self, source: _Rows, warehouse: _Rows, names: Sequence[str]) -> None:
        """Find the keys and columns that differ. A key that is there twice has no values to compare."""
        ours, theirs = _by_key(source), _by_key(warehouse)
        self.only_source = sorted(ours.keys() - theirs.keys())
        self.only_warehouse = sorted(theirs.keys() - ours.keys())
        for number, name in enumerate(names):
            keys = [
                key
                for key, mine in ours.items()
                if mine is not None
                and (other := theirs.get(key)) is not None
                and mine[number] != other[number]
            ]
            if keys:
                self.examples[name] = min(keys)
                self.differing[name] = Differing(len(keys) if self.is_whole else None)

    # Values

    def ask_values(self) -> Write | None:
        """Return what asks for the rows that are shown."""
        # One more tells whether there are more.
        only = [*self.only_source[: _KEYS_NAMED + 1], *self.only_warehouse[: _KEYS_NAMED + 1]]
        keys = sorted({*self.examples.values(), *only})
        if not keys:
            return None
        where = f"kn IN ({', '.join(map(str, keys))})"
        return lambda dialect, *parts: dialect.pieces(*parts, where, CUT_CHARACTERS)

    def take_values(self, source: _Rows, warehouse: _Rows, measure: Measure) -> None:
        """Take the values of the examples."""
        for shown, rows in zip(self.shown, (source, warehouse), strict=True):
            shown.update({int(row[0]): read_pieces(row[1:], len(measure.key)) for row in rows})
        names = [column.name for column in measure.values]
        ours, theirs = self.shown
        for name, key in self.examples.items():
            if key in ours and key in theirs:
                number = names.index(name)
                example = Example(ours[key].key, ours[key].values[number], theirs[key].values[number])
                self.differing[name] = replace(self.differing[name], example=example)

    # Findings

    def explained(self, found: list[SliceFinding], measure: Measure, table: str) -> list[SliceFinding]:
        """Put what the checksums are explained by in their place."""
        if self.failure is not None:
            return _with_detail(found, f"which rows differ was not found: {self.failure}")
        sides = (
            ("the source", self.only_source, self.shown[0]),
            (table, self.only_warehouse, self.shown[1]),
        )
        keys = "; ".join(
            f"only in {name}: {_named(only, shown, measure)}" for name, only, shown in sides if only and shown
        )
        columns = [column.name for column in measure.values]
        reasons = [
            column_differs(measure, name, self.differing[name]) for name in columns if name in self.differing
        ]
        if reasons:
            found = [one for one in found if one.check is not Check.VALUE_CHECKSUM]
        return [*(_with_detail(found, keys) if keys else found), *reasons]


class SecondLook:
    """Looks into slices that differ: at most `MOST_SLICES` of a load, of as many shards as there are."""

    def __init__(
        self, project: Project, asker: Asker, targets: Mapping[str, Target], measures: Mapping[str, Measure]
    ) -> None:
        self._project = project
        self._asker = asker
        self._targets = targets
        self._measures = measures

    def look_into(self, cases: Sequence[Case]) -> None:
        """Ask both sides in three rounds; each case has its answers or its failure afterwards."""
        for batch in _batches(cases):
            self._round(batch, lambda case: case.ask_buckets(), self._take(Case.take_buckets))
            self._round(batch, lambda case: case.ask_rows(), self._take(Case.take_rows))
            self._round(
                batch,
                lambda case: case.ask_values(),
                lambda case, *sides: case.take_values(*sides, self._measures[case.planned.load.name]),
            )

    def _take(
        self, take: Callable[[Case, _Rows, _Rows, Sequence[str]], None]
    ) -> Callable[[Case, _Rows, _Rows], None]:
        def taken(case: Case, source: _Rows, warehouse: _Rows) -> None:
            values = self._measures[case.planned.load.name].values
            take(case, source, warehouse, [column.name for column in values])

        return taken

    def _round(
        self,
        cases: Iterable[Case],
        ask: Callable[[Case], Write | None],
        take: Callable[[Case, _Rows, _Rows], None],
    ) -> None:
        asked = {
            case.planned.slice: (case, write)
            for case in cases
            if case.failure is None and (write := ask(case)) is not None
        }
        sources, targets = self._questions(list(asked.values()))
        self._asker.run([*targets, *sources])
        ours = {one: rows for question in sources for one, rows in question.answers.items()}
        theirs = {one: rows for question in targets for one, rows in question.answers.items()}
        failures = {one: error for question in sources for one, error in question.failures.items()}
        for question in targets:
            if question.failure is not None:
                failures |= {one.slice: question.failure for one in question.slices}
        for one, (case, _) in asked.items():
            if one in ours and one in theirs:
                take(case, ours[one], theirs[one])
            else:
                case.failure = failures[one]

    def _questions(self, asked: Sequence[tuple[Case, Write]]) -> tuple[list[SourceLook], list[TargetLook]]:
        by_shard: dict[Shard, _Asked] = {}
        by_day: dict[tuple[str, date], _Asked] = {}
        for case, write in asked:
            one = case.planned
            by_shard.setdefault(one.shard, []).append((one, write))
            by_day.setdefault((one.load.name, one.slice.day), []).append((one, write))
        sources = [SourceLook(self._project, shard, of, self._measures) for shard, of in by_shard.items()]
        targets = []
        for (name, _), of in by_day.items():
            load = self._project.loads[name]
            targets.append(
                TargetLook(self._project, load, self._targets[load.target], of, self._measures[name])
            )
        return sources, targets


def chosen_cases(cases: Iterable[Case]) -> list[Case]:
    """Choose the slices to look into: of each load at most `MOST_SLICES`, one of each shard, then a second of each."""
    ranked: dict[str, list[tuple[int, Case]]] = {}
    seen: dict[tuple[str, str], int] = {}
    for case in cases:
        name = (case.planned.load.name, case.planned.shard.name)
        seen[name] = seen.get(name, 0) + 1
        ranked.setdefault(name[0], []).append((seen[name], case))
    return [
        case
        for of_load in ranked.values()
        for _, case in sorted(of_load, key=lambda each: each[0])[:MOST_SLICES]
    ]


def not_looked_into(found: list[SliceFinding]) -> list[SliceFinding]:
    """Say that a slice was not looked into."""
    return _with_detail(found, f"which rows differ was looked for in {MOST_SLICES} slices of the load only")


def _with_detail(found: list[SliceFinding], detail: str) -> list[SliceFinding]:
    if not found:
        return found
    text = "; ".join(part for part in (found[0].detail, detail) if part)
    return [replace(found[0], detail=text), *found[1:]]


def _size(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    """Return how many rows the larger side of a bucket has."""
    return max(ours[0], theirs[0])


def _batches(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Give the cases in batches whose answers together are of a bounded size."""
    batch: list[Case] = []
    size = 0
    for case in cases:
        if batch and size + case.count + min(case.rows, _ROWS_READ) > _ROWS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(case)
        size += case.count + min(case.rows, _ROWS_READ)
    if batch:
        yield batch


def _by_key(rows: _Rows) -> dict[int, tuple[int, ...] | None]:
    found: dict[int, tuple[int, ...] | None] = {}
    for key, *numbers in rows:
        found[int(key)] = None if int(key) in found else tuple(map(int, numbers))
    return found


def _named(only: Sequence[int], shown: Mapping[int, Pieces], measure: Measure) -> str:
    names = ", ".join(column.name for column in measure.key)
    keys = [
        ", ".join("NULL" if text is None else text for text in shown[key].key)
        for key in only[:_KEYS_NAMED]
        if key in shown
    ]
    return f"{names} = {' and '.join(keys)}{' and more' if len(only) > _KEYS_NAMED else ''}"
