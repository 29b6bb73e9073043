"""The whole way from every source to every target changes no value, or refuses it by name."""

from __future__ import annotations

import itertools
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.kits import NASTY_TEXTS, SOURCES, TARGETS, SourceKit, TargetKit, TypeCase
from tests.contract.way import DAY, SELECT, Way, filled

CASES = [pytest.param(kit, case, id=f"{kit.name}-{case.declared}") for kit in TARGETS for case in kit.types]


# Values


@pytest.mark.parametrize(("target", "case"), CASES)
def test_every_value_of_every_type_arrives_as_it_was(
    target: TargetKit, case: TypeCase, tmp_path: Path
) -> None:
    for source in SOURCES:
        if case.declared not in {one.declared for one in source.types}:
            continue
        way = Way(source, target, tmp_path)
        one = case.values[0]
        filled(way, *case.values, f"nullif({one}, {one})", declared=case.declared)
        assert way.carry(SELECT) == len(case.values) + 1
        expected = target.texts(
            way.warehouse,
            " UNION ALL ".join(f"SELECT {n} AS id, {v} AS v" for n, v in enumerate(case.values)),
        )
        found = way.rows("id, v")
        assert found[:-1] == sorted(expected, key=lambda row: int(row[0] or 0))
        assert found[-1] == (str(len(case.values)), None)


@pytest.mark.parametrize(("target", "case"), CASES)
def test_a_column_of_nothing_but_nulls(target: TargetKit, case: TypeCase, tmp_path: Path) -> None:
    for source in SOURCES:
        if case.declared in {one.declared for one in source.types}:
            way = filled(Way(source, target, tmp_path), *["NULL"] * 3, declared=case.declared)
            way.fill("DROP TABLE t", f"CREATE TABLE t (id BIGINT, v {case.declared})",
                     "INSERT INTO t (id) VALUES (0), (1), (2)")  # fmt: skip
            assert way.carry(SELECT) == 3
            assert way.rows("v") == [(None,)] * 3


def test_nasty_texts_arrive_byte_by_byte(way: Way) -> None:
    filled(way, *map(way.source_kit.text, NASTY_TEXTS))
    way.carry(SELECT)
    assert [text for (text,) in way.rows("v")] == list(NASTY_TEXTS)


def test_nasty_texts_as_keys_are_as_many_keys(way: Way) -> None:
    texts = [text for text in NASTY_TEXTS if text is not None]
    way.key = ("v",)
    filled(way, *map(way.source_kit.text, texts))
    for rows in (50_000, 3):
        way.carry(SELECT, batch_rows=rows)
        assert [text for (text,) in way.rows("v")] == texts
    assert len({row for (row,) in way.rows("hash_id")}) == len(texts)


def test_nasty_names_of_columns(way: Way) -> None:
    names = [
        "a b",
        'qu"ote',
        "dot.ted",
        "select",
        "ё",
        "id=7",
        "UPPER",
        "filename",
        "file_row_number",
        "$1",
        "x'y",
    ]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    way.key = ("dot.ted", 'qu"ote')
    way.create(", ".join(f"{name} BIGINT" for name in quoted))
    way.fill("CREATE TABLE t AS SELECT " + ", ".join(f"{n} AS {name}" for n, name in enumerate(quoted)))
    for _ in range(2):
        assert way.carry("SELECT * FROM t") == 1
    assert way.rows(", ".join(quoted), order="1") == [tuple(str(n) for n in range(len(names)))]


@pytest.mark.parametrize("folder", ["id=7", "v=x", "a[1]b", "wild*", "it's", "пробел и ё", "{a,b}"])
def test_the_state_folders_name_changes_nothing(way: Way, folder: str, tmp_path: Path) -> None:
    root = tmp_path / folder
    root.mkdir()
    inside = filled(Way(way.source_kit, way.target_kit, root), "'one'", "'two'")
    for _ in range(2):
        assert inside.carry(SELECT, batch_rows=1) == 2
    assert inside.rows("id, v") == [("0", "one"), ("1", "two")]
    inside.fill("INSERT INTO t VALUES (1, 'again')")
    assert "the key id=1 stands twice" in inside.refusal(SELECT, batch_rows=1)


def _sql(kind: str, value: object) -> str:
    return "NULL" if value is None else f"CAST('{value}' AS {kind})"


_ROW = st.tuples(
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.decimals(1 - 10**28, 10**28 - 1, places=10),
    st.none() | st.floats(),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.binary(),
    st.none() | st.booleans(),
    st.none() | st.dates(),
    st.none() | st.times(),
    st.none() | st.datetimes(),
    st.none() | st.datetimes(),
    st.none() | st.uuids(),
)  # fmt: skip
_KINDS = (
    "BIGINT", "DECIMAL(38,10)", "DOUBLE", "VARCHAR", "BLOB", "BOOLEAN", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ",
    "UUID",
)  # fmt: skip


def _literal(kit: SourceKit, kind: str, value: object) -> str:
    if isinstance(value, str):
        return kit.text(value)
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    if kind == "TIMESTAMPTZ" and value is not None:
        value = f"{value}+00"
    return _sql(kind, value)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_ROW, min_size=1, max_size=12), batch=st.integers(1, 13))
def test_any_rows_go_the_whole_way_unchanged(
    rows: list[tuple[object, ...]], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for source, target in itertools.product(SOURCES, TARGETS):
        way = Way(source, target, tmp_path_factory.mktemp("way"))
        names = [f"c{number}" for number in range(len(_KINDS))]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, _KINDS, strict=True))
        way.create(f"id BIGINT, {columns}")
        literals = [
            ", ".join([str(n), *(_literal(source, kind, v) for kind, v in zip(_KINDS, row, strict=True))])
            for n, row in enumerate(rows)
        ]
        way.fill(
            f"CREATE TABLE t (id BIGINT, {columns})", *(f"INSERT INTO t VALUES ({one})" for one in literals)
        )
        assert way.carry("SELECT * FROM t", batch_rows=batch) == len(rows)
        shown = ", ".join(["id", *names])
        wanted = target.texts(
            way.warehouse,
            f"SELECT * FROM (VALUES {', '.join(f'({one})' for one in literals)}) AS t({shown})",
        )
        assert sorted(way.rows(shown)) == sorted(wanted)


# Values that the target does not hold


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        ("BIGINT", "INTEGER", "2147483648"),
        ("UBIGINT", "BIGINT", "9223372036854775808"),
        ("BIGINT", "UBIGINT", "-1"),
        ("BIGINT", "DECIMAL(4,1)", "1000"),
        ("DECIMAL(10,3)", "DECIMAL(10,2)", "1.005"),
        ("DECIMAL(38,0)", "DECIMAL(18,0)", "9" * 19),
        ("HUGEINT", "HUGEINT", str(2**127 - 1)),
        ("HUGEINT", "HUGEINT", str(-(2**127))),
        ("HUGEINT", "DECIMAL(18,0)", str(-(2**127))),
        ("HUGEINT", "DECIMAL(38,2)", str(-(2**127))),
        ("HUGEINT", "DECIMAL(38,0)", str(10**38)),
        ("TIMESTAMP", "TIMESTAMP_S", "2020-07-14 12:00:00.5"),
        ("TIMESTAMP", "TIMESTAMP_MS", "2020-07-14 12:00:00.000001"),
        ("TIMESTAMP_NS", "TIMESTAMP", "2020-07-14 12:00:00.000000001"),
        ("TIMESTAMP", "TIMESTAMP_NS", "9999-12-31 00:00:00"),
        ("TIMESTAMP_S", "TIMESTAMP_S", "infinity"),
        ("TIMESTAMP_S", "TIMESTAMP", "infinity"),
        ("DATE", "TIMESTAMP", "infinity"),
        ("DATE", "TIMESTAMP", "5874897-12-31"),
    ],
)
@pytest.mark.parametrize("before", [0, 7])
def test_a_value_that_does_not_fit_is_refused_by_column_row_and_reason(
    way: Way, source: str, target: str, value: str, before: int
) -> None:
    way.create(f"id BIGINT, v {target}")
    way.fill(
        f"CREATE TABLE t (id BIGINT, v {source})",
        f"INSERT INTO t SELECT i, NULL FROM {way.source_kit.numbers(before)}",
        f"INSERT INTO t VALUES (4711, CAST('{value}' AS {source}))",
    )
    said = way.refusal(SELECT)
    assert said.startswith("ValueRefusedError: column v, row id=4711: "), said
    assert "does not fit" in said
    assert way.rows("*") == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("VARCHAR", "BIGINT"), ("BIGINT", "VARCHAR"), ("DOUBLE", "DECIMAL(18,2)"), ("DECIMAL(18,0)", "BIGINT"),
        ("BIGINT", "DOUBLE"), ("DECIMAL(18,2)", "DOUBLE"), ("DOUBLE", "FLOAT"), ("TIMESTAMP", "DATE"),
        ("TIMESTAMP", "TIMESTAMPTZ"), ("TIMESTAMPTZ", "TIMESTAMP"), ("VARCHAR", "UUID"), ("VARCHAR", "BLOB"),
        ("BOOLEAN", "INTEGER"), ("INTEGER", "BOOLEAN"), ("TIME", "TIMESTAMP"), ("VARCHAR", "DATE"),
        ("HUGEINT", "BIGINT"),
    ],
)  # fmt: skip
def test_types_between_which_values_change_are_refused_before_data_moves(
    way: Way, source: str, target: str
) -> None:
    way.create(f"id BIGINT, v {target}")
    way.fill(f"CREATE TABLE t (id BIGINT, v {source})")
    said = way.refusal(SELECT)
    assert said.startswith("SchemaDriftError: column v is ")
    assert " at the source and " in said


@pytest.mark.parametrize(
    ("target", "value"), [("ENUM ('a', 'b')", "c"), ("JSON", "{no json"), ("VARCHAR CHECK (v <> 'x')", "x")]
)
def test_a_text_that_the_table_refuses_is_not_changed_into_another(way: Way, target: str, value: str) -> None:
    filled(way, "'a'", declared=target) if target.startswith("ENUM") else way.create(f"id BIGINT, v {target}")
    way.fill(
        "DROP TABLE IF EXISTS t",
        "CREATE TABLE t (id BIGINT, v VARCHAR)",
        f"INSERT INTO t VALUES (1, '{value}')",
    )
    said = way.refusal(SELECT)
    assert said.startswith("TargetRefusedError: ")
    assert way.rows("*") == []


def test_null_where_the_target_says_not_null_names_column_and_row(way: Way) -> None:
    filled(way, "'a'", "NULL::VARCHAR", declared="VARCHAR NOT NULL")
    assert way.refusal(SELECT).startswith("ValueRefusedError: column v, row id=1: NULL")


def test_null_in_a_key_names_the_row(way: Way) -> None:
    way.key = ("id", "v")
    filled(way, "'a'", "NULL::VARCHAR")
    assert way.refusal(SELECT) == "ValueRefusedError: key column v, row id=1, v=None: NULL cannot be a key"


@pytest.mark.parametrize("declared", ["DOUBLE", "FLOAT", "BOOLEAN"])
def test_floats_and_booleans_are_no_keys(way: Way, declared: str) -> None:
    way.key = ("v",)
    filled(way, f"1::{declared}", declared=declared)
    assert way.refusal(SELECT).startswith(f"QueryError: key column v is {declared}")


# Slices


@pytest.mark.parametrize(
    "declared", ["TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"]
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Chita"])
def test_reloading_a_day_replaces_that_day_only(way: Way, declared: str, zone: str) -> None:
    way.slice_by, way.zone = "v", zone
    way.create(f"id BIGINT, v {declared}")
    texts = ["2020-07-13 23:59:59", "2020-07-14 00:00:00", "2020-07-14 23:59:59", "2020-07-15 00:00:00"]
    if declared == "TIMESTAMP_NS":
        texts[2] += ".999999999"
    read = "TIMESTAMP" if declared == "TIMESTAMPTZ" else declared
    rows = ", ".join(f"({n}, CAST('{text}' AS {read}))" for n, text in enumerate(texts))
    value = f"timezone('{zone}', v)" if declared == "TIMESTAMPTZ" else "v"
    way.fill(f"CREATE TABLE raw (id BIGINT, v {read})", f"INSERT INTO raw VALUES {rows}",
             f"CREATE TABLE t AS SELECT id, {value} AS v FROM raw")  # fmt: skip
    sql = f"{SELECT} WHERE v >= :start AND v < :end"
    days = (date(2020, 7, 13), DAY, date(2020, 7, 15))
    for day in (*days, DAY):
        way.carry(sql, day=day)
    assert way.rows("id, etl_id") == [("0", "1"), ("1", "4"), ("2", "4"), ("3", "3")]
    way.fill("DELETE FROM t WHERE id = 1")
    way.carry(sql)
    assert [one for (one,) in way.rows("id")] == ["0", "2", "3"]


@pytest.mark.parametrize("declared", ["TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIMESTAMP_NS"])
@pytest.mark.parametrize(
    "value", ["2020-07-13 23:59:59", "2020-07-15 00:00:00", None, "infinity", "-infinity"]
)
def test_a_row_outside_the_slice_is_refused_by_name(way: Way, declared: str, value: str | None) -> None:
    way.slice_by = "v"
    odd = "NULL" if value is None else f"CAST('{value}' AS {declared})"
    filled(way, f"CAST('2020-07-14 12:00:00' AS {declared})", odd, declared=declared)
    said = way.refusal(SELECT)
    assert said.startswith("OutsideSliceError: row id=1 has v "), said
    assert way.rows("*") == []


def test_a_slice_by_column_that_is_no_time_is_refused(way: Way) -> None:
    way.slice_by = "v"
    filled(way, "'2020-07-14'")
    way.fill("CREATE OR REPLACE TABLE t AS SELECT 1::BIGINT AS id, '2020-07-14' AS v")
    assert "slice_by column v is VARCHAR, not a date or time" in way.refusal(SELECT)


@pytest.mark.parametrize("batch_rows", [50_000, 1])
def test_a_key_twice_is_refused_by_name_across_batches_too(way: Way, batch_rows: int) -> None:
    way.key = ("id", "v")
    filled(way, "'a'", "'b'")
    way.fill("INSERT INTO t VALUES (0, 'c'), (1, 'b')")
    said = way.refusal(SELECT, batch_rows=batch_rows)
    assert said == "DoubledKeyError: the key id=1, v=b stands twice in the slice"
    assert way.rows("*") == []


def test_the_same_key_in_two_shards_is_two_rows(way: Way) -> None:
    way.create("id BIGINT, v VARCHAR")
    for shard in ("abakan", "chita"):
        way.fill(f"CREATE TABLE t AS SELECT 1::BIGINT AS id, '{shard}' AS v", shard=shard)
        way.carry(SELECT, shard=shard)
    assert way.rows("etl_source, v", order="etl_source") == [("abakan", "abakan"), ("chita", "chita")]


def test_an_unsliced_load_replaces_its_shards_whole_table(way: Way) -> None:
    filled(way, "'a'", "'b'")
    way.fill("CREATE TABLE t AS SELECT 9::BIGINT AS id, 'other' AS v", shard="chita")
    way.carry(SELECT, shard="chita")
    way.carry(SELECT)
    way.fill("DELETE FROM t WHERE id = 0", "INSERT INTO t VALUES (2, 'c')")
    way.carry(SELECT, day=date(2020, 7, 20))
    assert way.rows("id, v") == [("1", "b"), ("2", "c"), ("9", "other")]


@pytest.mark.parametrize("constraint", ["PRIMARY KEY", "UNIQUE"])
def test_a_unique_column_does_not_stand_in_the_way_of_a_reload(way: Way, constraint: str) -> None:
    way.create(f"id BIGINT {constraint}, v VARCHAR")
    way.fill("CREATE TABLE t AS SELECT i AS id, 'first' AS v FROM range(1000) AS numbers(i)")
    for text in ("first", "second", "third"):
        way.fill(f"UPDATE t SET v = '{text}'")
        assert way.carry(SELECT) == 1000
    assert {row for (row,) in way.rows("v")} == {"third"}


def test_a_refused_slice_costs_itself_only(way: Way) -> None:
    way.create("id BIGINT UNIQUE, v VARCHAR")
    staged = []
    for shard, number in (("abakan", 1), ("chita", 1), ("achinsk", 3)):
        way.fill(f"CREATE TABLE t AS SELECT {number}::BIGINT AS id, '{shard}' AS v", shard=shard)
        staged.append(way.stage(SELECT, shard=shard)[1])
    outcomes = way.publish(*staged)
    assert [one.failure is None for one in outcomes] == [True, False, True]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.error_class == "TargetRefusedError"
    assert way.rows("v") == [("abakan",), ("achinsk",)]
