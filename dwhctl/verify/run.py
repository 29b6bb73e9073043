"""`dwhctl verify`: plan the slices, choose the two sides, compare."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.load.run import check_templates
from dwhctl.project.fields import table_problem
from dwhctl.project.loads import Load
from dwhctl.project.model import Project
from dwhctl.runtime.plan import LoadRequest, Plan, candidates, chosen_loads
from dwhctl.sessions import open_if_there
from dwhctl.sessions.store import SessionStore
from dwhctl.verify.compare import Comparison, Sides
from dwhctl.verify.findings import Check, SliceComparison, incomplete, result_of
from dwhctl.verify.last import keep_last
from dwhctl.verify.sources import SourceAndWarehouse
from dwhctl.verify.tables import TwoTables


class VerifyRequest(Struct, frozen=True):
    """What the user asked for. Empty `loads` means every load, empty `shards` every shard."""

    days: tuple[date, ...]
    loads: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    jobs: int | None = None


class VerifyReport(Struct, frozen=True):
    """The result of each slice; `unseen` has the loads whose extract hides the rows without a day."""

    results: list[SliceComparison]
    unseen: tuple[str, ...]
    before_start: int
    after_end: int

    def unknown_rows(self) -> int:
        """Count the rows of etl_sources that no shard has."""
        findings = (finding for result in self.results for finding in result.findings)
        return sum(int(found.warehouse or 0) for found in findings if found.check is Check.UNKNOWN_SOURCE)

    @property
    def is_fine(self) -> bool:
        """Return whether every complete slice was compared and found equal."""
        return all(result.is_fine for result in self.results)


def verify(
    project: Project, request: VerifyRequest, listen: Callable[[str], None] = lambda _: None
) -> VerifyReport:
    """Compare sources and warehouse, and keep the result for the page. `listen` gets messages on the progress.

    Raise ConfigError, UsageError, SessionsError when the sessions cannot be read, and Interrupted.
    """
    plan = candidates(project, LoadRequest(request.days, request.loads, request.shards))
    check_templates(project, plan)
    report = _compared(
        project,
        plan,
        lambda store: SourceAndWarehouse(project, request.jobs, store, request.shards, listen),
        listen,
    )
    _keep(project, request, report, listen)
    return report


def _keep(
    project: Project, request: VerifyRequest, report: VerifyReport, listen: Callable[[str], None]
) -> None:
    for load in chosen_loads(project, request.loads):
        results = [result for result in report.results if result.load == load.name]
        try:
            if results:
                keep_last(project, load.name, request.days, request.shards, results)
        except OSError as error:
            # A user who may only read the state folder can verify as well.
            listen(f"load {load.name}: the result is not kept for the page: {error.strerror}")


def verify_against(
    project: Project, request: VerifyRequest, table: str, listen: Callable[[str], None] = lambda _: None
) -> VerifyReport:
    """Compare the table of the one load of the request with `table`. `listen` gets messages on the progress.

    In a finding `source` is what the load's table holds, `warehouse` what `table` holds. Raise UsageError, also for a
    table that lacks a column by which the two are compared, AttemptError when the tables cannot be described,
    SessionsError when the sessions cannot be read, and Interrupted.
    """
    load = _the_load(project, request, table)
    plan = candidates(project, LoadRequest(request.days, request.loads, request.shards))
    sides = TwoTables(project, request.jobs, load, table, request.shards)
    return _compared(project, plan, lambda _: sides, listen)


def _compared(
    project: Project, plan: Plan, sides_of: Callable[[SessionStore], Sides], listen: Callable[[str], None]
) -> VerifyReport:
    unseen: tuple[str, ...] = ()
    with caught_signals():
        store = open_if_there(project.sessions)
        if store is None:
            results = [result_of(planned, incomplete(None)) for planned in plan.slices]
        else:
            with store:
                sides = sides_of(store)
                results = Comparison(project, sides, store, listen).run(plan.slices)
                unseen = sides.unseen()
    return VerifyReport(results, unseen, plan.before_start, plan.after_end)


def _the_load(project: Project, request: VerifyRequest, table: str) -> Load:
    if len(request.loads) != 1:
        raise UsageError(
            "--against compares the table of one load; name it: verify NAME --against SCHEMA.TABLE --date D"
        )
    if problem := table_problem(table):
        raise UsageError(f"--against: {problem}")
    load = chosen_loads(project, request.loads)[0]
    if load.table.lower() == table.lower():
        raise UsageError(f"--against {table} is the table that is to be compared with it: name the other one")
    return load
