"""What crosses the border between the parent and its workers: frozen, small, picklable."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.errors import AttemptError, InternalError, SchemaDriftError
from dwhctl.project.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dwhctl.columns import Column
    from dwhctl.project.model import Connection, Shard
    from dwhctl.project.slices import Slice
    from dwhctl.project.templates import Query
    from dwhctl.targets.contract import StagingGroup


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The table that a load writes to, as it stood when the run looked; `patience` is its load's timeout."""

    connection: Connection
    name: str
    columns: tuple[Column, ...]
    state_dir: Path
    patience: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class StageOrder:
    """All that a worker needs to stage one slice: one attempt, one session, one token."""

    slice: Slice
    shard: Shard
    source: Connection
    query: Query
    key: tuple[str, ...]
    slice_by: str | None
    table: TargetTable
    group: StagingGroup
    token: str
    etl_id: int
    fill_missing: bool = False
    login_known: bool | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in words that may be shown.

    `connection` is the one that could not be made, when that was the reason. `cause` is what stands behind this
    failure: of a slice that was never tried because its connection is parked, what parked it.
    """

    error_class: str
    message: str
    permanent: bool
    new_columns: tuple[Column, ...] = ()
    connection: str | None = None
    cause: Failure | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an error; what is not an AttemptError is a defect, and permanent."""
        if not isinstance(error, AttemptError):
            return cls(InternalError.__name__, mask(f"{type(error).__name__}: {error}"), permanent=True)
        new = tuple(error.new_columns) if isinstance(error, SchemaDriftError) else ()
        connection = getattr(error, "connection", None)
        return cls(type(error).__name__, mask(str(error)), error.permanent, new, connection)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a StageOrder. `seconds` says where its time went, by step."""

    token: str
    rows: int = 0
    bytes: int = 0
    failure: Failure | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
