"""What crosses the border between the parent and its workers: frozen, small, picklable."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from dwhctl.errors import About, AttemptError, DwhctlError, InternalError, SchemaDriftError, is_error
from dwhctl.project.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dwhctl.columns import Column
    from dwhctl.project.model import Connection, Shard
    from dwhctl.project.slices import Slice
    from dwhctl.project.templates import Query
    from dwhctl.targets.contract import StagingGroup

Level = Literal["info", "warning", "error"]
_MOST_TRACEBACK = 8000


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The table that a load writes to, as it stood when the run looked; `patience` is its load's timeout."""

    connection: Connection
    name: str
    columns: tuple[Column, ...]
    state_dir: Path
    patience: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The columns that a shard has delivered before, in lower case, with their declared types."""

    shard: str
    columns: Mapping[str, str]


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
    delivered: Delivered | None = None
    login_known: bool | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in words that may be shown.

    `connection` is the one that could not be made, when that was the reason. `cause` is what stands behind this
    failure: of a slice that was never tried because its connection is parked, what parked it. `about`, `line` and
    `place` are those of the error. `traceback` is that of a defect.
    """

    error_class: str
    message: str
    permanent: bool
    new_columns: tuple[Column, ...] = ()
    connection: str | None = None
    cause: Failure | None = None
    about: About = About.SQL
    line: int | None = None
    place: str = ""
    traceback: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an error; what is not an AttemptError is a defect, and permanent."""
        if not isinstance(error, AttemptError):
            message = mask(f"{type(error).__name__}: {error}")
            return cls(InternalError.__name__, message, permanent=True, traceback=_traceback(error))
        new = tuple(error.new_columns) if isinstance(error, SchemaDriftError) else ()
        connection = getattr(error, "connection", None)
        return cls(
            type(error).__name__,
            mask(str(error)),
            error.permanent,
            new,
            connection,
            about=error.about,
            line=error.line,
            place=error.place,
        )

    def is_a(self, *classes: type[DwhctlError]) -> bool:
        """Tell whether the error was of one of these classes."""
        return is_error(self.error_class, *classes)


def _traceback(error: BaseException) -> str | None:
    """Give where a defect came from, the end of it if it is long; None of an error that was never raised."""
    if error.__traceback__ is None:
        return None
    return mask("".join(traceback.format_exception(error)))[-_MOST_TRACEBACK:]


@dataclass(frozen=True, slots=True)
class Said:
    """What a library said through `logging`: a warning or an error, by the name of its logger."""

    at: datetime
    level: Level
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a StageOrder. `seconds` says where its time went, by step; `failed_in` is the step that failed.

    `columns` are those of the source, `filled` those of the target that the source lacks and that are NULL: declared
    types by name in lower case.
    """

    token: str
    rows: int = 0
    bytes: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    failed_in: str | None = None
    said: tuple[Said, ...] = ()
