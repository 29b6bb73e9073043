"""The result of a slice, its findings, and how they are folded into lines."""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.errors import AttemptError, DwhctlError
from dwhctl.core.secrets import mask
from dwhctl.core.words import escaped
from dwhctl.monitor.coverage import Gap, fold_shards
from dwhctl.project.checks import task_name
from dwhctl.project.fields import name_problem
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.task_states import read_newest
from dwhctl.sessions.values import LastSession, State
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from dwhctl.systems.base.inspection import Cut, Differing, Duplicates

#: How many keys of a side are shown.
KEYS_SHOWN = 3
_LONGEST = 20
#: How many equal characters are shown before the first difference.
_BEFORE = 6


def shown_pair(ours: Cut | None, theirs: Cut | None) -> tuple[str, str]:
    """Return both: NULL, or the text in quotes; a shortened text has `…`, and its length in parentheses."""
    # A secret is masked before it is cut: a part of it would not be found.
    starts = [mask(value.start) if value is not None else "" for value in (ours, theirs)]
    begin = 0
    if ours is not None and theirs is not None and ours.length == theirs.length:
        # Their lengths do not distinguish them: what is shown must.
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*starts, strict=False)))
        begin = equal - _BEFORE if equal >= _LONGEST else 0
    return _shown(ours, starts[0], begin), _shown(theirs, starts[1], begin)


def _shown(value: Cut | None, start: str, begin: int) -> str:
    if value is None:
        return "NULL"
    shown = escaped(start[begin : begin + _LONGEST])
    is_cut = value.length > len(start) or len(start) > begin + _LONGEST
    text = f"'{'…' if begin else ''}{shown}{'…' if is_cut else ''}'"
    return f"{text} ({value.length:,})" if is_cut or begin else text


class Check(enum.StrEnum):
    """What was found, as in the listing."""

    EQUAL = "equal"
    ROWS = "rows"
    SMALLEST_KEY = "smallest_key"
    LARGEST_KEY = "largest_key"
    KEY_CHECKSUM = "key_checksum"
    VALUE_CHECKSUM = "value_checksum"
    VALUES = "values"
    MISSING = "missing"
    DUPLICATE_KEYS = "doubled_keys"
    KEYS_IN_OTHER_SLICES = "keys_in_other_slices"
    ROWS_OF_NO_SESSION = "rows_of_no_session"
    ROWS_IN_NO_SLICE = "rows_in_no_slice"
    UNKNOWN_SOURCE = "unknown_source"
    SHARD_ONLY_THERE = "shard_only_there"
    INCOMPLETE = "incomplete"
    NOT_COMPARED = "not_compared"


class SliceFinding(Struct, frozen=True):
    """A finding, with the values of source and warehouse, or of the load's table and another.

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

    @property
    def sides(self) -> str:
        """Return both values as `1 / 2`, without one that there is not."""
        return " / ".join(text for text in (self.source, self.warehouse) if text is not None)


@dataclass(slots=True)
class SliceComparison:
    """The result of a slice; the rows are the source's. Without a day it is about all days of load and shard."""

    load: str
    shard: str
    day: date | None
    findings: list[SliceFinding] = field(default_factory=list)
    rows: int | None = None

    @property
    def is_equal(self) -> bool:
        return not self.findings

    @property
    def is_fine(self) -> bool:
        """Return whether nothing is to be done: equal, or not complete yet."""
        return all(finding.check is Check.INCOMPLETE for finding in self.findings)

    @property
    def word(self) -> str:
        """Return the result in a word or two: equal, incomplete, not compared, different."""
        if self.is_equal:
            return "equal"
        if self.has(Check.INCOMPLETE):
            return "incomplete"
        return "not compared" if self.has(Check.NOT_COMPARED) else "different"

    def has(self, check: Check) -> bool:
        return any(finding.check is check for finding in self.findings)


def result_of(planned: PlannedSlice, *findings: SliceFinding, rows: int | None = None) -> SliceComparison:
    return SliceComparison(planned.load.name, planned.shard.name, planned.slice.day, list(findings), rows)


def differences(measure: Measure, source: Fingerprint, warehouse: Fingerprint) -> list[SliceFinding]:
    """Compare two fingerprints. A checksum says nothing new where the numbers of rows differ."""
    keys = [
        [_shown_key(measure, key) for key in (side.smallest, side.largest)] for side in (source, warehouse)
    ]
    pairs: list[tuple[Check, object, object]] = [
        (Check.ROWS, source.rows, warehouse.rows),
        (Check.SMALLEST_KEY, keys[0][0], keys[1][0]),
        (Check.LARGEST_KEY, keys[0][1], keys[1][1]),
    ]
    if source.rows == warehouse.rows:
        same_keys = source.keys == warehouse.keys
        pairs += [(Check.KEY_CHECKSUM, source.keys, warehouse.keys)]
        pairs += [(Check.VALUE_CHECKSUM, source.values, warehouse.values)] if same_keys else []
    names = ", ".join(column.name for column in measure.values)
    details = {Check.VALUE_CHECKSUM: f"of {names}"}
    return [
        SliceFinding(check, str(ours), str(theirs), details.get(check))
        for check, ours, theirs in pairs
        if ours != theirs
    ]


def missing(table: str, rows: int, *, here: bool) -> SliceFinding:
    """Return the finding that a side has no row of the slice: the first side with `here`."""
    counts = ("0", str(rows)) if here else (str(rows), "0")
    return SliceFinding(Check.MISSING, *counts, f"missing in {table}", rows=rows)


def column_differs(measure: Measure, name: str, differing: Differing) -> SliceFinding:
    example = differing.example
    if example is None:
        return SliceFinding(Check.VALUES, column=name, rows=differing.rows)
    ours, theirs = shown_pair(example.ours, example.theirs)
    key = _shown_key(measure, example.key)
    return SliceFinding(Check.VALUES, ours, theirs, column=name, rows=differing.rows, key=key)


def duplicate_finding(check: Check, measure: Measure, duplicates: Duplicates) -> SliceFinding:
    """Return the finding that the warehouse has duplicate keys, in the slice or outside of it."""
    example = f"such as {key_names(measure)} = {duplicates.example}"
    return SliceFinding(check, None, str(duplicates.keys), example)


def key_names(measure: Measure) -> str:
    return ", ".join(column.name for column in measure.key)


def listed_keys(measure: Measure, keys: Sequence[str | None]) -> str:
    """Return the first `KEYS_SHOWN` keys; an additional key shows that there are more."""
    listed = " and ".join("NULL" if key is None else key for key in keys[:KEYS_SHOWN])
    return f"{key_names(measure)} = {listed}{' and more' if len(keys) > KEYS_SHOWN else ''}"


def _shown_key(measure: Measure, values: Sequence[str | None]) -> str:
    return ", ".join(f"{column.name}={value}" for column, value in zip(measure.key, values, strict=True))


class Explanation(Struct, frozen=True):
    """Why a slice differs: a text on its keys, and findings in the place of the checksums.

    `same_keys`: both sides have the same keys, so that the findings explain the checksum of the keys too.
    """

    detail: str = ""
    reasons: Sequence[SliceFinding] = ()
    same_keys: bool = False

    @classmethod
    def failed(cls, error: AttemptError) -> Explanation:
        """Return the explanation that none was found, with the error."""
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
    if last is None:
        why = "never loaded"
    elif last.state in (State.LOADED, State.SKIPPED):
        why = "last loaded before its day was over"
    else:
        why = f"its last session is {last.state.value}"
    return SliceFinding(Check.INCOMPLETE, detail=why)


def not_compared(error: DwhctlError) -> SliceFinding:
    return SliceFinding(Check.NOT_COMPARED, detail=str(error))


def fits(name: str, globs: Sequence[str]) -> bool:
    """Return whether a name fits one of the globs, or there are none."""
    return not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def unknown_rows(project: Project, load: Load, sources: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the etl_sources that no shard of the load has, with their rows; a closed shard is known."""
    known = {shard.name for shard in project.shards_of(load)}
    return sorted((name, rows) for name, rows in sources.items() if name not in known)


def what_to_do(load: Load, name: str) -> str:
    """Return what is wrong with the rows of an unknown etl_source, and what to do about them."""
    literal = name.replace("'", "''")
    where = f"= '{literal}'" if name else "IS NULL OR etl_source = ''"
    delete = f"DELETE FROM {load.table} WHERE etl_source {where}"
    if name_problem(name):
        return f"dwhctl did not load them; if they are not needed: {delete}"
    return (
        f"no shard of {load.name} has this name. Was the shard renamed? Keep the name:"
        f' {{ name = "{name}", database = "NEW" }}; is it closed: {{ name = "{name}", until = "LAST DAY" }};'
        f" else, when its days are loaded under the new name: {delete}"
    )


def is_loaded(project: Project, store: SessionStore, load: Load) -> bool:
    """Return whether the last session of a shard's newest day loaded rows."""
    tasks = [task_name(load.name, shard.name) for shard in project.shards_of(load)]
    return any(session.rows for session in read_newest(store, tasks).values())


def rows_are_gone(project: Project, load: Load) -> str:
    """Say what to do about a table without rows whose slices the sessions have as loaded."""
    days = f"backfill {load.name} -s {load.start_date or 'D'} -e yesterday"
    command = f"dwhctl {days if load.slice_by else f'load {load.name} --date today'}"
    return (
        "The sessions have its slices as loaded, so that --only-missing and gaps leave them out. Was the load's table"
        f" changed? Load all its days: {in_project(command, project.place)}"
    )


_ONE_DAY = timedelta(days=1)
#: The detail of these is their reason; of the others it is about one slice.
_SAY_WHY = (Check.MISSING, Check.INCOMPLETE, Check.NOT_COMPARED, Check.ROWS_IN_NO_SLICE, Check.UNKNOWN_SOURCE)
_SHOWN_RANGES = 3
_SHOWN_SHARDS = 3
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class FoldedFinding:
    """A reason, and the slices that have it; `rows` is None where the rows of no slice were counted.

    `finding` is that of the slice `example`: the first slice, or the first of which a key is known.
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
        return sum(result.day is not None for result in self.results)

    def where(self) -> str:
        """Return which slices: shards by name or number, and days as ranges."""
        gaps = fold_shards(ranges_of(self.results))
        if not gaps:
            return _shards(sorted({result.shard for result in self.results}))
        gaps = sorted(gaps, key=lambda gap: (-gap.slices, gap.start, gap.shards))
        shown = gaps if len(gaps) <= _SHOWN_RANGES + 1 else gaps[:_SHOWN_RANGES]
        texts = [_place(gap) for gap in shown]
        if left := sum(gap.slices for gap in gaps[len(shown) :]):
            texts.append(f"and {left:,} more slices")
        return ", ".join(texts)


def fold(results: Iterable[SliceComparison], *, equal: bool) -> list[FoldedFinding]:
    """Fold findings by load, check, column and reason, in their order; with `equal` also the slices without any."""
    found: dict[tuple[object, ...], FoldedFinding] = {}
    for result in results:
        findings = result.findings
        if equal and result.is_equal:
            findings = [SliceFinding(Check.EQUAL, rows=result.rows)]
        for finding in findings:
            key = (result.load, finding.check, finding.column, _reason(result, finding))
            folded = found.setdefault(key, FoldedFinding(result.load, finding, result))
            if folded.finding.key is None and finding.key is not None:
                folded.finding, folded.example = finding, result
            folded.results.append(result)
            if finding.rows is not None:
                folded.rows = (folded.rows or 0) + finding.rows
                folded.counted += 1
    return list(found.values())


def ranges_of(results: Iterable[SliceComparison]) -> list[Gap]:
    """Fold the slices into ranges of days, by load and shard."""
    found: list[Gap] = []
    days = sorted((result.load, result.shard, result.day) for result in results if result.day is not None)
    for load, shard, day in days:
        before = [(gap.load, gap.shards, gap.end + _ONE_DAY) for gap in found[-1:]]
        if before == [(load, (shard,), day)]:
            found[-1] = replace(found[-1], end=day)
        else:
            found.append(Gap(load, (shard,), day, day))
    return found


def _reason(result: SliceComparison, finding: SliceFinding) -> str:
    """Return a text that is the same for slices with the same reason: without a slice's own name and numbers."""
    text = (finding.detail or "") if finding.check in _SAY_WHY else ""
    return _NUMBER.sub("#", text.replace(result.shard, "*") if result.shard else text)


def _place(gap: Gap) -> str:
    end = f"..{gap.end:%m-%d}" if gap.start.year == gap.end.year else f"..{gap.end}"
    days = f"{gap.start}{'' if gap.start == gap.end else end}"
    return f"{_shards(gap.shards)} {'' if gap.slices == 1 else 'x '}{days}"


def _shards(names: tuple[str, ...] | list[str]) -> str:
    if len(names) > _SHOWN_SHARDS:
        return f"{len(names):,} shards"
    return ", ".join(name or "NULL" for name in names)
