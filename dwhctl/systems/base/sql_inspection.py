"""An inspection in SQL: the queries are the same in every warehouse, but for the dialect's own words."""

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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dwhctl.project.days import Slice
    from dwhctl.systems.base.inspection import Contrast, Counts, Other, Pieces


def quote_name(name: str, marks: str = '""') -> str:
    """Quote one name for SQL, by an opening and a closing mark: a dot in it is part of the name."""
    return f"{marks[0]}{name.replace(marks[1], marks[1] * 2)}{marks[1]}"


def quote_path(name: str) -> str:
    """Quote a table's name for SQL, the parts of `schema.table` separately."""
    return ".".join(map(quote_name, name.split(".")))


def literal(text: str) -> str:
    """Quote a text for SQL, in which a backslash has no meaning of its own."""
    return "'" + text.replace("'", "''") + "'"


class SqlInspection(Inspection):
    """What an inspection asks; the warehouse says how a query is run and what finds the rows of slices."""

    def __init__(self, dialect: str, table: str, *, sliced: bool) -> None:
        self._dialect = Dialect(dialect)
        self._table = table
        self._sliced = sliced

    @abstractmethod
    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:
        """Run a query."""

    @abstractmethod
    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        """Say which rows belong to the slices, for each pair of bounds.

        Give a condition of the shards, one of the bounds ("" for none), and their values.
        """

    @abstractmethod
    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        """Give the condition of the rows of these shards, and its values."""

    @abstractmethod
    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        """Write texts as values in SQL, and give what is bound to them."""

    @abstractmethod
    def _quoted(self, name: str) -> str:
        """Quote a column's name."""

    def fingerprints(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Fingerprint]:
        key, values = self._parts(measure)
        found = {}
        for where, bounds, bound in self._conditions(slices):
            source = f"(SELECT * FROM {self._table} WHERE {where}{_and(bounds)}) AS slice"
            sql = self._dialect.fingerprint(source, key, values, group="etl_source")
            found.update({str(shard): read_fingerprint(row, key) for shard, *row in self._ask(sql, bound)})
        return found

    def measured(self, slice: Slice, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions([slice])
        source = f"(SELECT * FROM {self._table} WHERE {where}{_and(bounds)}) AS slice"
        return self._ask(write(self._dialect, source, key, values), bound)

    def duplicate_keys(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        key, _ = self._parts(measure)
        grouped = ", ".join(one.sql for one in key)
        found: dict[str, Duplicates] = {}
        for where, bounds, bound in self._conditions(slices):
            found |= self._duplicates(
                f"SELECT etl_source AS g, {self._dialect.shown(key)} AS k FROM {self._table}"
                f" WHERE {where}{_and(bounds)} GROUP BY etl_source, {grouped} HAVING COUNT(*) > 1",
                bound,
            )
        return found

    def keys_elsewhere(self, slices: Sequence[Slice], measure: Measure) -> Mapping[str, Duplicates]:
        if not self._sliced:
            return {}
        key, _ = self._parts(measure)
        grouped = ", ".join(["etl_source", *(one.sql for one in key)])
        same = " AND ".join(
            f"other.{name} = slice.{name}" for name in ("etl_source", *(one.sql for one in key))
        )
        shown = self._dialect.shown([Part(f"slice.{one.sql}", one.kind, one.form, one.extras) for one in key])
        found: dict[str, Duplicates] = {}
        for where, bounds, bound in self._conditions(slices):
            found |= self._duplicates(
                f"SELECT DISTINCT slice.etl_source AS g, {shown} AS k FROM"
                f" (SELECT DISTINCT {grouped} FROM {self._table} WHERE {where} AND {bounds}) AS slice JOIN"
                f" (SELECT {grouped} FROM {self._table} WHERE {where}"
                f" AND CASE WHEN {bounds} THEN 0 ELSE 1 END = 1) AS other ON {same}",
                bound,
            )
        return found

    def sessions(self, slices: Sequence[Slice]) -> Mapping[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for where, bounds, bound in self._conditions(slices):
            rows = self._ask(
                f"SELECT etl_source, COALESCE(etl_id, 0), COUNT(*) FROM {self._table}"
                f" WHERE {where}{_and(bounds)} GROUP BY etl_source, COALESCE(etl_id, 0)",
                bound,
            )
            found.update({(str(shard), int(etl_id)): int(count) for shard, etl_id, count in rows})
        return found

    def unknown_sources(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        shards = {one.shard for one in slices}
        found: dict[str, int] = {}
        for where, bounds, bound in self._conditions(slices):
            rows = self._ask(
                f"SELECT COALESCE(etl_source, ''), COUNT(*) FROM {self._table}"
                f" WHERE CASE WHEN {where} THEN 0 ELSE 1 END = 1{_and(bounds)} GROUP BY COALESCE(etl_source, '')",
                bound,
            )
            # The shards of other bounds are no unknown_sources. Days that overlap count the stranger of the longest.
            found |= {
                str(name): max(int(count), found.get(str(name), 0))
                for name, count in rows
                if name not in shards
            }
        return found

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        where, bound = self._of_shards(shards)
        sql = held_values_sql(self._table, where, [self._quoted(name) for name in columns])
        return read_held_values(self._ask(sql, bound), columns)

    def rows_by_source(self) -> Mapping[str, int]:
        rows = self._ask(
            f"SELECT COALESCE(etl_source, ''), COUNT(*) FROM {self._table} GROUP BY COALESCE(etl_source, '')",
            {},
        )
        return {str(name): int(count) for name, count in rows}

    def keys_only_here(self, slice: Slice, measure: Measure, other: Other, most: int) -> Sequence[str | None]:
        here, values = self._rows_of(slice, measure)
        there = other.inspection
        if not isinstance(there, SqlInspection):
            raise TypeError(f"{type(there).__name__} cannot stand in one query with {type(self).__name__}")
        theirs, more = there._rows_of(slice, other.measure)
        sql = f"SELECT DISTINCT k FROM ({here} EXCEPT {theirs}) AS alone ORDER BY k LIMIT {most}"
        return [None if key is None else str(key) for (key,) in self._ask(sql, {**values, **more})]

    def _rows_of(self, slice: Slice, measure: Measure) -> tuple[str, dict[str, object]]:
        """Write the query of a slice's rows: the key as one text, and the text of each value."""
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions([slice])
        texts = [f"{self._dialect.shown(key)} AS k"]
        texts += [f"{self._dialect.form(one)} AS v{number}" for number, one in enumerate(values)]
        return f"SELECT {', '.join(texts)} FROM {self._table} WHERE {where}{_and(bounds)}", bound

    def contrasts(self, slices: Sequence[Slice], measure: Measure, other: Other) -> Mapping[str, Contrast]:
        there = other.inspection
        if not isinstance(there, SqlInspection):
            raise TypeError(f"{type(there).__name__} cannot be in one query with {type(self).__name__}")
        names = [column.name for column in measure.values]
        found: dict[str, Contrast] = {}
        for group in same_bounds(slices):
            here, values = self._measured_by_shard(group, measure, Dialect.keys)
            theirs, more = there._measured_by_shard(group, other.measure, Dialect.keys)
            rows = self._ask(contrast_sql(here, theirs, len(names)), {**values, **more})
            counted = {str(shard): read_counts(row, names) for shard, *row in rows}
            ours = self._pieces(group, measure, counted)
            others = there._pieces(group, other.measure, counted)
            found |= {
                shard: counts.contrast(ours.get(shard, {}), others.get(shard, {}))
                for shard, counts in counted.items()
            }
        return found

    def _measured_by_shard(
        self, slices: Sequence[Slice], measure: Measure, write: Callable[..., str], *others: object
    ) -> tuple[str, dict[str, object]]:
        """Write a query of slices with the same bounds, by shard, and give what is bound to it."""
        key, values = self._parts(measure)
        [(where, bounds, bound)] = self._conditions(slices)
        source = f"(SELECT * FROM {self._table} WHERE {where}{_and(bounds)}) AS slice"
        return write(self._dialect, source, key, values, *others, group="etl_source"), bound

    def _pieces(
        self, slices: Sequence[Slice], measure: Measure, counted: Mapping[str, Counts]
    ) -> dict[str, dict[int, Pieces]]:
        """Fetch the rows that are shown, by shard and number of the key."""
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

    def _duplicates(self, keys: str, bound: dict[str, object]) -> dict[str, Duplicates]:
        rows = self._ask(f"SELECT g, COUNT(*), MIN(k) FROM ({keys}) AS odd GROUP BY g", bound)
        return {str(shard): Duplicates(int(count), str(example)) for shard, count, example in rows}

    def _parts(self, measure: Measure) -> tuple[list[Part], list[Part]]:
        key, values = (
            [part(one, one.kind, self._quoted(one.name)) for one in wanted]
            for wanted in (measure.key, measure.values)
        )
        texts = [one.name in measure.as_text for one in measure.key]
        key = [
            replace(one, kind=Kind.TEXT) if as_text else one for one, as_text in zip(key, texts, strict=True)
        ]
        return key, values


def held_values_sql(table: str, where: str, columns: Sequence[str]) -> str:
    """Write the query that counts the values of each (quoted) column, by shard."""
    counts = ", ".join(f"COUNT({column})" for column in columns)
    return f"SELECT etl_source, {counts} FROM {table} WHERE {where} GROUP BY etl_source"


def read_held_values(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> dict[str, frozenset[str]]:
    """Read the answer to it: the columns that hold a value, by shard."""
    return {
        str(shard): frozenset(name for name, count in zip(columns, counts, strict=True) if count)
        for shard, *counts in rows
    }


def _and(condition: str) -> str:
    return f" AND {condition}" if condition else ""
