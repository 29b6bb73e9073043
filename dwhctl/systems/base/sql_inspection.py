"""An inspection in SQL: the warehouses share the queries, and each has a dialect."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dwhctl.core.columns import Kind
from dwhctl.systems.base.fingerprint import Dialect, Fingerprint, Measure, Part, Write, part, read_fingerprint
from dwhctl.systems.base.inspection import (
    CUT_CHARACTERS,
    Duplicates,
    Inspection,
    contrast_sql,
    read_counts,
    read_pieces,
    same_bounds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dwhctl.project.days import Slice
    from dwhctl.systems.base.inspection import Contrast, Counts, Other, Pieces


class SqlInspection(Inspection):
    """An inspection by SQL. A warehouse runs the queries and writes the conditions of slices."""

    def __init__(self, dialect: str, table: str, *, sliced: bool) -> None:
        self._dialect = Dialect(dialect)
        self._table = table
        self._sliced = sliced

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
        key, values = self._parts(measure)
        rows = self._over(
            slices,
            lambda held: self._dialect.fingerprint(_slice(held), key, values, group="etl_source"),
        )
        return {str(shard): read_fingerprint(row, key) for shard, *row in rows}

    def measured(self, slice: Slice, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        key, values = self._parts(measure)
        return list(self._over([slice], lambda held: write(self._dialect, _slice(held), key, values)))

    def duplicate_keys(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
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
        rows = self._over(
            slices,
            lambda held: (
                f"SELECT etl_source, COALESCE(etl_id, 0), COUNT(*) FROM {held}"
                " GROUP BY etl_source, COALESCE(etl_id, 0)"
            ),
        )
        return {(str(shard), int(etl_id)): int(count) for shard, etl_id, count in rows}

    def unknown_sources(self, slices: Sequence[Slice]) -> Mapping[str, int]:
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
        where, bound = self._of_shards(shards)
        sql = held_values_sql(self._table, where, list(map(self._dialect.quote, columns)))
        return read_held_values(self._ask(sql, bound), columns)

    def rows_by_source(self) -> Mapping[str, int]:
        rows = self._ask(
            f"SELECT COALESCE(etl_source, ''), COUNT(*) FROM {self._table} GROUP BY COALESCE(etl_source, '')",
            {},
        )
        return {str(name): int(count) for name, count in rows}

    def keys_only_here(self, slice: Slice, measure: Measure, other: Other, most: int) -> Sequence[str | None]:
        here, values = self._rows_of(slice, measure)
        theirs, more = self._beside(other)._rows_of(slice, other.measure)
        sql = f"SELECT DISTINCT k FROM ({here} EXCEPT {theirs}) AS alone ORDER BY k LIMIT {most}"
        return [None if key is None else str(key) for (key,) in self._ask(sql, {**values, **more})]

    def _beside(self, other: Other) -> SqlInspection:
        there = other.inspection
        if not isinstance(there, SqlInspection):
            raise TypeError(f"{type(there).__name__} cannot be in one query with {type(self).__name__}")
        return there

    def _rows_of(self, slice: Slice, measure: Measure) -> tuple[str, dict[str, object]]:
        """Return the query of a slice's rows, with the key as one text and the text of each value; and its values."""
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions([slice])
        texts = [f"{self._dialect.shown(key)} AS k"]
        texts += [f"{self._dialect.form(part)} AS v{number}" for number, part in enumerate(values)]
        return f"SELECT {', '.join(texts)} FROM {self._table} WHERE {where}{_and(bounds)}", bound

    def contrasts(self, slices: Sequence[Slice], measure: Measure, other: Other) -> Mapping[str, Contrast]:
        there = self._beside(other)
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
        """Return the rows to show, by shard and number of the key."""
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
