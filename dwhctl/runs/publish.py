"""Publish staged slices: the one place where "nothing lost, nothing doubled" is decided.

One transaction replaces the slices of a group: count what the target holds and what is staged, delete the old
rows, insert the staged ones, compare, commit. A slice that the target or a guard refuses costs itself only.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from dwhctl.errors import AttemptError, CountsDifferError, ShrunkSourceError
from dwhctl.faults import reach
from dwhctl.project.shadows import as_asked
from dwhctl.runs.values import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.project.model import Load
    from dwhctl.runs.delivered import DeliveredColumns
    from dwhctl.targets.contract import Publication, StagedSlice, StagingGroup, Target


@dataclass(frozen=True, slots=True)
class Published:
    """What came of one staged slice: published, or why not."""

    staged: StagedSlice
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How to publish. `fence` is called right before each commit and raises when this run may not publish any more.

    `delivered` says which columns a slice must not fill with NULL; without it none is refused for that.
    """

    allow_shrink: bool
    fence: Callable[[], None]
    delivered: DeliveredColumns | None = None


def publish(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: Rules
) -> list[Published]:
    """Publish the slices together; when the target refuses them together, one by one."""
    try:
        return _publish_together(target, load, group, slices, rules)
    except AttemptError as error:
        if len(slices) == 1 or not error.permanent:
            return [Published(one, Failure.of(error)) for one in slices]
    return [done for one in slices for done in publish(target, load, group, [one], rules)]


def _publish_together(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: Rules
) -> list[Published]:
    reach("publish.begin")
    try:
        with target.publication(load.table, load.slice_by, load.timeout) as publication:
            reach("publish.held")
            held = publication.held_rows([one.slice for one in slices])
            refused = {} if rules.allow_shrink else _shrunk(load, slices, held)
            if rules.delivered is not None:
                refused |= rules.delivered.dropped(publication, load, slices)
            taken = [one for one in slices if one.token not in refused]
            changes = [one for one in taken if one.rows or held.get(one.slice.shard)]
            if changes:
                _replace(publication, group, changes, held)
                if rules.delivered is not None:
                    rules.delivered.remember(load, changes)
                _commit(publication, changes, rules)
    except _InDoubtError as doubt:
        # Asked on a new connection, once the old one is gone.
        if not _stands(target, load.table, doubt.slices):
            raise doubt.error from doubt
    return [Published(one, refused.get(one.token)) for one in slices]


def _shrunk(load: Load, slices: Sequence[StagedSlice], held: Mapping[str, int]) -> dict[str, Failure]:
    """Return the failure of each slice, by token, of which too many rows vanished from the source."""
    found = {}
    for one in slices:
        before = held.get(one.slice.shard, 0)
        if before >= load.shrink_floor and (reason := _too_few(load, one.rows, before)):
            error = ShrunkSourceError(
                f"the source has {one.rows} rows, the warehouse {before}: {reason}. If that is right:"
                f" dwhctl load {as_asked(load.name)} --date {one.slice.day} --shard {one.slice.shard} --allow-shrink"
            )
            found[one.token] = Failure.of(error)
    return found


def _too_few(load: Load, rows: int, before: int) -> str | None:
    """Return why a slice with `before` rows in the target may not get these, or None."""
    share, floor = (
        f"max_shrink = {load.max_shrink:g}",
        f"a slice of shrink_floor = {load.shrink_floor} rows or more",
    )
    if not rows:
        return f"{floor} may not become empty ({share})"
    # As written in the configuration: (1 - 0.18) * 150 is more than 123 in binary fractions.
    if rows < (1 - Fraction(str(load.max_shrink))) * before:
        return f"more than {share} of them are gone, too many for {floor}"
    return None


def _replace(
    publication: Publication, group: StagingGroup, slices: Sequence[StagedSlice], held: Mapping[str, int]
) -> None:
    filled = [one for one in slices if one.rows]
    tokens = [one.token for one in filled]
    if tokens:
        reach("publish.staged")
        _compare(filled, publication.staged_rows(group, tokens))
    old = [one.slice for one in slices if held.get(one.slice.shard)]
    if old:
        reach("publish.delete")
        publication.delete(old)
    if tokens:
        reach("publish.insert")
        inserted, wanted = publication.insert(group, tokens), sum(one.rows for one in filled)
        if inserted != wanted:
            raise CountsDifferError(f"{wanted} rows were staged, but {inserted} inserted")


def _compare(slices: Sequence[StagedSlice], staged: Mapping[str, int]) -> None:
    for one in slices:
        found = staged.get(one.token, 0)
        if found != one.rows:
            raise CountsDifferError(
                f"{one.slice.shard}: {one.rows} rows were extracted, but {found} are staged"
            )


def _commit(publication: Publication, slices: Sequence[StagedSlice], rules: Rules) -> None:
    reach("publish.commit")
    rules.fence()
    # Stopped here for long, this run may be reaped: its session on the server is ended before its sessions are closed.
    reach("publish.fenced")
    try:
        publication.commit()
    except AttemptError as error:
        raise _InDoubtError(error, slices) from error
    reach("publish.committed")


class _InDoubtError(Exception):
    """The commit gave an error: it may have happened all the same."""

    def __init__(self, error: AttemptError, slices: Sequence[StagedSlice]) -> None:
        super().__init__(str(error))
        self.error = error
        self.slices = slices


def _stands(target: Target, table: str, slices: Sequence[StagedSlice]) -> bool:
    """Tell whether the transaction happened: all of its rows stand in the target, or none."""
    filled = {one.etl_id: one.rows for one in slices if one.rows}
    return bool(filled) and target.published_rows(table, list(filled)) == filled
