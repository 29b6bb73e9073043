"""The whole way of a slice in one process: source, stage, publish, target."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetRefusedError
from dwhctl.load.extract import BATCH_ROWS, BOUNDED_ROWS, READ_ROWS, gathered, stage_slice
from dwhctl.load.publish import Published, PublishRules, publish
from dwhctl.project.connections import Connection
from dwhctl.project.days import Slice
from dwhctl.project.loads import Load, Shard
from dwhctl.project.query import Query
from dwhctl.runtime.messages import StageOrder, StageResult, TargetTable
from dwhctl.systems.base.ddl import new_table
from dwhctl.systems.base.target import StagedSlice, StagingGroup, Target
from tests.contract.kits import SourceKit, TargetKit
from tests.unit.projects import a_load

DAY = date(2020, 7, 14)
SERVICE = "etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT"
TABLE = "stage.t"
SELECT = "SELECT id, v FROM t"
#: Targets with decimals of 76 digits.
_WIDE = ("vertica", "postgres", "clickhouse")


def a_slice(day: date = DAY, zone: str = "UTC", shard: str = "abakan", *, sliced: bool = True) -> Slice:
    """The slice of a day on a shard's wall clock."""
    if not sliced:
        return Slice("orders", shard, day, None, None, None, None, zone)
    start, end = (datetime(one.year, one.month, one.day) for one in (day, day + timedelta(days=1)))  # noqa: DTZ001
    at, end_at = (one.replace(tzinfo=ZoneInfo(zone)).astimezone(ZoneInfo("UTC")) for one in (start, end))
    return Slice("orders", shard, day, start, end, at, end_at, zone)


@dataclass
class Way:
    """One source, one warehouse, one table."""

    source_kit: SourceKit
    target_kit: TargetKit
    root: Path
    slice_by: str | None = None
    key: tuple[str, ...] = ("id",)
    zone: str = "UTC"
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.source: Connection = self.source_kit.connection(self.root)
        self.warehouse: Connection = self.target_kit.connection(self.root)
        self.target: Target = self.target_kit.open(self.warehouse, self.root)
        self.group = StagingGroup("run", "group", TABLE)

    @property
    def load(self) -> Load:
        """The load."""
        return a_load(key=self.key, slice_by=self.slice_by, table=TABLE, target="dwh")

    def create(self, columns: str) -> None:
        """Make the target table, with the service fields."""
        layout = self.target_kit.layout(self.slice_by, columns, self.zone)
        self.target.run_statements(
            ["CREATE SCHEMA IF NOT EXISTS stage", f"CREATE TABLE {TABLE} ({columns}, {SERVICE}){layout}"]
        )

    def generate(self, sql: str, shard: str = "abakan") -> None:
        """Make the target table from the columns of a query, as a load without a `create` does."""
        with self.source_kit.open(self.source, shard) as source:
            columns = source.columns(Query(sql, {}))
        self.target.run_statements(
            self.target.create_table(new_table(TABLE, columns, self.key, self.slice_by))
        )

    def fill(self, *statements: str, shard: str = "abakan") -> None:
        """Run statements in the shard's database."""
        self.source_kit.run(self.source, shard, *statements)

    def order(self, sql: str, day: date = DAY, shard: str = "abakan", **keys: Any) -> StageOrder:
        """The order of a new attempt."""
        one = a_slice(day, self.zone, shard, sliced=self.slice_by is not None)
        binds = {"start": one.start, "end": one.end} if ":start" in sql else {}
        instants = {"start": one.start_at, "end": one.end_at} if ":start" in sql else {}
        number = next(self.numbers)
        return StageOrder(
            slice=one,
            shard=Shard(shard, self.source_kit.database(shard), "server_0", self.zone),
            source=self.source,
            query=self.source_kit.query(
                self.source, shard, Query(sql, _known(binds), self.slice_by, _known(instants)), self.zone
            ),
            key=self.key,
            slice_by=self.slice_by,
            table=TargetTable(self.warehouse, TABLE, tuple(self.target.columns(TABLE)), self.root / "state"),
            group=self.group,
            token=f"token{number}",
            etl_id=number,
            **keys,
        )

    def stage(self, sql: str, batch_rows: int = BATCH_ROWS, **keys: Any) -> tuple[StageResult, StagedSlice]:
        """Stage a slice as a worker does, in batches of so many rows."""
        self.target.open_group(self.group)
        order = self.order(sql, **keys)
        with (
            patch("dwhctl.load.extract.READ_ROWS", min(batch_rows, READ_ROWS)),
            patch("dwhctl.load.extract.BOUNDED_ROWS", min(batch_rows, BOUNDED_ROWS)),
            patch("dwhctl.load.extract.gathered", partial(gathered, rows=batch_rows)),
        ):
            result = stage_slice(order)
        return result, StagedSlice(order.slice, result.token, order.etl_id, result.rows)

    def publish(self, *staged: StagedSlice, allow_shrink: bool = True) -> list[Published]:
        """Publish as the parent does."""
        return publish(self.target, self.load, self.group, staged, PublishRules(allow_shrink, lambda: None))

    def carry(self, sql: str, **keys: Any) -> int:
        """Take a slice the whole way; give its rows."""
        result, staged = self.stage(sql, **keys)
        assert result.failure is None, result.failure
        (outcome,) = self.publish(staged)
        assert outcome.failure is None, outcome.failure
        return result.rows

    def refusal(self, sql: str, **keys: Any) -> str:
        """Take a slice that must be refused, by whom ever; give class and message."""
        result, staged = self.stage(sql, **keys)
        failure = result.failure
        if failure is None:
            (outcome,) = self.publish(staged)
            failure = outcome.failure
        assert failure is not None, self.rows("*")
        return f"{failure.error_class}: {failure.message}"

    def rows(self, columns: str, order: str = "id") -> list[tuple[str | None, ...]]:
        """What stands in the target, as text."""
        return self.target_kit.texts(self.warehouse, f"SELECT {columns} FROM {TABLE} ORDER BY {order}")


def filled(way: Way, *values: str, declared: str | None = None) -> Way:
    """A way with a source table of these values beside the key, and a target table (of texts, if not said)."""
    kit = way.source_kit
    way.create(f"{way.target_kit.columns(id=Kind.INTEGER)}, v {declared or way.target_kit.words[Kind.TEXT]}")
    rows = (f"SELECT {kit.integer(n)} AS id, {value} AS v" for n, value in enumerate(values))
    way.fill(*kit.create_as("t", " UNION ALL ".join(rows)))
    return way


def is_held(way: Way, column: Column) -> bool:
    """Return whether the target has a type for a source's column; else check that it refuses the column by name."""
    # The only types of one system that another lacks.
    if column.kind is not Kind.DECIMAL or column.type.precision <= 38 or way.target_kit.name in _WIDE:
        return True
    with pytest.raises(TargetRefusedError, match=f"column {column.name}: no .*{re.escape(column.declared)}"):
        way.target.declaration(column)
    return False


def _known(values: dict[str, datetime | None]) -> dict[str, datetime]:
    return {name: value for name, value in values.items() if value is not None}
