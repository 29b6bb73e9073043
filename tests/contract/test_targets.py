"""Every target keeps the contract of dwhctl/systems/base/target.py."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    AttemptError,
    StagingError,
    TargetBusyError,
    TargetRefusedError,
    ValueRefusedError,
)
from dwhctl.load.cast import for_source
from dwhctl.project.connections import SYSTEMS
from dwhctl.project.names import RowSource
from dwhctl.systems.base.target import StagingGroup
from tests.contract.conftest import PAIRS
from tests.contract.kits import SOURCES, TARGETS, TargetKit, TypeCase
from tests.contract.way import SELECT, TABLE, Way, a_slice, filled

TIMEOUT = timedelta(seconds=30)
CASES = [pytest.param(kit, case, id=f"{kit.name}-{case.declared}") for kit in TARGETS for case in kit.types]

# A warehouse that is a file has one writer; how a server makes others wait is its own suite's matter.
FILES = [pair for pair in PAIRS if "duckdb" in str(pair.id).rpartition("-")[2]]


# Staging


def _columns() -> tuple[Column, ...]:
    key, *others = (Column(name, Kind.INTEGER, pa.int64(), "BIGINT") for name in ("id", "etl_id", "hash_id"))
    return (key, Column("etl_source", Kind.TEXT, pa.string(), "VARCHAR"), *others)


def _batch(*ids: int, etl_id: int = 1) -> pa.RecordBatch:
    size = len(ids)
    arrays = [
        pa.array(ids, pa.int64()),
        pa.array(["abakan"] * size),
        pa.array([etl_id] * size),
        pa.array(ids),
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in _columns()])


@pytest.fixture
def staged(way: Way) -> Way:
    """A table of ids, and 1, 2, 3 staged under `one`, 4 under `two`."""
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.open_group(way.group)
    for token, ids in (("one", (1, 2, 3)), ("two", (4,))):
        with way.target.stage(way.group, token, _columns()) as stage:
            assert stage.write(iter([_batch(*ids, etl_id=len(ids))])) > 0
    return way


def test_staged_rows_are_seen_by_nobody(staged: Way) -> None:
    assert staged.rows("*") == []
    assert staged.target.published_rows(TABLE, [3, 1]) == {}


def test_only_the_tokens_that_are_named_are_published(staged: Way) -> None:
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.insert(staged.group, ["one"]) == 3
        publication.commit()
    assert [one for (one,) in staged.rows("id")] == ["1", "2", "3"]
    assert staged.target.published_rows(TABLE, [3, 1, 99]) == {3: 3}
    assert staged.target.highest_etl_id(TABLE) == 3


def test_parts_of_a_slice_are_staged_at_once_under_one_token(staged: Way) -> None:
    if not SYSTEMS[staged.warehouse.type].stages_parts:
        pytest.skip("stages a slice as a whole")
    with staged.target.stage(staged.group, "parts", _columns()) as first:
        with staged.target.stage(staged.group, "parts", _columns()) as second:
            second.write(iter([_batch(5, 6)]))
            assert second.duplicate_key(["id"]) is None
        first.write(iter([_batch(7), _batch(8)]))
    # As the key is looked for in all parts: a stage that adds no row.
    with staged.target.stage(staged.group, "parts", _columns()) as last:
        last.write(iter([_batch(1).slice(0, 0)]))
        assert last.duplicate_key(["id"]) is None
    with suppress(ZeroDivisionError), staged.target.stage(staged.group, "dropped", _columns()) as lost:
        lost.write(iter([_batch(9)]))
        raise ZeroDivisionError
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(staged.group, ["parts", "one"]) == {"parts": 4, "one": 3}
        assert publication.insert(staged.group, ["parts"]) == 4
        publication.commit()
    assert sorted(str(one) for (one,) in staged.rows("id")) == ["5", "6", "7", "8"]


def test_a_key_of_two_parts_is_found(staged: Way) -> None:
    if not SYSTEMS[staged.warehouse.type].stages_parts:
        pytest.skip("stages a slice as a whole")
    for ids in ((5, 6), (6, 7)):
        with staged.target.stage(staged.group, "parts", _columns()) as stage:
            stage.write(iter([_batch(*ids)]))
    with staged.target.stage(staged.group, "parts", _columns()) as last:
        last.write(iter([_batch(1).slice(0, 0)]))
        assert tuple(map(str, last.duplicate_key(["id"]) or ())) == ("6",)


def test_a_part_that_failed_is_none_when_a_key_is_looked_for(staged: Way) -> None:
    if not SYSTEMS[staged.warehouse.type].stages_parts:
        pytest.skip("stages a slice as a whole")
    with ExitStack() as stack:
        with suppress(ZeroDivisionError), staged.target.stage(staged.group, "parts", _columns()) as lost:
            lost.write(iter([_batch(5)]))
            kept = stack.enter_context(staged.target.stage(staged.group, "parts", _columns()))
            raise ZeroDivisionError
        kept.write(iter([_batch(5)]))
        assert kept.duplicate_key(["id"]) is None


def test_staged_rows_are_counted_by_token(staged: Way) -> None:
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(staged.group, ["one", "two"]) == {"one": 3, "two": 1}


def test_what_is_missing_in_staging_is_an_error_or_no_count(staged: Way) -> None:
    with suppress(AttemptError), staged.target.publication(TABLE, None, TIMEOUT) as publication:
        counts = publication.staged_rows(staged.group, ["one", "never"])
        assert counts.get("never", 0) == 0
        assert publication.insert(staged.group, ["one", "never"]) == 3
    assert staged.rows("*") == []


def test_nothing_is_visible_before_the_commit_and_all_is_after(staged: Way) -> None:
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        publication.insert(staged.group, ["one", "two"])
    assert staged.rows("*") == []
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        publication.insert(staged.group, ["one"])
        publication.insert(staged.group, ["two"])
        publication.commit()
    assert len(staged.rows("*")) == 4


def test_leaving_by_an_error_rolls_back(staged: Way) -> None:
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        publication.insert(staged.group, ["one"])
        publication.commit()
    with pytest.raises(ZeroDivisionError), staged.target.publication(TABLE, None, TIMEOUT) as publication:  # noqa: PT012
        publication.delete([a_slice(sliced=False)])
        publication.insert(staged.group, ["two"])
        raise ZeroDivisionError
    assert [one for (one,) in staged.rows("id")] == ["1", "2", "3"]


def test_a_delete_and_held_rows_touch_their_shards_only(staged: Way) -> None:
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        publication.insert(staged.group, ["one"])
        other, mine = a_slice(shard="chita", sliced=False), a_slice(sliced=False)
        assert dict(publication.held_rows([other, mine])) in ({"abakan": 3}, {"abakan": 3, "chita": 0})
        publication.delete([other])
        assert publication.held_rows([mine]) == {"abakan": 3}
        publication.delete([other, mine])
        assert not publication.held_rows([mine]).get("abakan")


def test_which_columns_hold_values_and_whose_the_rows_are(staged: Way) -> None:
    """A dropped column is refused by the first, a renamed shard is found by the second."""
    staged.target.run_statements([f"ALTER TABLE {TABLE} ADD COLUMN more INTEGER"])
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.held_values(["abakan", "chita"], ["id", "more"]) == {}
        publication.insert(staged.group, ["one"])
        assert publication.held_values(["abakan", "chita"], ["id", "more"]) == {"abakan": {"id"}}
        publication.commit()
    staged.target.run_statements(
        [
            f"INSERT INTO {TABLE} (id, more, etl_source) SELECT id, 1, 'chita' FROM {TABLE}",
            f"INSERT INTO {TABLE} (id) SELECT 9",
        ]
    )
    with staged.target.inspection(TABLE, None) as inspection:
        assert inspection.held_values(["abakan", "chita"], ["id", "more"]) == {
            "abakan": {"id"},
            "chita": {"id", "more"},
        }
        assert inspection.rows_by_source() == {"abakan": 3, "chita": 3, "": 1}


@pytest.mark.parametrize("written", [False, True])
def test_leaving_a_stage_by_an_error_drops_what_was_written(way: Way, written: bool) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.open_group(way.group)
    with pytest.raises(ZeroDivisionError), way.target.stage(way.group, "one", _columns()) as stage:  # noqa: PT012
        if written:
            stage.write(iter([_batch(1)]))
        raise ZeroDivisionError
    with suppress(AttemptError), way.target.publication(TABLE, None, TIMEOUT) as publication:
        assert not publication.staged_rows(way.group, ["one"]).get("one")
        assert publication.insert(way.group, ["one"]) == 0


@pytest.mark.parametrize("before", [1, 3])
def test_what_the_batches_raise_comes_out_as_it_is_and_nothing_is_staged(way: Way, before: int) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.open_group(way.group)
    problem = ValueRefusedError("column v, row id=7: no")

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(before):
            yield _batch(number)
        raise problem

    with (
        pytest.raises(ValueRefusedError) as caught,
        way.target.stage(way.group, "one", _columns()) as stage,
    ):
        stage.write(batches())
    assert caught.value is problem
    with suppress(AttemptError), way.target.publication(TABLE, None, TIMEOUT) as publication:
        assert not publication.staged_rows(way.group, ["one"]).get("one")


def test_batches_are_pulled_one_by_one(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.open_group(way.group)
    alive, most = list[weakref.ref[pa.RecordBatch]](), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for number in range(20):
            batch = _batch(*range(number * 1000, number * 1000 + 1000))
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            most = max(most, sum(one() is not None for one in alive))

    with way.target.stage(way.group, "one", _columns()) as stage:
        assert stage.write(batches()) > 20_000
    assert most <= 2
    with way.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(way.group, ["one"]) == {"one": 20_000}


@pytest.mark.parametrize("ids", [(1, 2, 3), (1, 2, 1, 3)])
def test_a_doubled_key_is_found_where_it_is_staged(way: Way, ids: tuple[int, ...]) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.open_group(way.group)
    with way.target.stage(way.group, "one", _columns()) as stage:
        stage.write(_batch(number) for number in ids)
        doubled = stage.duplicate_key(("id",))
    assert [str(one) for one in doubled or ()] == (["1"] if len(ids) == 4 else [])


def test_a_slice_without_rows_is_staged_and_published_as_nothing(way: Way) -> None:
    filled(way, way.source_kit.text("a"))
    way.carry(SELECT)
    way.fill("DELETE FROM t")
    assert way.carry(SELECT) == 0
    assert way.rows("*") == []


@pytest.mark.parametrize("drop", ["group", "run"])
def test_a_dropped_group_is_gone_and_stays_gone(staged: Way, drop: str) -> None:
    other = StagingGroup("other_run", "group", TABLE)
    staged.target.open_group(other)
    with staged.target.stage(other, "mine", _columns()) as stage:
        stage.write(iter([_batch(7)]))
    late = staged.target.stage(staged.group, "late", _columns())

    def batches() -> Iterator[pa.RecordBatch]:
        yield _batch(8)
        if drop == "run":
            staged.target.drop_run("run")
        yield _batch(9)

    if drop == "group":
        staged.target.drop_group(staged.group)
    with pytest.raises(AttemptError), late:
        late.write(batches())
    with pytest.raises(StagingError), staged.target.stage(staged.group, "later", _columns()) as later:
        later.write(iter([_batch(8)]))
    for token in ("one", "late"):
        with (
            pytest.raises(AttemptError),
            staged.target.publication(TABLE, None, TIMEOUT) as publication,
        ):
            publication.insert(staged.group, [token])
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.insert(other, ["mine"]) == 1
    assert not [path for path in (staged.root / "state").rglob("*") if "late" in path.name]


def test_dropping_what_is_not_there_is_no_error(way: Way) -> None:
    for _ in range(2):
        way.target.drop_group(way.group)
        way.target.drop_run("never")


def test_opening_a_group_twice_keeps_what_is_in_it(staged: Way) -> None:
    staged.target.open_group(staged.group)
    with staged.target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.insert(staged.group, ["one"]) == 3


# The warehouse


def test_columns_are_in_their_order_with_their_words(way: Way) -> None:
    way.create('z BIGINT NOT NULL, a DECIMAL(18,2), "M" VARCHAR')
    found = way.target.columns(TABLE)
    assert [(one.name, one.nullable) for one in found] == [
        ("z", False), ("a", True), ("M", True), ("etl_source", True), ("etl_id", True), ("hash_id", True),
    ]  # fmt: skip
    assert [one.kind for one in found[:3]] == [Kind.INTEGER, Kind.DECIMAL, Kind.TEXT]


def test_a_missing_table_is_refused_by_name(way: Way) -> None:
    way.target.run_statements(["CREATE SCHEMA stage"])
    with pytest.raises(TargetRefusedError, match="missing"):
        way.target.columns("stage.missing")
    with (
        pytest.raises(TargetRefusedError),
        way.target.publication("stage.missing", None, TIMEOUT) as publication,
    ):
        publication.held_rows([a_slice(sliced=False)])
    assert way.target.published_rows("stage.missing", [1]) == {}


def test_a_warehouse_that_does_not_exist_holds_nothing(way: Way) -> None:
    assert way.target.published_rows(TABLE, [1]) == {}
    assert way.target.highest_etl_id(TABLE) == 0


def test_an_empty_table_has_no_highest_id(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    assert way.target.highest_etl_id(TABLE) == 0
    assert way.target.highest_etl_id("stage.missing") == 0


def test_a_column_that_dwhctl_cannot_write_is_refused_by_name(way: Way) -> None:
    for number, declared in enumerate(way.target_kit.refused):
        way.target.run_statements([f"CREATE TABLE odd_{number} (id BIGINT, strange {declared})"])
        with pytest.raises(TargetRefusedError, match="strange"):
            way.target.columns(f"odd_{number}")


def test_service_fields_in_other_letters_are_written_or_refused_by_name(way: Way) -> None:
    """PostgreSQL and ClickHouse take them for other columns: the error was a bare code of the server."""
    kit = way.target_kit
    numbers = kit.columns(id=Kind.INTEGER, etl_id=Kind.INTEGER, hash_id=Kind.INTEGER)
    text = kit.columns(x=Kind.TEXT).replace("x ", '"ETL_source" ', 1)
    layout = kit.layout(None, numbers, "UTC")
    way.target.run_statements(
        ["CREATE SCHEMA IF NOT EXISTS stage", f"CREATE TABLE {TABLE} ({numbers}, {text}){layout}"]
    )
    way.fill(*way.source_kit.create_as("t", f"SELECT {way.source_kit.integer(7)} AS id"))
    if kit.name in ("postgres", "clickhouse"):
        with pytest.raises(TargetRefusedError, match=r"has a column .ETL_source.*: rename the column"):
            way.target.columns(TABLE)
    else:
        assert way.carry("SELECT id FROM t") == 1
        assert way.rows("id, etl_source") == [("7", "abakan")]


def test_a_column_that_the_target_computes_is_not_written(way: Way) -> None:
    if not way.target_kit.computed:
        pytest.skip("the system has none")
    declared = f"{way.target_kit.columns(id=Kind.INTEGER)}, {way.target_kit.computed}"
    way.create(declared)
    names = ["id", "etl_source", "etl_id", "hash_id"]
    assert [column.name for column in way.target.columns(TABLE)] == names
    kit = way.source_kit
    way.fill(*kit.create_as("t", f"SELECT {kit.integer(7)} AS id"))
    for _ in range(2):
        assert way.carry("SELECT id FROM t") == 1
        assert way.rows("id, next_id") == [("7", "8")]
    with way.target.inspection(TABLE, None) as inspection:
        assert [column.name for column in inspection.columns()] == names
    way.target.run_statements([f"CREATE TABLE report ({declared})"])
    with way.target.refresh("report", RowSource(TABLE), TIMEOUT) as refresh:
        known = refresh.columns()
        assert [column.name for column in known.table] == ["id"]
        refresh.delete()
        assert refresh.insert(["id"]) == 1
        refresh.commit()


def test_tables_are_described_together_as_one_by_one(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER, day=Kind.DATE))
    way.target.run_statements([f"CREATE TABLE odd (id BIGINT, strange {way.target_kit.refused[0]})"])
    names = ["stage.missing", TABLE, "odd", "no.such.schema"]
    found = way.target.described(names)
    assert list(found) == names
    assert found[TABLE] == way.target.columns(TABLE)
    for name in ("stage.missing", "odd", "no.such.schema"):
        with pytest.raises(TargetRefusedError) as alone:
            way.target.columns(name)
        together = found[name]
        assert isinstance(together, TargetRefusedError)
        assert (str(together), together.about) == (str(alone.value), alone.value.about)


def test_statements_are_committed_one_by_one(way: Way) -> None:
    with pytest.raises(TargetRefusedError):
        way.target.run_statements(
            ["CREATE SCHEMA stage", f"CREATE TABLE {TABLE} (id BIGINT)", "CREATE NONSENSE"]
        )
    assert [one.name for one in way.target.columns(TABLE)] == ["id"]


@pytest.mark.parametrize(("target", "case"), CASES)
def test_new_columns_are_added_nullable_once(target: TargetKit, case: TypeCase, tmp_path: Path) -> None:
    way = Way(SOURCES[0], target, tmp_path)
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    way.target.run_statements([f"CREATE TABLE like_it (v {case.declared})"])
    (new,) = way.target.columns("like_it")
    dotted = Column("new.column", new.kind, new.type, new.declared, nullable=False)
    for _ in range(2):
        way.target.add_columns(TABLE, [dotted])
    added = for_source([dotted], way.target.columns(TABLE))[-1]
    assert (added.name, added.kind, added.type, added.nullable) == ("new.column", new.kind, new.type, True)


def test_a_new_column_beside_old_rows_loads(way: Way) -> None:
    filled(way, way.source_kit.text("a"))
    way.carry(SELECT)
    way.target.add_columns(TABLE, [Column("more", Kind.TEXT, pa.string(), "VARCHAR")])
    # A group that was opened before has not got it.
    way.group = StagingGroup("run", "later", TABLE)
    way.carry("SELECT id, v, v AS more FROM t")
    assert way.rows("v, more") == [("a", "a")]


@pytest.mark.parametrize("way", FILES, indirect=True)
def test_a_busy_warehouse_is_waited_for_so_long_and_no_longer(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    target = way.target_kit.open(way.target_kit.connection(way.root, wait=0.5), way.root)
    with way.target_kit.busy(way.warehouse):
        for action in (
            lambda: target.columns(TABLE),
            target.version,
            lambda: target.published_rows(TABLE, [1]),
        ):
            started = time.monotonic()
            with pytest.raises(TargetBusyError) as caught:
                action()
            assert 0.3 < time.monotonic() - started < 5
    assert not caught.value.permanent
    assert target.columns(TABLE)


@pytest.mark.parametrize("way", FILES, indirect=True)
def test_staging_goes_on_while_the_warehouse_is_busy(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    with way.target_kit.busy(way.warehouse):
        way.target.open_group(way.group)
        with way.target.stage(way.group, "one", _columns()) as stage:
            assert stage.write(iter([_batch(1)])) > 0


def test_a_warehouse_that_cannot_be_used_says_why(way: Way, tmp_path: Path) -> None:
    for why, connection, error, words in way.target_kit.broken(tmp_path):
        target = way.target_kit.open(connection, tmp_path)
        with pytest.raises(AttemptError) as caught:
            target.version()
        assert type(caught.value) is error, why
        assert words in str(caught.value), why


@pytest.mark.parametrize("way", FILES, indirect=True)
def test_interrupt_ends_the_statement_that_runs(way: Way) -> None:
    way.create(way.target_kit.columns(id=Kind.INTEGER))
    numbers = "range(10000000)"
    slow = f"SELECT count(*) FROM {numbers} a, {numbers} b WHERE hash(a.range + b.range) = 1"
    failures: list[BaseException] = []

    def run() -> None:
        try:
            way.target.run_statements([f"INSERT INTO {TABLE} (id) {slow}"])
        except AttemptError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < until:
        time.sleep(0.1)
        way.target.interrupt()
    thread.join(1)
    assert not thread.is_alive()
    assert len(failures) == 1
    way.target.interrupt()  # nothing runs: nothing happens
    assert way.rows("*") == []


def test_version_is_a_real_answer(way: Way) -> None:
    assert any(digit in way.target.version() for digit in "0123456789")


def test_two_threads_publish_one_after_the_other(staged: Way) -> None:
    def publish(token: str) -> None:
        with staged.target.publication(TABLE, None, TIMEOUT) as publication:
            publication.insert(staged.group, [token])
            publication.commit()

    threads = [threading.Thread(target=publish, args=(token,)) for token in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(staged.rows("*")) == 4


def test_stamps_say_where_a_row_came_from(way: Way) -> None:
    filled(way, way.source_kit.text("a"))
    way.carry(SELECT)
    first = way.rows("etl_source, hash_id")
    way.carry(SELECT)
    assert way.rows("etl_source, hash_id") == first
    assert way.rows("etl_id") == [("2",)]
    assert first[0][0] == "abakan"
