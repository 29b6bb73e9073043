"""What Vertica's catalog says of a table's columns."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.columns import Kind
from dwhctl.core.errors import TargetError, TargetRefusedError
from dwhctl.systems.base.target import ColumnWarning
from dwhctl.systems.vertica import types as types
from dwhctl.systems.vertica.client import literal, literals, quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup
    from dwhctl.systems.vertica.client import VerticaClient

#: The most octets of a name: https://docs.vertica.com/24.2.x/en/sql-reference/language-elements/identifiers/
NAME_OCTETS = 128


#: Name, type in Vertica's words, and whether NULL is allowed.
Declared = tuple[str, str, bool]


def declared_columns(session: VerticaClient, table: TableName) -> list[Declared]:
    """Give the columns that dwhctl writes (an IDENTITY column Vertica fills itself); none when there is no table."""
    rows = session.dicts(f"SELECT * FROM v_catalog.columns WHERE {table.condition} ORDER BY ordinal_position")
    return [
        (str(row["column_name"]), str(row["data_type"]), bool(row.get("is_nullable", True)))
        for row in rows
        if not row.get("is_identity")
    ]


def filled_columns(session: VerticaClient, table: TableName) -> set[str]:
    """Name the columns that Vertica fills by itself where a statement does not: DEFAULT, IDENTITY."""
    rows = session.dicts(f"SELECT * FROM v_catalog.columns WHERE {table.condition}")
    return {str(row["column_name"]) for row in rows if row.get("is_identity") or row.get("column_default")}


def existing_columns(session: VerticaClient, table: TableName) -> list[Declared]:
    """Give the columns that dwhctl writes. Raise TargetRefusedError when there is no such table."""
    found = declared_columns(session, table)
    if not found:
        raise TargetRefusedError(f"there is no table {table}, or the user has no privilege on it")
    return found


def described(session: VerticaClient, table: TableName) -> list[Column]:
    """Describe the columns. Raise TargetRefusedError for a type that has no place here."""
    return [_described(table, one) for one in existing_columns(session, table)]


def described_column(session: VerticaClient, table: TableName, name: str) -> Column:
    """Describe one column. Raise TargetRefusedError when it is not there."""
    for one in declared_columns(session, table):
        if one[0].lower() == name.lower():
            return _described(table, one)
    raise TargetRefusedError(f"there is no {table}.{name}, or the user has no privilege on the table")


def names_of(columns: Sequence[Declared]) -> set[str]:
    """Give the names in lower case: Vertica compares them without case."""
    return {name.lower() for name, _, _ in columns}


def _described(table: TableName, one: Declared) -> Column:
    name, declared, nullable = one
    column = types.column(name, declared, nullable=nullable)
    if column is None:
        raise TargetRefusedError(f"{table}.{name}: dwhctl does not write Vertica's type {declared}")
    return column


#: The column of a staging table that says which attempt staged the row.
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
        """The name as it stands in a statement."""
        return f"{quote(self.schema)}.{quote(self.table)}"

    @property
    def condition(self) -> str:
        """What finds the table in a view of v_catalog."""
        return (
            f"LOWER(table_schema) = LOWER({literal(self.schema)})"
            f" AND LOWER(table_name) = LOWER({literal(self.table)})"
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def is_plain_id(run_id: str) -> bool:
    """Tell whether a run of this id could have sessions and staging tables: no other run's begin like its own."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id) is not None


def staging_prefix(run_id: str) -> str:
    """Give what the names of all staging tables of a run begin with, and of no other run."""
    return f"dwhctl_{_plain(run_id)}__"


def staging_table(group: StagingGroup, schema: str | None) -> TableName:
    """Name the staging table of a group: in the schema given, else beside the target."""
    prefix, rest = staging_prefix(group.run_id), _plain(group.name)
    if len(prefix) + len(rest) > NAME_OCTETS:
        digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
        rest = rest[: NAME_OCTETS - len(prefix) - len(digest) - 1] + "_" + digest
    return TableName(schema or TableName.of(group.table).schema, prefix + rest)


def run_label(run_id: str) -> str:
    """Give what the labels of all sessions of a run begin with; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Give what the labels of all sessions that stage in a group begin with; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_plain(group.name)}"


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())


_NEEDED = ("SELECT", "INSERT", "DELETE")
_KEYS = {"p": "primary key", "u": "unique key"}


def concerns(session: VerticaClient, table: TableName) -> Iterator[ColumnWarning]:
    """Look at a table that is there.

    Source: https://docs.vertica.com/24.2.x/en/sql-reference/system-tables/v-catalog-schema/constraint-columns/
    """
    try:
        yield from _lacking(session, table)
        yield from _enforced(session, table)
    except TargetRefusedError as error:
        # An older server, or a user who may not look there: loads do not need it.
        yield ColumnWarning(f"privileges and keys of {table} could not be looked at: {error}", blocks=False)


def _lacking(session: VerticaClient, table: TableName) -> Iterator[ColumnWarning]:
    lacking = [privilege for privilege in _NEEDED if not _may(session, table, privilege)]
    if lacking:
        yield ColumnWarning(f"the user has no {', '.join(lacking)} on {table}: GRANT it", blocks=True)


def _enforced(session: VerticaClient, table: TableName) -> Iterator[ColumnWarning]:
    keys = session.query(
        "SELECT DISTINCT constraint_name, constraint_type FROM v_catalog.constraint_columns"
        f" WHERE {table.condition} AND is_enabled AND constraint_type IN ({', '.join(map(literal, _KEYS))})"
    )
    for name, kind in sorted(keys):
        yield ColumnWarning(
            f"{table} has the {_KEYS[kind]} {name} ENABLED: Vertica then lets one transaction at a time load it, and"
            f" checks every row; ALTER TABLE ... ALTER CONSTRAINT {name} DISABLED, dwhctl looks for doubles itself",
            blocks=False,
        )


def _may(session: VerticaClient, table: TableName, privilege: str) -> bool:
    ((may,),) = session.query(f"SELECT HAS_TABLE_PRIVILEGE({literal(str(table))}, {literal(privilege)})")
    return bool(may)


#: How long the server may take to end a session: it rolls back first.
_GONE_SECONDS = 30.0
_POLL_SECONDS = 0.05


def end_sessions(session: VerticaClient, label: str, *, and_longer: bool = False) -> None:
    """End the sessions with this label, but for one's own, and wait until they are gone.

    With `and_longer` also those whose label goes on with a colon. A user who is not dbadmin sees and ends his own.
    Raise TargetError when they do not go within half a minute, or the session's timeout.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/management-functions/session-functions/close-session/
    """
    where = f"client_label = {literal(label)}"
    if and_longer:
        where += f" OR LEFT(client_label, {len(label) + 1}) = {literal(label + ':')}"
    asked: set[str] = set()
    refused = ""
    until = time.monotonic() + min(_GONE_SECONDS, session.timeout)
    while left := _sessions(session, where):
        for session_id in left - asked:
            refused = _close(session, session_id) or refused
        asked |= left
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} sessions of {label} do not end {refused}".rstrip())
        time.sleep(_POLL_SECONDS)


def _sessions(session: VerticaClient, where: str) -> set[str]:
    try:
        rows = session.query(
            f"SELECT session_id FROM v_monitor.sessions WHERE ({where})"
            f" AND client_label <> {literal(session.label)}"
        )
    except TargetRefusedError:
        return set()  # who may not look at sessions can end none
    return {str(session_id) for (session_id,) in rows}


def _close(session: VerticaClient, session_id: str) -> str:
    """Ask for the end of a session; give why not. It may have gone by itself meanwhile."""
    try:
        session.query(f"SELECT CLOSE_SESSION({literal(session_id)})")
    except TargetRefusedError as error:
        return f"({error})"
    return ""


def conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[tuple[str, str]]:
    """For each pair of bounds give a condition of the shards, and one of the bounds ("" for none).

    Of a column by its name only, the type is not known: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for one in slices:
        by_bounds.setdefault(_bounds(one, slice_by), []).append(one.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards), bounds


def of_shards(shards: Sequence[str]) -> str:
    """Give the condition of the rows of these shards."""
    return f"etl_source IN ({literals(shards)})"


def _bounds(one: Slice, slice_by: Column | str | None) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    kind = slice_by.kind
    zoned = kind is Kind.TIMESTAMPTZ
    start, end = (one.start_at, one.end_at) if zoned else (one.start, one.end)
    if start is None or end is None:
        raise TargetError(f"the slice {one.day} of {one.shard} has no bounds")
    return _between(slice_by.name, _moment(start, kind), _moment(end, kind))


def _between(column: str, start: str, end: str) -> str:
    return f"{quote(column)} >= {start} AND {quote(column)} < {end}"


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        # The first date whose midnight is not before the bound.
        bound += timedelta(days=1) - timedelta(microseconds=1)
        return f"DATE {literal(bound.date().isoformat())}"
    if kind is Kind.TIMESTAMPTZ:
        return f"TIMESTAMPTZ {literal(bound.isoformat(sep=' '))}"
    return f"TIMESTAMP {literal(bound.isoformat(sep=' '))}"
