"""Sources and targets measure alike: every form, any rows, and any single change."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SchemaDriftError, TargetRefusedError
from dwhctl.load.cast import for_source
from dwhctl.project.query import Query
from dwhctl.systems.base.fingerprint import Fingerprint, Measure
from tests.contract.kits import SOURCES, TARGETS, Kit, SourceKit, TargetKit
from tests.contract.kits_mssql import MssqlSourceKit
from tests.contract.way import SERVICE, TABLE, a_slice
from tests.unit.fingerprint_forms import FORMS, Form, checksum

#: Measures by the names of the key's columns and of those whose values are compared.
Measured = Callable[[Sequence[str], Sequence[str]], Fingerprint]

GOLDEN = json.loads((Path(__file__).parents[1] / "unit" / "fingerprint.golden.json").read_text())
#: Vertica hashes no LONG VARCHAR, and keeps no blanks in a CHAR.
WORDS = {Kind.TEXT: "VARCHAR(8000)", Kind.BINARY: "VARBINARY(200)"}
#: The types of systems that keep nanoseconds.
NANOSECONDS = {"duckdb": "TIMESTAMP_NS", "clickhouse": "DateTime64(9)"}


def word(kit: Kit, kind: Kind) -> str:
    """The type of a column that a fingerprint can be made of."""
    return WORDS[kind] if kit.name == "vertica" and kind in WORDS else kit.words[kind]


def rows_of(kit: Kit, kinds: Mapping[str, Kind], rows: Sequence[Sequence[object]]) -> list[str]:
    """INSERT statements' VALUES, some hundred rows each."""
    texts = []
    for row in rows:
        literals = (kit.literal(kind, value) for kind, value in zip(kinds.values(), row, strict=True))
        texts.append(f"({', '.join(literals)})")
    return [", ".join(texts[at : at + 200]) for at in range(0, len(texts), 200)]


class Sides:
    """A table of the same rows in a source and in a target; the first `key` columns are the key."""

    def __init__(
        self, root: Path, kinds: Mapping[str, Kind], key: int = 1, words: Mapping[Kind, str] | None = None
    ) -> None:
        self.root = root
        self.kinds = kinds
        self.key = key
        self.words = words or {}

    def _columns(self, kit: Kit) -> str:
        kinds = self.kinds.items()
        return ", ".join(f"{name} {self.words.get(kind) or word(kit, kind)}" for name, kind in kinds)

    @contextmanager
    def in_source(self, kit: SourceKit, rows: Sequence[Sequence[object]]) -> Iterator[Measured]:
        """Put the rows into a source, to be measured."""
        connection = kit.connection(self.root)
        columns = self._columns(kit)
        kit.run(
            connection, "abakan",
            "DROP TABLE IF EXISTS t", f"CREATE TABLE t ({columns})",
            *(f"INSERT INTO t VALUES {values}" for values in rows_of(kit, self.kinds, rows)),
        )  # fmt: skip
        query = Query("SELECT * FROM t", {})
        with kit.open(connection, zone="Asia/Chita") as source:
            described = {column.name: column for column in source.columns(query)}
            yield lambda key, values: source.fingerprint(query, _measure(described, key, values))

    @contextmanager
    def in_target(self, kit: TargetKit, rows: Sequence[Sequence[object]]) -> Iterator[Measured]:
        """Put the rows into a target, to be measured."""
        target = kit.open(kit.connection(self.root), self.root)
        columns = self._columns(kit)
        names = ", ".join(self.kinds)
        target.run_statements(
            [
                "CREATE SCHEMA IF NOT EXISTS stage",
                f"DROP TABLE IF EXISTS {TABLE}",
                f"CREATE TABLE {TABLE} ({columns}, {SERVICE})",
                *(
                    f"INSERT INTO {TABLE} ({names}, etl_source, etl_id, hash_id)"
                    f" SELECT {', '.join(f'v.{name}' for name in self.kinds)}, 'abakan', 1, 1"
                    f" FROM ({_union(kit, self.kinds, some)}) AS v"
                    for some in (rows[at : at + 200] for at in range(0, len(rows), 200))
                    if some
                ),
            ]
        )
        with target.inspection(TABLE, None) as inspection:
            binary = [Column(name, kind, pa.binary(), "") for name, kind in self.kinds.items()]
            described = {column.name: column for column in for_source(binary, inspection.columns())}

            def measured(key: Sequence[str], values: Sequence[str]) -> Fingerprint:
                measure = _measure(described, key, values)
                return inspection.fingerprints([a_slice(sliced=False)], measure).get("abakan", measure.empty)

            yield measured

    def measured(self, kit: SourceKit | TargetKit, rows: Sequence[Sequence[object]]) -> Fingerprint:
        """Measure the rows in a system."""
        names = list(self.kinds)
        with self.filled(kit, rows) as measured:
            return measured(names[: self.key], names[self.key :])

    def filled(
        self, kit: SourceKit | TargetKit, rows: Sequence[Sequence[object]]
    ) -> AbstractContextManager[Measured]:
        """Put the rows into a system, to be measured."""
        return self.in_source(kit, rows) if isinstance(kit, SourceKit) else self.in_target(kit, rows)


def _measure(described: Mapping[str, Column], key: Sequence[str], values: Sequence[str]) -> Measure:
    return Measure(tuple(described[name] for name in key), tuple(described[name] for name in values))


def _union(kit: Kit, kinds: Mapping[str, Kind], rows: Sequence[Sequence[object]]) -> str:
    selects = (
        "SELECT "
        + ", ".join(
            f"{kit.literal(kind, value)} AS {name}"
            for (name, kind), value in zip(kinds.items(), row, strict=True)
        )
        for row in rows
    )
    return " UNION ALL ".join(selects)


ALL: list[SourceKit | TargetKit] = [*SOURCES, *TARGETS]


@pytest.mark.parametrize("kit", ALL, ids=lambda kit: f"{type(kit).__name__}")
def test_every_form_has_the_golden_number(kit: SourceKit | TargetKit, tmp_path: Path) -> None:
    names = {f"c{number}": name for number, name in enumerate(FORMS)}
    size = max(len(form.values) for form in FORMS.values())
    columns = [[value for value, _ in _held(kit, form)] for form in FORMS.values()]
    # One table for all of them: a form with fewer values than another is NULL in the rows behind.
    rows = [
        (number, *(column[number] if number < len(column) else None for column in columns))
        for number in range(size)
    ]
    sides = Sides(
        tmp_path, {"id": Kind.INTEGER, **{column: FORMS[name].kind for column, name in names.items()}}
    )
    with sides.filled(kit, rows) as measured:
        for column, name in names.items():
            form = FORMS[name]
            held = _held(kit, form)
            texts = [text for _, text in held] + [None] * (size - len(held))
            # The golden number is that of all values.
            if form.key and len(held) == len(form.values):
                found = measured([column], [])
                nothing = GOLDEN["nothing"] * (size - len(form.values))
                assert found == Fingerprint(
                    size, (_ordered(form)[0],), (_ordered(form)[-1],), GOLDEN["sums"][name] + nothing
                ), name
            assert measured(["id"], [column]).values == checksum(
                [[str(number), text] for number, text in enumerate(texts)]
            ), name


def _held(kit: Kit, form: Form) -> list[tuple[object, str | None]]:
    return [pair for pair in form.values if kit.holds(form.kind, pair[0])]


def _ordered(form: Form) -> list[str | None]:
    """The texts in the order of the values; of texts, uuids and octets in that of the octets, a comma behind them."""
    if form.kind in (Kind.TEXT, Kind.UUID, Kind.BINARY):
        return sorted((text for _, text in form.values), key=lambda text: f"{text},".encode())
    return [text for _, text in sorted(form.values, key=lambda pair: pair[0])]  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("kit", ALL, ids=lambda kit: f"{type(kit).__name__}")
def test_no_rows_have_a_fingerprint_too(kit: SourceKit | TargetKit, tmp_path: Path) -> None:
    sides = Sides(tmp_path, {"k": Kind.INTEGER, "v": Kind.TEXT})
    assert sides.measured(kit, []) == Fingerprint(0, (None,), (None,), 0, 0)


@pytest.mark.parametrize("kit", ALL, ids=lambda kit: f"{type(kit).__name__}")
def test_a_decimal_without_digits_before_the_point_has_the_same_text(
    kit: SourceKit | TargetKit, tmp_path: Path
) -> None:
    texts = ["-0.5", "-0.00001", "0", "0.00999", "0.1"]
    sides = Sides(tmp_path, {"k": Kind.DECIMAL}, words={Kind.DECIMAL: "DECIMAL(5, 5)"})
    found = sides.measured(kit, [(Decimal(text),) for text in texts])
    assert found == Fingerprint(5, ("-0.5",), ("0.1",), checksum([[text] for text in texts]))


@pytest.mark.parametrize(
    "kit", [each for each in ALL if each.name in NANOSECONDS], ids=lambda kit: type(kit).__name__
)
def test_nanoseconds_are_cut_also_before_1970(
    kit: SourceKit | TargetKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB's CAST rounds them, ClickHouse's cuts towards 1970: `verify` reported equal values as different."""
    texts = ["1960-01-01 00:00:01.123456", "2020-07-14 00:00:01.999999"]
    word = NANOSECONDS[kit.name]
    monkeypatch.setattr(type(kit), "literal", lambda _kit, _kind, value: f"CAST('{value}789' AS {word})")
    sides = Sides(tmp_path, {"k": Kind.TIMESTAMP}, words={Kind.TIMESTAMP: word})
    assert sides.measured(kit, [(text,) for text in texts]).keys == checksum([[text] for text in texts])


@pytest.mark.long
def test_a_row_of_more_than_eight_thousand_octets_is_measured_whole(tmp_path: Path) -> None:
    """T-SQL cuts a sum of texts to 8,000 octets without an error."""
    count = 300
    sides = Sides(tmp_path, {"id": Kind.INTEGER, **{f"c{one}": Kind.TIMESTAMP for one in range(count)}})
    moments = [datetime(2020, 7, 14, microsecond=one) for one in range(count)]  # noqa: DTZ001
    texts = [f"{one:%Y-%m-%d %H:%M:%S.%f}" for one in moments]
    assert sides.measured(MssqlSourceKit(), [(1, *moments)]).values == checksum([["1", *texts]])


#: What any row may hold: a key of two columns and values.
_KINDS = {
    "k": Kind.INTEGER,
    "t": Kind.TEXT,
    "d": Kind.DECIMAL,
    "m": Kind.TIMESTAMP,
    "u": Kind.UUID,
    "b": Kind.BINARY,
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x10C7FF), max_size=12)
_ROW = st.tuples(
    st.integers(-(2**63) + 1, 2**63 - 1),
    _TEXT,
    st.none() | st.decimals(1 - 10**28, 10**28 - 1, places=10),
    st.none() | st.datetimes(),
    st.none() | st.uuids(),
    st.none() | st.binary(min_size=1, max_size=9),
)


_ROWS = st.lists(_ROW, min_size=1, max_size=12, unique_by=lambda row: row[:2])


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=_ROWS, seed=st.integers(0, 2**32))
def test_the_same_rows_in_any_order_measure_the_same_everywhere(
    rows: list[tuple[object, ...]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _measure_the_same(rows, random.Random(seed), tmp_path_factory.mktemp("any"))


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=_ROWS, seed=st.integers(0, 2**32))
def test_many_rows_in_any_order_measure_the_same_everywhere(
    rows: list[tuple[object, ...]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _measure_the_same(rows, random.Random(seed), tmp_path_factory.mktemp("any"))


def _measure_the_same(rows: list[tuple[object, ...]], dice: random.Random, root: Path) -> None:
    sides = Sides(root, _KINDS, key=2)
    found = []
    changed = _changed(rows, dice)
    # A text with a NUL has no place in some systems.
    kits = [kit for kit in ALL if _holds(kit, [*rows, *changed])]
    for kit in kits:
        shuffled = list(rows)
        dice.shuffle(shuffled)
        found.append(sides.measured(kit, shuffled))
    assert found == [found[0]] * len(found)
    for kit in kits:
        assert sides.measured(kit, changed) != found[0]


def _holds(kit: Kit, rows: list[tuple[object, ...]]) -> bool:
    return all(
        kit.holds(kind, value) for row in rows for kind, value in zip(_KINDS.values(), row, strict=True)
    )


def _changed(rows: list[tuple[object, ...]], dice: random.Random) -> list[tuple[object, ...]]:
    """The rows with one of them gone, doubled, or changed in one value."""
    at = dice.randrange(len(rows))
    how = dice.choice(["gone", "doubled", *range(6)])
    if how == "gone":
        return rows[:at] + rows[at + 1 :]
    if how == "doubled":
        return [*rows, rows[at]]
    assert isinstance(how, int)
    row = list(rows[at])
    row[how] = _other(row[how], how)
    return [*rows[:at], tuple(row), *rows[at + 1 :]]


def _other(value: object, column: int) -> object:
    if column == 0:
        assert isinstance(value, int)
        return value - 1 if value > 0 else value + 1
    if column == 1:
        return f"{value} "
    return None if value is not None else _SAMPLES[column]


_SAMPLES = {at: FORMS[name].values[1][0] for at, name in enumerate(["integer", "text", "decimal", "timestamp", "uuid",
                                                                     "binary"])}  # fmt: skip


# What is refused, and the rest of the contract


@pytest.mark.parametrize("kit", SOURCES, ids=lambda kit: kit.name)
def test_a_source_measures_by_the_targets_kind(kit: SourceKit, tmp_path: Path) -> None:
    connection = kit.connection(tmp_path)
    values = {"i": kit.integer(7), "u": kit.literal(Kind.UUID, FORMS["uuid"].values[0][0]), "d": kit.literal(
        Kind.DATE, FORMS["date"].values[0][0])}  # fmt: skip
    kit.run(
        connection,
        "abakan",
        *kit.create_as("t", "SELECT " + ", ".join(f"{v} AS {n}" for n, v in values.items())),
    )
    wider = {"i": Kind.DECIMAL, "u": Kind.TEXT, "d": Kind.TIMESTAMP}
    texts = ["7", "6f9619ff-8b86-d011-b42d-00c04fc964ff", "2020-07-14 00:00:00.000000"]
    with kit.open(connection) as source:
        query = Query("SELECT * FROM t", {})
        described = {column.name: column for column in source.columns(query)}
        key = tuple(Column(name, kind, described[name].type, "wider") for name, kind in wider.items())
        found = source.fingerprint(query, Measure(key))
    assert found == Fingerprint(1, tuple(texts), tuple(texts), checksum([texts]))


@pytest.mark.parametrize("kit", SOURCES, ids=lambda kit: kit.name)
def test_a_source_without_the_column_is_drift(kit: SourceKit, tmp_path: Path) -> None:
    connection = kit.connection(tmp_path)
    kit.run(connection, "abakan", *kit.create_as("t", f"SELECT {kit.integer(1)} AS id"))
    with kit.open(connection) as source:
        query = Query("SELECT * FROM t", {})
        (column,) = source.columns(query)
        other = Column("other", column.kind, column.type, column.declared)
        with pytest.raises(SchemaDriftError, match="no column other"):
            source.fingerprint(query, Measure((other,)))
        with pytest.raises(QueryError):
            source.fingerprint(Query("SELECT id FROM nowhere", {}), Measure((column,)))


@pytest.mark.parametrize("kit", SOURCES, ids=lambda kit: kit.name)
def test_a_source_counts_what_has_no_value(kit: SourceKit, tmp_path: Path) -> None:
    connection = kit.connection(tmp_path)
    kit.run(
        connection, "abakan", f"CREATE TABLE t ({kit.columns(id=Kind.INTEGER, day=Kind.TIMESTAMP)})",
        "INSERT INTO t (id) VALUES (1), (2)", "INSERT INTO t VALUES (3, '2020-07-14')",
    )  # fmt: skip
    with kit.open(connection) as source:
        assert source.count_nulls(Query("SELECT id, day FROM t", {}, "day"), "day") == 2
        assert source.count_nulls(Query("SELECT id, day FROM t WHERE id > 2", {}, "day"), "day") == 0


@pytest.mark.parametrize("kit", TARGETS, ids=lambda kit: kit.name)
def test_a_target_tells_what_it_should_not_hold(kit: TargetKit, tmp_path: Path) -> None:
    target = kit.open(kit.connection(tmp_path), tmp_path)
    columns = kit.columns(id=Kind.INTEGER, day=Kind.TIMESTAMP)
    rows = [
        ("abakan", 7, 1, "2020-07-14 10:00:00"), ("abakan", 7, 1, "2020-07-14 11:00:00"),
        ("abakan", 7, 2, "2020-07-14 00:00:00"), ("abakan", 6, 2, "2020-07-13 23:59:59"),
        ("chita", 8, 1, "2020-07-14 10:00:00"), ("chita", 9, 3, "2020-07-15 00:00:00"),
    ]  # fmt: skip
    target.run_statements(
        [
            "CREATE SCHEMA IF NOT EXISTS stage",
            f"CREATE TABLE {TABLE} ({columns}, {SERVICE})",
            *(
                f"INSERT INTO {TABLE} (etl_source, etl_id, hash_id, id, day)"
                f" VALUES ('{shard}', {etl_id}, 1, {id_}, '{day}')"
                for shard, etl_id, id_, day in rows
            ),
        ]
    )
    slices = [a_slice(shard=shard) for shard in ("abakan", "chita", "omsk")]
    with target.inspection(TABLE, "day") as inspection:
        by_name = {column.name: column for column in inspection.columns()}
        measure = Measure((by_name["id"],))
        assert {shard: one.rows for shard, one in inspection.fingerprints(slices, measure).items()} == {
            "abakan": 3, "chita": 1,
        }  # fmt: skip
        doubled = inspection.duplicate_keys(slices, measure)
        assert {shard: (odd.keys, odd.example) for shard, odd in doubled.items()} == {"abakan": (1, "1")}
        elsewhere = inspection.keys_elsewhere(slices, measure)
        assert {shard: (odd.keys, odd.example) for shard, odd in elsewhere.items()} == {"abakan": (1, "2")}
        assert inspection.sessions(slices) == {("abakan", 7): 3, ("chita", 8): 1}


@pytest.mark.parametrize("kit", TARGETS, ids=lambda kit: kit.name)
def test_a_table_that_is_not_there_is_said_so(kit: TargetKit, tmp_path: Path) -> None:
    target = kit.open(kit.connection(tmp_path), tmp_path)
    with pytest.raises(TargetRefusedError), target.inspection("stage.nowhere", None) as inspection:
        inspection.columns()
