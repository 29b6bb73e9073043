"""Make the targets ready: run each load's `create` once, and look at its table."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from dwhctl.core.columns import SERVICE_FIELDS, Kind
from dwhctl.core.errors import (
    AttemptError,
    ConfigError,
    ConnectError,
    LoginRefusedError,
    TargetBusyError,
    TargetRefusedError,
)
from dwhctl.core.faults import reach
from dwhctl.core.sql import split_statements
from dwhctl.project.days import make_slice
from dwhctl.project.names import load_of
from dwhctl.project.problems import REPORTS
from dwhctl.project.templates import place_of, render_extract, render_file
from dwhctl.runtime.events import Notice
from dwhctl.runtime.messages import Failure, TargetTable
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date, timedelta

    from dwhctl.core.columns import Column
    from dwhctl.project.loads import Load, Report
    from dwhctl.project.model import Project
    from dwhctl.project.names import ReportSql
    from dwhctl.runtime.plan import Plan
    from dwhctl.runtime.slots import Slots
    from dwhctl.systems.base.target import Target


def extract_place(project: Project, load: str, shard: str, day: date, line: int | None) -> str:
    """Return the place of a line of a slice's query; empty for a load that the project has no more."""
    found = load_of(project, load)
    if found is None:
        return ""
    if found.extract is None:
        return f"[endpoint] in config/loads/{found.shadow_of or found.name}.toml"
    by_name = {one.name: one for one in project.shards_of(found)}
    try:
        query = render_extract(
            project, found, by_name[shard], make_slice(project, found, by_name[shard], day)
        ).sql
        rendered = render_file(project, found.extract, found, day, by_name[shard])
    except (ConfigError, KeyError):
        query = rendered = ""
    show = shlex.join(
        ["dwhctl", "render", found.shadow_of or found.name, "--date", str(day), "--shard", shard, "--quiet"]
    )
    return place_of(found.extract, project.root, rendered, query, line, f"`{show}`")


def keep_create_place(project: Project, load: Load, error: AttemptError) -> None:
    """Keep with an error of a load's `create` where the statement is."""
    if error.statement is not None and load.create is not None:
        rendered = render_file(project, load.create, load)
        error.place = place_of(load.create, project.root, rendered, error.statement, error.line)


def keep_report_place(
    project: Project, report: Report, sql: ReportSql, day: date, error: BaseException
) -> None:
    """Keep with an error of a refresh where the statement is: in the report's `create` or its source."""
    if not isinstance(error, AttemptError) or error.statement is None:
        return
    path = report.create if error.statement in sql.create else report.source
    if path is None or isinstance(path, str):
        key = f"{REPORTS}: reports.{report.name}.source"
        error.place = key if error.line is None else f"{key} (line {error.line} of it)"
        return
    rendered = render_file(project, path, report, day)
    error.place = place_of(path, project.root, rendered, error.statement, error.line)


_OUT_OF_REACH = (ConnectError, LoginRefusedError, TargetBusyError)
_SERVICE_KINDS = {"etl_source": Kind.TEXT, "etl_id": Kind.INTEGER, "hash_id": Kind.INTEGER}
_HASH_BITS = 64


@dataclass(slots=True)
class PreparedTables:
    """The loads' tables, and why a load has none."""

    tables: dict[str, TargetTable] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def targets_of(
    project: Project, label: str = "dwhctl", timeout: timedelta | None = None
) -> dict[str, Target]:
    """Open the target of every load and report.

    No answer of a warehouse is waited for longer than `timeout`, or the longest timeout of its loads and reports.
    """
    longest: dict[str, timedelta] = {}
    uses = [(load.target, load.timeout) for load in project.loads.values()]
    uses += [(report.connection, report.timeout) for report in project.reports.values()]
    for name, seconds in uses:
        longest[name] = timeout or max(seconds, longest.get(name, seconds))
    return {
        name: system_of(project.connections[name]).open_target(
            project.connections[name], project.state_dir, longest[name], label
        )
        for name in sorted(longest)
    }


def describe_targets(
    project: Project,
    plan: Plan,
    targets: Mapping[str, Target],
    slots: Slots,
    blocked: Mapping[str, AttemptError],
    retries: Callable[[Load], int],
    tell: Callable[[Notice], None] = lambda _notice: None,
) -> PreparedTables:
    """Prepare the table of each load of the plan; one that fails for good costs its own slices only.

    A warehouse that nobody can get at is waited for once, not once for each of its loads.
    """
    found = PreparedTables()
    down: dict[str, AttemptError] = {}
    for load in {one.load.name: one.load for one in plan.slices}.values():
        try:
            if (known := blocked.get(load.name) or down.get(load.target)) is not None:
                raise known
            columns = _patiently(load, retries(load), partial(_describe, project, load, targets, slots), tell)
        except AttemptError as error:
            found.failures[load.name] = Failure.of(error)
            if isinstance(error, _OUT_OF_REACH) and load.name not in blocked:
                down[load.target] = error
        else:
            found.tables[load.name] = TargetTable(
                project.connections[load.target], load.table, columns, project.state_dir, load.timeout
            )
    return found


def _patiently(
    load: Load,
    retries: int,
    describe: Callable[[], tuple[Column, ...]],
    tell: Callable[[Notice], None],
) -> tuple[Column, ...]:
    """Try as often as the load's slices are tried, and say why it takes so long."""

    def say_why(attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        tell(
            Notice(
                f"the warehouse {load.target} is not ready for load {load.name}:"
                f" attempt {attempt.attempt_number} of {retries + 1} failed: {error};"
                f" will retry in {attempt.upcoming_sleep:.0f} s"
            )
        )

    attempts = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, AttemptError) and not error.permanent),
        stop=stop_after_attempt(retries + 1),
        wait=wait_exponential(multiplier=load.retry_delay.total_seconds(), max=600) + wait_random(0, 1),
        before_sleep=say_why,
        reraise=True,
    )
    return attempts(describe)


def _describe(
    project: Project, load: Load, targets: Mapping[str, Target], slots: Slots
) -> tuple[Column, ...]:
    target = targets[load.target]
    with slots.held(load.target):
        if load.create is not None:
            reach("prepare.create")
            try:
                target.run_statements(_statements(project, load))
            except AttemptError as error:
                keep_create_place(project, load, error)
                raise
        return check_columns(load, tuple(target.columns(load.table)))


def _statements(project: Project, load: Load) -> list[str]:
    if load.create is None:
        return []
    try:
        return split_statements(render_file(project, load.create, load))
    except ConfigError as error:
        raise TargetRefusedError(str(error)) from error


def check_columns(load: Load, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Refuse a table that lacks a column by which dwhctl finds or names rows."""
    by_name = {column.name.lower(): column for column in columns}
    needed = (*SERVICE_FIELDS, *load.key, *([load.slice_by] if load.slice_by else []))
    missing = [name for name in needed if name.lower() not in by_name]
    if missing:
        raise TargetRefusedError(
            f"{load.table} has no column {', '.join(missing)}; dwhctl needs etl_source (text), etl_id and hash_id"
            " (64-bit integers), the key and slice_by: add them to the table and to the load's `create`"
        )
    for name, kind in _SERVICE_KINDS.items():
        found = by_name[name]
        if found.kind is not kind or (name == "hash_id" and found.type.bit_width < _HASH_BITS):
            raise TargetRefusedError(
                f"{load.table}.{name} is {found.declared}; dwhctl needs etl_source as text, etl_id as an integer"
                " and hash_id as a 64-bit integer: change the table and the load's `create`"
            )
    return columns


def check_create(project: Project, plan: Plan) -> None:
    """Render every load's `create`. Raise ConfigError."""
    for load in {one.load.name: one.load for one in plan.slices}.values():
        if load.create is not None:
            render_file(project, load.create, load)
