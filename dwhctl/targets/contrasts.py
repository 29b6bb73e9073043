"""Two tables of one warehouse beside each other, key by key: what is asked, and how the answers are read.

Each side has one row for each key of a slice, with how often it is there. A key that is there twice has no values to
compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dwhctl.targets.contract import Contrast, Cut, Differing, Example, Odd

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


def contrast_sql(ours: str, theirs: str, columns: int) -> str:
    """Write the query that counts, by shard, what differs between two queries of keys and framed values."""
    answers = [
        "SUM(CASE WHEN b.j IS NULL THEN a.n ELSE 0 END)",
        "SUM(CASE WHEN a.j IS NULL THEN b.n ELSE 0 END)",
    ]
    for side in "ab":
        answers.append(f"SUM(CASE WHEN {side}.n > 1 THEN 1 ELSE 0 END)")
        answers.append(f"MIN(CASE WHEN {side}.n > 1 THEN {side}.k END)")
    for number in range(columns):
        differs = f"a.n = 1 AND b.n = 1 AND a.v{number} <> b.v{number}"
        answers.append(f"SUM(CASE WHEN {differs} THEN 1 ELSE 0 END)")
        answers.append(f"MIN(CASE WHEN {differs} THEN a.j END)")
    listed = ", ".join(f"{answer} AS a{number}" for number, answer in enumerate(answers))
    return (
        f"SELECT COALESCE(a.s, b.s) AS g, {listed} FROM ({ours}) AS a FULL OUTER JOIN ({theirs}) AS b"
        " ON a.s = b.s AND a.j = b.j GROUP BY COALESCE(a.s, b.s)"
    )


def read_contrast(row: Sequence[Any], names: Sequence[str]) -> tuple[Contrast, dict[str, str]]:
    """Read the answer for a shard; also give one framed key for each column that differs."""
    only_here, only_there, *rest = row
    counts = [
        (name, int(rows), str(key))
        for name, rows, key in zip(names, rest[4::2], rest[5::2], strict=True)
        if rows
    ]
    columns = {name: Differing(rows) for name, rows, _ in counts}
    contrast = Contrast(int(only_here), int(only_there), _odd(*rest[:2]), _odd(*rest[2:4]), columns)
    return contrast, {name: key for name, _, key in counts}


def read_pieces(row: Sequence[Any], keys: int) -> Pieces:
    """Read a row to show: the texts of its key, then start and length of each value."""
    values = tuple(
        None if length is None else Cut(str(start), int(length))
        for start, length in zip(row[keys::2], row[keys + 1 :: 2], strict=True)
    )
    return Pieces(tuple(None if text is None else str(text) for text in row[:keys]), values)


def with_examples(
    contrast: Contrast,
    keys: Mapping[str, str],
    names: Sequence[str],
    ours: Mapping[str, Pieces],
    theirs: Mapping[str, Pieces],
) -> Contrast:
    """Give each column that differs its example, from the rows of both sides by framed key."""
    columns = dict(contrast.columns)
    for name, key in keys.items():
        # A row may be gone since it was counted.
        if key in ours and key in theirs:
            number = names.index(name)
            example = Example(ours[key].key, ours[key].values[number], theirs[key].values[number])
            columns[name] = replace(columns[name], example=example)
    return replace(contrast, columns=columns)


def _odd(keys: Any, example: Any) -> Odd | None:
    return Odd(int(keys), "NULL" if example is None else str(example)) if keys else None
