"""Make the targets ready: each load's `create` or new table, and its columns.

And know which columns each shard has delivered: those that it lacks later are not new ones to fill with NULL.
"""

from __future__ import annotations

import importlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from dwhctl.core import errors
from dwhctl.core.faults import reach
from dwhctl.core.sql import split_statements
from dwhctl.core.waiting import retry_seconds
from dwhctl.core.words import counted
from dwhctl.project.templates import render_file
from dwhctl.runtime.events import Notice
from dwhctl.runtime.failures import keep_create_place
from dwhctl.runtime.messages import Delivered, Failure, TargetTable, check_columns
from dwhctl.runtime.new_tables import TableColumnsFinder, is_missing, make_table
from dwhctl.systems.base.staging import described_each
from dwhctl.systems.base.system import TargetOptions, system_of

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.plan import Plan, PlannedSlice
    from dwhctl.runtime.slots import Slots
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.staging import Described, HeldValues
    from dwhctl.systems.base.target import StagedSlice, Target

Result = TypeVar("Result")

_OUT_OF_REACH = (errors.ConnectError, errors.LoginRefusedError, errors.TargetBusyError)


@dataclass(slots=True)
class PreparedTables:
    """The tables by load, and the failures of loads that have none."""

    tables: dict[str, TargetTable] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


class _Targets(Mapping[str, "Target"]):
    """Targets by connection, each opened when it is first used: that imports its driver."""

    def __init__(self, names: Sequence[str], open_target: Callable[[str], Target]) -> None:
        self._names = names
        self._open = open_target
        self._opened: dict[str, Target] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Target:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def targets_of(
    project: Project, label: str = "dwhctl", timeout: timedelta | None = None
) -> Mapping[str, Target]:
    """Return the target of every load and report.

    No answer of a warehouse is waited for longer than `timeout`, or the longest timeout of its loads and reports.
    """
    longest: dict[str, timedelta] = {}
    uses = [(load.target, load.timeout) for load in project.loads.values()]
    uses += [(report.connection, report.timeout) for report in project.reports.values()]
    for name, seconds in uses:
        longest[name] = timeout or max(seconds, longest.get(name, seconds))

    def opened(name: str) -> Target:
        options = TargetOptions(project.state_dir, longest[name], label)
        return system_of(project.connections[name]).open_target(project.connections[name], options)

    return _Targets(sorted(longest), opened)


def describe_targets(
    project: Project,
    plan: Plan,
    targets: Mapping[str, Target],
    slots: Slots,
    blocked: Mapping[str, errors.DwhctlError],
    retries: Callable[[Load], int],
    notify: Callable[[Notice], None] = lambda _notice: None,
) -> PreparedTables:
    """Prepare the table of each load of the plan; a permanent failure costs the slices of its load only.

    A warehouse that is out of reach or fails is waited for once, not once for each of its loads. Shards out of reach,
    of which a table should be made, are only waited for when no other load waits.
    """
    finder, connected = TableColumnsFinder(project, slots), _Connected(targets, slots)
    preparation = _Preparation(project, targets, blocked, retries, notify, finder, connected)
    for load in plan.loads():
        preparation.loads[load.target].append(load)
    for planned in plan.slices:
        preparation.slices[planned.load.name].append(planned)
    preparation.run()
    return preparation.found


@dataclass
class _Preparation:
    """Runs each load's `create`, then describes the tables of each warehouse together, and makes the missing ones.

    `loads` are those of each target, `slices` those of each load.
    """

    _project: Project
    _targets: Mapping[str, Target]
    _blocked: Mapping[str, errors.DwhctlError]
    _retries: Callable[[Load], int]
    _notify: Callable[[Notice], None]
    _finder: TableColumnsFinder
    _connected: _Connected
    loads: dict[str, list[Load]] = field(default_factory=lambda: defaultdict(list))
    slices: dict[str, list[PlannedSlice]] = field(default_factory=lambda: defaultdict(list))
    found: PreparedTables = field(default_factory=PreparedTables)
    _down: dict[str, errors.AttemptError] = field(default_factory=dict)

    def run(self) -> None:
        """Fill `found`."""
        threading.Thread(target=_import_pyarrow, daemon=True).start()
        for loads in self.loads.values():
            names = self._tried(loads, self._create)
            created = [load for load in loads if load.name in names]
            self.found.tables |= self._tried(created, partial(self._table, created, {}))
        self._connected.end()

    def _tried(self, loads: Sequence[Load], work: Callable[[Load], Result]) -> dict[str, Result]:
        """Return by load what the work for loads of one target returns; those for which it fails are left out.

        Each is tried as often as its slices are. They wait together: a warehouse may fail for hundreds of tables.
        """
        left, done, tries = list(loads), dict[str, Result](), Counter[str]()
        while (again := self._try_each(left, work, done, tries)) is not None:
            load, error = again
            # Up to a second more: runs that want one file at once do not meet again.
            seconds = retry_seconds(load.retry_delay, tries[load.name]) + random.random()  # noqa: S311 - no secret
            what = "a shard" if error is self._finder.failure else f"the warehouse {load.target}"
            others = f" and {counted(len(left) - 1, 'other')}" if len(left) > 1 else ""
            tried = f"attempt {tries[load.name]} of {self._retries(load) + 1} failed: {error}"
            text = f"{what} is not ready for load {load.name}{others}: {tried}; will retry in {seconds:.0f} s"
            self._notify(Notice(text))
            time.sleep(seconds)
        return done

    def _try_each(
        self,
        left: list[Load],
        work: Callable[[Load], Result],
        done: dict[str, Result],
        tries: Counter[str],
    ) -> tuple[Load, errors.AttemptError] | None:
        """Try the loads that are left, and remove those that need no other attempt. Return one of the others."""
        again: tuple[Load, errors.AttemptError] | None = None
        for load in tuple(left):
            tries[load.name] += 1
            try:
                if (known := self._blocked.get(load.name) or self._down.get(load.target)) is None:
                    done[load.name] = work(load)
                else:
                    self.found.failures[load.name] = Failure.of(known)
            except errors.ConfigError as error:  # such as a secret that is not there
                self.found.failures[load.name] = Failure.of(error)
            except errors.AttemptError as error:
                of_shards = error is self._finder.failure
                is_down = isinstance(error, _OUT_OF_REACH) and not of_shards
                waits = not of_shards or len(self.slices) == 1
                if waits and not error.permanent and tries[load.name] <= self._retries(load):
                    again = again or (load, error)
                    if is_down:
                        break  # the next one would find it down as well
                    continue
                self.found.failures[load.name] = Failure.of(error)
                if is_down:
                    self._down[load.target] = error
            left.remove(load)
        return again

    def _create(self, load: Load) -> bool:
        if load.create is not None:
            with self._connected.to(load.target):
                _run_create(self._project, load, self._targets[load.target])
        return True

    def _describe(self, loads: Sequence[Load]) -> Mapping[str, Described | None]:
        """Return what is known of the tables: nothing where one fails, so that each is then described alone."""
        target, tables = loads[0].target, [load.table for load in loads]
        nothing: Mapping[str, Described | None] = dict.fromkeys(tables)
        try:
            with self._connected.to(target):
                return {**nothing, **self._targets[target].described(tables)}
        except _OUT_OF_REACH:
            raise
        except errors.AttemptError:
            return nothing

    def _described_alone(self, load: Load) -> Described:
        try:
            with self._connected.to(load.target):
                return described_each([load.table], self._targets[load.target].columns)[load.table]
        except errors.AttemptError as error:
            if not isinstance(error, _OUT_OF_REACH) and load.table not in str(error):
                error.args = (f"reading the columns of {load.table}: {error}",)
            raise

    def _table(self, loads: Sequence[Load], known: dict[str, Described | None], load: Load) -> TargetTable:
        """Return the table. Raise TargetRefusedError for one in which slices cannot be replaced.

        `known` takes what the target says of the tables of all its `loads`.
        """
        if not known:
            known.update(self._describe(loads))
        described = known[load.table]
        described = self._described_alone(load) if described is None else described
        if isinstance(described, errors.TargetRefusedError):
            if load.create is not None or not is_missing(described):
                raise described
            described = self._make(load)
        columns = check_columns(load, tuple(described))
        slices = [planned.slice for planned in self.slices[load.name]]
        with self._connected.to(load.target):
            problem = self._targets[load.target].layout_problem(load.table, load.slice_by, slices)
        if problem is not None:
            raise errors.TargetRefusedError(problem)
        connection = self._project.connections[load.target]
        return TargetTable(connection, load.table, columns, self._project.state_dir, load.timeout)

    def _make(self, load: Load) -> Sequence[Column]:
        # Without the target's slot: a worker of another run takes both.
        self._connected.end()
        slices = ((planned.shard, planned.slice) for planned in self.slices[load.name])
        table, _ = self._finder.table_for(load, slices)
        with self._connected.to(load.target):
            make_table(self._targets[load.target], load, table)
            return self._targets[load.target].columns(load.table)


def _import_pyarrow() -> None:
    """Import what the columns need, while another thread waits for the warehouses."""
    with suppress(Exception):  # the one that needs it raises the error again
        importlib.import_module("pyarrow")


class _Connected:
    """A connection to the target of one load after another, under its slot, while no other run waits for that."""

    def __init__(self, targets: Mapping[str, Target], slots: Slots) -> None:
        self._targets = targets
        self._slots = slots
        self._held = ExitStack()
        self._name: str | None = None

    @contextmanager
    def to(self, name: str) -> Iterator[None]:
        """Be connected in the block, and after it unless it raises."""
        try:
            if self._name != name or self._slots.is_wanted(name):
                self.end()
                self._held.enter_context(self._slots.held(name))
                self._held.enter_context(self._targets[name].session())
                self._name = name
            yield
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Disconnect. Idempotent."""
        self._name = None
        self._held.close()


def _run_create(project: Project, load: Load, target: Target) -> None:
    reach("prepare.create")
    try:
        target.run_statements(_statements(project, load))
    except errors.AttemptError as error:
        keep_create_place(project, load, error)
        raise


def _statements(project: Project, load: Load) -> list[str]:
    try:
        return split_statements(render_file(project, load.create, load)) if load.create else []
    except errors.ConfigError as error:
        raise errors.TargetRefusedError(str(error)) from error


def check_create(project: Project, plan: Plan) -> None:
    """Render every load's `create`. Raise ConfigError."""
    for load in plan.loads():
        if load.create is not None:
            render_file(project, load.create, load)


class DeliveredColumns:
    """The columns that shards have delivered, in lower case, with their declared types. Any thread may use it.

    `on_new_column = "add"` fills only the others with NULL. They are in the table `dwhctl_columns` of the sessions
    database. A column is delivered when a slice with it, and with rows, is published. For a shard without an entry (an
    upgrade, a new sessions database) the target is asked.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._known: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, load: Load, shard: str) -> Mapping[str, str]:
        """Return the columns that a shard has delivered; none when it has delivered nothing yet."""
        own = self._of_name(load.name).get(shard, {})
        # A shadow run reads the same shards with the same extract.
        return self._of_name(load.shadow_of).get(shard, {}) | own if load.shadow_of else own

    def dropped(
        self, held_values: HeldValues, load: Load, slices: Sequence[StagedSlice]
    ) -> dict[str, Failure]:
        """Return the failure of each slice, by token, in which NULL would replace a column that its shard delivered."""
        filled = [staged for staged in slices if staged.filled]
        if filled:
            # Other runs may have published since it was read.
            for name in (load.name, load.shadow_of):
                self._known.pop(name or "", None)
        return {
            staged.token: Failure.of(dropped_error(staged.slice.shard, gone))
            for staged in filled
            if (gone := lost_columns(self, load, staged.slice.shard, staged.filled, held_values))
        }

    def remember(self, load: Load, slices: Sequence[StagedSlice]) -> None:
        """Remember the columns of slices that are about to be committed: a crash after the commit forgets none."""
        known = self._of_name(load.name)
        new = [
            (staged.slice.shard, name, declared)
            for staged in slices
            if staged.rows
            for name, declared in staged.columns.items()
            if known.get(staged.slice.shard, {}).get(name) != declared
        ]
        if not new:
            return
        self._store.remember_columns(load.name, new)
        for shard, name, declared in new:
            known.setdefault(shard, {})[name] = declared

    def _of_name(self, load: str) -> dict[str, dict[str, str]]:
        if load not in self._known:
            self._known[load] = self._store.delivered_columns(load)
        return self._known[load]


def lost_columns(
    delivered: DeliveredColumns | None,
    load: Load,
    shard: str,
    filled: Mapping[str, str],
    held_values: HeldValues,
) -> dict[str, str]:
    """Return those of the columns to be filled with NULL that the shard has delivered before."""
    if delivered is not None and (known := delivered.of(load, shard)):
        return {name: known[name] for name in filled if name in known}
    held = held_values([shard], list(filled)).get(shard, frozenset())
    return {name: declared for name, declared in filled.items() if name in held}


def dropped_error(shard: str, columns: Mapping[str, str]) -> errors.SchemaDriftError:
    """Return the error of a shard that lacks columns which it delivered before."""
    return errors.SchemaDriftError(Delivered(shard, columns).dropped(columns))
