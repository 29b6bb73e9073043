"""Slices on the whole way from every source to every target: a day is replaced, never appended."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from dwhctl.core.columns import Kind
from tests.contract.way import DAY, SELECT, Way, filled


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TIMESTAMPTZ, Kind.DATE])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Chita"])
def test_reloading_a_day_replaces_that_day_only(way: Way, kind: Kind, zone: str) -> None:
    way.slice_by, way.zone = "v", zone
    way.create(way.target_kit.columns(id=Kind.INTEGER, v=kind))
    texts = [
        "2020-07-13 23:59:59",
        "2020-07-14 00:00:00",
        "2020-07-14 23:59:59.999999",
        "2020-07-15 00:00:00",
    ]
    moments = (datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)) for text in texts)
    values = [way.source_kit.literal(kind, _as_held(kind, moment)) for moment in moments]
    rows = (f"SELECT {way.source_kit.integer(n)} AS id, {value} AS v" for n, value in enumerate(values))
    way.fill(*way.source_kit.create_as("t", " UNION ALL ".join(rows)))
    sql = f"{SELECT} WHERE v >= :start AND v < :end"
    days = (date(2020, 7, 13), DAY, date(2020, 7, 15))
    for day in (*days, DAY):
        way.carry(sql, day=day)
    assert way.rows("id, etl_id") == [("0", "1"), ("1", "4"), ("2", "4"), ("3", "3")]
    way.fill("DELETE FROM t WHERE id = 1")
    way.carry(sql)
    assert [one for (one,) in way.rows("id")] == ["0", "2", "3"]


def _as_held(kind: Kind, moment: datetime) -> object:
    if kind is Kind.TIMESTAMPTZ:
        return moment
    return moment.date() if kind is Kind.DATE else moment.replace(tzinfo=None)


@pytest.mark.parametrize("declared", ["TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"])
def test_slices_of_other_units(duckdb_way: Way, declared: str) -> None:
    way = duckdb_way
    way.slice_by = "v"
    last = "2020-07-14 23:59:59" + (".999999999" if declared == "TIMESTAMP_NS" else "")
    texts = ["2020-07-13 23:59:59", "2020-07-14 00:00:00", last, "2020-07-15 00:00:00"]
    filled(way, *(f"CAST('{text}' AS {declared})" for text in texts), declared=declared)
    for _ in range(2):
        assert way.carry(f"{SELECT} WHERE v >= :start AND v < :end") == 2
    assert way.rows("id, etl_id") == [("1", "2"), ("2", "2")]


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TIMESTAMPTZ, Kind.DATE])
@pytest.mark.parametrize("text", ["2020-07-13 23:59:59", "2020-07-15 00:00:00", None])
def test_a_row_outside_the_slice_is_refused_by_name(way: Way, kind: Kind, text: str | None) -> None:
    way.slice_by = "v"
    inside, odd = (
        None if one is None else _as_held(kind, datetime.fromisoformat(one).replace(tzinfo=UTC))
        for one in ("2020-07-14 12:00:00", text)
    )
    literal = way.source_kit.literal
    filled(way, literal(kind, inside), literal(kind, odd), declared=way.target_kit.words[kind])
    said = way.refusal(SELECT)
    assert said.startswith("OutsideSliceError: row id=1 has v "), said
    assert way.rows("*") == []


@pytest.mark.parametrize("declared", ["TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIMESTAMP_NS"])
@pytest.mark.parametrize("value", ["infinity", "-infinity", "2020-07-15 00:00:00"])
def test_the_ends_of_time_are_outside_the_slice(duckdb_way: Way, declared: str, value: str) -> None:
    duckdb_way.slice_by = "v"
    values = (f"CAST('{one}' AS {declared})" for one in ("2020-07-14 12:00:00", value))
    said = filled(duckdb_way, *values, declared=declared).refusal(SELECT)
    assert said.startswith("OutsideSliceError: row id=1 has v "), said


def test_a_slice_by_column_that_is_no_time_is_refused(way: Way) -> None:
    way.slice_by = "v"
    filled(way, way.source_kit.text("2020-07-14"))
    assert ", not a date or time" in way.refusal(SELECT)


@pytest.mark.parametrize("batch_rows", [50_000, 1])
def test_a_key_twice_is_refused_by_name_across_batches_too(way: Way, batch_rows: int) -> None:
    way.key = ("id", "v")
    filled(way, *map(way.source_kit.text, "ab"))
    way.fill("INSERT INTO t VALUES (0, 'c'), (1, 'b')")
    said = way.refusal(SELECT, batch_rows=batch_rows)
    assert said == "DoubledKeyError: the key id=1, v=b occurs twice in the slice"
    assert way.rows("*") == []


def one_row(way: Way, number: int, text: str) -> tuple[str, ...]:
    """Statements that make the source's table of one row."""
    kit = way.source_kit
    return kit.create_as("t", f"SELECT {kit.integer(number)} AS id, {kit.text(text)} AS v")


def test_the_same_key_in_two_shards_is_two_rows(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER, v=Kind.TEXT))
    for shard in ("abakan", "chita"):
        way.fill(*one_row(way, 1, shard), shard=shard)
        way.carry(SELECT, shard=shard)
    assert way.rows("etl_source, v", order="etl_source") == [("abakan", "abakan"), ("chita", "chita")]


def test_an_unsliced_load_replaces_its_shards_whole_table(way: Way) -> None:
    filled(way, *map(way.source_kit.text, "ab"))
    way.fill(*one_row(way, 9, "other"), shard="chita")
    way.carry(SELECT, shard="chita")
    way.carry(SELECT)
    way.fill("DELETE FROM t WHERE id = 0", "INSERT INTO t VALUES (2, 'c')")
    way.carry(SELECT, day=date(2020, 7, 20))
    assert way.rows("id, v") == [("1", "b"), ("2", "c"), ("9", "other")]


@pytest.mark.parametrize("constraint", ["PRIMARY KEY", "UNIQUE"])
def test_a_unique_column_does_not_stand_in_the_way_of_a_reload(way: Way, constraint: str) -> None:
    words, kit = way.target_kit.words, way.source_kit
    if way.target_kit.name == "clickhouse":
        pytest.skip("ClickHouse has no unique columns")
    way.create(f"id {words[Kind.INTEGER]} {constraint}, v {words[Kind.TEXT]}")
    way.fill(*kit.create_as("t", f"SELECT i AS id, {kit.text('first')} AS v FROM {kit.numbers(1000)}"))
    for text in ("first", "second", "third"):
        way.fill(f"UPDATE t SET v = '{text}'")
        assert way.carry(SELECT) == 1000
    assert {row for (row,) in way.rows("v")} == {"third"}


def test_a_refused_slice_costs_itself_only(duckdb_way: Way) -> None:
    way = duckdb_way
    way.create("id BIGINT UNIQUE, v VARCHAR")
    staged = []
    for shard, number in (("abakan", 1), ("chita", 1), ("achinsk", 3)):
        way.fill(*one_row(way, number, shard), shard=shard)
        staged.append(way.stage(SELECT, shard=shard)[1])
    outcomes = way.publish(*staged)
    assert [one.failure is None for one in outcomes] == [True, False, True]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.error_class == "TargetRefusedError"
    assert way.rows("v") == [("abakan",), ("achinsk",)]
