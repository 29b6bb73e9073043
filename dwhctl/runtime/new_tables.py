"""Make the table of a load that has no `create`: from the columns of its extract, as one shard declares them."""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwhctl.core import errors
from dwhctl.core.faults import reach
from dwhctl.core.waiting import interruptible
from dwhctl.project.templates import render_extract
from dwhctl.systems.base.ddl import new_table
from dwhctl.systems.base.system import SourceOptions, system_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.runtime.slots import Slots
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.target import Target

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
                return new_table(load.table, columns, load.key, load.slice_by, self._zone(load)), shard
            except errors.AttemptError as error:
                found.append((shard, error))
                if isinstance(error, _CONNECTION):
                    down.add(shard.connection)
                    self._failed[shard.connection] = error
        self.failure = _of_all(load, found)
        raise self.failure

    def _zone(self, load: Load) -> str | None:
        """Return the zone of the midnights between the load's slices; None when its shards have several."""
        if load.slice_zone != "wall":
            return self._project.timezone
        zones = {shard.zone for shard in self._project.shards_of(load)}
        return zones.pop() if len(zones) == 1 else None

    def _columns(self, load: Load, shard: Shard, slice: Slice) -> Sequence[Column]:
        known = self._failed.get(shard.connection)
        if known is not None and known.permanent:
            raise known
        connection = self._project.connections[shard.connection]
        try:
            query = render_extract(self._project, load, shard, slice)
        except errors.ConfigError as error:
            raise errors.QueryError(str(error)) from error
        options = SourceOptions(slice.zone, _TIMEOUT_SECONDS, state_dir=self._project.state_dir)

        def described() -> Sequence[Column]:
            with system_of(connection).open_source(connection, shard.database, options) as source:
                return source.columns(query)

        with self._slots.held(shard.connection):
            columns = interruptible(described)
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
