"""The fingerprint of a slice: how many rows, its smallest and largest key, and checksums, made by each engine itself.

Every value takes a canonical text, the same in every engine, by the target's declared kind (the forms of `hash_id`):

| kind | canonical text |
| --- | --- |
| integer | its digits |
| decimal | without trailing zeros: 1.50 is 1.5, 0.00 is 0 |
| boolean | 0 or 1 |
| text | as it is, in UTF-8 |
| uuid, binary | lower case; hexadecimal digits |
| date, time, timestamp | 2020-07-14, 12:34:56.123456, both with a blank between; with a zone in UTC |

A float has none: engines write it differently. A row's text is the texts of its columns one after another, each
`<octets>:<text>,` and NULL as `,` alone, so that no two rows have one text. Its number is the last 60 of the first 64
bits of the text's MD5: the hexadecimal digits 2 to 16. A checksum is the sum of the rows' numbers: the order of the
rows does not matter, their number does.

The SQL of each dialect stands in `fingerprint.<dialect>.sql`, as blocks: `form <kind>` makes the canonical text of a
column {c}, `ordered <kind>` what is compared for the smallest and largest of the forms {f} (else the column itself is),
`piece` frames a form, `joint` stands between pieces, `number` is that of a text {t}, `sum` adds up numbers {n}, `start`
has the first {n} characters of a text, `length` counts them.
`tests/unit/fingerprint.golden.json` pins the numbers of every form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from dwhctl.core.columns import Kind
from dwhctl.core.errors import QueryError, SchemaDriftError
from dwhctl.core.sql import named_sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwhctl.core.columns import Column


_PLACE = re.compile(r"\{(\w+)\}")
#: Kinds whose form is also what is compared.
_COMPARED_AS_TEXT = (Kind.TEXT, Kind.UUID, Kind.BINARY)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells a slice's rows: their number, the smallest and largest value of each key column, and checksums.

    `keys` is the checksum of the key, `values` that of the key and the compared columns; None when none are compared.
    """

    rows: int
    smallest: tuple[str | None, ...]
    largest: tuple[str | None, ...]
    keys: int
    values: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """What a fingerprint is made of: the target's columns of the key, and those whose values are compared as well.

    `as_text` names the key's columns whose smallest and largest are those of their texts: where another table, which is
    compared, holds another kind.
    """

    key: tuple[Column, ...]
    values: tuple[Column, ...] = ()
    as_text: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for column in (*self.key, *self.values):
            if column.kind is Kind.FLOAT:
                raise QueryError(
                    f"column {column.name} is {column.declared}, and no two systems write a float in the same digits:"
                    " leave it out of verify_columns, or load it as a decimal"
                )

    @property
    def empty(self) -> Fingerprint:
        """The fingerprint of no rows."""
        nothing = (None,) * len(self.key)
        return Fingerprint(0, nothing, nothing, 0, 0 if self.values else None)


@dataclass(frozen=True, slots=True)
class Part:
    """One column on one side: `sql` is its value there, `form` the block of its canonical text, `kind` its own."""

    sql: str
    kind: Kind
    form: str
    extras: Mapping[str, str] = field(default_factory=dict)


def part(column: Column, kind: Kind, sql: str, **extras: str) -> Part:
    """Describe a column of this side that meets the target's kind `kind`; `sql` gives its value."""
    # A uuid that is loaded as a text is loaded in lower case; an integer has the digits of the decimal that it becomes.
    form = column.kind if column.kind in (Kind.UUID, Kind.INTEGER) else kind
    name = form.value
    if form is Kind.DECIMAL and column.type.scale <= 0:
        name += " whole"
    if form is Kind.TEXT and column.padded:
        name += " padded"
    return Part(sql, form, name, extras)


#: Writes a query of what `source` holds, by the parts of the key and of the values.
Write = Callable[["Dialect", str, "Sequence[Part]", "Sequence[Part]"], str]


class Dialect:
    """Writes the SQL of fingerprints for one engine."""

    def __init__(self, name: str) -> None:
        self._blocks = _blocks(name)

    def block(self, name: str, **places: str) -> str:
        """Fill a block's places."""
        return _PLACE.sub(lambda match: places[match[1]], self._blocks[name])

    def has(self, name: str) -> bool:
        """Tell whether the dialect has a block of that name."""
        return name in self._blocks

    def form(self, part: Part, sql: str | None = None) -> str:
        """Give the canonical text of a part, or of another expression of its type."""
        return self.block(f"form {part.form}", c=sql or part.sql, **part.extras)

    def fingerprint(
        self, source: str, key: Sequence[Part], values: Sequence[Part], group: str | None = None
    ) -> str:
        """Write the query: of each value of the column `group`, if there is one, and of all rows of `source`."""
        inner, extremes, pieces = [], [], []
        for number, one in enumerate((*key, *values)):
            inner.append(f"{self.form(one)} AS f{number}")
            pieces.append(self.block("piece", f=f"f{number}"))
        for number, one in enumerate(key):
            inner.append(f"{self._compared(one)} AS e{number}")
            extremes += [self._extreme(one, f"{word}(e{number})") for word in ("MIN", "MAX")]
        sums = [self._checksum(pieces[: len(key)])] + ([self._checksum(pieces)] if values else [])
        grouped, by = ([f"{group} AS g"], " GROUP BY g") if group else ([], "")
        answers = [*(["g"] if group else []), self.block("count"), *extremes, *sums]
        listed = ", ".join(f"{answer} AS a{number}" for number, answer in enumerate(answers))
        return f"SELECT {listed} FROM (SELECT {', '.join([*grouped, *inner])} FROM {source}) AS measured{by}"

    def shown(self, parts: Sequence[Part]) -> str:
        """Write the texts of a key's columns as one text, for people."""
        return self._joined([self.form(one) for one in parts], "', '")

    def buckets(self, source: str, key: Sequence[Part], values: Sequence[Part], count: int) -> str:
        """Write the query of the rows' number and checksums in each of `count` buckets of keys.

        The checksums are that of the key, and of the key with each one of the values.
        """
        numbers = ["kn", *(f"n{number}" for number in range(len(values)))]
        sums = ", ".join(f"{self.block('sum', n=name)} AS s{number}" for number, name in enumerate(numbers))
        bucket = f"kn % {count}"
        numbered = self._numbered(source, key, values)
        return f"SELECT {bucket} AS b, {self.block('count')} AS c, {sums} FROM {numbered} GROUP BY {bucket}"

    def bucket_rows(
        self, source: str, key: Sequence[Part], values: Sequence[Part], count: int, buckets: Sequence[int]
    ) -> str:
        """Write the query of the rows of some buckets: the number of the key, and of the key with each value."""
        listed = ", ".join(["kn", *(f"n{number}" for number in range(len(values)))])
        numbered = self._numbered(source, key, values)
        return f"SELECT {listed} FROM {numbered} WHERE kn % {count} IN ({', '.join(map(str, buckets))})"

    def pieces(
        self,
        source: str,
        key: Sequence[Part],
        values: Sequence[Part],
        where: str,
        characters: int,
        group: str = "",
    ) -> str:
        """Write the query of rows, by a condition of kn and g: the key's texts, the start of each value's.

        First come the value of the column `group`, if there is one, and the number of the key.
        """
        names = [f"f{number}" for number in range(len(key) + len(values))]
        shown = names[: len(key)]
        for name in names[len(key) :]:
            shown += self.cut(name, characters)
        listed = ", ".join(f"{each} AS a{number}" for number, each in enumerate(shown))
        numbered = self._numbered(source, key, values, group)
        return f"SELECT {'g, ' if group else ''}kn, {listed} FROM {numbered} WHERE {where}"

    def keys(self, source: str, key: Sequence[Part], values: Sequence[Part], group: str) -> str:
        """Write the query of the keys of each value of the column `group`: how often each is there, with each value.

        All are numbers: an engine keeps those on its disk that do not fit its memory.
        """
        least = "".join(f", MIN(n{number}) AS n{number}" for number in range(len(values)))
        numbered = self._numbered(source, key, values, group)
        return f"SELECT g, kn, COUNT(*) AS n{least} FROM {numbered} GROUP BY g, kn"

    def _numbered(self, source: str, key: Sequence[Part], values: Sequence[Part], group: str = "") -> str:
        """Write what has the forms f0, f1, ..., the number of the key as kn, and with each value as n0, n1, ..."""
        parts = (*key, *values)
        grouped = [f"{group} AS g"] if group else []
        forms = [*grouped, *(f"{self.form(one)} AS f{number}" for number, one in enumerate(parts))]
        pieces = [self.block("piece", f=f"f{number}") for number in range(len(parts))]
        columns = [*(["g"] if group else []), *(f"f{number}" for number in range(len(parts)))]
        columns.append(f"{self.block('number', t=self._joined(pieces[: len(key)]))} AS kn")
        for number, piece in enumerate(pieces[len(key) :]):
            text = self._joined([*pieces[: len(key)], piece])
            columns.append(f"{self.block('number', t=text)} AS n{number}")
        return f"(SELECT {', '.join(columns)} FROM (SELECT {', '.join(forms)} FROM {source}) AS measured) AS numbered"

    def cut(self, text: str, characters: int) -> tuple[str, str]:
        """Write the start of a text, and its number of characters."""
        return self.block("start", t=text, n=str(characters)), self.block("length", t=text)

    def _compared(self, part: Part) -> str:
        if part.kind not in _COMPARED_AS_TEXT:
            return part.sql
        return self.block("ordered text", f=f"({self.form(part)})")

    def _extreme(self, part: Part, extreme: str) -> str:
        return extreme if part.kind in _COMPARED_AS_TEXT else self.form(part, extreme)

    def _checksum(self, pieces: Sequence[str]) -> str:
        return self.block("sum", n=self.block("number", t=self._joined(pieces)))

    def _joined(self, texts: Sequence[str], between: str | None = None) -> str:
        joint = f" {self._blocks['joint']} "
        return joint.join(texts) if between is None else f"{joint}{between}{joint}".join(texts)


def read_fingerprint(row: Sequence[Any], key: Sequence[Part]) -> Fingerprint:
    """Read the answer of a fingerprint's query, without its group."""
    rows, *others = row
    extremes = [_without_mark(each, key[number // 2]) for number, each in enumerate(others[: 2 * len(key)])]
    keys, *values = (int(each) for each in others[2 * len(key) :])
    return Fingerprint(
        int(rows), tuple(extremes[::2]), tuple(extremes[1::2]), keys, values[0] if values else None
    )


def _without_mark(value: Any, part: Part) -> str | None:
    if value is None:
        return None
    return str(value)[:-1] if part.kind in _COMPARED_AS_TEXT else str(value)


@cache
def _blocks(dialect: str) -> Mapping[str, str]:
    return named_sql("dwhctl.systems.base", dialect)


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.core.columns import Column, Kind

    #: From a column of the source and the kind that it meets to its value in SQL and what its form needs beside it.
    Read = Callable[[Column, Kind], tuple[str, Mapping[str, str]]]


def source_parts(wanted: Sequence[Column], columns: Sequence[Column], read: Read) -> list[Part]:
    """Find the target's columns among those of a source. Raise SchemaDriftError when one is missing."""
    by_name = {column.name.lower(): column for column in columns}
    parts = []
    for column in wanted:
        found = by_name.get(column.name.lower())
        if found is None:
            raise SchemaDriftError(f"the extract has no column {column.name}")
        sql, extras = read(found, column.kind)
        parts.append(part(found, column.kind, sql, **extras))
    return parts
