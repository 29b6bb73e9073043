"""What failed in a run, grouped by reason: an example, what to correct and one command for each reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.errors import (
    About,
    CommitInDoubtError,
    CountsDifferError,
    DatabaseMissingError,
    DoubledKeyError,
    InternalError,
    InterruptedAttemptError,
    LoginRefusedError,
    NotReady,
    OutsideSliceError,
    QuarantinedError,
    QueryError,
    SchemaDriftError,
    ShrunkSourceError,
    StagingError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    TlsError,
    TooFewRowsError,
    ValueRefusedError,
)
from dwhctl.project.shadows import load_of
from dwhctl.project.words import shown_path
from dwhctl.runs.failures import retry_reports, retry_slices
from dwhctl.runs.sql_places import extract_place
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dwhctl.project.model import Load, Project
    from dwhctl.runs.events import FailedSlice, RefreshReport
    from dwhctl.runs.values import Failure

AGAIN = "try again"
_AT_THE_TARGET = (CommitInDoubtError, StagingError, TargetBusyError, TargetError, TargetRefusedError)
#: Errors of the load's own SQL and declarations: the same on every connection.
_OF_THE_LOAD = (QueryError, SchemaDriftError)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Slices (or reports) that failed for one reason, with what to do.

    `advice` is `try again`, or what to correct first, as `correct sql/orders/extract.sql (line 3), then`; `command`
    follows it. Without a command the advice, or the message itself, says all.
    """

    slices: tuple[FailedSlice, ...]
    connection: str
    advice: str
    command: str

    @property
    def of_load(self) -> bool:
        """Whether the load itself is at fault, on every connection alike."""
        example = self.example
        return reason_of(example.load, self.connection, example.failure)[2] != self.connection

    @property
    def example(self) -> FailedSlice:
        """The slice whose message is shown for all."""
        return self.slices[0]

    @property
    def failure(self) -> Failure:
        """Why they failed: of slices that were not tried, what stopped the others."""
        return said(self.example.failure)


def said(failure: Failure) -> Failure:
    """Return what is behind a failure: a slice of a parked connection was never tried."""
    return failure.cause or failure


def blamed(failure: Failure, source: str, target: str) -> str:
    """Return the connection at fault."""
    return failure.connection or (target if failure.is_a(*_AT_THE_TARGET) else source)


def reason_of(load: str, connection: str, failure: Failure) -> tuple[str, str, str]:
    """Return what tells one reason from another: the error, what it is about, and where it is to be corrected."""
    found = said(failure)
    of_load = found.is_a(*_OF_THE_LOAD) and found.about in (About.SQL, About.TABLE)
    return found.error_class, found.about, f"load {load}" if of_load else connection


def group_failures(
    project: Project,
    failed: Iterable[FailedSlice],
    *,
    by_load: bool = False,
) -> list[FailureGroup]:
    """Group what failed by its reason, the most frequent first; `by_load` each load for itself.

    What was interrupted has no reason.
    """
    groups: dict[tuple[str, ...], list[FailedSlice]] = {}
    for one in failed:
        if not one.failure.is_a(InterruptedAttemptError):
            key = reason_of(one.load, blamed_of(project, one), one.failure)
            groups.setdefault((*key, one.load) if by_load else key, []).append(one)
    found = [_group(project, slices) for slices in groups.values()]
    return sorted(found, key=lambda group: -len(group.slices))


def blamed_of(project: Project, one: FailedSlice) -> str:
    """Return the connection at fault for a failed slice or report."""
    load = load_of(project, one.load) if one.shard else None
    return blamed(one.failure, one.connection, load.target if load is not None else one.connection)


def failed_reports(report: RefreshReport) -> list[FailedSlice]:
    """Return the reports that failed, as slices without a shard."""
    from dwhctl.runs.events import FailedSlice

    return [
        FailedSlice(
            one.report, "", one.connection, one.day, one.failure, one.etl_id, one.state is State.RUNNING
        )
        for one in report.failures
        if one.failure is not None
    ]


def _group(project: Project, slices: list[FailedSlice]) -> FailureGroup:
    # The first that was tried: its message says more than that of one that was not.
    slices = sorted(slices, key=lambda one: one.failure.cause is not None)
    first = slices[0]
    connection = blamed_of(project, first)
    advice, has_command = _advice(project, first, connection)
    command = _command(slices) if has_command else ""
    return FailureGroup(tuple(slices), connection, advice, command)


# What to do


def _advice(project: Project, one: FailedSlice, connection: str) -> tuple[str, bool]:
    """Say what to do before the command, and whether there is one at all."""
    failure = said(one.failure)
    if not failure.permanent:
        return AGAIN, True
    if failure.is_a(ShrunkSourceError):
        return "", False  # its message has the command that accepts it
    if failure.is_a(InternalError):
        return "this is a defect in dwhctl: report it with what `dwhctl report log last` shows", False
    if failure.is_a(NotReady):
        return "load what it needs, then", True
    correction = _of_sql(project, one, failure, connection) or _of_connection(failure, connection)
    return f"{correction or _of_data(project, one, failure)}, then", True


def _of_sql(project: Project, one: FailedSlice, failure: Failure, connection: str) -> str:
    if not failure.is_a(QueryError, TargetRefusedError):
        return ""
    if failure.about is About.PERMISSION:
        return f"give the user of connection {connection} that right"
    if failure.about is About.MEMORY:
        return f"raise memory_limit of connection {connection}"
    place = failure.place
    if not place and failure.is_a(QueryError) and one.shard:
        place = extract_place(project, one.load, one.shard, one.day, failure.line)
    if failure.about is About.TABLE:
        place = place or ("" if one.shard else "config/reports.toml")
        return f"create the table there or correct {place}" if place else f"create the table on {connection}"
    return f"correct {place}" if place else f"correct that on connection {connection}"


def _of_connection(failure: Failure, connection: str) -> str:
    if failure.is_a(LoginRefusedError):
        return f"correct user and password of connection {connection}"
    if failure.is_a(TlsError):
        return f"correct the TLS of connection {connection}"
    if failure.is_a(DatabaseMissingError):
        return f"make the database readable for connection {connection}, or correct the shard in config/dwhctl.toml"
    return ""


def _of_data(project: Project, one: FailedSlice, failure: Failure) -> str:
    load = load_of(project, one.load) if one.shard else None
    if load is None:
        return _of_report(project, one.load, failure)
    file, extract = f"config/loads/{load.shadow_of or load.name}.toml", shown_path(load.extract, project.root)
    if failure.is_a(SchemaDriftError):
        return _of_drift(load, extract, file, failure)
    if failure.is_a(ValueRefusedError):
        return f"correct the value at the source or convert it in {extract}"
    if failure.is_a(OutsideSliceError):
        return f"correct the condition on {load.slice_by} in {extract}"
    if failure.is_a(DoubledKeyError):
        return f"correct the rows at the source, or `key` in {file}"
    if failure.is_a(QuarantinedError, CountsDifferError):
        return "see what happened with `dwhctl report log last --level warning`"
    return "correct that"


def _of_drift(load: Load, extract: str, file: str, failure: Failure) -> str:
    if failure.new_columns:
        return f'add the columns to {load.table}, or set on_new_column = "add" in {file}'
    return f"correct {extract} or the table {load.table}"


def _of_report(project: Project, name: str, failure: Failure) -> str:
    report = project.reports.get(name)
    if report is None:
        return "correct that"
    if failure.is_a(TooFewRowsError):
        return "correct what the report reads, or min_rows in config/reports.toml"
    return f"correct the source or the table {report.target}"


def _command(slices: Sequence[FailedSlice]) -> str:
    if not slices[0].shard:
        return retry_reports(list(dict.fromkeys(one.load for one in slices)), slices[0].day)
    return retry_slices([(one.load, one.shard, one.day) for one in slices])
