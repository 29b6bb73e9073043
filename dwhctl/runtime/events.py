"""What a run publishes while it works, and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from msgspec import Struct, field

from dwhctl.core.errors import ExitCode
from dwhctl.core.waiting import Waiting

if TYPE_CHECKING:
    from dwhctl.alerts.delivery import Delivery
    from dwhctl.alerts.digest import Outcome
    from dwhctl.runtime.failures import FailureGroup
    from dwhctl.runtime.locks import Holder
    from dwhctl.runtime.messages import Failure, LogMessage
    from dwhctl.runtime.plan import Plan
    from dwhctl.sessions.values import State


class RunStarted(Struct, frozen=True):
    """The locks are held, dead runs are reaped, the slices are about to start.

    `seconds` is what slices took recently, by load and shard, as far as any were loaded.
    """

    run_id: str
    plan: Plan
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)


class RefreshStarted(Struct, frozen=True):
    """The locks are held, dead runs are reaped, the reports are about to start."""

    run_id: str
    reports: tuple[str, ...]
    day: date


_SHOWN_SHARDS = 5


class Readiness(Struct, frozen=True):
    """How many slices of a needed load are complete for a day: of `expected` those of the shards `missing` are not.

    `over_at` is the end of the day in the last of these shards, where it is still to come.
    """

    load: str
    at_least: float
    expected: int
    missing: tuple[str, ...] = ()
    over_at: datetime | None = None

    @property
    def complete(self) -> int:
        """How many slices are complete."""
        return self.expected - len(self.missing)

    @property
    def is_met(self) -> bool:
        """Whether that is enough. A date before every shard's first one has nothing to wait for."""
        # As written in the configuration: 0.98 * 150 is more than 147 in binary fractions.
        return self.complete >= Fraction(str(self.at_least)) * self.expected

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.load}: no slice is expected on this day"
        done = f"{self.load}: {self.complete} of {self.expected} slices are complete"
        shown = ", ".join(self.missing[:_SHOWN_SHARDS])
        more = f" and {len(self.missing) - _SHOWN_SHARDS} more" if len(self.missing) > _SHOWN_SHARDS else ""
        return f"{done}, missing {shown}{more}" if self.missing else done


class ReportWaits(Struct, frozen=True):
    """A report waits for a load that it needs."""

    report: str
    day: date
    readiness: tuple[Readiness, ...]


class AttemptEvent(Struct, frozen=True):
    """Something happened to an attempt. A report has its name as `load`, and an empty `shard`."""

    load: str
    shard: str
    connection: str
    day: date
    attempt: int


class SliceWaits(AttemptEvent, frozen=True):
    """The `ready` of a slice is not true: it waits without a worker, at most `until`. `query` is the query's file."""

    query: str
    until: datetime


class SliceReady(AttemptEvent, frozen=True):
    """The `ready` of a slice that waited is true, after so many seconds of the run."""

    seconds: float


class SliceStarted(AttemptEvent, frozen=True):
    """An attempt was given to a worker. `slots_waited` is how long it waited for connections to be free."""

    etl_id: int | None = None
    slots_waited: float = 0.0


class ReportStarted(AttemptEvent, frozen=True):
    """An attempt at a report has begun."""

    etl_id: int | None = None


class SliceStaged(AttemptEvent, frozen=True):
    """A worker has staged a slice: its rows wait to be published. Only progress shows it, no log has it."""

    rows: int


class WorkerLogged(AttemptEvent, frozen=True):
    """A library logged a message in a worker that was busy with the attempt."""

    etl_id: int
    message: LogMessage


class AttemptClosed(AttemptEvent, frozen=True):
    """A session was closed. `retry_at` is set when its job is tried again.

    With the state `running` it was left open, its commit in doubt: it is looked up at `retry_at`, or by the next run.
    """

    state: State
    rows: int
    seconds: float
    failure: Failure | None = None
    retry_at: datetime | None = None
    etl_id: int | None = None


class SliceClosed(AttemptClosed, frozen=True):
    """A slice's session was closed. `steps` are the seconds of its steps; `failed_in` is the worker's that failed."""

    steps: Mapping[str, float] = field(default_factory=dict)
    failed_in: str | None = None


class ReportClosed(AttemptClosed, frozen=True):
    """A report's session was closed. `without` are the loads of which it lacks slices, or that have none that day."""

    without: tuple[Readiness, ...] = ()


#: The fields of AttemptClosed.
ClosedFacts = tuple[
    str, str, str, date, int, "State", int, float, "Failure | None", "datetime | None", "int | None"
]


class SlicesPublished(Struct, frozen=True):
    """A publication of staged slices has ended: the events of the slices show which were published."""

    load: str
    connection: str
    day: date
    slices: int
    rows: int
    failed: int
    seconds: float


class Notice(Struct, frozen=True):
    """Something a person should know: a reaped run, an open circuit breaker, an added column."""

    text: str


class RunReaped(Notice, frozen=True):
    """A dead run was reaped. `holder` is what its lock's file describes, if anything."""

    run_id: str = ""
    holder: Holder | None = None


class RunEnded(Struct, frozen=True):
    """The run has ended: its result is complete, its locks are still held."""

    result: RunResult


Event = (
    RunStarted
    | SliceWaits
    | SliceReady
    | SliceStarted
    | SliceStaged
    | WorkerLogged
    | SlicesPublished
    | RefreshStarted
    | ReportWaits
    | ReportStarted
    | SliceClosed
    | ReportClosed
    | Waiting
    | Notice
    | RunEnded
)
Listener = Callable[[Event], None]


class FailedSlice(Struct, frozen=True):
    """A slice that ended failed, or with its commit in doubt. `etl_id` is its last session."""

    load: str
    shard: str
    connection: str
    day: date
    failure: Failure
    etl_id: int | None = None
    in_doubt: bool = False


@dataclass(slots=True)
class RunResult:
    """What a run did. A report counts as a slice; a refresh has also its `day`, its `reports` and what closed them.

    `step_seconds` adds up the workers' and the publisher's time by step.
    """

    run_id: str
    loaded: int = 0
    skipped: int = 0
    failed: int = 0
    #: Commits that could not be looked up: `failures` has them too.
    in_doubt: int = 0
    retried: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: list[FailedSlice] = dataclasses.field(default_factory=list)
    #: The failures by reason: set at the run's end.
    groups: list[FailureGroup] = dataclasses.field(default_factory=list)
    step_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    #: The plan, if it left nothing to load: it says what was left out.
    empty_plan: Plan | None = None
    #: By load and column: the shards that lack the column and have never delivered it, so that it is NULL.
    filled: dict[tuple[str, str], set[str]] = dataclasses.field(default_factory=dict)
    day: date | None = None
    reports: tuple[str, ...] = ()
    #: The last session of each report that came to one.
    closed: list[ReportClosed] = dataclasses.field(default_factory=list)
    #: What goes to the channels, and what became of the messages that the run sent.
    outcome: Outcome | None = None
    alerts: list[Delivery] = dataclasses.field(default_factory=list)
    #: Which pings failed, and why.
    pings: list[str] = dataclasses.field(default_factory=list)
    #: What ended the run before its work was done, if anything did: an error, or a signal.
    stopped: str | None = None
    signal: ExitCode | None = None

    @property
    def refreshed(self) -> list[ReportClosed]:
        """The reports that have new content."""
        return [report for report in self.closed if report.failure is None]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that the run ends with."""
        if self.signal is not None:
            return self.signal
        return ExitCode.FAILED if self.failed or self.in_doubt or self.stopped else ExitCode.DONE
