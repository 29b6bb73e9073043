"""Which columns each shard has delivered: `on_new_column = "add"` fills only the others with NULL.

The memory is the table `dwhctl_columns` of the sessions database. A column is delivered when a slice with it, and with
rows, is published. Of a shard that the memory does not know (an upgrade, a new sessions database) the target is asked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dwhctl.errors import SchemaDriftError
from dwhctl.runs.values import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.project.model import Load
    from dwhctl.sessions.store import SessionStore
    from dwhctl.targets.contract import Publication, StagedSlice

    #: Asks a target which of these columns hold a value in any row of these shards, by shard.
    HeldValues = Callable[[Sequence[str], Sequence[str]], Mapping[str, frozenset[str]]]


class DeliveredColumns:
    """The columns that shards have delivered, in lower case, with their declared types. Any thread may use it."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._known: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, load: Load, shard: str) -> Mapping[str, str]:
        """Return the columns that a shard has delivered; none when it has delivered nothing yet."""
        own = self._of_name(load.name).get(shard, {})
        # A shadow run reads the same shards with the same extract.
        return self._of_name(load.shadow_of).get(shard, {}) | own if load.shadow_of else own

    def dropped(
        self, publication: Publication, load: Load, slices: Sequence[StagedSlice]
    ) -> dict[str, Failure]:
        """Return the failure of each slice, by token, in which NULL would replace a column that its shard delivered."""
        slices = [one for one in slices if one.filled]
        if not slices:
            return {}
        self.read_again(load)
        return {
            one.token: Failure.of(dropped_error(one.slice.shard, gone))
            for one in slices
            if (gone := lost_columns(self, load, one.slice.shard, one.filled, publication.held_values))
        }

    def remember(self, load: Load, slices: Sequence[StagedSlice]) -> None:
        """Remember the columns of slices that are about to be committed: a crash after the commit forgets none."""
        known = self._of_name(load.name)
        new = [
            (one.slice.shard, name, declared)
            for one in slices
            if one.rows
            for name, declared in one.columns.items()
            if known.get(one.slice.shard, {}).get(name) != declared
        ]
        if not new:
            return
        now = datetime.now(UTC)
        with self._store.transaction(
            f"remembering the columns of {load.name}", "remember_columns"
        ) as execute:
            for shard, name, declared in new:
                values = {"load": load.name, "shard": shard, "name": name, "declared": declared}
                execute("remember_column", {**values, "first_seen": now})
        for shard, name, declared in new:
            known.setdefault(shard, {})[name] = declared

    def read_again(self, load: Load) -> None:
        """Forget what was read: other runs may have published since."""
        for name in (load.name, load.shadow_of):
            self._known.pop(name or "", None)

    def _of_name(self, load: str) -> dict[str, dict[str, str]]:
        if load not in self._known:
            found: dict[str, dict[str, str]] = {}
            doing = f"reading the delivered columns of {load}"
            for shard, name, declared in self._store.read(doing, "delivered_columns", {"load": load}):
                found.setdefault(shard, {})[name] = declared
            self._known[load] = found
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


def dropped_error(shard: str, columns: Mapping[str, str]) -> SchemaDriftError:
    """Say that a shard lacks columns that it delivered before, and what to do."""
    return SchemaDriftError(dropped_words(shard, columns))


def dropped_words(shard: str, columns: Mapping[str, str]) -> str:
    """Name the columns, and the two remedies: `columns` are declared types by name."""
    names = ", ".join(columns)
    # An ENUM's declaration does not carry its values.
    casts = ", ".join(
        f"CAST(NULL AS {'VARCHAR' if declared == 'ENUM' else declared}) AS {name}"
        for name, declared in columns.items()
    )
    return (
        f"column {names} is missing in the shard {shard}, which delivered it before: NULL would replace its values."
        f" Restore the column; or, if {shard} has it no longer, say so in the extract: {casts}"
        f" (between {{% if shard.name == '{shard}' %}} and {{% endif %}} where other shards have it)"
    )
