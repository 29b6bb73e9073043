"""The result objects of `--format json` of load, backfill, refresh-reports and demo, and of their plans.

A command writes one object to stdout. `dwhctl schema` makes the JSON Schema from these classes: from the types of their
fields and the texts below them. Every field is always there; what is not known is null. The objects of other commands
are in their modules; `results` fills those of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, TypeVar

from dwhctl.cli.common.listing import show_json
from dwhctl.core.errors import ExitCode

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")
# The types are read when the schema is made: none of them may be imported for TYPE_CHECKING only.


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """The result of a command."""

    exit_code: int
    """The exit code of the process."""


def part_of(kind: type[P], source: object, **given: object) -> P:
    """Return a part with the given fields; the others are attributes of the source, by the same names."""
    names = (field.name for field in fields(kind) if field.name not in given)
    return kind(**{name: getattr(source, name) for name in names}, **given)


def show_object(result: ResultObject) -> ExitCode:
    """Write the result of a command to stdout, and return its exit code."""
    show_json(asdict(result))
    return ExitCode(result.exit_code)


@dataclass(frozen=True, slots=True)
class ErrorPart:
    """An error that ended a command."""

    error_class: str
    """Its class, such as `ConfigError`; `Interrupted` for a signal."""
    message: str
    """Its text, secrets masked."""
    problems: tuple[str, ...]
    """The lines of the text: one for each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorObject(ResultObject):
    """What a command with `--format json` writes when an error ends it before it has a result."""

    error: ErrorPart
    """What is wrong."""


@dataclass(frozen=True, slots=True)
class SlicePart:
    """A slice, or a report, that failed."""

    load: str
    """The load, or the report."""
    shard: str | None
    """The shard; null for a report."""
    day: date
    """The day of the slice."""
    etl_id: int | None
    """The id of its last session; null when it was not started."""
    in_doubt: bool
    """Whether it is not known if its commit happened; the next run checks it."""
    error_class: str
    """The class of its error, as in the sessions table."""
    message: str
    """Its error, secrets masked."""


@dataclass(frozen=True, slots=True)
class FailurePart:
    """What failed for one reason."""

    error_class: str
    """The class of the error."""
    message: str
    """The error of one of the slices, secrets masked; for slices that were not tried, the error that is the cause."""
    connection: str
    """The connection at fault."""
    permanent: bool
    """Whether another attempt fails as well, unless something is corrected first."""
    advice: str | None
    """What to do: `try again`, or what to correct; null when the message says it."""
    command: str | None
    """The command that tries these slices again; null when there is none."""
    slices: tuple[SlicePart, ...]
    """The slices, or reports, that failed for this reason."""


@dataclass(frozen=True, slots=True)
class AlertPart:
    """A message to a channel."""

    channel: str
    """The channel."""
    subject: str
    """The subject of the message."""
    state: Literal["queued", "sending", "sent", "unknown", "refused", "given_up", "superseded"]
    """What became of it, as in `report alerts`."""
    answer: str
    """What the channel answered, or why the message was not sent."""


RunState = Literal["done", "nothing_to_do", "failed", "stopped", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunObject(ResultObject):
    """The result of a run."""

    run_id: str
    """The id of the run, for `report log` and `report sessions --run`."""
    state: RunState
    """`done`: all is complete; `nothing_to_do`: the plan was empty; `failed`: something failed or is in doubt;
    `stopped`: an error ended the run before its end; `interrupted`: a signal did."""
    started: datetime
    """When the command began the run."""
    finished: datetime
    """When the run had ended, its messages sent."""
    seconds: float
    """How long the work took, without waiting for locks."""
    failed: int
    """How many slices, or reports, failed."""
    in_doubt: int
    """How many ended with their commit in doubt: the next run checks them."""
    retried: int
    """How many attempts were followed by another."""
    rows: int
    """How many rows were loaded."""
    failures: tuple[FailurePart, ...]
    """What failed, by reason, the most frequent first; without what an interruption ended."""
    stopped: str | None
    """The error that ended the run before its end."""
    command: str | None
    """The command that does the rest of a run that was stopped or interrupted."""
    alerts: tuple[AlertPart, ...]
    """The messages to the channels."""
    pings: tuple[str, ...]
    """The pings that failed, and why."""


@dataclass(frozen=True, slots=True)
class LeftOutPart:
    """How many slices a plan leaves out, by reason."""

    complete: int
    """They are complete (`--only-missing`)."""
    not_failed: int
    """Their last session did not fail (`--only-failed`)."""
    before_start: int
    """Their day lies before the start date of the load or shard."""
    after_end: int
    """Their day lies after the last day of the shard."""


@dataclass(frozen=True, slots=True)
class NullColumnPart:
    """A column that some shards do not have, so that it is NULL in their rows."""

    load: str
    """The load."""
    column: str
    """The column."""
    shards: tuple[str, ...]
    """The shards without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadObject(RunObject):
    """The result of `load` and `backfill`."""

    slices: int
    """How many slices the plan had."""
    loaded: int
    """How many of them were loaded."""
    skipped: int
    """How many had no rows, which counts as complete."""
    left_out: LeftOutPart
    """The slices that the plan left out."""
    step_seconds: Mapping[str, float]
    """The time of workers and publisher by step, added up."""
    null_columns: tuple[NullColumnPart, ...]
    """The columns that some shards do not have."""


@dataclass(frozen=True, slots=True)
class PlannedLoadPart:
    """A load of a plan."""

    load: str
    """The load."""
    first_day: date
    """Its first day."""
    last_day: date
    """Its last day."""
    days: int
    """How many days."""
    shards: int
    """How many shards."""
    slices: int
    """How many slices."""


@dataclass(frozen=True, slots=True)
class PlannedSlicePart:
    """A slice of a plan."""

    load: str
    """The load."""
    shard: str
    """The shard."""
    day: date
    """The day."""
    connection: str
    """The connection of the shard."""


@dataclass(frozen=True, slots=True)
class ReadyPart:
    """A load whose slices wait until they are ready."""

    load: str
    """The load."""
    ready: str
    """The file of the query that must be true."""
    ready_timeout_seconds: float
    """How long a slice waits at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanObject(ResultObject):
    """The result of `load --dry-run` and `backfill --dry-run`."""

    slices: int
    """How many slices would be loaded."""
    loads: tuple[PlannedLoadPart, ...]
    """The slices by load."""
    planned: tuple[PlannedSlicePart, ...] | None
    """With `--verbose` every slice, else null."""
    left_out: LeftOutPart
    """The slices that the plan leaves out."""
    first_day: date | None
    """The first day that is expected of the slices that were left out for their day."""
    workers: int
    """How many workers would load them."""
    estimated_seconds: float | None
    """About how long it would take, by past durations; null without any."""
    waits: tuple[ReadyPart, ...]
    """The loads whose slices wait until they are ready."""


@dataclass(frozen=True, slots=True)
class NeedPart:
    """A load that a report needs."""

    load: str
    """The load."""
    expected: int
    """How many slices are expected for the day."""
    complete: int
    """How many of them are complete."""
    missing: tuple[str, ...]
    """The shards whose slices are not."""
    at_least: float
    """The share that is enough."""
    is_met: bool
    """Whether so many are complete."""


@dataclass(frozen=True, slots=True)
class ReportPart:
    """A report of a refresh."""

    report: str
    """The report."""
    state: Literal["refreshed", "failed", "in_doubt", "not_done"]
    """What became of it; `not_done`: the run ended before it."""
    connection: str | None
    """The connection of its table; null when it is `not_done`."""
    etl_id: int | None
    """The id of its last session."""
    attempt: int | None
    """The number of its last attempt."""
    rows: int | None
    """How many rows it has now; null when it was not refreshed."""
    seconds: float | None
    """How long the last attempt took."""
    without: tuple[NeedPart, ...]
    """The loads of which it lacks slices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshObject(RunObject):
    """The result of `refresh-reports`."""

    day: date
    """The day whose loads the reports need."""
    refreshed: int
    """How many reports were refreshed."""
    reports: tuple[ReportPart, ...]
    """Every report of the run."""


@dataclass(frozen=True, slots=True)
class PlannedReportPart:
    """A report that would be refreshed."""

    report: str
    """The report."""
    connection: str
    """The connection of its table."""
    source: str
    """The view, the query, or the query's file."""
    target: str
    """The table."""
    needs: tuple[NeedPart, ...]
    """The loads that it needs."""
    is_ready: bool
    """Whether all of them are complete enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPlanObject(ResultObject):
    """The result of `refresh-reports --dry-run`."""

    day: date
    """The day whose loads the reports need."""
    reports: tuple[PlannedReportPart, ...]
    """The reports that would be refreshed."""


@dataclass(frozen=True, slots=True)
class DemoCommandPart:
    """A command that the demo ran."""

    command: str
    """The command."""
    exit_code: int
    """Its exit code: one load ends with 1, because a city is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoObject(ResultObject):
    """The result of `demo`."""

    project: str
    """The folder of the project."""
    commands: tuple[DemoCommandPart, ...]
    """The commands that the demo ran, in order."""
