"""Read a target's table for `verify`, `adopt` and the search for unknown sources.

The engine that holds the rows measures them, in canonical forms (`dwhctl/systems/base/fingerprint.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import Column, Kind
from dwhctl.systems.base.fingerprint import Dialect, Fingerprint, Measure, Part, Write, part, read_fingerprint

if TYPE_CHECKING:
    from dwhctl.project.days import Slice

#: How much of a value is fetched to be shown.
CUT_CHARACTERS = 400


class Duplicates(Struct, frozen=True):
    """A number of keys, and one of them as text."""

    keys: int
    example: str


class Other(Struct, frozen=True):
    """A table to compare with, and what is measured of it."""

    inspection: Inspection
    measure: Measure


class Cut(Struct, frozen=True):
    """The start of a value's canonical text, and the number of characters of the whole text."""

    start: str
    length: int


class Example(Struct, frozen=True):
    """One key, by its columns' texts, and the value of one column on each side; None is NULL."""

    key: tuple[str | None, ...]
    ours: Cut | None
    theirs: Cut | None


class Differing(Struct, frozen=True):
    """The number of rows in which a column differs (None: not counted), with one of them."""

    rows: int | None
    example: Example | None = None


class Contrast(Struct, frozen=True):
    """How a slice of this table differs from the same slice of another.

    `only_here` and `only_there` count rows whose key the other side lacks, `duplicates_*` keys that a side has twice.
    `columns` has the columns that differ under a key that both sides have once.
    """

    only_here: int
    only_there: int
    duplicates_here: Duplicates | None
    duplicates_there: Duplicates | None
    columns: Mapping[str, Differing]


class Pieces(Struct, frozen=True):
    """One row to show: the texts of its key's columns, and the starts of its values."""

    key: tuple[str | None, ...]
    values: tuple[Cut | None, ...]


class Inspection(ABC):
    """Reads a table slice by slice, in SQL. The slices of one call belong to one load and day.

    A warehouse runs the queries and writes the conditions of slices; each has a dialect of its own. Results by shard
    may leave out a shard without rows.
    """

    def __init__(self, dialect: str, table: str, *, sliced: bool) -> None:
        self._dialect = Dialect(dialect)
        self._table = table
        self._sliced = sliced

    @abstractmethod
    def columns(self) -> Sequence[Column]:
        """Return the table's columns. Raise TargetRefusedError when there is no such table."""

    @abstractmethod
    def beside(self, table: str, slice_by: str | None) -> Inspection:
        """Return the inspection of another table over the same connection."""

    @abstractmethod
    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:
        """Run a query and return its rows."""

    @abstractmethod
    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        """Yield, by bounds, a condition of the shards, one of the bounds ("" for none), and their values."""

    @abstractmethod
    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        """Return the condition of the rows of these shards, and its values."""

    @abstractmethod
    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        """Return texts as SQL expressions, and the values that are bound to them."""

    def _over(self, slices: Sequence[Slice], write: Callable[[str], str]) -> Iterator[Sequence[Any]]:
        """Yield the rows of the query that `write` makes, for each pair of bounds; it is given what follows FROM."""
        for where, bounds, bound in self._conditions(slices):
            yield from self._ask(write(f"{self._table} WHERE {where}{_and(bounds)}"), bound)

    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        """Measure the rows of each slice, by shard."""
        key, values = self._parts(measure)
        rows = self._over(
            slices, lambda held: self._dialect.fingerprint(_slice(held), key, values, group="etl_source")
        )
        return {str(shard): read_fingerprint(row, key) for shard, *row in rows}

    def measured(self, slice: Slice, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Run the query that `write` makes of the slice's forms; it returns few rows."""
        key, values = self._parts(measure)
        return list(self._over([slice], lambda held: write(self._dialect, _slice(held), key, values)))

    def duplicate_keys(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        """Return the keys that occur more than once in a slice, by shard."""
        key, _ = self._parts(measure)
        grouped = ", ".join(part.sql for part in key)
        return _duplicates(
            self._over(
                slices,
                lambda held: _counted(
                    f"SELECT etl_source AS g, {self._dialect.shown(key)} AS k FROM {held}"
                    f" GROUP BY etl_source, {grouped} HAVING COUNT(*) > 1"
                ),
            )
        )

    def keys_elsewhere(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        """Return the keys of a slice that the same shard also has outside of the slice, by shard."""
        if not self._sliced:
            return {}
        key, _ = self._parts(measure)
        names = ["etl_source", *(part.sql for part in key)]
        grouped = ", ".join(names)
        same = " AND ".join(f"other.{name} = slice.{name}" for name in names)
        shown = self._dialect.shown([replace(part, sql=f"slice.{part.sql}") for part in key])
        found: dict[str, Duplicates] = {}
        for where, bounds, bound in self._conditions(slices):
            sql = _counted(
                f"SELECT DISTINCT slice.etl_source AS g, {shown} AS k FROM"
                f" (SELECT DISTINCT {grouped} FROM {self._table} WHERE {where} AND {bounds}) AS slice JOIN"
                f" (SELECT {grouped} FROM {self._table} WHERE {where}"
                f" AND CASE WHEN {bounds} THEN 0 ELSE 1 END = 1) AS other ON {same}"
            )
            found |= _duplicates(self._ask(sql, bound))
        return found

    def sessions(self, slices: Sequence[Slice]) -> Mapping[tuple[str, int], int]:
        """Count the rows by shard and etl_id. Rows without an etl_id count under 0."""
        rows = self._over(
            slices,
            lambda held: (
                f"SELECT etl_source, COALESCE(etl_id, 0), COUNT(*) FROM {held}"
                " GROUP BY etl_source, COALESCE(etl_id, 0)"
            ),
        )
        return {(str(shard), int(etl_id)): int(count) for shard, etl_id, count in rows}

    def unknown_sources(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        """Count the rows within the slices' bounds that belong to none of their shards, by etl_source; "" for NULL."""
        shards = {slice.shard for slice in slices}
        found: dict[str, int] = {}
        for where, bounds, bound in self._conditions(slices):
            rows = self._ask(
                f"SELECT COALESCE(etl_source, ''), COUNT(*) FROM {self._table}"
                f" WHERE CASE WHEN {where} THEN 0 ELSE 1 END = 1{_and(bounds)} GROUP BY COALESCE(etl_source, '')",
                bound,
            )
            # A shard of other bounds is known. Where bounds overlap, the largest count is that of the longest.
            for name, count in rows:
                if name not in shards:
                    found[str(name)] = max(int(count), found.get(str(name), 0))
        return found

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return which of these columns hold a value in any row of each shard."""
        where, bound = self._of_shards(shards)
        sql = held_values_sql(self._table, where, list(map(self._dialect.quote, columns)))
        return read_held_values(self._ask(sql, bound), columns)

    def rows_by_source(self) -> Mapping[str, int]:
        """Count all rows of the table by etl_source; "" for NULL."""
        rows = self._ask(
            f"SELECT COALESCE(etl_source, ''), COUNT(*) FROM {self._table} GROUP BY COALESCE(etl_source, '')",
            {},
        )
        return {str(name): int(count) for name, count in rows}

    def keys_only_here(self, slice: Slice, measure: Measure, other: Other, most: int) -> Sequence[str | None]:
        """Return the keys, as texts, of some of the slice's rows that the other table lacks in the same slice.

        A row is compared by its key and the values of the measure. None is a key with NULL.
        """
        here, values = self._rows_of(slice, measure)
        theirs, more = other.inspection._rows_of(slice, other.measure)
        sql = f"SELECT DISTINCT k FROM ({here} EXCEPT {theirs}) AS alone ORDER BY k LIMIT {most}"
        return [None if key is None else str(key) for (key,) in self._ask(sql, {**values, **more})]

    def _rows_of(self, slice: Slice, measure: Measure) -> tuple[str, dict[str, object]]:
        """Return the query of a slice's rows, with the key as one text and the text of each value; and its values."""
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions([slice])
        texts = [f"{self._dialect.shown(key)} AS k"]
        texts += [f"{self._dialect.form(part)} AS v{number}" for number, part in enumerate(values)]
        return f"SELECT {', '.join(texts)} FROM {self._table} WHERE {where}{_and(bounds)}", bound

    def contrasts(self, slices: Sequence[Slice], measure: Measure, other: Other) -> Mapping[str, Contrast]:
        """Compare the slices with those of the other table, row by row in the engine, by shard."""
        there = other.inspection
        names = [column.name for column in measure.values]
        found: dict[str, Contrast] = {}
        for group in same_bounds(slices):
            here, values = self._measured_by_shard(group, measure, Dialect.keys)
            theirs, more = there._measured_by_shard(group, other.measure, Dialect.keys)
            rows = self._ask(contrast_sql(here, theirs, len(names)), {**values, **more})
            counted = {str(shard): read_counts(row, names) for shard, *row in rows}
            ours = self._pieces(group, measure, counted)
            others = there._pieces(group, other.measure, counted)
            for shard, counts in counted.items():
                found[shard] = counts.contrast(ours.get(shard, {}), others.get(shard, {}))
        return found

    def _measured_by_shard(
        self, slices: Sequence[Slice], measure: Measure, write: Callable[..., str], *others: object
    ) -> tuple[str, dict[str, object]]:
        """Return a query of slices with the same bounds, by shard, and its values."""
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions(slices)
        source = _slice(f"{self._table} WHERE {where}{_and(bounds)}")
        return write(self._dialect, source, key, values, *others, group="etl_source"), bound

    def _pieces(
        self, slices: Sequence[Slice], measure: Measure, counted: Mapping[str, Counts]
    ) -> dict[str, dict[int, Pieces]]:
        wanted = {shard: keys for shard, counts in counted.items() if (keys := counts.keys())}
        if not wanted:
            return {}
        shards, more = self._texts(list(wanted))
        where = " OR ".join(
            f"(g = {shard} AND kn IN ({', '.join(map(str, keys))}))"
            for shard, keys in zip(shards, wanted.values(), strict=True)
        )
        sql, bound = self._measured_by_shard(slices, measure, Dialect.pieces, where, CUT_CHARACTERS)
        found: dict[str, dict[int, Pieces]] = {}
        for shard, number, *row in self._ask(sql, {**bound, **more}):
            found.setdefault(str(shard), {})[int(number)] = read_pieces(row, len(measure.key))
        return found

    def _parts(self, measure: Measure) -> tuple[list[Part], list[Part]]:
        key, values = (
            [part(column, column.kind, self._dialect.quote(column.name)) for column in wanted]
            for wanted in (measure.key, measure.values)
        )
        for number, column in enumerate(measure.key):
            if column.name in measure.as_text:
                key[number] = replace(key[number], kind=Kind.TEXT)
        return key, values


def _slice(held: str) -> str:
    return f"(SELECT * FROM {held}) AS slice"


def _counted(keys: str) -> str:
    return f"SELECT g, COUNT(*), MIN(k) FROM ({keys}) AS duplicates GROUP BY g"


def _duplicates(rows: Iterable[Sequence[Any]]) -> dict[str, Duplicates]:
    return {str(shard): Duplicates(int(count), str(example)) for shard, count, example in rows}


def held_values_sql(table: str, where: str, columns: Sequence[str]) -> str:
    """Return the query that counts the values of each (quoted) column, by shard."""
    counts = ", ".join(f"COUNT({column})" for column in columns)
    return f"SELECT etl_source, {counts} FROM {table} WHERE {where} GROUP BY etl_source"


def read_held_values(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the columns that hold a value, by shard, from the rows of that query."""
    return {
        str(shard): frozenset(name for name, count in zip(columns, counts, strict=True) if count)
        for shard, *counts in rows
    }


def _and(condition: str) -> str:
    return f" AND {condition}" if condition else ""


def same_bounds(slices: Sequence[Slice]) -> Iterable[list[Slice]]:
    """Return the slices in groups that have one condition, whatever the kind of the column is."""
    groups: dict[object, list[Slice]] = {}
    for slice in slices:
        groups.setdefault((slice.start, slice.end, slice.start_at, slice.end_at), []).append(slice)
    return groups.values()


class Counts(Struct, frozen=True):
    """The counts of a shard. A pair is a number of rows, or of keys, and the number of one key."""

    only_here: int
    only_there: int
    duplicates: tuple[tuple[int, int], ...]
    columns: Mapping[str, tuple[int, int]]

    def keys(self) -> list[int]:
        """Return the numbers of the keys to show."""
        return sorted({key for count, key in (*self.duplicates, *self.columns.values()) if count})

    def contrast(self, ours: Mapping[int, Pieces], theirs: Mapping[int, Pieces]) -> Contrast:
        """Return the counts with the rows to show. A row may have gone since it was counted."""
        here, there = (
            _example(*pair, rows) for pair, rows in zip(self.duplicates, (ours, theirs), strict=True)
        )
        columns = {}
        for number, (name, (rows, key)) in enumerate(self.columns.items()):
            if rows:
                example = None
                if key in ours and key in theirs:
                    example = Example(ours[key].key, ours[key].values[number], theirs[key].values[number])
                columns[name] = Differing(rows, example)
        return Contrast(self.only_here, self.only_there, here, there, columns)


def _example(keys: int, key: int, rows: Mapping[int, Pieces]) -> Duplicates | None:
    if not keys:
        return None
    texts = rows[key].key if key in rows else ("?",)
    return Duplicates(keys, ", ".join("NULL" if text is None else text for text in texts))


def contrast_sql(ours: str, theirs: str, columns: int) -> str:
    """Return the query that counts, by shard, what differs between two queries of keys."""
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
    """Return the counts from a row of that query."""
    only_here, only_there, *rest = (int(count or 0) for count in row)
    here, there, *columns = zip(rest[::2], rest[1::2], strict=True)
    return Counts(only_here, only_there, (here, there), dict(zip(names, columns, strict=True)))


def read_pieces(row: Sequence[Any], keys: int) -> Pieces:
    """Return a row to show from the texts of its key, then start and length of each value."""
    values = tuple(
        None if length is None else Cut(str(start), int(length))
        for start, length in zip(row[keys::2], row[keys + 1 :: 2], strict=True)
    )
    return Pieces(tuple(None if text is None else str(text) for text in row[:keys]), values)
