"""The description of a column that sources and targets share."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import pyarrow as pa

#: The fields that dwhctl adds to every row: its shard, its session, and its id.
SERVICE_FIELDS = ("etl_source", "etl_id", "hash_id")
#: Names that no column of an extract has: those, and the column of a staging table with the token of an attempt.
OWN_COLUMNS = (*SERVICE_FIELDS, "dwhctl_token")


class Kind(enum.StrEnum):
    """The kind of a column's values, independent of a system's name for their type."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TEXT = "text"
    UUID = "uuid"
    BINARY = "binary"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamp with time zone"


class Column(Struct, frozen=True):
    """A declared column: `type` is its Arrow type, `declared` its type in the system's own words.

    A target's column may hold less than its Arrow type: no text or binary value of more than `octets` octets, none
    below `least` or above `most` (as Python values), no text of more than `characters` characters, with a NUL character
    (`no_nul`), or other than those `allowed`. A `padded` column fills values up to its width: blanks at the end of a
    text are lost, and a binary value has all its `octets`. A text column that takes `any_octets` is a binary one for
    binary values. One that `rewrites` keeps the meaning of a text, not the text: it takes only values that are of its
    own declared type already; its text says what to do.

    A source's column has more, where the system declares it: a text or binary value has at most `places` (bytes of a
    code page or units of UTF-16), each one octet or more in UTF-8, and exactly as many if it is `fixed`; a time has at
    most `fraction` digits of a second.
    """

    name: str
    kind: Kind
    type: pa.DataType
    declared: str
    nullable: bool = True
    octets: int | None = None
    least: object = None
    most: object = None
    padded: bool = False
    places: int | None = None
    fixed: bool = False
    fraction: int | None = None
    characters: int | None = None
    no_nul: bool = False
    any_octets: bool = False
    allowed: tuple[str, ...] | None = None
    rewrites: str = ""

    @property
    def shown(self) -> str:
        """The declared type, and why it takes no other's values."""
        return f"{self.declared} ({self.rewrites})" if self.rewrites else self.declared
