"""The whole way from every source to every target changes no value, or refuses it by name."""

from __future__ import annotations

import itertools
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.core.columns import Kind
from dwhctl.project.query import Query
from tests.contract.kits import NASTY_TEXTS, SOURCES, TARGETS, Kit, SourceKit, TargetKit, TypeCase
from tests.contract.way import SELECT, TABLE, Way, filled, is_held

#: The values are in the target's SQL: a source of its own kind reads it, else one that has the type by that name.
CASES = [
    pytest.param(source, target, case, id=f"{source.name}-{target.name}-{number}-{case.declared}")
    for target in TARGETS
    for source in [kit for kit in SOURCES if kit.name == target.name] or SOURCES
    for number, case in enumerate(target.types)
    # HTTP has fewer values of a type: JSON has no infinity.
    if any(
        same.declared == case.declared and (source.name != "http" or set(case.values) <= set(same.values))
        for same in source.types
    )
]


# Values


@pytest.mark.parametrize(("source", "target", "case"), CASES)
def test_every_value_of_every_type_arrives_as_it_was(
    source: SourceKit, target: TargetKit, case: TypeCase, tmp_path: Path
) -> None:
    way = Way(source, target, tmp_path)
    filled(way, *case.values, source.null(case), declared=case.declared)
    assert way.carry(SELECT) == len(case.values) + 1
    expected = target.texts(
        way.warehouse,
        " UNION ALL ".join(f"SELECT {n} AS id, {v} AS v" for n, v in enumerate(case.values)),
    )
    found = way.rows("id, v")
    assert found[:-1] == sorted(expected, key=lambda row: int(row[0] or 0))
    assert found[-1] == (str(len(case.values)), None)


@pytest.mark.parametrize("generated", [pytest.param(False, marks=pytest.mark.long), True])
def test_every_type_of_a_source_goes_to_every_target(way: Way, generated: bool) -> None:
    source, target = way.source_kit, way.target_kit
    cases = {f"v{number}": case for number, case in enumerate(source.types) if case.expected}
    if not cases:
        pytest.skip("this source's values are compared with those of its like")
    size = max(len(case.values) for case in cases.values())
    values = {name: _held(source, target, case, size) for name, case in cases.items()}
    rows = (", ".join(f"{values[name][n][0]} AS {name}" for name in cases) for n in range(size))
    selects = (f"SELECT {source.integer(n)} AS id, {row}" for n, row in enumerate(rows))
    way.fill(*source.create_as("t", " UNION ALL ".join(selects)))
    with source.open(way.source) as opened:
        described = {
            column.name: column
            for column in opened.columns(Query("SELECT * FROM t", {}))
            if is_held(way, column)
        }
    cases = {name: case for name, case in cases.items() if name in described}
    sql = f"SELECT id, {', '.join(cases)} FROM t"
    words = {name: target.word(described[name]) for name in cases}
    declared = ", ".join(f"{name} {word}" for name, word in words.items())
    if generated:
        way.generate(sql)
    else:
        way.create(f"{target.columns(id=Kind.INTEGER)}, {declared}")
    assert way.carry(sql) == size
    for name, case in cases.items():
        wanted = (
            f"SELECT {n} AS id, {target.written(case.kind, value, words[name])} AS v"
            for n, (_, value) in enumerate(values[name])
        )
        expected = sorted(target.texts(way.warehouse, " UNION ALL ".join(wanted)), key=_first)
        # A float of 32 bits is written with fewer digits.
        is_float = case.kind is Kind.FLOAT
        shown = f"CAST({name} AS {target.words[case.kind]}) AS {name}" if is_float else name
        assert way.rows(f"id, {shown}") == expected, case.declared


def _held(source: SourceKit, target: TargetKit, case: TypeCase, size: int) -> list[tuple[str, object]]:
    """The values that the target can hold, as the source's SQL and as Python, and NULLs up to so many."""
    pairs = [
        pair for pair in zip(case.values, case.expected, strict=True) if target.holds(case.kind, pair[1])
    ]
    nulls: list[tuple[str, object]] = [(source.null(case), None)] * (size - len(pairs))
    return [*pairs, *nulls]


def test_columns_of_nothing_but_nulls(way: Way) -> None:
    source, target = way.source_kit, way.target_kit
    kinds = {f"v{number}": kind for number, kind in enumerate(Kind)}
    way.create(target.columns(id=Kind.INTEGER, **kinds))
    way.fill(
        f"CREATE TABLE t ({source.columns(id=Kind.INTEGER, **kinds)})",
        "INSERT INTO t (id) VALUES (0), (1), (2)",
    )
    assert way.carry("SELECT * FROM t") == 3
    assert way.rows(", ".join(kinds)) == [(None,) * len(kinds)] * 3


def _texts(way: Way) -> list[str | None]:
    kits = (way.source_kit, way.target_kit)
    return [text for text in NASTY_TEXTS if all(kit.holds(Kind.TEXT, text) for kit in kits)]


def test_nasty_texts_arrive_byte_by_byte(way: Way) -> None:
    texts = _texts(way)
    filled(way, *map(way.source_kit.text, texts))
    way.carry(SELECT)
    assert [text for (text,) in way.rows("v")] == texts


def test_nasty_texts_as_keys_are_as_many_keys(way: Way) -> None:
    texts = [text for text in _texts(way) if text is not None]
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
    way.create(", ".join(f"{name} {way.target_kit.words[Kind.INTEGER]}" for name in quoted))
    values = ", ".join(f"{way.source_kit.integer(n)} AS {name}" for n, name in enumerate(quoted))
    way.fill(*way.source_kit.create_as("t", f"SELECT {values}"))
    for _ in range(2):
        assert way.carry("SELECT * FROM t") == 1
    assert way.rows(", ".join(quoted), order="1") == [tuple(str(n) for n in range(len(names)))]


@pytest.mark.parametrize("folder", ["id=7", "v=x", "a[1]b", "wild*", "it's", "пробел и ё", "{a,b}"])
def test_the_state_folders_name_changes_nothing(way: Way, folder: str, tmp_path: Path) -> None:
    root = tmp_path / folder
    root.mkdir()
    inside = filled(Way(way.source_kit, way.target_kit, root), *map(way.source_kit.text, ("one", "two")))
    for _ in range(2):
        assert inside.carry(SELECT, batch_rows=1) == 2
    assert inside.rows("id, v") == [("0", "one"), ("1", "two")]
    inside.fill("INSERT INTO t VALUES (1, 'again')")
    assert "the key id=1 occurs twice" in inside.refusal(SELECT, batch_rows=1)


#: What a row of every kind may hold.
_VALUES: dict[Kind, st.SearchStrategy[object]] = {
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.DECIMAL: st.decimals(1 - 10**28, 10**28 - 1, places=10),
    Kind.FLOAT: st.floats(),
    Kind.TEXT: st.text(st.characters(exclude_categories=["Cs"])),
    Kind.BINARY: st.binary(),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates(),
    Kind.TIME: st.times(),
    Kind.TIMESTAMP: st.datetimes(),
    Kind.TIMESTAMPTZ: st.datetimes(timezones=st.just(UTC)),
    Kind.UUID: st.uuids(),
}
_ROW = st.tuples(*(st.none() | values for values in _VALUES.values()))


@pytest.mark.parametrize(
    ("source", "target"), list(itertools.product(SOURCES, TARGETS)), ids=lambda kit: kit.name
)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(rows=st.lists(_ROW, min_size=1, max_size=12), batch=st.integers(1, 13), generated=st.booleans())
def test_any_rows_go_the_whole_way_unchanged(
    rows: list[tuple[object, ...]],
    batch: int,
    generated: bool,
    source: SourceKit,
    target: TargetKit,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    way = Way(source, target, tmp_path_factory.mktemp("way"))
    kinds = {f"c{number}": kind for number, kind in enumerate(_VALUES)}
    if not generated:
        way.create(target.columns(id=Kind.INTEGER, **kinds))
    held = [
        [value if source.holds(kind, value) and target.holds(kind, value) else None
         for kind, value in zip(_VALUES, row, strict=True)]
        for row in rows
    ]  # fmt: skip
    read, wanted = ([_literals(kit, n, row) for n, row in enumerate(held)] for kit in (source, target))
    way.fill(
        f"CREATE TABLE t ({source.columns(id=Kind.INTEGER, **kinds)})",
        *(f"INSERT INTO t VALUES ({', '.join(one)})" for one in read),
    )
    if generated:
        way.generate("SELECT * FROM t")
    assert way.carry("SELECT * FROM t", batch_rows=batch) == len(rows)
    shown = ["id", *kinds]
    selects = (
        "SELECT " + ", ".join(f"{value} AS {name}" for name, value in zip(shown, one, strict=True))
        for one in wanted
    )
    expected = target.texts(way.warehouse, " UNION ALL ".join(selects))
    assert sorted(way.rows(", ".join(shown)), key=_first) == sorted(expected, key=_first)


def _first(row: tuple[str | None, ...]) -> int:
    return int(row[0] or 0)


def _literals(kit: Kit, number: int, row: list[object]) -> list[str]:
    values = (kit.literal(kind, value) for kind, value in zip(_VALUES, row, strict=True))
    return [kit.integer(number), *values]


# Values that the target does not hold


@pytest.mark.parametrize("before", [0, 7])
def test_a_misfit_is_refused_by_column_row_and_reason(way: Way, before: int) -> None:
    source, target = way.source_kit, way.target_kit
    misfits = [one for one in target.misfits if source.holds(one[0], one[1])]
    assert misfits
    for kind, value, declared in misfits:
        way.target.run_statements([f"DROP TABLE IF EXISTS {TABLE}"])
        way.create(f"{target.columns(id=Kind.INTEGER)}, v {declared}")
        rows = f"SELECT i AS id, {source.literal(kind, None)} AS v FROM {source.numbers(before)} UNION ALL"
        way.fill(
            *source.create_as("t", f"{rows} SELECT {source.integer(4711)}, {source.literal(kind, value)}")
        )
        said = way.refusal(SELECT)
        assert said.startswith("ValueRefusedError: column v, row id=4711: "), said
        assert way.rows("*") == []


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
    duckdb_way: Way, source: str, target: str, value: str, before: int
) -> None:
    duckdb_way.create(f"id BIGINT, v {target}")
    duckdb_way.fill(
        f"CREATE TABLE t (id BIGINT, v {source})",
        f"INSERT INTO t SELECT i, NULL FROM {duckdb_way.source_kit.numbers(before)}",
        f"INSERT INTO t VALUES (4711, CAST('{value}' AS {source}))",
    )
    said = duckdb_way.refusal(SELECT)
    assert said.startswith("ValueRefusedError: column v, row id=4711: "), said
    assert "does not fit" in said
    assert duckdb_way.rows("*") == []


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
    duckdb_way: Way, source: str, target: str
) -> None:
    duckdb_way.create(f"id BIGINT, v {target}")
    duckdb_way.fill(f"CREATE TABLE t (id BIGINT, v {source})")
    said = duckdb_way.refusal(SELECT)
    assert said.startswith("SchemaDriftError: column v is ")
    assert " at the source and " in said


@pytest.mark.parametrize(
    ("target", "value"), [("ENUM ('a', 'b')", "c"), ("JSON", "{no json"), ("VARCHAR CHECK (v <> 'x')", "x")]
)
def test_a_text_that_the_table_refuses_is_not_changed_into_another(
    duckdb_way: Way, target: str, value: str
) -> None:
    filled(duckdb_way, "'a'", declared=target) if target.startswith("ENUM") else duckdb_way.create(
        f"id BIGINT, v {target}"
    )
    duckdb_way.fill(
        "DROP TABLE IF EXISTS t",
        "CREATE TABLE t (id BIGINT, v VARCHAR)",
        f"INSERT INTO t VALUES (1, '{value}')",
    )
    said = duckdb_way.refusal(SELECT)
    assert said.startswith("TargetRefusedError: ")
    assert duckdb_way.rows("*") == []


def test_null_where_the_target_says_not_null_names_column_and_row(way: Way) -> None:
    text = way.source_kit.text
    filled(way, text("a"), text(None), declared=f"{way.target_kit.words[Kind.TEXT]} NOT NULL")
    assert way.refusal(SELECT).startswith("ValueRefusedError: column v, row id=1: NULL")


def test_null_in_a_key_names_the_row(way: Way) -> None:
    way.key = ("id", "v")
    filled(way, way.source_kit.text("a"), way.source_kit.text(None))
    assert way.refusal(SELECT) == "ValueRefusedError: key column v, row id=1, v=None: NULL cannot be a key"


@pytest.mark.parametrize(("kind", "value"), [(Kind.FLOAT, 1.0), (Kind.BOOLEAN, True)])
def test_floats_and_booleans_are_no_keys(way: Way, kind: Kind, value: object) -> None:
    way.key = ("v",)
    filled(way, way.source_kit.literal(kind, value), declared=way.target_kit.words[kind])
    assert way.refusal(SELECT).startswith("QueryError: key column v is ")
