"""ClickHouse's types, connection keys, names and messages, without a server."""

from __future__ import annotations

import importlib.util
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    About,
    AttemptError,
    ConfigError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    ValueRefusedError,
)
from dwhctl.load.cast import TargetCast, fits, for_source
from dwhctl.systems.base.staging import staging_prefix
from dwhctl.systems.base.system import CursorOptions, TargetOptions, system_of
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.clickhouse import NAME_OCTETS, catalog, types
from dwhctl.systems.clickhouse.catalog import ClickHouseTable
from dwhctl.systems.clickhouse.errors import translate_error
from dwhctl.systems.clickhouse.system import ClickHouseConnection


@pytest.mark.parametrize(
    ("declared", "kind", "type_", "nullable"),
    [
        ("Int8", Kind.INTEGER, pa.int8(), False),
        ("Nullable(UInt64)", Kind.INTEGER, pa.uint64(), True),
        ("Decimal(38, 10)", Kind.DECIMAL, pa.decimal128(38, 10), False),
        ("Nullable(Decimal(76, 0))", Kind.DECIMAL, pa.decimal256(76, 0), True),
        ("LowCardinality(Nullable(String))", Kind.TEXT, pa.string(), True),
        ("LowCardinality(String)", Kind.TEXT, pa.string(), False),
        ("Bool", Kind.BOOLEAN, pa.bool_(), False),
        ("Date", Kind.DATE, pa.date32(), False),
        ("DateTime", Kind.TIMESTAMP, pa.timestamp("s"), False),
        ("DateTime('Europe/Moscow')", Kind.TIMESTAMPTZ, pa.timestamp("s", "UTC"), False),
        ("DateTime64(3)", Kind.TIMESTAMP, pa.timestamp("ms"), False),
        ("Nullable(DateTime64(6, 'UTC'))", Kind.TIMESTAMPTZ, pa.timestamp("us", "UTC"), True),
        ("DateTime64(9)", Kind.TIMESTAMP, pa.timestamp("ns"), False),
        ("Time64(6)", Kind.TIME, pa.time64("us"), False),
    ],
)
def test_a_type_has_its_exact_arrow_type(
    declared: str, kind: Kind, type_: pa.DataType, nullable: bool
) -> None:
    column = types.column("c", declared)
    assert column is not None
    assert (column.kind, column.type, column.nullable, column.declared) == (kind, type_, nullable, declared)


@pytest.mark.parametrize(
    "declared",
    [
        "Int128", "UInt256", "Array(Int64)", "Map(String, String)", "Tuple(a Int64)", "JSON", "IPv4", "IPv6", "Time",
        "DateTime64(4)", "AggregateFunction(sum, Int64)", "Nullable(Nothing)", "Variant(Int64, String)", "Dynamic",
    ],
)  # fmt: skip
def test_other_types_are_not_written(declared: str) -> None:
    assert types.column("c", declared) is None


def _refused(declared: str, array: pa.Array) -> str:
    column = types.column("c", declared)
    assert column is not None
    source = Column("c", Kind.BINARY if pa.types.is_binary(array.type) else column.kind, array.type, "theirs")
    keys = Column("id", Kind.INTEGER, pa.int64(), "Int64")
    cast = TargetCast(for_source([source], [keys, column]), ["id"])
    batch = pa.RecordBatch.from_arrays([pa.array(range(len(array))), array], names=["id", "c"])
    try:
        cast(batch, {})
    except ValueRefusedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("declared", "good", "bad"),
    [
        ("Nullable(Int32)", pa.array([2**31 - 1, None]), pa.array([0, 2**40])),
        ("Nullable(UInt8)", pa.array([255]), pa.array([0, -1])),
        ("Int64", pa.array([0]), pa.array([1, None], pa.int64())),
        ("String", pa.array(["a\x00b", ""]), pa.array(["a", None])),
        ("String", pa.array([b"\xff\x00", b""]), pa.array([b"a", None])),
        ("Date", pa.array([date(2149, 6, 6)]), pa.array([date(2000, 1, 1), date(2149, 6, 7)])),
        ("Date32", pa.array([date(1900, 1, 1)]), pa.array([date(2000, 1, 1), date(1899, 12, 31)])),
        ("DateTime('UTC')", pa.array([datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)]),
         pa.array([datetime(2000, 1, 1, tzinfo=UTC), datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC)])),
        ("DateTime64(6)", pa.array([datetime(2299, 12, 31, 23, 59, 59, 999999)]),  # noqa: DTZ001
         pa.array([datetime(2000, 1, 1), datetime(2300, 1, 1)])),  # noqa: DTZ001
        ("FixedString(2)", pa.array([b"ab"]), pa.array([b"ab", b"a"])),
        ("Enum8('a' = 1, 'it\\'s' = 2, 'ё' = -3)", pa.array(["it's", "ё"]), pa.array(["a", "b"])),
        ("Nullable(Enum8('a' = 1))", pa.array(["a", None]), pa.array(["a", ""])),
    ],
)  # fmt: skip
def test_what_a_column_cannot_hold_is_refused_by_column_and_key(
    declared: str, good: pa.Array, bad: pa.Array
) -> None:
    assert not _refused(declared, good)
    assert _refused(declared, bad).startswith("column c, row id=1: ")


def test_binary_goes_into_a_string_and_text_into_no_fixed_string() -> None:
    binary, text = (Column("c", kind, type_, "theirs") for kind, type_ in
                    ((Kind.BINARY, pa.binary()), (Kind.TEXT, pa.string())))  # fmt: skip
    string, fixed = types.column("c", "String"), types.column("c", "FixedString(3)")
    assert string is not None
    assert fixed is not None
    assert fits(binary, string)
    assert fits(binary, fixed)
    assert fits(text, string)
    assert not fits(text, fixed)


@pytest.mark.parametrize("declared", types.NAMES)
def test_every_type_of_the_reference_page_holds_something(declared: str) -> None:
    assert types.holds(declared) != "refused"


def test_a_declaration_makes_the_column_that_it_is_for() -> None:
    for declared in ("Int8", "UInt64", "Decimal(38, 10)", "Float32", "Bool", "UUID", "Date32", "Time64(6)", "String",
                     "DateTime64(3)", "DateTime64(6, 'UTC')", "FixedString(4)"):  # fmt: skip
        column = types.column("c", declared)
        assert column is not None
        made = types.column("c", types.declaration(column, nullable=True))
        assert made is not None
        assert (made.kind, made.type, made.octets) == (column.kind, column.type, column.octets)
        assert made.nullable


def _connection(**keys: Any) -> ClickHouseConnection:
    return ClickHouseConnection(**{"name": "dwh", "host": "ch", "user": "dwh", **keys})


@pytest.mark.parametrize(
    ("keys", "secure", "address"),
    [
        ({}, True, ("ch", 8443)),
        ({"secure": False}, False, ("ch", 8123)),
        ({"host": "localhost"}, False, ("localhost", 8123)),
        ({"host": "127.0.0.1", "secure": True}, True, ("127.0.0.1", 8443)),
        ({"host": "localhost", "ca_cert": "/ca.pem"}, True, ("localhost", 8443)),
        ({"port": 9000}, True, ("ch", 9000)),
        ({"host": "ch:8444"}, True, ("ch", 8444)),
    ],
)
def test_tls_is_the_default_beyond_this_machine(
    keys: dict[str, Any], secure: bool, address: tuple[str, int]
) -> None:
    connection = _connection(**keys)
    assert connection.is_secure is secure
    assert connection.tls == ("true" if secure else "false")
    assert connection.addresses == (address,)


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwhctl.systems.clickhouse.system.find_spec", lambda _name: None)
    system = system_of(_connection())
    with pytest.raises(ConfigError, match=r"pip install 'dwhctl\[clickhouse\]'"):
        system.open_target(_connection(), TargetOptions(Path()))
    with pytest.raises(ConfigError, match=r"pip install 'dwhctl\[clickhouse\]'"):
        system.open_cursor(_connection(), None, CursorOptions(write=False))
    assert importlib.util.find_spec("clickhouse_connect") is not None


@pytest.mark.parametrize("table", ["a.b.c", "stage.a\\b", "system.orders", "stage." + "x" * 200])
def test_names_that_clickhouse_cannot_have_are_refused(table: str) -> None:
    assert system_of(_connection()).table_problem(_connection(), table)
    assert system_of(_connection()).table_problem(_connection(), "stage.orders") is None


def test_tables_and_queries_of_a_run_are_no_other_runs() -> None:
    staging = catalog.staging_table(
        StagingGroup("20200714-ab", "orders 2020-07-14 1", "stage.orders"), "default"
    )
    assert staging == ClickHouseTable("stage", "dwhctl_20200714_ab__orders_2020_07_14_1")
    copy = catalog.copy_table("dwhctl:20200714-ab", ClickHouseTable.of("stage.orders", "default"), "1")
    assert copy.database == "stage"
    for table in (staging, copy):
        assert table.table.startswith(staging_prefix("20200714-ab"))
        assert not table.table.startswith(staging_prefix("20200714-a"))
    long = catalog.staging_table(StagingGroup("run", "x" * 300, "t"), "default")
    assert len(long.table) <= NAME_OCTETS


@pytest.mark.parametrize(
    ("code", "kind", "about"),
    [
        (60, TargetRefusedError, About.TABLE), (497, TargetRefusedError, About.PERMISSION),
        (62, TargetRefusedError, About.SQL), (241, TargetError, About.MEMORY), (394, TargetError, About.SQL),
        (252, TargetError, About.SQL), (473, TargetBusyError, About.SQL), (349, TargetRefusedError, About.SQL),
    ],
)  # fmt: skip
def test_an_error_means_what_clickhouse_says(code: int, kind: type[AttemptError], about: About) -> None:
    answer = DatabaseError(
        f"Received ClickHouse exception, code: {code}, server response: Code: {code}. DB::Exception: no (NAME)"
        " (version 26.9.2.1 (official build)) (for url http://ch:8123)"
    )
    error = translate_error(answer, "dwh", 1.0)
    assert type(error) is kind
    assert error.about is about
    assert str(error) == f"Code: {code}. no (NAME)"


def test_an_error_without_a_code_is_a_lost_connection() -> None:
    error = translate_error(OperationalError("Error executing HTTP request"), "dwh", 1.0)
    assert type(error) is TargetError
    assert "the connection to dwh is lost" in str(error)
