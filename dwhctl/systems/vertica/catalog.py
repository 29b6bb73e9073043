"""Read Vertica's catalog: columns, privileges, sessions; and name staging tables, sessions and slices in SQL."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetError, TargetRefusedError
from dwhctl.systems.base.fingerprint import literal, quote_name
from dwhctl.systems.base.target import ColumnWarning, StagingGroup
from dwhctl.systems.vertica import types as types

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.systems.vertica.client import VerticaClient

#: The most octets of a name: https://docs.vertica.com/24.2.x/en/sql-reference/language-elements/identifiers/
NAME_OCTETS = 128


#: Name, type as Vertica writes it, and whether NULL is allowed.
Declared = tuple[str, str, bool]


def declared_columns(client: VerticaClient, table: TableName) -> list[Declared]:
    """Return the columns that dwhctl writes (Vertica fills an IDENTITY column); none when there is no table."""
    return [
        (str(row["column_name"]), str(row["data_type"]), bool(row.get("is_nullable", True)))
        for row in _catalog_rows(client, table)
        if not row.get("is_identity")
    ]


def filled_columns(client: VerticaClient, table: TableName) -> set[str]:
    """Return the columns that Vertica fills where a statement does not: DEFAULT, IDENTITY."""
    rows = _catalog_rows(client, table)
    return {str(row["column_name"]) for row in rows if row.get("is_identity") or row.get("column_default")}


def _catalog_rows(client: VerticaClient, table: TableName) -> list[dict[str, Any]]:
    return client.dicts(f"SELECT * FROM v_catalog.columns WHERE {table.condition} ORDER BY ordinal_position")


def existing_columns(client: VerticaClient, table: TableName) -> list[Declared]:
    """Return the columns that dwhctl writes. Raise TargetRefusedError when there is no such table."""
    found = declared_columns(client, table)
    if not found:
        raise TargetRefusedError(f"there is no table {table}, or the user has no privilege on it")
    return found


def described(client: VerticaClient, table: TableName) -> list[Column]:
    """Return the columns. Raise TargetRefusedError for a type that dwhctl does not write."""
    return [_described(table, column) for column in existing_columns(client, table)]


def described_column(client: VerticaClient, table: TableName, name: str) -> Column:
    """Return one column. Raise TargetRefusedError when it does not exist."""
    for column in declared_columns(client, table):
        if column[0].lower() == name.lower():
            return _described(table, column)
    raise TargetRefusedError(f"there is no {table}.{name}, or the user has no privilege on the table")


def _described(table: TableName, declared: Declared) -> Column:
    name, type_, nullable = declared
    column = types.column(name, type_, nullable=nullable)
    if column is None:
        raise TargetRefusedError(f"{table}.{name}: dwhctl does not write Vertica's type {type_}")
    return column


#: The column of a staging table with the token of the attempt that staged the row.
TOKEN = "dwhctl_token"  # noqa: S105
_DEFAULT_SCHEMA = "public"
_DIGEST_OCTETS = 8


@dataclass(frozen=True, slots=True)
class TableName:
    """A table. Vertica compares names without case, quoted or not."""

    schema: str
    table: str

    @classmethod
    def of(cls, text: str) -> TableName:
        """Read `table`, `schema.table` or `database.schema.table`."""
        *before, table = text.split(".")
        return cls(before[-1] if before else _DEFAULT_SCHEMA, table)

    @property
    def sql(self) -> str:
        """The quoted name."""
        return f"{quote_name(self.schema)}.{quote_name(self.table)}"

    @property
    def condition(self) -> str:
        """The condition of the table's rows in a view of v_catalog."""
        return (
            f"LOWER(table_schema) = LOWER({literal(self.schema)})"
            f" AND LOWER(table_name) = LOWER({literal(self.table)})"
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def is_plain_id(run_id: str) -> bool:
    """Return whether labels and staging tables of this run id cannot be taken for those of another run."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id) is not None


def staging_prefix(run_id: str) -> str:
    """Return the prefix of the names of a run's staging tables, which no other run has."""
    return f"dwhctl_{_plain(run_id)}__"


def staging_table(group: StagingGroup, schema: str | None) -> TableName:
    """Return the staging table of a group: in the given schema, or that of the target."""
    prefix, rest = staging_prefix(group.run_id), _plain(group.name)
    if len(prefix) + len(rest) > NAME_OCTETS:
        digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
        rest = rest[: NAME_OCTETS - len(prefix) - len(digest) - 1] + "_" + digest
    return TableName(schema or TableName.of(group.table).schema, prefix + rest)


def run_label(run_id: str) -> str:
    """Return the prefix of the labels of a run's sessions; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Return the prefix of the labels of the sessions that stage in a group; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_plain(group.name)}"


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())


_PRIVILEGES = ("SELECT", "INSERT", "DELETE")
_KEYS = {"p": "primary key", "u": "unique key"}


def table_warnings(client: VerticaClient, table: TableName) -> Iterator[ColumnWarning]:
    """Yield what prevents or slows loads into an existing table: privileges, enabled keys.

    Source: https://docs.vertica.com/24.2.x/en/sql-reference/system-tables/v-catalog-schema/constraint-columns/
    """
    try:
        lacking = [
            privilege
            for privilege in _PRIVILEGES
            if not client.query(f"SELECT HAS_TABLE_PRIVILEGE({literal(str(table))}, {literal(privilege)})")[
                0
            ][0]
        ]
        if lacking:
            yield ColumnWarning(f"the user has no {', '.join(lacking)} on {table}: GRANT it", blocks=True)
        keys = client.query(
            "SELECT DISTINCT constraint_name, constraint_type FROM v_catalog.constraint_columns"
            f" WHERE {table.condition} AND is_enabled AND constraint_type IN ({literals(list(_KEYS))})"
        )
    except TargetRefusedError as error:
        # An older server, or a user without access to the catalog: loads do not need it.
        yield ColumnWarning(f"privileges and keys of {table} could not be checked: {error}", blocks=False)
        return
    for name, kind in sorted(keys):
        yield ColumnWarning(
            f"{table} has the {_KEYS[kind]} {name} ENABLED: Vertica then lets one transaction at a time load it, and"
            f" checks every row; ALTER TABLE ... ALTER CONSTRAINT {name} DISABLED, dwhctl checks for duplicate keys",
            blocks=False,
        )


#: How long the server may take to end a session, which rolls back first.
_END_SECONDS = 30.0
_POLL_SECONDS = 0.05


def end_sessions(client: VerticaClient, label: str, *, and_longer: bool = False) -> None:
    """End the other sessions with this label, and wait until they are gone.

    With `and_longer` also those whose label continues with a colon. A user who is not dbadmin sees and ends his own.
    Raise TargetError when they do not end within half a minute, or the client's timeout.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/management-functions/session-functions/close-session/
    """
    where = f"client_label = {literal(label)}"
    if and_longer:
        where += f" OR LEFT(client_label, {len(label) + 1}) = {literal(label + ':')}"
    closed: set[str] = set()
    refused = ""
    until = time.monotonic() + min(_END_SECONDS, client.timeout)
    while left := _sessions(client, where):
        for session_id in left - closed:
            try:
                client.query(f"SELECT CLOSE_SESSION({literal(session_id)})")
            except TargetRefusedError as error:
                refused = f"({error})"  # or it has just ended
        closed |= left
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} sessions of {label} do not end {refused}".rstrip())
        time.sleep(_POLL_SECONDS)


def _sessions(client: VerticaClient, where: str) -> set[str]:
    try:
        rows = client.query(
            f"SELECT session_id FROM v_monitor.sessions WHERE ({where})"
            f" AND client_label <> {literal(client.label)}"
        )
    except TargetRefusedError:
        return set()  # a user who may not see sessions cannot end any
    return {str(session_id) for (session_id,) in rows}


def conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[tuple[str, str]]:
    """Yield, for each pair of bounds, a condition of the shards, and one of the bounds ("" for none).

    A column that is a name has no known type: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for slice in slices:
        by_bounds.setdefault(_bounds(slice, slice_by), []).append(slice.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards), bounds


def literals(texts: Sequence[str]) -> str:
    """Return texts as a list for IN."""
    return ", ".join(map(literal, texts))


def of_shards(shards: Sequence[str]) -> str:
    """Return the condition of the rows of these shards."""
    return f"etl_source IN ({literals(shards)})"


def _bounds(slice: Slice, slice_by: Column | str | None) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    kind = slice_by.kind
    zoned = kind is Kind.TIMESTAMPTZ
    start, end = (slice.start_at, slice.end_at) if zoned else (slice.start, slice.end)
    if start is None or end is None:
        raise TargetError(f"the slice {slice.day} of {slice.shard} has no bounds")
    return _between(slice_by.name, _moment(start, kind), _moment(end, kind))


def _between(column: str, start: str, end: str) -> str:
    return f"{quote_name(column)} >= {start} AND {quote_name(column)} < {end}"


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        # The first date whose midnight is not before the bound.
        bound += timedelta(days=1) - timedelta(microseconds=1)
        return f"DATE {literal(bound.date().isoformat())}"
    type_ = "TIMESTAMPTZ" if kind is Kind.TIMESTAMPTZ else "TIMESTAMP"
    return f"{type_} {literal(bound.isoformat(sep=' '))}"
