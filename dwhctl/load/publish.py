"""Publish staged slices: the one place where "nothing lost, nothing doubled" is decided.

One transaction replaces the slices of a group: count what the target holds and what is staged, delete the old
rows, insert the staged ones, compare, commit. A slice that the target or a guard refuses costs itself only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from dwhctl.core.errors import AttemptError, CommitInDoubtError, CountsDifferError, ShrunkSourceError
from dwhctl.core.faults import reach
from dwhctl.project.names import as_asked
from dwhctl.runtime.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.load.history import DeliveredColumns
    from dwhctl.project.loads import Load
    from dwhctl.systems.base.target import Publication, StagedSlice, StagingGroup, Target


@dataclass(frozen=True, slots=True)
class Published:
    """What came of one staged slice: published, or why not.

    `commit_error` is why COMMIT failed, while nobody knows whether it happened: then the slice is neither loaded nor
    failed, and may be tried again only after `look`.
    """

    staged: StagedSlice
    failure: Failure | None = None
    commit_error: Failure | None = None

    @property
    def in_doubt(self) -> bool:
        """Tell whether the slice's commit may have happened, or may still happen."""
        return self.commit_error is not None


@dataclass(frozen=True, slots=True)
class PublishRules:
    """How to publish. `fence` is called right before each commit and raises when this run may not publish any more.

    `delivered` says which columns a slice must not fill with NULL; without it none is refused for that.
    """

    allow_shrink: bool
    fence: Callable[[], None]
    delivered: DeliveredColumns | None = None


def publish(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: PublishRules
) -> list[Published]:
    """Publish the slices together; when the target refuses them together, one by one."""
    try:
        return _publish_together(target, load, group, slices, rules)
    except AttemptError as error:
        if len(slices) == 1 or not error.permanent:
            return [Published(one, Failure.of(error)) for one in slices]
    return [done for one in slices for done in publish(target, load, group, [one], rules)]


def look(target: Target, load: Load, doubted: Sequence[Published]) -> list[Published]:
    """End the commit in doubt of these slices, published together, and find out whether it happened."""
    try:
        stands = _stands(target, load.table, [one.staged for one in doubted])
    except AttemptError as error:
        return [replace(one, failure=_in_doubt(one.commit_error, error)) for one in doubted]
    return [Published(one.staged, None if stands else one.commit_error) for one in doubted]


def _in_doubt(commit_error: Failure | None, error: AttemptError) -> Failure:
    lost = commit_error.message if commit_error else ""
    failure = Failure.of(
        CommitInDoubtError(
            f"COMMIT failed ({lost}), and the warehouse cannot be asked whether it happened: {error}; the next run"
            " looks before it loads anything"
        )
    )
    # Whether to look again in this run: who refuses a login refuses the next one.
    return replace(failure, permanent=error.permanent)


def _publish_together(
    target: Target, load: Load, group: StagingGroup, slices: Sequence[StagedSlice], rules: PublishRules
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
        commit_error = Failure.of(doubt.error)
        # Asked on a new connection, once the old one is gone.
        found = look(target, load, [Published(one, commit_error=commit_error) for one in doubt.slices])
        if any(one.in_doubt for one in found):
            by_token = {one.staged.token: one for one in found}
            return [by_token.get(one.token, Published(one, refused.get(one.token))) for one in slices]
        if any(one.failure for one in found):
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


def _commit(publication: Publication, slices: Sequence[StagedSlice], rules: PublishRules) -> None:
    reach("publish.commit")
    rules.fence()
    # Stopped here for long, this run may be reaped: its session on the server is ended before its sessions are closed.
    reach("publish.fenced")
    try:
        publication.commit()
    except Exception as error:  # a defect, too, may have let it happen
        raise _InDoubtError(error, slices) from error
    reach("publish.committed")


class _InDoubtError(Exception):
    """The commit gave an error: it may have happened all the same."""

    def __init__(self, error: Exception, slices: Sequence[StagedSlice]) -> None:
        super().__init__(str(error))
        self.error = error
        self.slices = slices


def _stands(target: Target, table: str, slices: Sequence[StagedSlice]) -> bool:
    """Tell whether the transaction happened: all of its rows are in the target, or none. It does not happen later.

    Raise AttemptError.
    """
    filled = {one.etl_id: one.rows for one in slices if one.rows}
    if not filled:
        # Emptied slices leave nothing to look for: to empty them again is right in both cases.
        target.settle()
        return False
    return target.published_rows(table, list(filled)) == filled
