"""What failed in a run, grouped by reason: an example, what to correct and one command for each reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
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
from dwhctl.core.words import shown_path
from dwhctl.project.loads import is_expected
from dwhctl.project.names import as_asked, in_project, load_of
from dwhctl.runtime.prepare import extract_place
from dwhctl.sessions.task_states import failing_tasks, read_unsuccessful
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date
    from pathlib import Path

    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import FailedSlice, RefreshResult
    from dwhctl.runtime.messages import Failure
    from dwhctl.sessions.store import SessionStore
    from dwhctl.sessions.task_states import FailingTask, UnsuccessfulSlice


#: What is failing now is what failed in so many days, where nobody says how many.
DAYS = 2
MOST_NAMED_SHARDS = 5
#: A command with more letters of shards would be cut in a message.
_LONGEST_NAMES = 120


class Failures:
    """What is failing in a project: it knows the project's tasks by their names in the sessions."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._known: dict[str, tuple[Load | None, dict[str, Shard]]] = {}

    def read(
        self, store: SessionStore, since: datetime, *, everything: bool = False
    ) -> tuple[list[FailingTask], list[FailingTask]]:
        """Return the failing tasks, and those left out: of slices that the configuration no longer expects.

        A slice counts when its last closed session is unsuccessful and ended since that moment. For what is replaced
        whole (reports, and loads without slice_by) a later success for the same day or a newer one clears the failure.
        With `everything` nothing is left out. Raise SessionsError.
        """
        found: list[UnsuccessfulSlice] = []
        left_out: list[UnsuccessfulSlice] = []
        for one in read_unsuccessful(store, since):
            if not (one.replaced and self._is_whole(one)):
                (found if everything or self._is_expected(one) else left_out).append(one)
        return failing_tasks(store, found), failing_tasks(store, left_out)

    def command(self, tasks: Sequence[FailingTask], place: Path | None = None) -> str | None:
        """Return the command that tries the slices of these tasks of one load, or of one report, again.

        None: the configuration no longer expects any of them. `place` is the value of --project, if it was given.
        """
        slices = [one for task in tasks for one in task.slices if self._is_expected(one)]
        if not slices:
            return None
        name, newest = slices[0].load, max(one.day for one in slices)
        if slices[0].shard is None:
            return in_project(retry_reports([name], newest), place)
        wanted = [(str(one.shard), one.day) for one in slices]
        if not self._is_whole(slices[0]):
            return retry_slices([(name, *one) for one in wanted], place)
        # The date is only a label, and a success clears the failures up to its date.
        today = datetime.now(self._project.zone).date()
        shards = "".join(f" --shard {shard}" for shard in dict.fromkeys(shard for shard, _ in wanted))
        label = "today" if newest <= today else newest
        return in_project(f"dwhctl load {as_asked(name)} --date {label}{shards}", place)

    def _of(self, name: str) -> tuple[Load | None, dict[str, Shard]]:
        """Return the load of this name, also that of a shadow run, with its shards."""
        if name not in self._known:
            load = load_of(self._project, name)
            shards = self._project.shards_of(load) if load else ()
            self._known[name] = (load, {shard.name: shard for shard in shards})
        return self._known[name]

    def _is_whole(self, one: UnsuccessfulSlice) -> bool:
        """Return whether a success replaces all rows of the task, whatever the day."""
        load, _ = self._of(one.load)
        return one.shard is None or (load is not None and load.slice_by is None)

    def _is_expected(self, one: UnsuccessfulSlice) -> bool:
        """Return whether the configuration has the task, and the slice within its days."""
        if one.shard is None:
            return one.load in self._project.reports
        load, shards = self._of(one.load)
        shard = shards.get(one.shard)
        if load is None or shard is None:
            return False
        return is_expected(load, shard, one.day)


def retry_reports(names: Sequence[str], day: date) -> str:
    """Return the command that refreshes these reports for a day once more."""
    return f"dwhctl refresh-reports {' '.join(names)} --date {day}"


def retry_slices(slices: Sequence[tuple[str, str, date]], place: Path | None = None) -> str:
    """Return the command that loads these slices, given as load, shard and day, once more.

    Where loads, shards and days do not say exactly which, --only-failed does: --only-missing would leave out a complete
    slice whose reload failed.
    """
    loads = list(dict.fromkeys(load for load, _, _ in slices))
    shards = list(dict.fromkeys(shard for _, shard, _ in slices))
    first, last = min(day for *_, day in slices), max(day for *_, day in slices)
    days = (last - first).days + 1
    is_named = len(shards) <= MOST_NAMED_SHARDS and sum(map(len, shards)) <= _LONGEST_NAMES
    asked = " ".join(map(as_asked, loads))
    words = (
        f"dwhctl load {asked} --date {last}" if days == 1 else f"dwhctl backfill {asked} -s {first} -e {last}"
    )
    words += "".join(f" --shard {shard}" for shard in shards) if is_named else ""
    is_exact = is_named and len(set(slices)) == len(loads) * len(shards) * days
    return in_project(words if is_exact else f"{words} --only-failed", place)


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


def failed_reports(report: RefreshResult) -> list[FailedSlice]:
    """Return the reports that failed, as slices without a shard."""
    from dwhctl.runtime.events import FailedSlice

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
    file = f"config/loads/{load.shadow_of or load.name}.toml"
    extract = shown_path(load.extract, project.root) if load.extract else file
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
