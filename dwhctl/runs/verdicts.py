"""What `verify` says of a slice."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.runs.shown_values import shown_pair

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from dwhctl.engines.fingerprint import Fingerprint, Measure
    from dwhctl.runs.plan import PlannedSlice
    from dwhctl.targets.inspection import Differing, Odd


class Check(enum.StrEnum):
    """What was found, as the listing names it."""

    EQUAL = "equal"
    ROWS = "rows"
    SMALLEST_KEY = "smallest_key"
    LARGEST_KEY = "largest_key"
    KEY_CHECKSUM = "key_checksum"
    VALUE_CHECKSUM = "value_checksum"
    VALUES = "values"
    MISSING = "missing"
    DOUBLED_KEYS = "doubled_keys"
    KEYS_IN_OTHER_SLICES = "keys_in_other_slices"
    ROWS_OF_NO_SESSION = "rows_of_no_session"
    ROWS_IN_NO_SLICE = "rows_in_no_slice"
    UNKNOWN_SOURCE = "unknown_source"
    SHARD_ONLY_THERE = "shard_only_there"
    INCOMPLETE = "incomplete"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, with what source and warehouse say, or the load's table and another.

    Of `values`: the column, the key of one row that differs, the values there (shortened, to be shown), and how many
    rows of the slice differ in the column; None where they were not counted. Of `missing`: how many rows are missing.
    """

    check: Check
    source: str | None = None
    warehouse: str | None = None
    detail: str | None = None
    column: str | None = None
    rows: int | None = None
    key: str | None = None


@dataclass(slots=True)
class Verdict:
    """What was found out about one slice; the rows are the source's. No day: about all days of load and shard."""

    load: str
    shard: str
    day: date | None
    findings: list[Finding] = field(default_factory=list)
    rows: int | None = None

    @property
    def is_equal(self) -> bool:
        """Tell whether source and warehouse hold the same rows."""
        return not self.findings

    @property
    def is_fine(self) -> bool:
        """Tell whether nobody needs to look: equal, or not complete yet."""
        return all(one.check is Check.INCOMPLETE for one in self.findings)

    def has(self, check: Check) -> bool:
        """Tell whether it was found."""
        return any(one.check is check for one in self.findings)


def verdict_on(one: PlannedSlice, *findings: Finding, rows: int | None = None) -> Verdict:
    """Give the verdict on a planned slice."""
    return Verdict(one.load.name, one.shard.name, one.slice.day, list(findings), rows)


def differences(measure: Measure, source: Fingerprint, warehouse: Fingerprint) -> list[Finding]:
    """Compare two fingerprints. A checksum says nothing new where the numbers of rows differ."""
    found = []
    if source.rows != warehouse.rows:
        found.append(Finding(Check.ROWS, str(source.rows), str(warehouse.rows)))
    for check, ours, theirs in (
        (Check.SMALLEST_KEY, source.smallest, warehouse.smallest),
        (Check.LARGEST_KEY, source.largest, warehouse.largest),
    ):
        if ours != theirs:
            found.append(Finding(check, shown_key(measure, ours), shown_key(measure, theirs)))
    if source.rows != warehouse.rows:
        return found
    if source.keys != warehouse.keys:
        found.append(Finding(Check.KEY_CHECKSUM, str(source.keys), str(warehouse.keys)))
    elif source.values != warehouse.values:
        names = ", ".join(column.name for column in measure.values)
        found.append(Finding(Check.VALUE_CHECKSUM, str(source.values), str(warehouse.values), f"of {names}"))
    return found


def missing(table: str, rows: int, *, here: bool) -> Finding:
    """Tell that one side has no row of the slice: `here` where it is the load's table, or the source."""
    counts = ("0", str(rows)) if here else (str(rows), "0")
    return Finding(Check.MISSING, *counts, f"missing in {table}", rows=rows)


def column_differs(measure: Measure, name: str, differing: Differing) -> Finding:
    """Tell of the rows that differ in a column."""
    example = differing.example
    if example is None:
        return Finding(Check.VALUES, column=name, rows=differing.rows)
    ours, theirs = shown_pair(example.ours, example.theirs)
    return Finding(
        Check.VALUES, ours, theirs, column=name, rows=differing.rows, key=shown_key(measure, example.key)
    )


def odd_keys(check: Check, measure: Measure, odd: Odd) -> Finding:
    """Tell of doubled keys, or of keys that stand elsewhere too."""
    names = ", ".join(column.name for column in measure.key)
    return Finding(check, None, str(odd.keys), f"such as {names} = {odd.example}")


def shown_key(measure: Measure, values: Sequence[str | None]) -> str:
    """Write a key with the names of its columns."""
    return ", ".join(f"{column.name}={value}" for column, value in zip(measure.key, values, strict=True))
