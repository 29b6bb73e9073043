"""The fingerprint of a slice: its number of rows, its smallest and largest key, and checksums, computed by the engine.

Every value has a canonical text, the same in every engine, by the target's declared kind (the forms of `hash_id`):

| kind | canonical text |
| --- | --- |
| integer | its digits |
| decimal | without trailing zeros: 1.50 is 1.5, 0.00 is 0 |
| boolean | 0 or 1 |
| text | as it is, in UTF-8 |
| uuid, binary | lower case; hexadecimal digits |
| date, time, timestamp | 2020-07-14, 12:34:56.123456, both with a blank between; with a zone in UTC |

A float has none: engines write it differently. The text of a row is that of its columns, each as `<octets>:<text>,` and
NULL as `,` alone, so that different rows have different texts. The number of a row is the last 60 of the first 64 bits
of the text's MD5: the hexadecimal digits 2 to 16. A checksum is the sum of these numbers; it does not depend on the
order of the rows, but on how often each occurs.

`fingerprint.<dialect>.sql` has the SQL of a dialect in blocks: `form <kind>` is the canonical text of a column {c},
`form decimal fraction` that of a decimal without digits before the point where it differs from `form decimal`,
`ordered <kind>` the value to compare for the smallest and largest of the forms {f} (by default the column itself),
`piece` frames a form, `joint` concatenates pieces, with `wide` before many of them if there is one, `number` is that of
a text {t}, `sum` adds numbers {n}, `start` is the first {n} characters of a text, `length` counts its characters.
`tests/unit/fingerprint.golden.json` pins the numbers of every form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from msgspec import Struct, field

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SchemaDriftError
from dwhctl.core.sql import named_sql, quote_name

_PLACE = re.compile(r"\{(\w+)\}")
#: So many texts are concatenated without brackets: engines limit how deep an expression is.
_AT_ONCE = 100
#: Kinds whose form is also what is compared.
_COMPARED_AS_TEXT = (Kind.TEXT, Kind.UUID, Kind.BINARY)


class Fingerprint(Struct, frozen=True):
    """The number of a slice's rows, the smallest and largest value of each key column, and checksums.

    `keys` is the checksum of the key, `values` that of the key and the compared columns; None when none are compared.
    """

    rows: int
    smallest: tuple[str | None, ...]
    largest: tuple[str | None, ...]
    keys: int
    values: int | None = None


class Measure(Struct, frozen=True):
    """The target's columns that a fingerprint measures: those of the key, and those whose values are compared.

    `as_text` has the key's columns whose smallest and largest are compared as texts, because the other table holds
    another kind.
    """

    key: tuple[Column, ...]
    values: tuple[Column, ...] = ()
    as_text: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for column in (*self.key, *self.values):
            if column.kind is Kind.FLOAT:
                leave = "" if column in self.key else "leave it out of verify_columns, or "
                raise QueryError(
                    f"column {column.name} is {column.declared}, and no two systems write a float in the same digits:"
                    f" {leave}load it as a decimal"
                )

    @property
    def empty(self) -> Fingerprint:
        nothing = (None,) * len(self.key)
        return Fingerprint(0, nothing, nothing, 0, 0 if self.values else None)


class Part(Struct, frozen=True):
    """A column of one side: `sql` is its value, `form` the block of its canonical text."""

    sql: str
    kind: Kind
    form: str
    extras: Mapping[str, str] = field(default_factory=dict)


def part(column: Column, kind: Kind, sql: str, **extras: str) -> Part:
    """Return the part of a column that is loaded into one of `kind`; `sql` is its value."""
    # A uuid is loaded into a text in lower case, an integer into a decimal with the same digits.
    form = column.kind if column.kind in (Kind.UUID, Kind.INTEGER) else kind
    name = form.value
    if form is Kind.DECIMAL and column.type.scale <= 0:
        name += " whole"
    elif form is Kind.DECIMAL and column.type.scale == column.type.precision:
        name += " fraction"
    if form is Kind.TEXT and column.padded:
        name += " padded"
    return Part(sql, form, name, extras)


#: Returns a query of the derived table `source`, by the parts of the key and of the values.
Write = Callable[["Dialect", str, "Sequence[Part]", "Sequence[Part]"], str]


class Dialect:
    """Writes the SQL of one engine, by the blocks of its file beside this module, or in a package: `package:name`."""

    def __init__(self, name: str) -> None:
        self._blocks = _blocks(name)
        self._marks = "[]" if name == "mssql" else '""'

    def quote(self, name: str) -> str:
        return quote_name(name, self._marks)

    def block(self, name: str, **places: str) -> str:
        """Return a block with its places filled."""
        return _PLACE.sub(lambda match: places[match[1]], self._blocks[name])

    def has(self, name: str) -> bool:
        return name in self._blocks

    def form(self, part: Part, sql: str | None = None) -> str:
        """Return the canonical text of a part, or of another expression of its type."""
        name = f"form {part.form}"
        return self.block(name if self.has(name) else f"form {part.kind}", c=sql or part.sql, **part.extras)

    def fingerprint(
        self, source: str, key: Sequence[Part], values: Sequence[Part], group: str | None = None
    ) -> str:
        """Return the query of the fingerprint of `source`, of each value of the column `group` if there is one."""
        inner, extremes, pieces = [], [], []
        for number, part in enumerate((*key, *values)):
            inner.append(f"{self.form(part)} AS f{number}")
            pieces.append(self.block("piece", f=f"f{number}"))
        for number, part in enumerate(key):
            found = [f"MIN(e{number})", f"MAX(e{number})"]
            is_text = part.kind in _COMPARED_AS_TEXT
            compared = self.block("ordered text", f=f"({self.form(part)})") if is_text else part.sql
            inner.append(f"{compared} AS e{number}")
            extremes += found if is_text else [self.form(part, sql) for sql in found]
        hashed = [pieces[: len(key)], pieces] if values else [pieces]
        sums = [self.block("sum", n=self.block("number", t=self._joined(texts))) for texts in hashed]
        grouped, by = ([f"{group} AS g"], " GROUP BY g") if group else ([], "")
        answers = [*(["g"] if group else []), self.block("count"), *extremes, *sums]
        listed = ", ".join(f"{answer} AS a{number}" for number, answer in enumerate(answers))
        return f"SELECT {listed} FROM (SELECT {', '.join([*grouped, *inner])} FROM {source}) AS measured{by}"

    def shown(self, parts: Sequence[Part]) -> str:
        """Return the texts of a key's columns as one text to show."""
        return self._joined([self.form(part) for part in parts], "', '")

    def buckets(self, source: str, key: Sequence[Part], values: Sequence[Part], count: int) -> str:
        """Return the query of the rows and checksums (of the key, and of the key with each value) of the buckets."""
        numbers = ["kn", *(f"n{number}" for number in range(len(values)))]
        sums = ", ".join(f"{self.block('sum', n=name)} AS s{number}" for number, name in enumerate(numbers))
        bucket = f"kn % {count}"
        numbered = self._numbered(source, key, values, numbers=True)
        return f"SELECT {bucket} AS b, {self.block('count')} AS c, {sums} FROM {numbered} GROUP BY {bucket}"

    def bucket_rows(
        self, source: str, key: Sequence[Part], values: Sequence[Part], count: int, buckets: Sequence[int]
    ) -> str:
        """Return the query of the rows of some buckets: the number of the key, and of the key with each value."""
        listed = ", ".join(["kn", *(f"n{number}" for number in range(len(values)))])
        numbered = self._numbered(source, key, values, numbers=True)
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
        """Return the query of rows by a condition of kn and g.

        Columns: g (the value of `group`) if there is one, kn (the key's number), the key's texts, `cut` of the values.
        """
        names = [f"f{number}" for number in range(len(key) + len(values))]
        shown = names[: len(key)]
        for name in names[len(key) :]:
            shown += self.cut(name, characters)
        listed = ", ".join(f"{column} AS a{number}" for number, column in enumerate(shown))
        numbered = self._numbered(source, key, values, group, numbers=False)
        return f"SELECT {'g, ' if group else ''}kn, {listed} FROM {numbered} WHERE {where}"

    def keys(self, source: str, key: Sequence[Part], values: Sequence[Part], group: str) -> str:
        """Return the query of the keys of each value of the column `group`: their count, the number with each value.

        All columns are numbers, so that the engine can spill.
        """
        least = "".join(f", MIN(n{number}) AS n{number}" for number in range(len(values)))
        numbered = self._numbered(source, key, values, group, numbers=True)
        return f"SELECT g, kn, COUNT(*) AS n{least} FROM {numbered} GROUP BY g, kn"

    def _numbered(
        self, source: str, key: Sequence[Part], values: Sequence[Part], group: str = "", *, numbers: bool
    ) -> str:
        """Return a derived table with the number of the key as kn, and either numbers or forms.

        Numbers n0, n1, ... are those of the key with each value; f0, f1, ... are the forms of key and values. Not both:
        PostgreSQL lists at most 1,664 columns.
        """
        parts = (*key, *values)
        grouped = [f"{group} AS g"] if group else []
        forms = [*grouped, *(f"{self.form(part)} AS f{number}" for number, part in enumerate(parts))]
        pieces = [self.block("piece", f=f"f{number}") for number in range(len(parts))]
        columns = [
            *(["g"] if group else []),
            f"{self.block('number', t=self._joined(pieces[: len(key)]))} AS kn",
        ]
        if numbers:
            texts = (self._joined([*pieces[: len(key)], piece]) for piece in pieces[len(key) :])
            columns += [f"{self.block('number', t=text)} AS n{number}" for number, text in enumerate(texts)]
        else:
            columns += [f"f{number}" for number in range(len(parts))]
        return f"(SELECT {', '.join(columns)} FROM (SELECT {', '.join(forms)} FROM {source}) AS measured) AS numbered"

    def cut(self, text: str, characters: int) -> tuple[str, str]:
        """Return the start of a text, and its number of characters."""
        return self.block("start", t=text, n=str(characters)), self.block("length", t=text)

    def _joined(self, texts: Sequence[str], between: str | None = None) -> str:
        joint = f" {self._blocks['joint']} "
        joint = joint if between is None else f"{joint}{between}{joint}"
        if len(texts) <= _AT_ONCE:
            return joint.join(texts)
        if self.has("wide"):
            return self._blocks["wide"] + joint + joint.join(texts)
        parts = [texts[at : at + _AT_ONCE] for at in range(0, len(texts), _AT_ONCE)]
        return joint.join(f"({joint.join(part)})" for part in parts)


def read_fingerprint(row: Sequence[Any], key: Sequence[Part]) -> Fingerprint:
    """Return the fingerprint from a row of its query, without the group."""
    rows, *others = row
    extremes: list[str | None] = []
    for number, text in enumerate(others[: 2 * len(key)]):
        # The block `ordered text` ends with a mark of one character.
        is_text = key[number // 2].kind in _COMPARED_AS_TEXT
        extremes.append(None if text is None else str(text)[:-1] if is_text else str(text))
    keys, *values = (int(number) for number in others[2 * len(key) :])
    return Fingerprint(
        int(rows), tuple(extremes[::2]), tuple(extremes[1::2]), keys, values[0] if values else None
    )


@cache
def _blocks(dialect: str) -> Mapping[str, str]:
    package, _, name = dialect.rpartition(":")
    return named_sql(package or __package__, name)


#: From a column of the source and the target's kind to the value in SQL and what else its form needs.
Read = Callable[[Column, Kind], tuple[str, Mapping[str, str]]]


def source_parts(measure: Measure, columns: Sequence[Column], read: Read) -> tuple[list[Part], list[Part]]:
    """Return the parts of the source for the target's key and values.

    Raise SchemaDriftError when one is missing, QueryError for one that cannot be compared.
    """
    found = [_source_part(column, measure, columns, read) for column in (*measure.key, *measure.values)]
    return found[: len(measure.key)], found[len(measure.key) :]


def _source_part(wanted: Column, measure: Measure, columns: Sequence[Column], read: Read) -> Part:
    found = next((column for column in columns if column.name.lower() == wanted.name.lower()), None)
    if found is None:
        raise SchemaDriftError(f"the extract has no column {wanted.name}")
    if found.kind is Kind.BINARY and wanted.kind is Kind.TEXT:
        leave = "" if wanted in measure.key else "leave it out of verify_columns, or "
        raise QueryError(
            f"column {wanted.name} is {found.declared} at the source and {wanted.declared} in the table, which may be"
            f" text: octets and text are not compared; {leave}load it as a text, such as its hexadecimal digits"
        )
    sql, extras = read(found, wanted.kind)
    return part(found, wanted.kind, sql, **extras)
