"""Make the table of a load that has no `create`: from the columns of its extract, as one shard declares them.

And know which columns each shard has delivered: those that it lacks later are not new ones to fill with NULL.
"""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.core import errors
from dwhctl.core.faults import reach
from dwhctl.project.templates import render_extract
from dwhctl.runtime.messages import Delivered, Failure
from dwhctl.systems.base.ddl import new_table
from dwhctl.systems.base.system import SourceOptions, system_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.slots import Slots
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.staging import HeldValues
    from dwhctl.systems.base.target import StagedSlice, Target

#: How long a shard may be silent.
_TIMEOUT_SECONDS = 30.0
#: How many shards an error shows.
_SHOWN = 3
_CONNECTION = (errors.ConnectError, errors.LoginRefusedError)


@dataclass(slots=True)
class TableColumnsFinder:
    """Describes extracts at the first of their shards that can be reached.

    A connection that failed is asked last from then on; one that refused the login, not again: fifty databases must not
    lock an account. `failure` is the last error that it raised.
    """

    _project: Project
    _slots: Slots
    _failed: dict[str, errors.AttemptError] = field(default_factory=dict)
    failure: errors.AttemptError | None = None

    def table_for(self, load: Load, slices: Iterable[tuple[Shard, Slice]]) -> tuple[NewTable, Shard]:
        """Return the table for a load, and the shard that was described.

        The slices' shards are asked in turn. Raise an AttemptError when none can be described.
        """
        shards = {shard.name: (shard, slice) for shard, slice in slices}
        in_turn = sorted(shards.values(), key=lambda item: item[0].connection in self._failed)
        found: list[tuple[Shard, errors.AttemptError]] = []
        down: set[str] = set()
        for shard, slice in in_turn:
            if shard.connection in down:
                continue
            try:
                columns = self._columns(load, shard, slice)
                return new_table(load.table, columns, load.key, load.slice_by), shard
            except errors.AttemptError as error:
                found.append((shard, error))
                if isinstance(error, _CONNECTION):
                    down.add(shard.connection)
                    self._failed[shard.connection] = error
        self.failure = _of_all(load, found)
        raise self.failure

    def _columns(self, load: Load, shard: Shard, slice: Slice) -> Sequence[Column]:
        known = self._failed.get(shard.connection)
        if known is not None and known.permanent:
            raise known
        connection = self._project.connections[shard.connection]
        try:
            query = render_extract(self._project, load, shard, slice)
        except errors.ConfigError as error:
            raise errors.QueryError(str(error)) from error
        with (
            self._slots.held(shard.connection),
            system_of(connection).open_source(
                connection,
                shard.database,
                SourceOptions(slice.zone, _TIMEOUT_SECONDS, state_dir=self._project.state_dir),
            ) as source,
        ):
            columns = source.columns(query)
        self._failed.pop(shard.connection, None)
        return columns


def _of_all(load: Load, found: Sequence[tuple[Shard, errors.AttemptError]]) -> errors.AttemptError:
    """Return the error of a load of which no shard can be described; one that may pass comes first."""
    if not found:
        return errors.QueryError(f"load {load.name} has no shard whose columns {load.table} could be made of")
    reasons = [f"{shard.name}: {error}" for shard, error in found[:_SHOWN]]
    if len(found) > _SHOWN:
        reasons.append(f"and {len(found) - _SHOWN:,} more")
    error = copy.copy(min((error for _, error in found), key=lambda error: error.permanent))
    error.args = (
        f"{load.table} does not exist, and no shard could be described to make it: {'; '.join(reasons)}",
    )
    return error


def make_table(target: Target, load: Load, table: NewTable) -> None:
    """Make the table, and its schema, unless they exist. Raise TargetRefusedError with what to do."""
    reach("prepare.create")
    statements = target.create_table(table)
    try:
        target.run_statements(statements)
    except errors.TargetRefusedError as error:
        # A user without the right to make schemas may make a table in one that exists.
        without_schema = [
            sql for sql in statements if not sql.startswith(("CREATE SCHEMA", "CREATE DATABASE"))
        ]
        try:
            target.run_statements(without_schema)
        except errors.TargetRefusedError:
            raise _refused(load, error) from error


def _refused(load: Load, error: errors.TargetRefusedError) -> errors.TargetRefusedError:
    command = shlex.join(["dwhctl", "render", load.shadow_of or load.name, "--create"])
    refused = errors.TargetRefusedError(
        f"{load.table} does not exist and cannot be made: {error}; `{command}` prints its statements: run them as a"
        " user who may"
    )
    refused.about = error.about
    return refused


def is_missing(error: errors.AttemptError) -> bool:
    """Return whether a target's error says that the table does not exist."""
    return isinstance(error, errors.TargetRefusedError) and error.about is errors.About.TABLE


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
