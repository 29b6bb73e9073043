"""Every source keeps the contract of dwhctl/systems/base/source.py."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pyarrow as pa
import pytest

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, DatabaseMissingError, QueryError, SourceBusyError, SourceError
from dwhctl.project.connections import SYSTEMS, Connection
from dwhctl.project.parts import KeyValue, key_ranges
from dwhctl.project.query import Query
from dwhctl.systems.base.source import Source
from tests.contract.kits import NASTY_TEXTS, READERS, SourceKit, TypeCase

CASES = [
    pytest.param(kit, case, id=f"{kit.name}-{number}-{case.declared}")
    for kit in READERS
    for number, case in enumerate(kit.types)
]

#: Systems that describe queries themselves.
DESCRIBING = [kit for kit in READERS if kit.describes]


def orders(kit: SourceKit) -> str:
    return f"CREATE TABLE orders ({kit.columns(id=Kind.INTEGER, name=Kind.TEXT, moment=Kind.TIMESTAMP)})"


@pytest.fixture(params=READERS, ids=lambda kit: kit.name)
def kit(request: pytest.FixtureRequest) -> SourceKit:
    found: SourceKit = request.param
    return found


@pytest.fixture
def server(kit: SourceKit, tmp_path: Path) -> Connection:
    connection = kit.connection(tmp_path)
    kit.run(connection, "abakan", orders(kit))
    return connection


@pytest.fixture
def source(kit: SourceKit, server: Connection) -> Iterator[Source]:
    with kit.open(server) as opened:
        yield opened


def batches_of(source: Source, sql: str, rows: int = 10_000) -> list[pa.RecordBatch]:
    return list(source.batches(Query(sql, {}), rows))


def values_of(source: Source, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for batch in batches_of(source, sql) for row in batch.to_pylist()]


def test_the_first_value_of_an_answer(kit: SourceKit, server: Connection) -> None:
    if SYSTEMS[server.type].takes_endpoint:
        pytest.skip("takes no query")
    rows = [f"({kit.literal(Kind.INTEGER, number)}, NULL, NULL)" for number in (7, 8)]
    kit.run(server, "abakan", *(f"INSERT INTO orders VALUES {row}" for row in rows))

    def first(sql: str, **binds: datetime) -> object:
        with kit.open(server) as source:
            return source.first_value(Query(sql, binds))

    assert first("SELECT id, name FROM orders ORDER BY id DESC") == 8
    assert first("SELECT name FROM orders") is None
    assert first("SELECT id FROM orders WHERE id > 8") is None
    assert first("SELECT COUNT(*) FROM orders") == 2, "a column needs no name"
    day = datetime(2020, 7, 14)  # noqa: DTZ001 - bounds are naive
    word = "SELECT CASE WHEN CAST('2020-07-14' AS DATE) >= :start THEN 'yes' ELSE 'no' END"
    assert (first(word, start=day), first(word, start=day.replace(day=15))) == ("yes", "no")
    for wrong in ("SELECT nothing FROM orders", "DELETE FROM orders"):
        with pytest.raises(QueryError):
            first(wrong)


# Parts


@pytest.mark.parametrize("kit", DESCRIBING, ids=lambda kit: kit.name)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, name, moment FROM orders",
        "SELECT id, name, moment FROM orders ORDER BY id",
        "WITH kept AS (SELECT * FROM orders) SELECT id, name, moment FROM kept -- all",
    ],
)
def test_ranges_of_a_column_are_the_whole_answer(kit: SourceKit, tmp_path: Path, sql: str) -> None:
    server = kit.connection(tmp_path)
    ids = [None, -(2**62), -1, 0, 7, 2**62]
    rows = [f"({kit.literal(Kind.INTEGER, one)}, {kit.text(str(one))}, NULL)" for one in ids]
    kit.run(server, "abakan", orders(kit), *(f"INSERT INTO orders VALUES {row}" for row in rows))
    query = Query(sql, {})
    with kit.open(server) as source:
        assert source.key_limits(query, "id") == (-(2**62), 2**62)
    ranges = key_ranges("id", -(2**62), 2**62, 3)
    found = []
    for one in ranges:
        with kit.open(server) as source:
            found.append([row[0] for row in values_of(source, source.within(query, one).sql)])
    assert [sorted(map(str, some)) for some in found] == [
        ["-4611686018427387904", "None"], ["-1", "0", "7"], ["4611686018427387904"],
    ]  # fmt: skip


@pytest.mark.parametrize("kit", DESCRIBING, ids=lambda kit: kit.name)
def test_ranges_of_decimals_and_dates(kit: SourceKit, tmp_path: Path) -> None:
    server = kit.connection(tmp_path)
    days = [date(2020, 2, 27) + timedelta(days=number) for number in range(5)]
    prices = [Decimal(number) / 4 - 1 for number in range(5)]
    rows = [
        f"({kit.literal(Kind.DECIMAL, price)}, {kit.literal(Kind.DATE, day)})"
        for price, day in zip(prices, days, strict=True)
    ]
    table = f"CREATE TABLE sold ({kit.columns(price=Kind.DECIMAL, day=Kind.DATE)})"
    kit.run(server, "abakan", table, *(f"INSERT INTO sold VALUES {row}" for row in rows))
    query = Query("SELECT price, day FROM sold", {})
    limits: dict[str, Sequence[KeyValue]] = {"price": prices, "day": days}
    for column, values in limits.items():
        with kit.open(server) as source:
            assert source.key_limits(query, column) == (values[0], values[-1])
            ranges = key_ranges(column, values[0], values[-1], 2)
            narrowed = [source.within(query, one).sql for one in ranges]
        found = []
        for sql in narrowed:
            with kit.open(server) as source:
                found.append(len(values_of(source, sql)))
        assert sum(found) == 5
        assert all(found)


# Opening


def test_what_cannot_be_opened_says_why(kit: SourceKit, tmp_path: Path) -> None:
    for why, connection, database, error, words in kit.broken(tmp_path):
        with pytest.raises(AttemptError) as caught, kit.open(connection, database) as opened:
            batches_of(opened, "SELECT i FROM t")
        assert type(caught.value) is error, why
        assert words in str(caught.value), why


@pytest.mark.parametrize(
    "kit", [kit for kit in DESCRIBING if kit.waits is not None], ids=lambda kit: kit.name
)
def test_a_busy_database_is_waited_for_so_long_and_no_longer(kit: SourceKit, tmp_path: Path) -> None:
    connection = kit.connection(tmp_path, wait=0.5)
    kit.run(connection, "abakan", orders(kit))
    with kit.busy(connection, "abakan"):
        started = time.monotonic()
        with pytest.raises(SourceBusyError) as caught:
            kit.open(connection)
        assert (0.3 if kit.waits else 0) < time.monotonic() - started < 5
    assert not caught.value.permanent
    assert kit.database("abakan") in str(caught.value)


@pytest.mark.parametrize("kit", [kit for kit in READERS if kit.waits], ids=lambda kit: kit.name)
def test_a_database_that_is_given_free_in_time_opens(kit: SourceKit, tmp_path: Path) -> None:
    connection = kit.connection(tmp_path, wait=20)
    kit.run(connection, "abakan", orders(kit))
    opened = threading.Event()

    def read() -> None:
        with kit.open(connection):
            opened.set()

    with kit.busy(connection, "abakan"):
        thread = threading.Thread(target=read)
        thread.start()
        assert not opened.wait(0.3)
    thread.join(20)
    assert opened.is_set()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user who may do nothing, for a while."""
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
@pytest.mark.parametrize("closed", ["abakan.duckdb", "."])
def test_a_file_that_may_not_be_read(closed: str) -> None:
    kit = next(one for one in READERS if one.name == "duckdb")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        connection = kit.connection(root)
        kit.run(connection, "abakan", "CREATE TABLE orders (id BIGINT)")
        (root / "server_0" / closed).chmod(0o600)
        with as_nobody(), pytest.raises(DatabaseMissingError) as caught:
            kit.open(connection)
    assert str(caught.value) == f"{root}/server_0/abakan.duckdb cannot be read: permission denied"


def test_close_lets_go_and_may_be_called_twice(kit: SourceKit, server: Connection) -> None:
    opened = kit.open(server)
    opened.close()
    opened.close()
    kit.run(server, "abakan", "INSERT INTO orders VALUES (1, 'one', NULL)")


def test_leaving_the_block_by_an_error_closes(kit: SourceKit, server: Connection) -> None:
    with pytest.raises(ZeroDivisionError), kit.open(server):
        raise ZeroDivisionError
    kit.run(server, "abakan", "INSERT INTO orders VALUES (1, 'one', NULL)")


def test_version_is_a_real_answer(kit: SourceKit, source: Source) -> None:
    assert any(digit in source.version() for digit in "0123456789")


# Columns


def test_columns_are_in_the_querys_order(source: Source) -> None:
    columns = source.columns(Query("SELECT name, id AS the_id, moment FROM orders", {}))
    assert [column.name for column in columns] == ["name", "the_id", "moment"]


def test_columns_do_not_run_the_query_to_its_end(kit: SourceKit, server: Connection) -> None:
    kit.run(server, "abakan", *kit.create_as("many", f"SELECT i FROM {kit.numbers(300_000)}"))
    moment = kit.literal(Kind.TIMESTAMP, datetime(2020, 7, 14))  # noqa: DTZ001
    sql = f"SELECT count(*) AS n FROM many a, many b WHERE a.i + b.i > 7 AND {moment} < :end"
    started = time.monotonic()
    with kit.open(server) as source:
        source.columns(Query(sql, {"end": datetime(2020, 7, 15)}))  # noqa: DTZ001
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("kit", "case"), CASES)
def test_a_type_is_what_was_declared_whatever_the_values(
    kit: SourceKit, case: TypeCase, server: Connection
) -> None:
    one = case.values[0]
    no_rows = f"SELECT {one} AS v FROM {kit.numbers(1)} WHERE i > 5"
    only_nulls = f"SELECT {kit.only_nulls(case)} AS v FROM {kit.numbers(3)}"
    every_value = " UNION ALL ".join(f"SELECT {value} AS v" for value in (*case.values, kit.null(case)))
    with kit.open(server, zone="Asia/Chita") as source:
        for sql in (no_rows, only_nulls, every_value):
            (column,) = source.columns(Query(sql, {}))
            assert column.name == "v"
            assert column.kind is case.kind
            found = batches_of(source, sql)
            assert {batch.schema.field("v").type for batch in found} <= {column.type}
            if sql is every_value and case.expected:
                values = [value for batch in found for value in batch.column(0).to_pylist()]
                assert values == [*case.expected, None]
            if sql is only_nulls:
                assert sum(batch.column(0).null_count for batch in found) == 3
        if column.declared != "ENUM":
            # What the refusal of a dropped column proposes.
            (same,) = source.columns(Query(f"SELECT CAST(NULL AS {column.declared}) AS v", {}))
            assert (same.kind, same.type) == (column.kind, column.type)


@pytest.mark.parametrize(
    ("kit", "declared"),
    [pytest.param(kit, each, id=f"{kit.name}-{each}") for kit in READERS for each in kit.refused],
)
def test_a_type_without_a_place_is_refused_by_name(kit: SourceKit, declared: str, source: Source) -> None:
    for action in (source.columns, lambda query: list(source.batches(query, 10))):
        with pytest.raises(QueryError) as caught:
            action(Query(f"SELECT 1 AS id, {kit.refused[declared]} AS odd", {}))
        assert "column odd" in str(caught.value)
        assert declared.partition("[")[0] in str(caught.value)
        assert "CAST" in str(caught.value)


@pytest.mark.parametrize("kit", DESCRIBING, ids=lambda kit: kit.name)
@pytest.mark.parametrize("second", ["id", "ID"])
def test_two_columns_of_one_name_are_refused_by_name(source: Source, second: str) -> None:
    with pytest.raises(QueryError, match=r"column (id|ID) occurs twice"):
        source.columns(Query(f"SELECT id, name AS {second} FROM orders", {}))


@pytest.mark.parametrize("kit", DESCRIBING, ids=lambda kit: kit.name)
@pytest.mark.parametrize(
    "sql",
    [
        "SELEC id FROM orders",
        "SELECT id FROM missing_table",
        "SELECT missing_column FROM orders",
        # A word of which DuckDB's own tales of damage are full.
        "SELECT checksum FROM orders",
        "SELECT id FROM orders WHERE moment >= :start",
        "DELETE FROM orders",
        "CREATE TABLE other (id BIGINT)",
        "SELECT 1 AS a; SELECT 2 AS b",
        "",
    ],
)
def test_a_query_that_the_system_refuses(source: Source, sql: str) -> None:
    with pytest.raises(QueryError) as caught:
        source.columns(Query(sql, {}))
    assert caught.value.permanent
    with pytest.raises(QueryError):
        list(source.batches(Query(sql, {}), 10))


# Batches


def test_rows_come_once_in_batches_of_at_most_so_many(kit: SourceKit, source: Source) -> None:
    found = batches_of(source, f"SELECT i FROM {kit.numbers(25_000)}", rows=1_000)
    assert max(batch.num_rows for batch in found) <= 1_000
    assert sorted(value for batch in found for value in batch.column(0).to_pylist()) == list(range(25_000))


def test_a_small_batch_size_holds_too(kit: SourceKit, source: Source) -> None:
    assert [one.num_rows for one in batches_of(source, f"SELECT i FROM {kit.numbers(5)}", rows=2)] == [
        2,
        2,
        1,
    ]


def test_memory_does_not_grow_with_the_rows(kit: SourceKit, source: Source) -> None:
    process = psutil.Process()
    sizes: list[int] = []
    rows, width = kit.many
    sql = f"SELECT i, {kit.repeat('x', width)} AS v FROM {kit.numbers(rows)} WHERE i >= 0"
    for number, _ in enumerate(source.batches(Query(sql, {}), 2_000_000 // width)):
        if number % max(1, rows // 100_000) == 0:
            sizes.append(process.memory_info().rss)
    assert max(sizes) - sizes[0] < 120 * 2**20  # the answer is some 330 MB


def test_bounds_travel_as_values(kit: SourceKit, server: Connection) -> None:
    kit.run(
        server,
        "abakan",
        "INSERT INTO orders VALUES (1, 'a', '2020-07-13 23:59:59.999999'), (2, 'b', '2020-07-14 00:00:00'),"
        " (3, 'c', '2020-07-14 23:59:59.999999'), (4, 'd', '2020-07-15 00:00:00'), (5, 'e', NULL)",
    )
    query = Query(
        "SELECT id, ':start' AS v FROM orders -- :end is no bound here\nWHERE moment >= :start AND moment < :end"
        " AND moment >= :start",
        {"start": datetime(2020, 7, 14), "end": datetime(2020, 7, 15)},  # noqa: DTZ001
    )
    with kit.open(server) as source:
        rows = [row for batch in source.batches(query, 10) for row in batch.to_pylist()]
    assert rows == [{"id": 2, "v": ":start"}, {"id": 3, "v": ":start"}]


def test_bounds_that_meet_instants_are_instants(kit: SourceKit, server: Connection) -> None:
    instant = kit.literal(Kind.TIMESTAMPTZ, datetime(2020, 7, 13, 15, tzinfo=UTC))
    kit.run(server, "abakan", *kit.create_as("z", f"SELECT {instant} AS moment"))
    start = datetime(2020, 7, 14)  # noqa: DTZ001
    sql = "SELECT moment FROM z WHERE moment >= :start"
    for zone, rows in (("Asia/Chita", 1), ("UTC", 0)):
        at = start.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        query = Query(sql, {"start": start}, "moment", {"start": at})
        with kit.open(server, zone=zone) as source:
            assert sum(batch.num_rows for batch in source.batches(query, 10)) == rows
            (column,) = source.columns(query)
            assert column.type.tz == "UTC"


def test_instants_come_as_instants_whatever_the_zone(kit: SourceKit, server: Connection) -> None:
    instant = datetime(2020, 10, 25, 0, 30, tzinfo=UTC)
    sql = f"SELECT {kit.literal(Kind.TIMESTAMPTZ, instant)} AS moment"
    for zone in ("UTC", "Europe/Berlin", "Asia/Chita"):
        with kit.open(server, zone=zone) as source:
            assert values_of(source, sql) == [(instant,)]


def test_nasty_texts_come_as_they_are(kit: SourceKit, source: Source) -> None:
    held = [text for text in NASTY_TEXTS if kit.holds(Kind.TEXT, text)]
    sql = " UNION ALL ".join(f"SELECT {n} AS n, {kit.text(text)} AS v" for n, text in enumerate(held))
    assert [
        value for _, value in sorted(values_of(source, sql), key=lambda row: str(row[0]).zfill(3))
    ] == held


def test_a_failure_in_mid_way_comes_after_the_rows_and_is_told(kit: SourceKit, source: Source) -> None:
    stream = source.batches(Query(f"SELECT {kit.fails_midway} AS v FROM {kit.numbers(300_000)}", {}), 1_000)
    seen = 0
    with pytest.raises((QueryError, SourceError)) as caught:  # noqa: PT012 - the rows before it count
        for batch in stream:
            seen += batch.num_rows
    assert 0 < seen <= 150_000
    assert isinstance(caught.value, QueryError), "a value that cannot be converted does not go away by itself"
    assert "LINE 1" not in str(caught.value)


def test_a_source_can_be_asked_again_after_a_refusal(source: Source) -> None:
    with pytest.raises(QueryError):
        source.columns(Query("SELECT nothing FROM nowhere", {}))
    assert values_of(source, "SELECT 1 AS one") == [(1,)]


def test_a_stream_that_is_left_half_read_does_no_harm(kit: SourceKit, server: Connection) -> None:
    with kit.open(server) as source:
        stream = source.batches(Query(f"SELECT i FROM {kit.numbers(100_000)}", {}), 1_000)
        assert 0 < next(stream).num_rows <= 1_000
    kit.run(server, "abakan", "INSERT INTO orders VALUES (1, 'one', NULL)")


def test_permanent_and_transient(kit: SourceKit) -> None:
    assert DatabaseMissingError.permanent
    assert QueryError.permanent
    assert not SourceBusyError.permanent
    assert not SourceError.permanent
