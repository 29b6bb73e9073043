"""Check the databases of a project before data moves: `config check --online`.

Nothing is loaded. Each shard is queried for the extract's columns and for the first row of an empty slice (an API for
its first page), which needs the same privileges as a load; an empty group is staged in the warehouse, and dropped.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from itertools import chain

from msgspec import Struct, structs

from dwhctl.core.columns import SERVICE_FIELDS, Column
from dwhctl.core.errors import (
    AttemptError,
    ConfigError,
    ConnectError,
    LoginRefusedError,
    QueryError,
    SessionsError,
    TargetRefusedError,
)
from dwhctl.core.words import first_of, shown_path
from dwhctl.load.cast import compare
from dwhctl.load.column_fit import misfits
from dwhctl.load.part_steps import split_column
from dwhctl.load.ready import is_true
from dwhctl.monitor.coverage import grouped
from dwhctl.project.days import make_slice, resolve_day
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Project
from dwhctl.project.names import RowSource, report_sql
from dwhctl.project.templates import render_extract, render_ready
from dwhctl.refresh.transaction import common_columns
from dwhctl.runtime.circuit_breaker import CircuitBreaker
from dwhctl.runtime.fanout import FanOut, RemoteCheck
from dwhctl.runtime.messages import check_columns
from dwhctl.runtime.new_tables import is_missing
from dwhctl.runtime.prepare import DeliveredColumns, dropped_error, lost_columns, targets_of
from dwhctl.runtime.slots import slots_of
from dwhctl.sessions import REPORT_TIMEOUT, open_if_there
from dwhctl.systems.base.ddl import new_table
from dwhctl.systems.base.system import SourceOptions, system_of
from dwhctl.systems.base.target import StagingGroup, Target
from dwhctl.verify.checks import measure_of
from dwhctl.verify.findings import is_loaded, rows_are_gone, unknown_rows, what_to_do

_TIMEOUT_SECONDS = 30.0
_SHOWN_SHARDS = 5
_CONNECTION = (ConnectError, LoginRefusedError)


class CheckFinding(Struct, frozen=True):
    """One line of the result.

    What is `wrong` makes loads fail, or is wrong in the warehouse; a `note` needs no action; the rest is a warning.
    """

    where: str
    what: str
    wrong: bool = True
    note: bool = False


class _Check(RemoteCheck[None]):
    """Collect findings; those that were found stay when the rest fails."""

    def __init__(self, connection: str, findings: Callable[[], Iterable[CheckFinding]]) -> None:
        super().__init__(connection, lambda _: self.found.extend(findings()), alone=True)
        self.found: list[CheckFinding] = []


class OnlineCheck:
    """One check: first the warehouses, then the sources; each connection runs one check at a time."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._slots = slots_of(project)
        self._day: date = resolve_day("yesterday", project.zone)
        self._columns: dict[str, Sequence[Column]] = {}
        #: By load: the columns that only the sources have, with their types, and the shards that have them.
        self._added: dict[str, dict[tuple[str, str], list[str]]] = {}
        #: By load, what is wrong and how badly (`wrong`, `note`): the shards.
        self._of_shards: dict[tuple[str, str, bool, bool], list[str]] = {}
        #: By load whose table will be made: its columns in lower case, and the shards that declare each type.
        self._to_make: dict[str, dict[str, dict[str, list[str]]]] = {}
        self._targets: Mapping[str, Target] = {}
        self._delivered: DeliveredColumns | None = None
        #: The loads whose newest sessions loaded rows.
        self._loaded: dict[str, bool] = {}

    def findings(self) -> Iterator[CheckFinding]:
        """Check every load's target and shards, every report, and for databases that are in no shard group."""
        self._targets = targets_of(self._project, "dwhctl:check", timedelta(seconds=_TIMEOUT_SECONDS))
        yield from self._read_sessions()
        yield from self._of_warehouses()
        of_connections = list(self._of_sources())
        yield from self._folded()
        yield from of_connections
        yield from self._different()
        for load in self._project.loads.values():
            for (column, declared), shards in self._added.get(load.name, {}).items():
                new = f"column {column} ({declared}) is new in {first_of(sorted(shards), _SHOWN_SHARDS)}"
                what = f"{new}; the next load adds it to {load.table}"
                yield CheckFinding(f"{load.name}: {load.target}", what, wrong=False, note=True)

    def ungrouped(self, names: Collection[str]) -> Iterator[CheckFinding]:
        """Find databases of these connections that a load could read, but that are in no shard group."""
        chosen = {name: shards for name, shards in self._shards().items() if name in names}
        checks = [_Check(name, partial(self._ungrouped, name, shards)) for name, shards in chosen.items()]
        self._run(checks)
        for name, check in zip(chosen, checks, strict=True):
            yield from check.found
            if check.failure is not None:
                yield CheckFinding(name, str(check.failure))

    def _run(self, checks: Sequence[_Check]) -> None:
        connections = {check.connections for check in checks}
        # A connection failure ends the checks of its connection: fifty refusals lock an account.
        FanOut(self._slots, max(1, len(connections)), CircuitBreaker(failures_in_a_row=1)).run(checks)

    def _read_sessions(self) -> Iterator[CheckFinding]:
        """Read which loads have loaded rows, and which columns the shards have delivered."""
        try:
            store = open_if_there(self._project.sessions, answer_timeout=REPORT_TIMEOUT)
            if store is not None:
                with store:
                    self._delivered = DeliveredColumns(store)
                    for load in self._project.loads.values():
                        self._delivered.of(load, "")
                        self._loaded[load.name] = is_loaded(self._project, store, load)
        except SessionsError as error:
            yield CheckFinding(self._project.sessions_connection, str(error))

    def _shards(self) -> dict[str, list[Shard]]:
        shards = dict.fromkeys(chain.from_iterable(self._project.shard_groups.values()))
        return grouped(shards, lambda shard: shard.connection)

    # Targets

    def _of_warehouses(self) -> Iterator[CheckFinding]:
        checks = {}
        for load in self._project.loads.values():
            where = f"{load.name}: {load.target}"
            checks[where] = _Check(load.target, partial(self._of_target, load, where))
        for report in self._project.reports.values():
            where = f"{report.name}: {report.connection}"
            source = report_sql(self._project, report, self._day).source
            checks[where] = _Check(report.connection, partial(self._of_report, report, source, where))
        self._run(list(checks.values()))
        for where, check in checks.items():
            yield from check.found
            if check.failure is not None:
                yield CheckFinding(where, str(check.failure))

    def _of_target(self, load: Load, where: str) -> Iterator[CheckFinding]:
        target = self._targets[load.target]
        try:
            columns = tuple(target.columns(load.table))
        except AttemptError as error:
            # A warehouse in the state folder, which the first run makes, is not there either.
            made = load.create is not None or is_missing(error) or not self._project.state_dir.exists()
            if not made or not error.permanent or isinstance(error, _CONNECTION):
                raise
            if load.create is None:
                self._to_make[load.name] = {}
            gone = f". {rows_are_gone(self._project, load)}" if self._loaded.get(load.name) else ""
            text = f"{str(error).rstrip('.')}; the first load makes the table{gone}"
            yield CheckFinding(where, text, wrong=False)
            return
        self._columns[load.name] = check_columns(load, columns)
        yield from self._long_names(load, columns)
        try:
            measure_of(load, columns)
        except AttemptError as error:
            yield CheckFinding(where, f"verify cannot compare it: {error}")
        slices = [
            make_slice(self._project, load, shard, self._day) for shard in self._project.shards_of(load)
        ]
        if (problem := target.layout_problem(load.table, load.slice_by, slices)) is not None:
            yield CheckFinding(where, problem)
        for warning in target.warnings(load.table):
            yield CheckFinding(where, warning.text, warning.blocks)
        with target.inspection(load.table, load.slice_by) as inspection:
            sources = inspection.rows_by_source()
        if not sources and self._loaded.get(load.name):
            what = f"{load.table} has no rows. {rows_are_gone(self._project, load)}"
            yield CheckFinding(where, what, wrong=False)
        for name, rows in unknown_rows(self._project, load, sources):
            yield CheckFinding(where, f"{rows:,} rows of etl_source '{name}': {what_to_do(load, name)}")
        # To stage needs privileges of its own.
        group = StagingGroup(f"check-{uuid.uuid4().hex[:8]}", "check", load.table)
        target.open_group(group)
        target.drop_run(group.run_id)

    def _long_names(self, load: Load, columns: Sequence[Column]) -> Iterator[CheckFinding]:
        """Find shards whose names the target's etl_source does not hold."""
        column = next(column for column in columns if column.name.lower() == SERVICE_FIELDS[0])
        names = [shard.name for shard in self._project.shards_of(load)]
        longest = max(map(len, names), default=0)
        if column.octets is not None and longest > column.octets:
            long = first_of([name for name in names if len(name) > column.octets], _SHOWN_SHARDS)
            what = f"{load.table}.{column.name} is {column.declared}, too short for the names of the shards {long}"
            yield CheckFinding(f"{load.name}: {load.target}", f"{what}: make it VARCHAR({longest})")

    def _of_report(self, report: Report, source: RowSource, where: str) -> Iterator[CheckFinding]:
        timeout = timedelta(seconds=_TIMEOUT_SECONDS)
        try:
            with self._targets[report.connection].refresh(report.target, source, timeout) as refresh:
                common_columns(report.target, refresh.columns())
        except TargetRefusedError as error:
            if report.create is None:
                raise
            yield CheckFinding(where, f"{error}; the first refresh makes table and view", wrong=False)

    # Sources

    def _of_sources(self) -> Iterator[CheckFinding]:
        checks: dict[str, dict[str, _Check]] = {}
        for name, shards in self._shards().items():
            running = [shard for shard in shards if not shard.has_ended(self._day)]
            checks[name] = {shard.name: _Check(name, partial(self._of_shard, shard)) for shard in running}
            checks[name][""] = _Check(name, partial(self._ungrouped, name, shards))
        self._run([check for of_connection in checks.values() for check in of_connection.values()])
        for name, of_connection in checks.items():
            failures = [check.failure for check in of_connection.values() if check.failure is not None]
            lost = next((failure for failure in failures if isinstance(failure, _CONNECTION)), None)
            if lost is not None:
                yield CheckFinding(name, f"{lost}; its other databases were not tried")
            else:
                yield from of_connection[""].found
        yield from _unexpected(checks)

    def _of_shard(self, shard: Shard) -> Sequence[CheckFinding]:
        for load in self._loads_of(shard):
            for attempt in (self._try_extract, self._try_ready):
                try:
                    attempt(load, shard)
                except _CONNECTION:
                    raise
                except (AttemptError, ConfigError) as error:
                    self._keep(load, shard, str(error))
        return ()

    def _keep(self, load: Load, shard: Shard, what: str, *, wrong: bool = True, note: bool = False) -> None:
        self._of_shards.setdefault((load.name, what, wrong, note), []).append(shard.name)

    def _folded(self) -> Iterator[CheckFinding]:
        """Yield what is wrong in the shards, once for all shards that have it, in the order of the shards."""
        places = {
            shard.name: place for place, shard in enumerate(chain.from_iterable(self._shards().values()))
        }
        found = [
            (sorted(shards, key=places.__getitem__), *about) for about, shards in self._of_shards.items()
        ]
        for shards, name, what, wrong, note in sorted(found, key=lambda item: places[item[0][0]]):
            of_load = self._project.shards_of(self._project.loads[name])
            all_shards = sum(not shard.has_ended(self._day) for shard in of_load)
            yield CheckFinding(_whom(shards, all_shards), f"{name}: {what}", wrong, note)

    def _loads_of(self, shard: Shard) -> Iterable[Load]:
        return (load for load in self._project.loads.values() if shard in self._project.shards_of(load))

    def _try_extract(self, load: Load, shard: Shard, *, describe_only: bool = False) -> None:
        slice_ = make_slice(self._project, load, shard, self._day)
        query = render_extract(self._project, load, shard, slice_)
        if slice_.start is not None and slice_.start_at is not None:
            # An empty slice: it ends where it starts.
            binds, instants = (dict.fromkeys(query.binds, at) for at in (slice_.start, slice_.start_at))
            query = structs.replace(query, binds=binds, instants=instants)
        connection = self._project.connections[shard.connection]
        options = SourceOptions(slice_.zone, _TIMEOUT_SECONDS, state_dir=self._project.state_dir)
        with system_of(connection).open_source(connection, shard.database, options) as source:
            columns = source.columns(query)
            if describe_only:
                return
            if load.split_by is not None:
                split_column(load.split_by, columns)
            if load.name in self._to_make:
                self._refuse_to_make(load, shard, columns)
            columns = self._without_added(load, shard, columns)
            if load.name in self._columns:
                for misfit in misfits(
                    columns,
                    self._columns[load.name],
                    self._targets[load.target].declaration,
                    slice_by=load.slice_by,
                    declares_null=source.declares_null,
                ):
                    self._keep(load, shard, misfit.what, wrong=misfit.certain)
                filled = compare(columns, self._columns[load.name], fill_missing=load.on_new_column == "add")
                self._refuse_dropped(load, shard, {column.name.lower(): column.declared for column in filled})
            if (doubt := source.tried(query)) is not None:
                self._keep(load, shard, doubt, wrong=False, note=True)

    def _refuse_to_make(self, load: Load, shard: Shard, columns: Sequence[Column]) -> None:
        """Raise as a load would for columns that its new table cannot have, and collect their types."""
        self._targets[load.target].create_table(new_table(load.table, columns, load.key, load.slice_by))
        for column in columns:
            declared = self._to_make[load.name].setdefault(column.name.lower(), {})
            declared.setdefault(column.declared, []).append(shard.name)

    def _different(self) -> Iterator[CheckFinding]:
        """Yield the columns whose types differ from shard to shard, of tables that will be made from one of them."""
        for name, columns in self._to_make.items():
            for column, declared in columns.items():
                if len(declared) > 1:
                    types = " and ".join(
                        f"{type_} in {first_of(sorted(of), _SHOWN_SHARDS)}"
                        for type_, of in sorted(declared.items())
                    )
                    what = f"column {column} is {types}: the table is made from one shard; CAST it in the extract"
                    yield CheckFinding(f"{name}: {self._project.loads[name].target}", what, wrong=False)

    def _try_ready(self, load: Load, shard: Shard) -> None:
        """Run the load's `ready` query as a load would; whether it is true does not matter."""
        if load.ready is None:
            return
        slice_ = make_slice(self._project, load, shard, self._day)
        query = render_ready(self._project, load, shard, slice_)
        connection = self._project.connections[shard.connection]
        options = SourceOptions(slice_.zone, _TIMEOUT_SECONDS, state_dir=self._project.state_dir)
        with system_of(connection).open_source(connection, shard.database, options) as source:
            try:
                is_true(source.first_value(query))
            except QueryError as error:
                raise QueryError(f"{shown_path(load.ready, self._project.root)}: {error}") from error

    def _without_added(self, load: Load, shard: Shard, columns: Sequence[Column]) -> Sequence[Column]:
        """Return the columns without those that a load would add to its table, and collect these."""
        if load.on_new_column != "add" or load.name not in self._columns:
            return columns
        known = {column.name.lower() for column in self._columns[load.name]}
        for column in columns:
            if column.name.lower() not in known:
                self._targets[load.target].declaration(column)  # raises when the load could not add it
                added = self._added.setdefault(load.name, {})
                added.setdefault((column.name, column.declared), []).append(shard.name)
        return [column for column in columns if column.name.lower() in known]

    def _refuse_dropped(self, load: Load, shard: Shard, filled: Mapping[str, str]) -> None:
        """Raise as a load would for missing columns that the shard has delivered before."""
        if not filled:
            return

        def held_values(shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
            with (
                self._slots.held(load.target),
                self._targets[load.target].inspection(load.table, load.slice_by) as inspection,
            ):
                return inspection.held_values(shards, columns)

        gone = lost_columns(self._delivered, load, shard.name, filled, held_values)
        if gone:
            raise dropped_error(shard.name, gone)

    def _ungrouped(self, name: str, shards: Sequence[Shard]) -> Iterator[CheckFinding]:
        """Find databases in which a load's extract would run, but which are in no shard group."""
        connection = self._project.connections[name]
        known = {shard.database.lower() for shard in shards}
        loads = {load.name: load for shard in shards for load in self._loads_of(shard)}
        try:
            databases = system_of(connection).list_databases(connection, _TIMEOUT_SECONDS)
        except AttemptError as error:
            yield CheckFinding(name, str(error), wrong=False)
            return
        for database in (database for database in databases if database.lower() not in known):
            extra = Shard(database.lower(), database, name, self._project.timezone)
            for load in loads.values():
                try:
                    self._try_extract(load, extra, describe_only=True)
                except (AttemptError, ConfigError):
                    continue
                what = f"database {database} has what the load {load.name} reads, but is in no shard group"
                yield CheckFinding(name, what, wrong=False)


def _unexpected(checks: Mapping[str, Mapping[str, _Check]]) -> Iterator[CheckFinding]:
    """Yield what ended checks beside refusals and connection failures, which are defects of dwhctl."""
    shards: dict[str, list[str]] = {}
    for name, of_connection in checks.items():
        for shard, check in of_connection.items():
            if check.failure is not None and not isinstance(check.failure, _CONNECTION):
                if shard:
                    shards.setdefault(str(check.failure), []).append(shard)
                else:
                    yield CheckFinding(name, str(check.failure))
    total = sum(len(of_connection) - 1 for of_connection in checks.values())
    yield from (CheckFinding(_whom(ended, total), what) for what, ended in shards.items())


def _whom(shards: Sequence[str], of: int) -> str:
    """Return which shards of a load something is about: all, how many, or their names."""
    if len(shards) == of > 1:
        return f"all {of:,} shards"
    return ", ".join(shards) if len(shards) <= _SHOWN_SHARDS else f"{len(shards):,} of {of:,} shards"
