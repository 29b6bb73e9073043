"""How a table is looked at: what `verify`, `adopt` and the search for unknown sources ask of a target.

Each number is measured by the engine that holds the rows, in canonical forms (`dwhctl/engines/fingerprint.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.fingerprint import Fingerprint, Measure, Write
    from dwhctl.project.slices import Slice


@dataclass(frozen=True, slots=True)
class Odd:
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
    doubled_here: Odd | None
    doubled_there: Odd | None
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
    def doubled_keys(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Odd]:
        """Find the keys that stand twice within a slice, by shard."""

    @abstractmethod
    def keys_elsewhere(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Odd]:
        """Find the keys of a slice that the same shard has outside the slice as well, by shard."""

    @abstractmethod
    def sessions(self, slices: Sequence[Slice]) -> Mapping[tuple[str, int], int]:
        """Count the rows by shard and etl_id. Rows without an etl_id count under 0."""

    @abstractmethod
    def beside(self, table: str, slice_by: str | None) -> Inspection:
        """Look at another table too, over the same connection."""

    @abstractmethod
    def strangers(self, slices: Sequence[Slice]) -> Mapping[str, int]:
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
