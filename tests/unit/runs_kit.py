"""Small made-up loads, slices and a warehouse in memory, for the tests of the runs room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dwhctl.core.columns import Column
from dwhctl.core.errors import AttemptError
from dwhctl.load.publish import PublishRules
from dwhctl.project.days import Slice
from dwhctl.project.loads import Load, Shard
from dwhctl.project.names import RowSource
from dwhctl.runtime.plan import PlannedSlice
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.staging import Publication
from dwhctl.systems.base.target import (
    Refresh,
    Stage,
    StagedSlice,
    StagingGroup,
    Statement,
    TableColumns,
    Target,
)
from tests.unit.projects import a_load

DAY = date(2020, 7, 14)
GROUP = StagingGroup("run", "group", "stage.orders")
FREELY = PublishRules(allow_shrink=True, fence=lambda: None)
GUARDED = PublishRules(allow_shrink=False, fence=lambda: None)


def a_slice(shard: str, day: date = DAY, load: str = "orders") -> Slice:
    """A slice by UTC days."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    return Slice(load, shard, day, start.replace(tzinfo=None), end.replace(tzinfo=None), start, end, "UTC")


def staged(shard: str, rows: int, etl_id: int = 1, day: date = DAY) -> StagedSlice:
    """A slice whose token is its shard's name and id."""
    return StagedSlice(a_slice(shard, day), f"{shard}.{etl_id}", etl_id, rows)


def planned(
    shard: str, connection: str = "server_0", load: Load | None = None, day: date = DAY
) -> PlannedSlice:
    """A slice in a plan."""
    load = load or a_load()
    return PlannedSlice(load, Shard(shard, shard, connection, "UTC"), a_slice(shard, day, load.name))


@dataclass
class FakeTarget(Target):
    """A warehouse that holds counts: rows by shard, and by etl_id. Faults are raised at the step they are put under."""

    held: dict[str, int] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)
    in_staging: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    faults: dict[str, AttemptError] = field(default_factory=dict)
    refused: dict[str, AttemptError] = field(default_factory=dict)
    inserted: int | None = None
    commits_in_spite: bool = False
    commits: int = 0
    deleted: list[str] = field(default_factory=list)

    def put(self, *slices: StagedSlice, rows: int | None = None) -> list[StagedSlice]:
        """Stage slices; `rows` when other than they say."""
        for one in slices:
            count = one.rows if rows is None else rows
            self.in_staging[one.token] = (one.slice.shard, one.etl_id, count)
        return list(slices)

    def fail(self, step: str) -> None:
        """Raise the fault of a step."""
        if step in self.faults:
            raise self.faults[step]

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        raise NotImplementedError

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        raise NotImplementedError

    def declaration(self, column: Column) -> str:
        return column.declared

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        self.fail("begin")
        yield FakePublication(self)

    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> AbstractContextManager[Refresh]:
        raise NotImplementedError

    def inspection(self, table: str, slice_by: str | None) -> AbstractContextManager[Inspection]:
        raise AssertionError("no load inspects its table")

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        self.fail("look")
        return {one: self.ids[one] for one in etl_ids if one in self.ids}

    def settle(self) -> None:
        self.fail("look")

    def highest_etl_id(self, table: str) -> int:
        return max(self.ids, default=0)

    def run_statements(self, statements: Sequence[str]) -> None:
        raise NotImplementedError

    def columns(self, table: str) -> Sequence[Column]:
        return ()

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        self.fail("add")

    def open_group(self, group: StagingGroup) -> None:
        self.fail("open")

    def drop_group(self, group: StagingGroup) -> None:
        self.fail("drop")

    def drop_run(self, run_id: str) -> None:
        self.fail("drop")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        raise NotImplementedError

    def interrupt(self) -> None:
        pass

    def version(self) -> str:
        return "fake"


class FakePublication(Publication):
    """A transaction: nothing of it is kept without a commit."""

    def __init__(self, target: FakeTarget) -> None:
        self._target = target
        self._held = dict(target.held)
        self._ids = dict(target.ids)
        self._deleted: list[str] = []

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        self._target.fail("held")
        return {one.shard: self._held[one.shard] for one in slices if one.shard in self._held}

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        self._target.fail("values")
        return {}

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        self._target.fail("staged")
        found = self._target.in_staging
        return {token: found[token][2] for token in tokens if token in found}

    def delete(self, slices: Sequence[Slice]) -> None:
        self._target.fail("delete")
        for one in slices:
            self._held.pop(one.shard, None)
            self._deleted.append(one.shard)

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        self._target.fail("insert")
        total = 0
        for token in tokens:
            shard, etl_id, rows = self._target.in_staging[token]
            if shard in self._target.refused:
                raise self._target.refused[shard]
            self._held[shard] = self._held.get(shard, 0) + rows
            self._ids[etl_id] = rows
            total += rows
        return total if self._target.inserted is None else self._target.inserted

    def commit(self) -> None:
        target = self._target
        if "commit" not in target.faults or target.commits_in_spite:
            target.held, target.ids = self._held, self._ids
            target.deleted += self._deleted
            target.commits += 1
        target.fail("commit")


def anything(**fields: Any) -> Any:
    """An object with these attributes."""
    return type("Anything", (), fields)()
