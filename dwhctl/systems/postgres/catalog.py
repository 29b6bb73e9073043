"""Read PostgreSQL's catalog: columns, privileges, indexes, sessions of other runs; find staging tables; inspect one."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.core.columns import Kind
from dwhctl.core.errors import About, CountsDifferError, TargetError, TargetRefusedError
from dwhctl.core.sql import literal, quote_name, quote_path
from dwhctl.systems.base.ddl import check_case
from dwhctl.systems.base.server import ServerInspection
from dwhctl.systems.base.staging import described_each, run_label, staging_name, staging_prefix
from dwhctl.systems.base.target import ColumnWarning
from dwhctl.systems.postgres import NAME_OCTETS, types

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.systems.base.staging import Described
    from dwhctl.systems.base.target import StagingGroup
    from dwhctl.systems.postgres.copy_client import CopyClient

_DIGEST_OCTETS = 4
#: pgpq encodes decimals of up to so many bits.
_SENT_BITS = 128


class Declared(Struct, frozen=True):
    """A column in the catalog: `base` is its type, a domain's base type."""

    name: str
    declared: str
    base: str
    nullable: bool
    is_enum: bool
    is_filled: bool
    is_generated: bool
    #: Whether row-level security may hide rows of the table from the user.
    hides_rows: bool

    def column(self) -> Column | None:
        """Return the column; None when dwhctl does not write the type."""
        return types.column(self.name, self.base, nullable=self.nullable, is_enum=self.is_enum)

    @property
    def staged(self) -> str:
        """Its type in a staging table: what is sent has a binary form there."""
        column = self.column()
        is_wide = column is not None and column.kind is Kind.DECIMAL and column.type.bit_width > _SENT_BITS
        return "text" if is_wide else self.base


#: A domain's base type is found through as many domains as there are.
_COLUMNS = """
WITH RECURSIVE tables AS MATERIALIZED (
    SELECT name, pg_class.oid,
           row_security_active(pg_class.oid) AND EXISTS (
               SELECT FROM (VALUES (CAST('r' AS "char")), ('d')) AS needed (command)
                WHERE (SELECT bool_or(polpermissive AND shows) AND bool_and(polpermissive OR shows)
                         FROM pg_policy, LATERAL (SELECT pg_get_expr(polqual, polrelid) = 'true' AS shows) AS by
                        WHERE polrelid = pg_class.oid AND polcmd IN ('*', command)
                          AND EXISTS (SELECT FROM unnest(polroles) AS role
                                       WHERE role = 0 OR pg_has_role(role, 'USAGE'))) IS NOT TRUE) AS hides
      FROM unnest(ARRAY[{tables}]) AS name JOIN pg_class ON pg_class.oid = to_regclass(name)
), declared AS (
    SELECT name, hides, attnum, attname, atttypid AS own, atttypmod AS own_mod, atttypid AS type, atttypmod AS mod,
           attnotnull, atthasdef, attidentity, attgenerated
      FROM tables JOIN pg_attribute ON attrelid = tables.oid WHERE attnum > 0 AND NOT attisdropped
  UNION ALL
    SELECT name, hides, attnum, attname, own, own_mod, typbasetype, typtypmod, attnotnull OR typnotnull, atthasdef,
           attidentity, attgenerated
      FROM declared JOIN pg_type ON pg_type.oid = declared.type WHERE typtype = 'd'
)
SELECT name, attname, format_type(own, own_mod), format_type(type, mod), NOT attnotnull, typtype = 'e',
       atthasdef OR attidentity <> '', attidentity = 'a' OR attgenerated <> '', hides
  FROM declared JOIN pg_type ON pg_type.oid = declared.type WHERE typtype <> 'd' ORDER BY name, attnum
"""


def _declared(client: CopyClient, tables: Iterable[str]) -> dict[str, list[Declared]]:
    """Return the columns of (quoted) tables in order; a table that does not exist is left out."""
    found: dict[str, list[Declared]] = {}
    listed = ", ".join(map(literal, dict.fromkeys(tables)))
    for table, *row in client.query(_COLUMNS.replace("{tables}", listed)):
        found.setdefault(table, []).append(Declared(*row))
    return found


def declared_columns(client: CopyClient, table: str) -> list[Declared]:
    """Return the columns of the (quoted) table in order; none when there is no such table."""
    return _declared(client, [table]).get(table, [])


def existing_columns(client: CopyClient, name: str) -> list[Declared]:
    """Return the columns of a table. Raise TargetRefusedError when there is no such table."""
    return _existing(name, declared_columns(client, quote_path(name)))


def _existing(name: str, found: list[Declared]) -> list[Declared]:
    if not found:
        missing = TargetRefusedError(
            f"there is no table {name}, or the user has no privilege on it (PostgreSQL writes names that are not quoted"
            " in small letters)"
        )
        missing.about = About.TABLE
        raise missing
    if found[0].hides_rows:
        hidden = TargetRefusedError(
            f"row-level security hides rows of {name} from the user: dwhctl could not delete old ones; give the user"
            " BYPASSRLS, or policies FOR SELECT and FOR DELETE USING (true)"
        )
        hidden.about = About.PERMISSION
        raise hidden
    return found


def described(client: CopyClient, name: str) -> list[Column]:
    """Return the columns that dwhctl writes; PostgreSQL fills generated ones. Raise TargetRefusedError for a type."""
    return _written(name, declared_columns(client, quote_path(name)))


def described_tables(client: CopyClient, names: Iterable[str]) -> dict[str, Described]:
    """Return the columns of each table that dwhctl writes, or the error that `described` raises, by one query."""
    quoted = {name: quote_path(name) for name in names}
    declared = _declared(client, quoted.values())
    return described_each(quoted, lambda name: _written(name, declared.get(quoted[name], [])))


def _written(name: str, declared: list[Declared]) -> list[Column]:
    columns = [_described(name, column) for column in _existing(name, declared) if not column.is_generated]
    check_case(name, [column.name for column in columns])
    return columns


def described_column(client: CopyClient, name: str, column: str) -> Column:
    """Return one column. Raise TargetRefusedError when it does not exist."""
    for found in existing_columns(client, name):
        if found.name.lower() == column.lower():
            return _described(name, found)
    raise TargetRefusedError(f"there is no {name}.{column}")


def _described(table: str, declared: Declared) -> Column:
    column = declared.column()
    if column is None:
        hint = "; give it precision and scale, as in numeric(18,2)" if declared.base == "numeric" else ""
        raise TargetRefusedError(
            f"{table}.{declared.name}: dwhctl does not write PostgreSQL's type {declared.declared}{hint}"
        )
    return column


#: The types that every server has by the same oid, once they were asked for.
_built_in: dict[int, tuple[str, bool]] = {}
_FIRST_OF_USERS = 10_000


def type_names(client: CopyClient, oids: set[int]) -> dict[int, tuple[str, bool]]:
    """Return the names of types by oid, and whether each is an enum."""
    known = {oid: _built_in[oid] for oid in oids if oid in _built_in}
    if asked := oids - known.keys():
        listed = ", ".join(map(str, sorted(asked)))
        rows = client.query(
            f"SELECT oid, format_type(oid, NULL), typtype = 'e' FROM pg_type WHERE oid IN ({listed})"
        )
        known |= {int(oid): (str(name), bool(is_enum)) for oid, name, is_enum in rows}
        _built_in.update({oid: known[oid] for oid in asked & known.keys() if oid < _FIRST_OF_USERS})
    return known


def staging_table(client: CopyClient, group: StagingGroup, schema: str | None) -> str:
    """Return the quoted name of a group's staging table: in the given schema, or in that of the target."""
    if schema is None:
        *before, _ = group.table.split(".")
        schema = before[-1] if before else _schema_of(client, group.table)
    return f"{quote_name(schema)}.{quote_name(staging_name(group, NAME_OCTETS))}"


def _schema_of(client: CopyClient, table: str) -> str:
    rows = client.query(
        "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        f" WHERE pg_class.oid = to_regclass({literal(quote_path(table))})"
    )
    return str(rows[0][0]) if rows else "public"


def staging_tables(client: CopyClient, run_id: str) -> list[str]:
    """Return the quoted names of the staging tables that a run left."""
    prefix = staging_prefix(run_id)
    rows = client.query(
        "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        f" WHERE relkind = 'r' AND left(relname, {len(prefix)}) = {literal(prefix)}"
    )
    return [f"{quote_name(schema)}.{quote_name(table)}" for schema, table in rows]


def token_number(token: str) -> int:
    """Return the number by which a token's rows are marked: eight octets a row, not a text."""
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "big", signed=True)


def copy_sql(table: str, names: str) -> str:
    """Return the statement that takes rows into these columns of a table."""
    return f"COPY {table} ({names}) FROM STDIN (FORMAT binary)"


def publication_lock(table: str) -> str:
    """Return the statement that lets one publication at a time work on the (quoted) table; readers and writers go on.

    A writer is a slice that another run writes directly: its rows are of another shard or day.
    """
    return f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"


def refresh_lock(table: str) -> str:
    """Return the statements that let one transaction at a time write to the (quoted) table; readers go on.

    Its other statements all see what was committed when the first of them began: a LOCK comes before that.
    """
    return f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"


#: The triggers of partitions fire too. tgtype has the bit 8 for DELETE and 4 for INSERT; those of constraints are
#: internal: https://doxygen.postgresql.org/pg__trigger_8h_source.html
_WRITE_WAYS = """
WITH RECURSIVE parts AS (
    SELECT CAST(to_regclass({table}) AS oid) AS part
  UNION
    SELECT inhrelid FROM pg_inherits JOIN parts ON inhparent = part
)
SELECT relkind IN ('r', 'p') AND NOT relhasrules AND NOT row_security_active(oid),
       relhasrules OR EXISTS (SELECT FROM pg_trigger JOIN parts ON tgrelid = part
                               WHERE tgtype & 8 <> 0 AND NOT tgisinternal),
       relkind NOT IN ('r', 'p') OR relhasrules OR EXISTS (SELECT FROM pg_trigger JOIN parts ON tgrelid = part
                               WHERE tgtype & 4 <> 0 AND NOT tgisinternal)
  FROM pg_class WHERE oid = to_regclass({table})
"""
#: At COMMIT a deferred trigger would change rows that are counted, and what refuses them be taken for a lost answer.
FIRE_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"


def write_ways(client: CopyClient, table: str, after: str = "") -> tuple[bool, bool, bool]:
    """Return whether COPY writes to the (quoted) table what INSERT would, whether DELETE may leave rows there, and
    whether something may change rows on their way into it.

    COPY does not write to views, and goes past rules and row-level security; a rule or trigger may undo a DELETE, write
    its rows again, or move a row to another slice.
    `after` is sent before the query.
    """
    rows = client.query(after + _WRITE_WAYS.replace("{table}", literal(table)))
    takes_copy, may_keep, may_move = rows[0] if rows else (False, False, False)
    return bool(takes_copy), bool(may_keep), bool(may_move)


def kept_rows(table: str) -> CountsDifferError:
    """Return the error for a table that still has rows that a DELETE was to remove."""
    return CountsDifferError(
        f"{table} still has old rows after DELETE: a trigger or rule of the table keeps them; drop it"
    )


def lost_rows(table: str, sent: int, taken: int) -> CountsDifferError:
    """Return the error for a table that took fewer rows than were written to it."""
    return CountsDifferError(
        f"{sent} rows were written to {table}, but it took {taken}: a trigger, rule or policy of the table leaves rows"
        " out or sends them elsewhere; drop it"
    )


def moved_rows(table: str, sent: int, found: int) -> CountsDifferError:
    """Return the error for a table whose new rows are in other slices than they were written for."""
    return CountsDifferError(
        f"{sent} rows were written to {table}, but {found} are in their slices now: a trigger or rule of the table"
        " changes etl_source or the column of slice_by; drop it"
    )


def label(text: str) -> str:
    """Return a label that PostgreSQL does not cut."""
    if len(text.encode()) <= NAME_OCTETS:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
    cut = text.encode()[: NAME_OCTETS - len(digest) - 1].decode(errors="ignore")
    return f"{cut}~{digest}"


def group_label(group: StagingGroup) -> str:
    """Return the prefix of the labels of the sessions that stage in a group; a colon follows it."""
    digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
    return f"{run_label(group.run_id)}:{digest}"


_PRIVILEGES = ("SELECT", "INSERT", "DELETE")


def table_warnings(client: CopyClient, name: str, schema: str | None) -> Iterator[ColumnWarning]:
    """Yield what prevents or slows loads into an existing table: privileges, no index by shard."""
    table = literal(quote_path(name))
    checks = ", ".join(f"has_table_privilege({table}, {literal(one)})" for one in _PRIVILEGES)
    ((*granted, creates, where),) = client.query(
        f"SELECT {checks}, has_schema_privilege(nspname, 'CREATE'), nspname FROM pg_namespace WHERE nspname ="
        f" coalesce({literal(schema) if schema else 'NULL'}, (SELECT nspname FROM pg_class JOIN pg_namespace ON"
        f" pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass({table})))"
    ) or [(True,) * len(_PRIVILEGES) + (False, schema)]
    lacking = [one for one, held in zip(_PRIVILEGES, granted, strict=True) if not held]
    if lacking:
        yield ColumnWarning(f"the user has no {', '.join(lacking)} on {name}: GRANT it", blocks=True)
    if not creates:
        yield ColumnWarning(
            f"the user may not create staging tables in the schema {where}: GRANT CREATE ON SCHEMA, or set"
            " staging_schema of the connection",
            blocks=True,
        )
    indexed = client.query(
        "SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
        f" WHERE indrelid = to_regclass({table}) AND attname = 'etl_source' AND indpred IS NULL LIMIT 1"
    )
    if not indexed:
        yield ColumnWarning(
            f"{name} has no index with etl_source: each publication reads the whole table; CREATE INDEX ON {name}"
            " (etl_source, and the column of slice_by)",
            blocks=False,
        )


#: How long the server may take to end a session, which rolls back first.
_END_SECONDS = 30.0
_POLL_SECONDS = 0.02


def end_sessions(client: CopyClient, wanted: str, *, and_longer: bool = False) -> None:
    """End the other sessions with this label, and wait until they are gone.

    With `and_longer` also those whose label continues with a colon. A user can always end its own sessions, but not as
    the role that ALTER ROLE ... SET role may have given it at its login.
    Raise TargetError when they do not end within half a minute, or the client's timeout.
    """
    where = f"application_name = {literal(wanted)}"
    if and_longer:
        where += f" OR left(application_name, {len(wanted) + 1}) = {literal(wanted + ':')}"
    until = time.monotonic() + min(_END_SECONDS, client.timeout or _END_SECONDS)
    while left := client.query(
        "SET LOCAL ROLE NONE; "
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND"
        f" usename = session_user AND pid <> pg_backend_pid() AND ({where})"
    ):
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} sessions of {wanted} do not end")
        time.sleep(_POLL_SECONDS)


class PostgresInspection(ServerInspection["CopyClient"]):
    """Reads a table in one session. `slice_by` is the column by which it is sliced."""

    def __init__(self, client: CopyClient, table: str, slice_by: Column | None) -> None:
        super().__init__("postgres", client, quote_path(table), slice_by)
        self._name = table

    def columns(self) -> Sequence[Column]:
        return described(self._client, self._name)

    def beside(self, table: str, slice_by: str | None) -> PostgresInspection:
        column = described_column(self._client, table, slice_by) if slice_by else None
        return PostgresInspection(self._client, table, column)
