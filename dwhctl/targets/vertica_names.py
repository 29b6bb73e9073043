"""Names in Vertica: tables, staging tables, session labels."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.engines.vertica import literal, quote
from dwhctl.targets import VERTICA_NAME_OCTETS

if TYPE_CHECKING:
    from dwhctl.targets.contract import StagingGroup

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
    if len(prefix) + len(rest) > VERTICA_NAME_OCTETS:
        digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
        rest = rest[: VERTICA_NAME_OCTETS - len(prefix) - len(digest) - 1] + "_" + digest
    return TableName(schema or TableName.of(group.table).schema, prefix + rest)


def run_label(run_id: str) -> str:
    """Give what the labels of all sessions of a run begin with; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Give what the labels of all sessions that stage in a group begin with; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_plain(group.name)}"


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())
