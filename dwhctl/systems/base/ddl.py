"""The names of columns, and the table that a load makes when it has no `create`: the SQL that all systems share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import OWN_COLUMNS, SERVICE_FIELDS, Column, Kind
from dwhctl.core.errors import QueryError, TargetRefusedError
from dwhctl.core.sql import quote_name, quote_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The octets of a shard's name: a task name, which has it, has no more.
_SHARD_OCTETS = 200
_NO_KEYS = (Kind.FLOAT, Kind.BOOLEAN)
_DAYS = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def check_case(table: str, names: Sequence[str]) -> None:
    """Raise TargetRefusedError for names that a system tells apart by case, and dwhctl does not."""
    twice = [name for name, times in Counter(name.lower() for name in names).items() if times > 1]
    if twice:
        raise TargetRefusedError(
            f"{table}: columns that differ by case only are taken for one: {', '.join(twice)}"
        )
    for name in names:
        if name != name.lower() and name.lower() in SERVICE_FIELDS:
            raise TargetRefusedError(
                f"{table} has a column {quote_name(name)}, which is not {name.lower()} here; dwhctl needs that name in"
                " small letters: rename the column in the table and in the load's `create`"
            )


class NewTable(Struct, frozen=True):
    """A table to make: the service fields, then the source's columns. `key` and `slice_by` are names of `columns`.

    `zone` is that of the midnights at which slices of instants begin, where all of them have one.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    slice_by: str | None
    zone: str | None = None

    @property
    def schema(self) -> str | None:
        return self.name.rpartition(".")[0] or None

    def columns_sql(
        self, declaration: Callable[[Column], str], quote: Callable[[str], str] = quote_name
    ) -> str:
        """Return the columns for a CREATE TABLE. Raise TargetRefusedError with every column without a type."""
        lines, refused = [], []
        for column in self.columns:
            try:
                required = "" if column.nullable else " NOT NULL"
                lines.append(f"    {quote(column.name)} {declaration(column)}{required}")
            except TargetRefusedError as error:
                refused.append(str(error))
        if refused:
            raise TargetRefusedError("; ".join(refused))
        return ",\n".join(lines)

    def statements(self, columns: str, after: str = "") -> list[str]:
        """Return the statements: the schema, if the name has one, and the table; `after` follows the columns."""
        schema = [f"CREATE SCHEMA IF NOT EXISTS {quote_path(self.schema)}"] if self.schema else []
        table = f"CREATE TABLE IF NOT EXISTS {quote_path(self.name)} (\n{columns}\n)"
        return [*schema, f"{table}\n{after}" if after else table]


def check_name(column: Column, system: str, most: int) -> None:
    """Raise TargetRefusedError for a column's name of more than `most` octets, which the system refuses or cuts off."""
    if (octets := len(column.name.encode())) > most:
        raise TargetRefusedError(
            f"column {column.name}: its name has {octets} octets, and {system} takes {most}; shorten it in the extract:"
            " ... AS name"
        )


def new_table(
    name: str, columns: Sequence[Column], key: Sequence[str], slice_by: str | None, zone: str | None = None
) -> NewTable:
    """Return the table for rows of these columns of a source.

    The key and `slice_by` are NOT NULL: a load refuses NULL there. Raise QueryError for columns that no load can have.
    """
    by_name = {column.name.lower(): column for column in columns}
    found_by = [by_name.get(wanted.lower()) for wanted in (*key, *([slice_by] if slice_by else []))]
    _check(columns, key, slice_by, found_by)
    required = {column.name for column in found_by if column is not None}
    own = tuple(
        replace(column, nullable=column.nullable and column.name not in required) for column in columns
    )
    names = [column.name for column in found_by if column is not None]
    by = names[-1] if slice_by else None
    return NewTable(name, _service_columns() + own, tuple(names[: len(key)]), by, zone)


def _check(
    columns: Sequence[Column], key: Sequence[str], slice_by: str | None, found: Sequence[Column | None]
) -> None:
    wanted = (*key, *([slice_by] if slice_by else []))
    if missing := [name for name, column in zip(wanted, found, strict=True) if column is None]:
        raise QueryError(f"the extract has no column {', '.join(dict.fromkeys(missing))}")
    for column in columns:
        if column.name.lower() in OWN_COLUMNS:
            raise QueryError(f"column {column.name} is dwhctl's own and must not come from the extract")
    for column in filter(None, found[: len(key)]):
        if column.kind in _NO_KEYS:
            raise QueryError(
                f"key column {column.name} is {column.declared}: a {column.kind} cannot be a key"
            )
    last = found[-1]
    if slice_by and last is not None and last.kind not in _DAYS:
        raise QueryError(f"slice_by column {last.name} is {last.declared}, not a date or time")


def _service_columns() -> tuple[Column, ...]:
    import pyarrow as pa

    source, *numbers = SERVICE_FIELDS
    text = Column(
        source, Kind.TEXT, pa.string(), "text", nullable=False, octets=_SHARD_OCTETS, places=_SHARD_OCTETS
    )
    integers = (Column(name, Kind.INTEGER, pa.int64(), "64-bit integer", nullable=False) for name in numbers)
    return (text, *integers)
