"""What failed in a run, grouped by reason: an example, what to correct and one command for each reason.

And the place of an error in the user's SQL: the file and line of a statement, as it was rendered.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core import errors
from dwhctl.core.words import shown_path
from dwhctl.project.days import make_slice
from dwhctl.project.loads import Load, Shard, is_expected
from dwhctl.project.names import ReportSql, as_asked, in_project, load_of
from dwhctl.project.problems import REPORTS
from dwhctl.project.templates import place_of, render_extract, render_file, render_ready
from dwhctl.sessions.task_states import FailingTask, UnsuccessfulSlice, failing_tasks, read_unsuccessful

if TYPE_CHECKING:
    from dwhctl.project.loads import Report
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import FailedSlice, SliceClosed
    from dwhctl.runtime.messages import Failure
    from dwhctl.runtime.plan import PlannedSlice
    from dwhctl.sessions.store import SessionStore


#: The default of `--days`: what failed in so many days is failing now.
DAYS = 2
MOST_NAMED_SHARDS = 5
#: With more characters of shard names a command would be cut in a message.
_LONGEST_NAMES = 120


class Failures:
    """What is failing in a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._known: dict[str, tuple[Load | None, dict[str, Shard]]] = {}

    def read(
        self, store: SessionStore, since: datetime, *, everything: bool = False
    ) -> tuple[list[FailingTask], list[FailingTask]]:
        """Return the failing tasks, and those left out: of slices that the configuration no longer expects.

        A slice counts when its last closed session is unsuccessful and ended since that moment. For tasks without days
        (reports, and loads without slice_by) a later success for the same day or a newer one clears the failure.
        With `everything` nothing is left out. Raise SessionsError.
        """
        found: list[UnsuccessfulSlice] = []
        left_out: list[UnsuccessfulSlice] = []
        for slice in read_unsuccessful(store, since):
            if not (slice.replaced and self._is_whole(slice)):
                (found if everything or self._is_expected(slice) else left_out).append(slice)
        return failing_tasks(store, found), failing_tasks(store, left_out)

    def command(self, tasks: Sequence[FailingTask], place: Path | None = None) -> str | None:
        """Return the command that retries the slices of these tasks of one load, or of one report.

        None: the configuration no longer expects any of them. `place` is the value of --project, if it was given. Where
        one command cannot load them all there are several, with "; " between.
        """
        slices = [slice for task in tasks for slice in task.slices if self._is_expected(slice)]
        if not slices:
            return None
        name, newest = slices[0].load, max(slice.day for slice in slices)
        if slices[0].shard is None:
            return in_project(retry_reports([name], newest), place)
        if not self._is_whole(slices[0]):
            return retry_slices([(name, str(slice.shard), slice.day) for slice in slices], place)
        # Together where one date is right for all: a closed shard may lack the newer days of the others.
        together = self._label(slices)
        labels: dict[str, str] = {}
        for shard in dict.fromkeys(slice.shard for slice in slices):
            label = together or self._label([slice for slice in slices if slice.shard == shard])
            labels[label] = f"{labels.get(label, '')} --shard {shard}"
        load = f"dwhctl load {as_asked(name)} --date"
        return "; ".join(in_project(f"{load} {label}{shards}", place) for label, shards in labels.items())

    def _label(self, slices: Sequence[UnsuccessfulSlice]) -> str:
        """Return a date at which a success of a load without slice_by clears these failures; empty if there is none.

        The date is only a label, and a success clears the failures up to it. A closed shard has none today.
        """
        newest, today = max(slice.day for slice in slices), datetime.now(self._project.zone).date()
        for day, label in ((today, "today"), (newest, str(newest))):
            if day >= newest and all(self._is_expected(replace(slice, day=day)) for slice in slices):
                return label
        return ""

    def _of(self, name: str) -> tuple[Load | None, dict[str, Shard]]:
        if name not in self._known:
            load = load_of(self._project, name)
            shards = self._project.shards_of(load) if load else ()
            self._known[name] = (load, {shard.name: shard for shard in shards})
        return self._known[name]

    def _is_whole(self, slice: UnsuccessfulSlice) -> bool:
        """Return whether a success replaces all rows of the task, whatever its day."""
        load, _ = self._of(slice.load)
        return slice.shard is None or (load is not None and load.slice_by is None)

    def _is_expected(self, slice: UnsuccessfulSlice) -> bool:
        """Return whether the configuration has the task, and the slice is within its days."""
        if slice.shard is None:
            return slice.load in self._project.reports
        load, shards = self._of(slice.load)
        shard = shards.get(slice.shard)
        return load is not None and shard is not None and is_expected(load, shard, slice.day)


def retry_reports(names: Sequence[str], day: date) -> str:
    """Return the command that refreshes these reports again for a day."""
    return f"dwhctl refresh-reports {' '.join(names)} --date {day}"


def retry_slices(
    slices: Sequence[tuple[str, str, date]], place: Path | None = None, *, names_all: bool = False
) -> str:
    """Return the command that loads these slices, given as load, shard and day, again.

    Where loads, shards and days select more than these, the command has --only-failed: --only-missing would leave out
    a complete slice whose reload failed. `names_all`: it has the shards however many they are.
    """
    loads = list(dict.fromkeys(load for load, _, _ in slices))
    shards = list(dict.fromkeys(shard for _, shard, _ in slices))
    first, last = min(day for *_, day in slices), max(day for *_, day in slices)
    days = (last - first).days + 1
    are_few = len(shards) <= MOST_NAMED_SHARDS and sum(map(len, shards)) <= _LONGEST_NAMES
    is_named = names_all or are_few
    asked = " ".join(map(as_asked, loads))
    words = (
        f"dwhctl load {asked} --date {last}" if days == 1 else f"dwhctl backfill {asked} -s {first} -e {last}"
    )
    words += "".join(f" --shard {shard}" for shard in shards) if is_named else ""
    is_exact = is_named and len(set(slices)) == len(loads) * len(shards) * days
    return in_project(words if is_exact else f"{words} --only-failed", place)


AGAIN = "try again"
_AT_THE_TARGET = (
    errors.CommitInDoubtError, errors.CountsDifferError, errors.StagingError, errors.TargetBusyError,
    errors.TargetError, errors.TargetRefusedError,
)  # fmt: skip
#: Errors of the load's own SQL and declarations: the same on every connection.
_OF_THE_LOAD = (errors.QueryError, errors.SchemaDriftError)
#: Errors of a load's rows: what to correct is in the files of this load.
_OF_ITS_ROWS = (
    errors.DoubledKeyError, errors.OutsideSliceError, errors.ShrunkSourceError, errors.ValueRefusedError,
)  # fmt: skip
_STATEMENTS = (errors.QueryError, errors.TargetRefusedError)
#: Errors of a report's own source and table; its refused statements are too.
_OF_THE_REPORT = (errors.SchemaDriftError, errors.TooFewRowsError, errors.ValueRefusedError)


class FailureGroup(Struct, frozen=True):
    """Slices (or reports) that failed for one reason, with what to do.

    `advice` is `try again`, or what to correct first, as `correct sql/orders/extract.sql (line 3), then`; `command`
    follows it. Without a command the advice, or the message itself, is complete.
    """

    slices: tuple[FailedSlice, ...]
    connection: str
    advice: str
    command: str

    @property
    def of_load(self) -> bool:
        """Return whether the load itself is at fault, on every connection alike."""
        example = self.example
        return reason_of(example, self.connection)[2] != self.connection

    @property
    def example(self) -> FailedSlice:
        """Return the slice whose message is shown for all."""
        return self.slices[0]

    @property
    def failure(self) -> Failure:
        """Return why they failed: for slices that were not tried, the failure that opened the circuit breaker."""
        return root_cause(self.example.failure)


def root_cause(failure: Failure) -> Failure:
    """Return the cause of a failure: a slice behind an open circuit breaker was never tried."""
    return failure.cause or failure


def blamed(failure: Failure, source: str, target: str) -> str:
    """Return the connection at fault."""
    return failure.connection or (target if failure.is_a(*_AT_THE_TARGET) else source)


def reason_of(failed: FailedSlice | SliceClosed, connection: str) -> tuple[str, str, str]:
    """Return what distinguishes reasons: the error, its subject, and the load, report or connection to correct."""
    assert failed.failure is not None
    cause = root_cause(failed.failure)
    is_refused = cause.about in (errors.About.SQL, errors.About.TABLE)
    if failed.shard:
        kind, is_own = "load", is_refused and cause.is_a(*_OF_THE_LOAD)
    else:
        # What has no place is no statement of the report's: a file that is not a database, for example.
        is_placed = bool(cause.place) or cause.about is errors.About.TABLE
        kind = "report"
        is_own = is_refused and (cause.is_a(*_OF_THE_REPORT) or (is_placed and cause.is_a(*_STATEMENTS)))
    return cause.error_class, cause.about, f"{kind} {failed.load}" if is_own else connection


def group_failures(
    project: Project, failed: Iterable[FailedSlice], *, by_load: bool = False
) -> list[FailureGroup]:
    """Group failures by reason, the most frequent first; `by_load`: each load on its own. Leave interruptions out."""
    groups: dict[tuple[str, ...], list[FailedSlice]] = {}
    for slice in failed:
        if not slice.failure.is_a(errors.InterruptedAttemptError):
            key = reason_of(slice, blamed_of(project, slice))
            alone = by_load or slice.failure.is_a(*_OF_ITS_ROWS)
            groups.setdefault((*key, slice.load) if alone else key, []).append(slice)
    found = [_group(project, slices) for slices in groups.values()]
    return sorted(found, key=lambda group: -len(group.slices))


def blamed_of(project: Project, failed: FailedSlice) -> str:
    """Return the connection at fault for a failed slice or report."""
    load = load_of(project, failed.load) if failed.shard else None
    return blamed(failed.failure, failed.connection, load.target if load is not None else failed.connection)


def _group(project: Project, slices: list[FailedSlice]) -> FailureGroup:
    # First a slice that was tried: its message is more exact than that of one that was not.
    slices = sorted(slices, key=lambda slice: slice.failure.cause is not None)
    connection = blamed_of(project, slices[0])
    advice, has_command = _advice(project, slices[0], connection)
    command = _command(slices) if has_command else ""
    if len(slices) > 1 and root_cause(slices[0].failure).is_a(errors.ShrunkSourceError):
        # The message has the command of one slice only. --only-failed would accept what failed for another reason too.
        command = f"{_command(slices, names_all=True)} --allow-shrink"
        advice = "see whether that is right for all of them, then"
        if "--only-failed" in command:
            advice, command = "see whether that is right for each of them: its message has the command", ""
    return FailureGroup(tuple(slices), connection, advice, command)


def _advice(project: Project, failed: FailedSlice, connection: str) -> tuple[str, bool]:
    failure = root_cause(failed.failure)
    if not failure.permanent:
        return AGAIN, True
    if failure.is_a(errors.ShrunkSourceError):
        return "", False  # its message has the command that accepts it
    if failure.is_a(errors.InternalError):
        command = in_project("dwhctl report log last", project.place)
        return f"this is a defect in dwhctl: report it with what `{command}` shows", False
    if failure.is_a(errors.NotReady):
        load = load_of(project, failed.load) if failed.shard else None
        query = load.ready if load is not None else None
        correction = f"see why {shown_path(query, project.root)} is not true there" if query else ""
        return f"{correction or 'load what it needs'}, then", True
    correction = _of_sql(project, failed, failure, connection) or _of_connection(failure, connection)
    return f"{correction or _of_data(project, failed, failure)}, then", True


def _of_sql(project: Project, failed: FailedSlice, failure: Failure, connection: str) -> str:
    if not failure.is_a(*_STATEMENTS):
        return ""
    if failure.about is errors.About.PERMISSION:
        return f"give the user of connection {connection} that right"
    if failure.about is errors.About.MEMORY:
        return f"raise memory_limit of connection {connection}"
    place = failure.place
    if not place and failure.is_a(errors.QueryError) and failed.shard:
        place = extract_place(project, failed.load, failed.shard, failed.day, failure.line)
    if failure.about is errors.About.TABLE:
        place = place or ("" if failed.shard else "config/reports.toml")
        return f"create the table there or correct {place}" if place else f"create the table on {connection}"
    return f"correct {place}" if place else f"correct that on connection {connection}"


def _of_connection(failure: Failure, connection: str) -> str:
    if failure.is_a(errors.LoginRefusedError):
        return f"correct user and password of connection {connection}"
    if failure.is_a(errors.TlsError):
        return f"correct the TLS of connection {connection}"
    if failure.is_a(errors.DatabaseMissingError):
        return f"make the database readable for connection {connection}, or correct the shard in config/dwhctl.toml"
    return ""


def _of_data(project: Project, failed: FailedSlice, failure: Failure) -> str:
    load = load_of(project, failed.load) if failed.shard else None
    if load is None:
        return _of_report(project, failed.load, failure)
    file = f"config/loads/{load.shadow_of or load.name}.toml"
    extract = shown_path(load.extract, project.root) if load.extract else file
    if failure.is_a(errors.SchemaDriftError) and failure.new_columns:
        return f'add the columns to {load.table}, or set on_new_column = "add" in {file}'
    corrections = {
        errors.SchemaDriftError: f"correct {extract} or the table {load.table}",
        errors.ValueRefusedError: f"correct the value at the source or convert it in {extract}",
        errors.OutsideSliceError: f"correct the condition on {load.slice_by} in {extract}",
        errors.DoubledKeyError: f"correct the rows at the source, or `key` in {file}",
        errors.QuarantinedError: "see what happened with `dwhctl report log last --level warning`",
        errors.CountsDifferError: "see what happened with `dwhctl report log last --level warning`",
    }
    return next((text for kind, text in corrections.items() if failure.is_a(kind)), "correct that")


def _of_report(project: Project, name: str, failure: Failure) -> str:
    if (report := project.reports.get(name)) is None:
        return "correct that"
    if failure.is_a(errors.TooFewRowsError):
        return "correct what the report reads, or min_rows in config/reports.toml"
    return f"correct the source or the table {report.target}"


def _command(slices: Sequence[FailedSlice], *, names_all: bool = False) -> str:
    if not slices[0].shard:
        return retry_reports(list(dict.fromkeys(slice.load for slice in slices)), slices[0].day)
    found = [(slice.load, slice.shard, slice.day) for slice in slices]
    return retry_slices(found, names_all=names_all)


def extract_place(project: Project, load: str, shard: str, day: date, line: int | None) -> str:
    """Return the place of a line of a slice's query; empty for a load that the project has no more."""
    found = load_of(project, load)
    if found is None:
        return ""
    if found.extract is None:
        return f"[endpoint] in config/loads/{found.shadow_of or found.name}.toml"
    by_name = {known.name: known for known in project.shards_of(found)}
    try:
        query = render_extract(
            project, found, by_name[shard], make_slice(project, found, by_name[shard], day)
        ).sql
        rendered = render_file(project, found.extract, found, day, by_name[shard])
    except (errors.ConfigError, KeyError):
        query = rendered = ""
    show = shlex.join(
        ["dwhctl", "render", found.shadow_of or found.name, "--date", str(day), "--shard", shard, "--quiet"]
    )
    return place_of(found.extract, project.root, rendered, query, line, f"`{show}`")


def ready_place(project: Project, planned: PlannedSlice, line: int | None) -> str:
    """Return the place of a line of a slice's `ready` query."""
    load, shard, day = planned.load, planned.shard, planned.slice.day
    assert load.ready is not None
    query = render_ready(project, load, shard, planned.slice).sql
    rendered = render_file(project, load.ready, load, day, shard)
    words = ["dwhctl", "render", load.shadow_of or load.name, "--date", str(day), "--shard", shard.name]
    show = shlex.join([*words, "--part", "ready", "--quiet"])
    return place_of(load.ready, project.root, rendered, query, line, f"`{show}`")


def keep_create_place(project: Project, load: Load, error: errors.AttemptError) -> None:
    """Set the place of an error of a load's `create`: its file and line."""
    if error.statement is not None and load.create is not None:
        rendered = render_file(project, load.create, load)
        error.place = place_of(load.create, project.root, rendered, error.statement, error.line)


def keep_report_place(
    project: Project, report: Report, sql: ReportSql, day: date, error: BaseException
) -> None:
    """Set the place of an error of a refresh: in the report's `create` or its source."""
    if not isinstance(error, errors.AttemptError) or error.statement is None:
        return
    path = report.create if error.statement in sql.create else report.source
    if path is None or isinstance(path, str):
        key = f"{REPORTS}: reports.{report.name}.source"
        error.place = key if error.line is None else f"{key} (line {error.line} of it)"
        return
    rendered = render_file(project, path, report, day)
    error.place = place_of(path, project.root, rendered, error.statement, error.line)
