"""What a worker does: it never raises, stages all or nothing, and refuses by name."""

from __future__ import annotations

import pickle
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core import faults
from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import OutsideSliceError, SchemaDriftError, SourceError
from dwhctl.core.secrets import Secret
from dwhctl.load.cast import SliceCheck
from dwhctl.load.extract import stage_slice
from dwhctl.load.hash_ids import SliceIds
from dwhctl.project.days import Slice
from dwhctl.runtime.messages import Failure
from dwhctl.systems.duckdb.staging import ParquetStage
from tests.contract.kits import SOURCES, TARGETS
from tests.contract.way import Way

DAY = date(2020, 7, 14)
STEPS = ["connect", "describe", "open", "extract", "write", "finish", "finished"]
SELECT = "SELECT id, v FROM t"


@pytest.fixture
def way(tmp_path: Path) -> Way:
    made = Way(SOURCES[0], TARGETS[0], tmp_path)
    made.create("id BIGINT, v VARCHAR")
    made.fill("CREATE TABLE t AS SELECT i AS id, 'v' || i AS v FROM range(10) AS numbers(i)")
    return made


def staged_files(way: Way) -> list[str]:
    return [path.name for path in (way.root / "state").rglob("*.parquet")]


def test_a_staged_slice_says_its_token_rows_bytes_and_times(way: Way) -> None:
    result, staged = way.stage(SELECT)
    assert (result.failure, result.rows, result.token) == (None, 10, staged.token)
    assert result.bytes == sum(path.stat().st_size for path in (way.root / "state").rglob("*.parquet"))
    assert set(result.seconds) == {"connect", "describe", "extract", "stamp", "wait", "stage", "check"}
    assert all(value >= 0 for value in result.seconds.values())


def test_what_crosses_the_border_can_be_pickled(way: Way) -> None:
    way.target.open_group(way.group)
    order = pickle.loads(pickle.dumps(way.order(SELECT)))
    result = pickle.loads(pickle.dumps(stage_slice(order)))
    assert result.rows == 10


@pytest.mark.parametrize("batch_rows", [1, 3, 10, 11])
def test_the_batch_size_changes_nothing(way: Way, batch_rows: int) -> None:
    way.carry(SELECT)
    before = way.rows("id, v, hash_id")
    assert way.carry(SELECT, batch_rows=batch_rows) == 10
    assert way.rows("id, v, hash_id") == before


def test_the_keys_of_many_batches_are_compared_in_the_worker(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_args: object) -> None:
        raise AssertionError("the target was asked for duplicate keys")

    monkeypatch.setattr(ParquetStage, "duplicate_key", asked)
    assert way.carry(SELECT, batch_rows=1) == 10


@pytest.mark.parametrize("most", [2, 4, 100])
@pytest.mark.parametrize(
    ("batches", "repeats"),
    [
        ([], False),
        ([[]], False),
        ([[3, 1], [2]], False),
        ([[-3, 1, 2, 5, -6], [4, 0, 6, 7, -8]], False),
        ([[3, 1], [3]], True),
        ([[-3, 1, 2, 5, -6], [4, 0, 6, 7, -3]], True),
        ([[1, 2, 4, 6, 8, 10], [], [10]], True),
    ],
)
def test_ids_repeat_within_and_across_batches_held_or_in_a_file(
    tmp_path: Path, batches: list[list[int]], repeats: bool, most: int
) -> None:
    with closing(SliceIds(tmp_path, most)) as ids:
        for batch in batches:
            ids.add(np.array(batch, np.int64))
        assert ids.may_repeat() is repeats
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_where_ids_cannot_be_written_the_engine_is_asked(tmp_path: Path) -> None:
    ids = SliceIds(tmp_path / "missing", most=1)
    for number in range(3):
        ids.add(np.array([number]))
    assert ids.may_repeat()


def test_no_rows_are_a_success_without_rows(way: Way) -> None:
    result, _ = way.stage(f"{SELECT} WHERE id < 0")
    assert (result.failure, result.rows) == (None, 0)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a defect"), MemoryError("no memory"), SourceError("reset")]
)
def test_it_never_raises_and_leaves_nothing_staged(
    way: Way, step: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(point: str) -> None:
        if point == f"stage.{step}":
            raise error

    monkeypatch.setattr(faults, "handler", handler)
    result, _ = way.stage(SELECT)
    assert result.failure is not None
    if isinstance(error, SourceError):
        assert (result.failure.error_class, result.failure.permanent) == ("SourceError", False)
    else:
        assert (result.failure.error_class, result.failure.permanent) == ("InternalError", True)
        assert type(error).__name__ in result.failure.message
    assert staged_files(way) == []


@pytest.mark.parametrize(
    ("statement", "error_class"),
    [
        ("UPDATE t SET id = NULL WHERE id = 9", "ValueRefusedError"),
        ("UPDATE t SET id = 3 WHERE id = 9", "DoubledKeyError"),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 50])
def test_a_refused_slice_leaves_nothing_staged(
    way: Way, statement: str, error_class: str, batch_rows: int
) -> None:
    way.fill(statement)
    result, _ = way.stage(SELECT, batch_rows=batch_rows)
    assert result.failure is not None
    assert result.failure.error_class == error_class
    assert staged_files(way) == []


def test_a_refusal_in_the_first_of_many_batches_lets_go_of_the_source(way: Way) -> None:
    way.fill(
        "CREATE OR REPLACE TABLE t AS SELECT nullif(i, 0) AS id, 'x' AS v FROM range(200000) AS numbers(i)"
    )
    result, _ = way.stage(SELECT, batch_rows=1_000)
    assert result.failure is not None
    assert "key column id, row id=None" in result.failure.message
    way.fill("DELETE FROM t WHERE id IS NULL")
    assert way.carry(SELECT) == 199_999


def test_a_failure_shows_no_secret() -> None:
    text = Secret("hunter2secret").reveal()
    for error in (SourceError(f"login {text} refused"), ZeroDivisionError(text)):
        assert text not in Failure.of(error).message


# What lies inside the slice


def check(kind: Kind, type_: pa.DataType, **bounds: Any) -> SliceCheck:
    start = datetime(2020, 7, 14)  # noqa: DTZ001
    fields = {
        "start": start,
        "end": start + timedelta(days=1),
        "start_at": start.replace(tzinfo=UTC),
        "end_at": start.replace(tzinfo=UTC) + timedelta(days=1),
        **bounds,
    }
    columns = [Column("ID", Kind.INTEGER, pa.int64(), "BIGINT"), Column("At", kind, type_, str(type_))]
    return SliceCheck(Slice("orders", "abakan", DAY, zone="UTC", **fields), "at", ["id"], columns)


def refused(checked: SliceCheck, values: list[Any], type_: pa.DataType) -> str | None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(len(values))), pa.array(values, type_)], names=["ID", "At"]
    )
    try:
        checked(batch)
    except OutsideSliceError as error:
        return str(error)
    return None


@given(st.datetimes(datetime(2020, 7, 13), datetime(2020, 7, 16)))  # noqa: DTZ001
def test_a_moment_is_inside_from_the_start_and_before_the_end(moment: datetime) -> None:
    inside = moment.date() == DAY
    naive, zoned = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
    assert (refused(check(Kind.TIMESTAMP, naive), [moment], naive) is None) == inside
    aware = moment.replace(tzinfo=UTC)
    assert (refused(check(Kind.TIMESTAMPTZ, zoned), [aware], zoned) is None) == inside
    day = moment.date()
    assert (refused(check(Kind.DATE, pa.date32()), [day], pa.date32()) is None) == inside


@given(
    st.datetimes(datetime(2020, 7, 13), datetime(2020, 7, 14)),  # noqa: DTZ001
    st.dates(date(2020, 7, 12), date(2020, 7, 17)),
)
def test_a_date_counts_as_its_midnight(start: datetime, day: date) -> None:
    checked = check(Kind.DATE, pa.date32(), start=start, end=start + timedelta(days=1))
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001
    inside = start <= midnight < start + timedelta(days=1)
    assert (refused(checked, [day], pa.date32()) is None) == inside


@pytest.mark.parametrize("before", [0, 5])
def test_the_first_row_outside_is_named(before: int) -> None:
    naive = pa.timestamp("us")
    inside, outside = datetime(2020, 7, 14, 12), datetime(2020, 7, 15)  # noqa: DTZ001
    said = refused(check(Kind.TIMESTAMP, naive), [*[inside] * before, outside, inside, None], naive)
    assert said == (
        f"row id={before} has At 2020-07-15 00:00:00, outside [2020-07-14 00:00:00, 2020-07-15 00:00:00)"
    )


def test_null_is_outside() -> None:
    naive = pa.timestamp("us")
    said = refused(check(Kind.TIMESTAMP, naive), [None], naive)
    assert said is not None
    assert said.startswith("row id=0 has At None, outside")


def test_an_extract_without_key_or_slice_by_is_named() -> None:
    columns = [Column("id", Kind.INTEGER, pa.int64(), "BIGINT")]
    one = Slice("orders", "abakan", DAY, None, None, None, None, "UTC")
    with pytest.raises(SchemaDriftError, match="the extract has no column line, at"):
        SliceCheck(one, "at", ["id", "line"], columns)
