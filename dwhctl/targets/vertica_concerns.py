"""What stands in the way of loads into a Vertica table: privileges, and keys that Vertica enforces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.engines.vertica import literal
from dwhctl.errors import TargetRefusedError
from dwhctl.targets.contract import Concern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.engines.vertica import Session
    from dwhctl.targets.vertica_names import TableName

_NEEDED = ("SELECT", "INSERT", "DELETE")
_KEYS = {"p": "primary key", "u": "unique key"}


def concerns(session: Session, table: TableName) -> Iterator[Concern]:
    """Look at a table that is there.

    Source: https://docs.vertica.com/24.2.x/en/sql-reference/system-tables/v-catalog-schema/constraint-columns/
    """
    try:
        yield from _lacking(session, table)
        yield from _enforced(session, table)
    except TargetRefusedError as error:
        # An older server, or a user who may not look there: loads do not need it.
        yield Concern(f"privileges and keys of {table} could not be looked at: {error}", blocks=False)


def _lacking(session: Session, table: TableName) -> Iterator[Concern]:
    lacking = [privilege for privilege in _NEEDED if not _may(session, table, privilege)]
    if lacking:
        yield Concern(f"the user has no {', '.join(lacking)} on {table}: GRANT it", blocks=True)


def _enforced(session: Session, table: TableName) -> Iterator[Concern]:
    keys = session.query(
        "SELECT DISTINCT constraint_name, constraint_type FROM v_catalog.constraint_columns"
        f" WHERE {table.condition} AND is_enabled AND constraint_type IN ({', '.join(map(literal, _KEYS))})"
    )
    for name, kind in sorted(keys):
        yield Concern(
            f"{table} has the {_KEYS[kind]} {name} ENABLED: Vertica then lets one transaction at a time load it, and"
            f" checks every row; ALTER TABLE ... ALTER CONSTRAINT {name} DISABLED, dwhctl looks for doubles itself",
            blocks=False,
        )


def _may(session: Session, table: TableName, privilege: str) -> bool:
    ((may,),) = session.query(f"SELECT HAS_TABLE_PRIVILEGE({literal(str(table))}, {literal(privilege)})")
    return bool(may)
