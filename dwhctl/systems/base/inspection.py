"""How a table is looked at: what `verify`, `adopt` and the search for unknown sources ask of a target.

Each number is measured by the engine that holds the rows, in canonical forms (`dwhctl/systems/base/fingerprint.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure, Write


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many of a slice's keys are odd, and one of them as text."""

    keys: int
    example: str


@dataclass(frozen=True, slots=True)
class Other:
    """A table that is looked at beside another, and what is measured of it."""

    inspection: Inspection
    measure: Measure


@dataclass(frozen=True, slots=True)
class Cut:
    """The start of a value's canonical text, and how many characters the whole text has."""

    start: str
    length: int


@dataclass(frozen=True, slots=True)
class Example:
    """One key, by its columns' texts, and what each side holds in one column under it; None is NULL."""

    key: tuple[str | None, ...]
    ours: Cut | None
    theirs: Cut | None


@dataclass(frozen=True, slots=True)
class Differing:
    """In how many rows a column differs between two sides (None: not counted), with one of them."""

    rows: int | None
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a slice of this table differs from the same slice of another.

    `only_here` and `only_there` count rows whose key the other side lacks, `doubled_*` keys that are twice in one side.
    `columns` has the columns that differ under a key that both sides have once.
    """

    only_here: int
    only_there: int
    doubled_here: Duplicates | None
    doubled_there: Duplicates | None
    columns: Mapping[str, Differing]


class Inspection(ABC):
    """A table that is looked at, slice by slice. Slices that are asked for together belong to one load and day."""

    @abstractmethod
    def columns(self) -> Sequence[Column]:
        """Give the table's columns. Raise TargetRefusedError when there is no such table."""

    @abstractmethod
    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        """Measure the rows of each slice, by shard; a shard without rows may be left out."""

    @abstractmethod
    def measured(self, slice: Slice, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Ask what `write` writes of the slice's forms; it must give few rows."""

    @abstractmethod
    def duplicate_keys(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        """Find the keys that stand twice within a slice, by shard."""

    @abstractmethod
    def keys_elsewhere(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        """Find the keys of a slice that the same shard has outside the slice as well, by shard."""

    @abstractmethod
    def sessions(self, slices: Sequence[Slice]) -> Mapping[tuple[str, int], int]:
        """Count the rows by shard and etl_id. Rows without an etl_id count under 0."""

    @abstractmethod
    def beside(self, table: str, slice_by: str | None) -> Inspection:
        """Look at another table too, over the same connection."""

    @abstractmethod
    def unknown_sources(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        """Count the rows within the slices' bounds that belong to none of their shards, by etl_source; "" for NULL."""

    @abstractmethod
    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Find which of these columns hold a value in any row of each shard; a shard with none may be left out."""

    @abstractmethod
    def rows_by_source(self) -> Mapping[str, int]:
        """Count all the table's rows by etl_source; "" for NULL."""

    @abstractmethod
    def keys_only_here(self, slice: Slice, measure: Measure, other: Other, most: int) -> Sequence[str | None]:
        """Give the keys, as text, of some of the slice's rows that the table beside has not in the same slice.

        A row is there when its key is, and with it the values of the measure, if there are any. None: a key with NULL.
        """

    @abstractmethod
    def contrasts(self, slices: Sequence[Slice], measure: Measure, other: Other) -> Mapping[str, Contrast]:
        """Compare the slices with those of the table beside, row by row in the engine, by shard."""


#: So much of a value is fetched to be shown.
CUT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Pieces:
    """One row to show: the texts of its key's columns, and the starts of its values."""

    key: tuple[str | None, ...]
    values: tuple[Cut | None, ...]


def same_bounds(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Group slices so that one condition finds the rows of a group, whatever the kind of the column is."""
    groups: dict[object, list[Slice]] = {}
    for one in slices:
        groups.setdefault((one.start, one.end, one.start_at, one.end_at), []).append(one)
    yield from groups.values()


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of a shard. A pair has a number of rows, or of keys, and the number of one key."""

    only_here: int
    only_there: int
    doubled: tuple[tuple[int, int], ...]
    columns: Mapping[str, tuple[int, int]]

    def keys(self) -> list[int]:
        """Return the numbers of the keys that are shown."""
        return sorted({key for count, key in (*self.doubled, *self.columns.values()) if count})

    def contrast(self, ours: Mapping[int, Pieces], theirs: Mapping[int, Pieces]) -> Contrast:
        """Put the rows that are shown into it. A row may be gone since it was counted."""
        here, there = (
            _duplicates(*pair, rows) for pair, rows in zip(self.doubled, (ours, theirs), strict=True)
        )
        names = list(self.columns)
        columns = {}
        for number, name in enumerate(names):
            rows, key = self.columns[name]
            if not rows:
                continue
            example = None
            if key in ours and key in theirs:
                example = Example(ours[key].key, ours[key].values[number], theirs[key].values[number])
            columns[name] = Differing(rows, example)
        return Contrast(self.only_here, self.only_there, here, there, columns)


def contrast_sql(ours: str, theirs: str, columns: int) -> str:
    """Write the query that counts, by shard, what differs between two queries of keys."""
    answers = [
        "SUM(CASE WHEN b.kn IS NULL THEN a.n ELSE 0 END)",
        "SUM(CASE WHEN a.kn IS NULL THEN b.n ELSE 0 END)",
    ]
    found = [f"{side}.n > 1" for side in "ab"]
    found += [f"a.n = 1 AND b.n = 1 AND a.n{number} <> b.n{number}" for number in range(columns)]
    for number, condition in enumerate(found):
        key = "b.kn" if number == 1 else "a.kn"
        answers.append(f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)")
        answers.append(f"MIN(CASE WHEN {condition} THEN {key} END)")
    listed = ", ".join(f"{answer} AS a{number}" for number, answer in enumerate(answers))
    return (
        f"SELECT COALESCE(a.g, b.g) AS s, {listed} FROM ({ours}) AS a FULL OUTER JOIN ({theirs}) AS b"
        " ON a.g = b.g AND a.kn = b.kn GROUP BY COALESCE(a.g, b.g)"
    )


def read_counts(row: Sequence[Any], names: Sequence[str]) -> Counts:
    """Read the answer for a shard."""
    only_here, only_there, *rest = (int(each or 0) for each in row)
    here, there, *columns = zip(rest[::2], rest[1::2], strict=True)
    return Counts(only_here, only_there, (here, there), dict(zip(names, columns, strict=True)))


def read_pieces(row: Sequence[Any], keys: int) -> Pieces:
    """Read a row to show: the texts of its key, then start and length of each value."""
    values = tuple(
        None if length is None else Cut(str(start), int(length))
        for start, length in zip(row[keys::2], row[keys + 1 :: 2], strict=True)
    )
    return Pieces(tuple(None if text is None else str(text) for text in row[:keys]), values)


def _duplicates(keys: int, key: int, rows: Mapping[int, Pieces]) -> Duplicates | None:
    if not keys:
        return None
    texts = rows[key].key if key in rows else ("?",)
    return Duplicates(keys, ", ".join("NULL" if text is None else text for text in texts))
