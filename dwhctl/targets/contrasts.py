"""Two tables of one warehouse beside each other, key by key: what is asked, and how the answers are read.

Each side has one row for each key of a slice, with how often it is there. A key that is there twice has no values to
compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dwhctl.targets.inspection import Contrast, Cut, Differing, Example, Odd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.project.slices import Slice

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
        here, there = (_odd(*pair, rows) for pair, rows in zip(self.doubled, (ours, theirs), strict=True))
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


def _odd(keys: int, key: int, rows: Mapping[int, Pieces]) -> Odd | None:
    if not keys:
        return None
    texts = rows[key].key if key in rows else ("?",)
    return Odd(keys, ", ".join("NULL" if text is None else text for text in texts))
