"""The messages between the parent and its workers: frozen, small, picklable. And why an attempt failed: `Failure`."""

from __future__ import annotations

import dataclasses
import enum
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from dwhctl.core.columns import OWN_COLUMNS, SERVICE_FIELDS, Kind
from dwhctl.core.errors import (
    About,
    AttemptError,
    ConfigError,
    DwhctlError,
    InternalError,
    SchemaDriftError,
    TargetRefusedError,
    is_error,
)
from dwhctl.core.secrets import mask, stderr_format

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.project.connections import Connection
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.parts import KeyRange
    from dwhctl.project.query import Query
    from dwhctl.systems.base.target import StagingGroup


Level = Literal["info", "warning", "error"]
_MOST_TRACEBACK = 8000
_SERVICE_KINDS = {"etl_source": Kind.TEXT, "etl_id": Kind.INTEGER, "hash_id": Kind.INTEGER}
_HASH_BITS = 64


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The table that a load writes to, as it was when the run described it; `timeout` is its load's timeout.

    It is in every order of its load: the run pickles it once, and each worker unpickles it once.
    """

    connection: Connection
    name: str
    columns: tuple[Column, ...]
    state_dir: Path
    timeout: timedelta = timedelta(minutes=30)
    _pickled: list[bytes] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def values(self) -> tuple[object, ...]:
        """What a table like this one is made of."""
        return self.connection, self.name, self.columns, self.state_dir, self.timeout

    def __reduce__(self) -> tuple[Callable[[bytes], TargetTable], tuple[bytes]]:
        if not self._pickled:
            self._pickled.append(pickle.dumps(self.values))
        return _unpickled, (self._pickled[0],)


@lru_cache(maxsize=64)
def _unpickled(values: bytes) -> TargetTable:
    return TargetTable(*pickle.loads(values))  # noqa: S301 - the run's, as the order around it


def check_columns(load: Load, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Return the columns. Raise TargetRefusedError when one is missing by which dwhctl finds or identifies rows."""
    by_name = {column.name.lower(): column for column in columns}
    needed = (*SERVICE_FIELDS, *load.key, *([load.slice_by] if load.slice_by else []))
    missing = [name for name in needed if name.lower() not in by_name]
    if missing:
        raise TargetRefusedError(
            f"{load.table} has no column {', '.join(missing)}; dwhctl needs etl_source (text), etl_id and hash_id"
            " (64-bit integers), the key and slice_by: add them to the table and to the load's `create`"
        )
    if taken := [name for name in OWN_COLUMNS if name in by_name and name not in SERVICE_FIELDS]:
        raise TargetRefusedError(
            f"{load.table} has a column {taken[0]}, which is that of dwhctl's staging tables; rename it"
        )
    for name, kind in _SERVICE_KINDS.items():
        found = by_name[name]
        is_short = name == "hash_id" and found.kind is kind and found.type.bit_width < _HASH_BITS
        # A shard's name would come back with the blanks that fill a CHAR up, as another one.
        if found.kind is not kind or found.padded or is_short:
            raise TargetRefusedError(
                f"{load.table}.{name} is {found.declared}; dwhctl needs etl_source as text that is not padded, etl_id"
                " as an integer and hash_id as a 64-bit integer: change the table and the load's `create`"
            )
    return columns


class Delivered(Struct, frozen=True):
    """The columns that a shard has delivered before, in lower case, with their declared types."""

    shard: str
    columns: Mapping[str, str]

    def dropped(self, columns: Mapping[str, str]) -> str:
        """Return what is wrong when the shard lacks these columns now, and the two remedies."""
        names = ", ".join(columns)
        # An ENUM's declaration does not carry its values.
        casts = ", ".join(
            f"CAST(NULL AS {'VARCHAR' if declared == 'ENUM' else declared}) AS {name}"
            for name, declared in columns.items()
        )
        return (
            f"column {names} is missing in the shard {self.shard}, which delivered it before: NULL would replace its"
            f" values. Restore the column; or, if {self.shard} has it no longer, say so in the extract: {casts}"
            f" (between {{% if shard.name == '{self.shard}' %}} and {{% endif %}} where other shards have it)"
        )


class Step(enum.Enum):
    """What an order is for: of a slice that is cut into parts, one or more are staged after and before other steps."""

    #: Stage the slice, or one part of it.
    STAGE = enum.auto()
    #: Connect to the source, and cut the slice by `split_by` if there is one.
    CUT = enum.auto()
    #: Look for a key that two of the parts have.
    KEYS = enum.auto()


class StageOrder(Struct, frozen=True):
    """All that a worker needs to stage one slice: one attempt, one session, one token.

    `direct`: the worker replaces the slice in the table itself, in a transaction that the parent ends. An order of a
    part has its number from 1, and the part as `slice`, or as `key_range`. `keep` says of which connections, to source
    and target, the slots stay with the worker: those it may keep open.
    """

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
    direct: bool = False
    step: Step = Step.STAGE
    part: int = 0
    parts: int = 1
    split_by: str | None = None
    key_range: KeyRange | None = None
    keep: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. Its message may be shown: secrets are masked.

    `connection` is the one that could not be made, when that was the reason. `cause` is the failure behind this one: of
    a slice that was never tried because a circuit breaker is open, the failure that opened it. `about`, `line` and
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
    traceback: str | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an error; what is neither an AttemptError nor a mistake in the configuration is a defect."""
        if isinstance(error, ConfigError):  # such as a secret that is not there
            return cls(ConfigError.__name__, mask(str(error)), permanent=True)
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
        """Return whether the error was of one of these classes."""
        return is_error(self.error_class, *classes)


def _traceback(error: BaseException) -> str | None:
    """Return the traceback of a defect, its end if it is long; None of an error that was never raised."""
    if error.__traceback__ is None:
        return None
    return mask("".join(traceback.format_exception(error)))[-_MOST_TRACEBACK:]


class LogMessage(Struct, frozen=True):
    """A warning or an error that a library logged, with the name of its logger."""

    at: datetime
    level: Level
    logger: str
    message: str


class StageResult(Struct, frozen=True):
    """The result of a StageOrder. `seconds` is the time of each step; `failed_in` is the step that failed.

    `columns` are those of the source, `filled` those of the target that the source lacks and that are NULL: declared
    types by name in lower case. `held` is how many rows a direct slice replaces in its transaction, which is open, and
    `written` how many it wrote, as the target counts them. `ranges` are those that the slice is to be cut into. `kept`
    says which connections, to source and target, the worker keeps open; of a direct slice, after its commit.
    """

    token: str
    rows: int = 0
    bytes: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    failed_in: str | None = None
    logged: tuple[LogMessage, ...] = ()
    held: int | None = None
    written: int = 0
    ranges: tuple[KeyRange, ...] = ()
    kept: tuple[bool, bool] = (False, False)


_MOST_OF_MESSAGE = 4000
_MOST_MESSAGES = 50
_FORMAT = logging.Formatter()


class _Capture(logging.Handler):
    """Pass on what is logged; with `to_stderr` also there, as Python does without a handler."""

    def __init__(self, take: Callable[[LogMessage], None], *, to_stderr: bool) -> None:
        super().__init__(logging.WARNING)
        self._take = take
        self._to_stderr = to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = mask(_FORMAT.format(record))
        except Exception:  # its arguments do not fit its text
            text = mask(str(record.msg))
        at = datetime.fromtimestamp(record.created, UTC)
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._take(LogMessage(at, level, record.name, text[:_MOST_OF_MESSAGE]))
        if self._to_stderr and logging.lastResort is not None and logging.getLogger().handlers == [self]:
            text = stderr_format().format(record)
            logging.lastResort.handle(logging.makeLogRecord({"levelno": record.levelno, "msg": text}))


@contextmanager
def captured_log(take: Callable[[LogMessage], None], *, to_stderr: bool = False) -> Iterator[None]:
    """Pass on what libraries log in the block, unless it is captured already: a worker may be the parent itself."""
    root = logging.getLogger()
    if any(isinstance(handler, _Capture) for handler in root.handlers):
        yield
        return
    capture = _Capture(take, to_stderr=to_stderr)
    root.addHandler(capture)
    try:
        yield
    finally:
        root.removeHandler(capture)


class LogBuffer:
    """Keep the first messages, and count the rest."""

    def __init__(self) -> None:
        self._messages: list[LogMessage] = []
        self._more = 0

    def take(self, message: LogMessage) -> None:
        """Add a message."""
        if len(self._messages) < _MOST_MESSAGES:
            self._messages.append(message)
        else:
            self._more += 1

    def messages(self) -> tuple[LogMessage, ...]:
        """Return the messages; the last one says how many more there were."""
        if not self._more:
            return tuple(self._messages)
        last = self._messages[-1]
        more = LogMessage(last.at, last.level, last.logger, f"and {self._more:,} more like these")
        return (*self._messages, more)


@dataclass(slots=True)
class Notes:
    """What a worker lets the run know in the middle of a task: `answered` is called when the source has answered."""

    answered: Callable[[], None] = lambda: None


#: Does nothing but in the worker processes of a load.
NOTES = Notes()
