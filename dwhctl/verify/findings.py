"""What `verify` says of a slice."""

from __future__ import annotations

import enum
import fnmatch
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from dwhctl.core.secrets import mask
from dwhctl.core.words import escaped
from dwhctl.monitor.coverage import Gap, fold_shards
from dwhctl.project.fields import name_problem
from dwhctl.sessions.values import LastSession, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from dwhctl.core.errors import AttemptError
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure
    from dwhctl.systems.base.inspection import Cut, Differing, Duplicates


_LONGEST = 20
#: So much is shown of what is equal before the first difference.
_BEFORE = 6


def shown_pair(ours: Cut | None, theirs: Cut | None) -> tuple[str, str]:
    """Write both: NULL, or the text in quotes; a shortened one with `…`, and its length in parentheses."""
    # A secret is masked before it is cut: a part of it would not be found.
    starts = [mask(one.start) if one is not None else "" for one in (ours, theirs)]
    begin = 0
    if ours is not None and theirs is not None and ours.length == theirs.length:
        # Their lengths do not tell them apart: what is shown must.
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*starts, strict=False)))
        begin = equal - _BEFORE if equal >= _LONGEST else 0
    first, second = (_shown(one, start, begin) for one, start in zip((ours, theirs), starts, strict=True))
    return first, second


def _shown(value: Cut | None, start: str, begin: int) -> str:
    if value is None:
        return "NULL"
    shown = escaped(start[begin : begin + _LONGEST])
    is_cut = value.length > len(start) or len(start) > begin + _LONGEST
    text = f"'{'…' if begin else ''}{shown}{'…' if is_cut else ''}'"
    return f"{text} ({value.length:,})" if is_cut or begin else text


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
    DUPLICATE_KEYS = "duplicate_keys"
    KEYS_IN_OTHER_SLICES = "keys_in_other_slices"
    ROWS_OF_NO_SESSION = "rows_of_no_session"
    ROWS_IN_NO_SLICE = "rows_in_no_slice"
    UNKNOWN_SOURCE = "unknown_source"
    SHARD_ONLY_THERE = "shard_only_there"
    INCOMPLETE = "incomplete"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True)
class SliceFinding:
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
class SliceComparison:
    """What was found out about one slice; the rows are the source's. No day: about all days of load and shard."""

    load: str
    shard: str
    day: date | None
    findings: list[SliceFinding] = field(default_factory=list)
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


def result_of(planned: PlannedSlice, *findings: SliceFinding, rows: int | None = None) -> SliceComparison:
    """Return the result on a planned slice."""
    return SliceComparison(planned.load.name, planned.shard.name, planned.slice.day, list(findings), rows)


def differences(measure: Measure, source: Fingerprint, warehouse: Fingerprint) -> list[SliceFinding]:
    """Compare two fingerprints. A checksum says nothing new where the numbers of rows differ."""
    found = []
    if source.rows != warehouse.rows:
        found.append(SliceFinding(Check.ROWS, str(source.rows), str(warehouse.rows)))
    for check, ours, theirs in (
        (Check.SMALLEST_KEY, source.smallest, warehouse.smallest),
        (Check.LARGEST_KEY, source.largest, warehouse.largest),
    ):
        if ours != theirs:
            found.append(SliceFinding(check, _shown_key(measure, ours), _shown_key(measure, theirs)))
    if source.rows != warehouse.rows:
        return found
    if source.keys != warehouse.keys:
        found.append(SliceFinding(Check.KEY_CHECKSUM, str(source.keys), str(warehouse.keys)))
    elif source.values != warehouse.values:
        names = ", ".join(column.name for column in measure.values)
        found.append(
            SliceFinding(Check.VALUE_CHECKSUM, str(source.values), str(warehouse.values), f"of {names}")
        )
    return found


def missing(table: str, rows: int, *, here: bool) -> SliceFinding:
    """Say that one side has no row of the slice: `here` where it is the first side."""
    counts = ("0", str(rows)) if here else (str(rows), "0")
    return SliceFinding(Check.MISSING, *counts, f"missing in {table}", rows=rows)


def column_differs(measure: Measure, name: str, differing: Differing) -> SliceFinding:
    """Say that rows differ in a column."""
    example = differing.example
    if example is None:
        return SliceFinding(Check.VALUES, column=name, rows=differing.rows)
    ours, theirs = shown_pair(example.ours, example.theirs)
    key = _shown_key(measure, example.key)
    return SliceFinding(Check.VALUES, ours, theirs, column=name, rows=differing.rows, key=key)


def duplicate_finding(check: Check, measure: Measure, duplicates: Duplicates) -> SliceFinding:
    """Say that the warehouse has keys twice, in the slice or outside of it."""
    example = f"such as {key_names(measure)} = {duplicates.example}"
    return SliceFinding(check, None, str(duplicates.keys), example)


def key_names(measure: Measure) -> str:
    """Return the names of the key's columns."""
    return ", ".join(column.name for column in measure.key)


def _shown_key(measure: Measure, values: Sequence[str | None]) -> str:
    return ", ".join(f"{column.name}={value}" for column, value in zip(measure.key, values, strict=True))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a slice differs: a text on its keys, and findings in the place of the checksums.

    `same_keys`: both sides have the same keys, so that the findings explain the checksum of the keys too.
    """

    detail: str = ""
    reasons: Sequence[SliceFinding] = ()
    same_keys: bool = False

    @classmethod
    def failed(cls, error: AttemptError) -> Explanation:
        """Say why there is none."""
        return cls(f"which rows differ was not found: {error}")

    def put_into(self, found: Sequence[SliceFinding]) -> list[SliceFinding]:
        """Return the findings on a slice with their explanation."""
        explained = {Check.VALUE_CHECKSUM} if self.reasons else set()
        if self.reasons and self.same_keys:
            explained.add(Check.KEY_CHECKSUM)
        left = [finding for finding in found if finding.check not in explained]
        if left and self.detail:
            left[0] = replace(left[0], detail="; ".join(filter(None, (left[0].detail, self.detail))))
        return [*left, *self.reasons]


def incomplete(last: LastSession | None) -> SliceFinding:
    """Say why a slice is not complete."""
    if last is None:
        why = "never loaded"
    elif last.state in (State.LOADED, State.SKIPPED):
        why = "last loaded before its day was over"
    else:
        why = f"its last session is {last.state.value}"
    return SliceFinding(Check.INCOMPLETE, detail=why)


def not_compared(error: AttemptError) -> SliceFinding:
    """Say why a slice was not compared."""
    return SliceFinding(Check.NOT_COMPARED, detail=str(error))


def fits(name: str, globs: Sequence[str]) -> bool:
    """Return whether a name fits one of the globs, or there are none."""
    return not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def unknown_rows(project: Project, load: Load, sources: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the etl_sources that no shard of the load has, with their rows; a closed shard is known."""
    known = {shard.name for shard in project.shards_of(load)}
    return sorted((name, rows) for name, rows in sources.items() if name not in known)


def what_to_do(load: Load, name: str) -> str:
    """Say what is wrong with the rows of an unknown etl_source, and what to do about them."""
    literal = name.replace("'", "''")
    where = f"= '{literal}'" if name else "IS NULL OR etl_source = ''"
    delete = f"DELETE FROM {load.table} WHERE etl_source {where}"
    if name_problem(name):
        return f"dwhctl did not load them; if nobody needs them: {delete}"
    return (
        f"no shard of {load.name} has this name. Was the shard renamed? Keep the name:"
        f' {{ name = "{name}", database = "NEW" }}; is it closed: {{ name = "{name}", until = "LAST DAY" }};'
        f" else, when its days are loaded under the new name: {delete}"
    )


_ONE_DAY = timedelta(days=1)
#: The detail of these is their reason; of the others it is about one slice.
_SAY_WHY = (Check.MISSING, Check.INCOMPLETE, Check.NOT_COMPARED, Check.ROWS_IN_NO_SLICE, Check.UNKNOWN_SOURCE)
_SHOWN_RANGES = 3
_SHOWN_SHARDS = 3
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class FoldedFinding:
    """One reason, and the slices that have it; `rows` is None where the rows of no slice were counted.

    `finding` is that of the slice `example`: the first one, or the first one of which a key is known.
    """

    load: str
    finding: SliceFinding
    example: SliceComparison
    results: list[SliceComparison] = field(default_factory=list)
    rows: int | None = None
    #: How many slices have a number of rows.
    counted: int = 0

    @property
    def slices(self) -> int:
        """Count the slices; 0 for a reason that is about no slice."""
        return sum(one.day is not None for one in self.results)

    def where(self) -> str:
        """Say which slices: shards by name or number, and days as ranges."""
        gaps = sorted(
            fold_shards(ranges_of(self.results)), key=lambda gap: (-gap.slices, gap.start, gap.shards)
        )
        if not gaps:
            return _shards(sorted({one.shard for one in self.results}))
        shown = gaps if len(gaps) <= _SHOWN_RANGES + 1 else gaps[:_SHOWN_RANGES]
        texts = [_place(gap) for gap in shown]
        if left := sum(gap.slices for gap in gaps[len(shown) :]):
            texts.append(f"and {left:,} more slices")
        return ", ".join(texts)


def fold(results: Iterable[SliceComparison], *, equal: bool = False) -> list[FoldedFinding]:
    """Fold findings by load, check, column and reason, in their order; with `equal` also the slices without any."""
    found: dict[tuple[object, ...], FoldedFinding] = {}
    for one in results:
        findings = one.findings
        if equal and one.is_equal:
            findings = [SliceFinding(Check.EQUAL, rows=one.rows)]
        for finding in findings:
            key = (one.load, finding.check, finding.column, _reason(one, finding))
            folded = found.setdefault(key, FoldedFinding(one.load, finding, one))
            if folded.finding.key is None and finding.key is not None:
                folded.finding, folded.example = finding, one
            folded.results.append(one)
            if finding.rows is not None:
                folded.rows = (folded.rows or 0) + finding.rows
                folded.counted += 1
    return list(found.values())


def ranges_of(results: Iterable[SliceComparison]) -> list[Gap]:
    """Fold the slices into ranges of days, by load and shard."""
    found: list[Gap] = []
    days = sorted((one.load, one.shard, one.day) for one in results if one.day is not None)
    for load, shard, day in days:
        last = found[-1] if found else None
        if last is not None and (last.load, last.shards, last.end + _ONE_DAY) == (load, (shard,), day):
            found[-1] = Gap(load, (shard,), last.start, day)
        else:
            found.append(Gap(load, (shard,), day, day))
    return found


def _reason(one: SliceComparison, finding: SliceFinding) -> str:
    """Give a text that is the same for slices with the same reason: without names and numbers of one slice."""
    if finding.check not in _SAY_WHY:
        return ""
    text = finding.detail or ""
    if one.shard:
        text = text.replace(one.shard, "*")
    return _NUMBER.sub("#", text)


def _place(gap: Gap) -> str:
    if gap.start == gap.end:
        days = str(gap.start)
    elif gap.start.year == gap.end.year:
        days = f"{gap.start}..{gap.end:%m-%d}"
    else:
        days = f"{gap.start}..{gap.end}"
    shards = _shards(gap.shards)
    return f"{shards} {days}" if gap.slices == 1 else f"{shards} x {days}"


def _shards(names: tuple[str, ...] | list[str]) -> str:
    if len(names) > _SHOWN_SHARDS:
        return f"{len(names):,} shards"
    return ", ".join(name or "NULL" for name in names)
