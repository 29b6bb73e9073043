"""Replace slices of a table by staged rows, in one transaction: what the SQL systems share.

`Target.replace_slices` is the operation. A system without such transactions has one of its own, and keeps the same
promises: a slice appears whole or not at all, exactly the rows of the given tokens are published, what `guard` refuses
keeps its old rows, and nothing is published after `guard.permit` has raised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dwhctl.core.errors import CountsDifferError
from dwhctl.core.faults import reach

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagedSlice, StagingGroup

#: Finds which of these columns hold a value in any row of these shards, by shard.
HeldValues = Callable[[Sequence[str], Sequence[str]], Mapping[str, frozenset[str]]]


class ReplaceGuard(ABC):
    """Decides which slices may be replaced, and whether they still may."""

    @abstractmethod
    def allowed(
        self, slices: Sequence[StagedSlice], held: Mapping[str, int], held_values: HeldValues
    ) -> Sequence[StagedSlice]:
        """Return the slices that may be replaced. `held` are the rows that the table has of each, by shard."""

    @abstractmethod
    def permit(self, slices: Sequence[StagedSlice]) -> None:
        """Raise when these slices may not be published any more. Called right before they become visible."""


class UncertainCommitError(Exception):
    """The commit of these slices gave an error: it may have happened all the same."""

    def __init__(self, error: Exception, slices: Sequence[StagedSlice]) -> None:
        super().__init__(str(error))
        self.error = error
        self.slices = slices


class Publication(ABC):
    """One publishing transaction."""

    @abstractmethod
    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        """Count the rows that the target holds of each slice, by shard; a shard without rows may be left out."""

    @abstractmethod
    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Find which of these columns hold a value in any row of each shard; a shard with none may be left out."""

    @abstractmethod
    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        """Count the staged rows of each token."""

    @abstractmethod
    def delete(self, slices: Sequence[Slice]) -> None:
        """Delete the target's rows of these slices."""

    @abstractmethod
    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        """Insert the rows staged under these tokens and return their number."""

    @abstractmethod
    def commit(self) -> None:
        """Commit. Any AttemptError of it leaves the outcome in doubt: `published_rows` shows it.

        A target whose server may still be at the commit then ends it before it counts or publishes again.
        """


def replace_in_transaction(
    transaction: AbstractContextManager[Publication],
    group: StagingGroup,
    slices: Sequence[StagedSlice],
    guard: ReplaceGuard,
) -> None:
    """Count what the table holds, delete the old rows, insert the staged ones, compare the counts, commit.

    Raise AttemptError, with nothing changed, and UncertainCommitError.
    """
    reach("publish.begin")
    with transaction as publication:
        reach("publish.held")
        held = publication.held_rows([staged.slice for staged in slices])
        allowed = guard.allowed(slices, held, publication.held_values)
        changes = [staged for staged in allowed if staged.rows or held.get(staged.slice.shard)]
        if changes:
            _replace(publication, group, changes, held)
            _commit(publication, changes, guard)


def _replace(
    publication: Publication, group: StagingGroup, slices: Sequence[StagedSlice], held: Mapping[str, int]
) -> None:
    filled = [staged for staged in slices if staged.rows]
    tokens = [staged.token for staged in filled]
    if tokens:
        reach("publish.staged")
        compare_staged(filled, publication.staged_rows(group, tokens))
    old = [staged.slice for staged in slices if held.get(staged.slice.shard)]
    if old:
        reach("publish.delete")
        publication.delete(old)
    if tokens:
        reach("publish.insert")
        inserted, wanted = publication.insert(group, tokens), sum(staged.rows for staged in filled)
        if inserted != wanted:
            raise CountsDifferError(f"{wanted} rows were staged, but {inserted} inserted")


def compare_staged(slices: Sequence[StagedSlice], found: Mapping[str, int]) -> None:
    """Raise CountsDifferError unless as many rows are staged under each token as were extracted."""
    for staged in slices:
        rows = found.get(staged.token, 0)
        if rows != staged.rows:
            raise CountsDifferError(
                f"{staged.slice.shard}: {staged.rows} rows were extracted, but {rows} are staged"
            )


def _commit(publication: Publication, slices: Sequence[StagedSlice], guard: ReplaceGuard) -> None:
    reach("publish.commit")
    guard.permit(slices)
    # Stopped here for long, this run may be reaped: its session on the server is ended before its sessions are closed.
    reach("publish.fenced")
    try:
        publication.commit()
    except Exception as error:  # a defect, too, may have let it happen
        raise UncertainCommitError(error, slices) from error
    reach("publish.committed")
